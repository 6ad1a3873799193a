"""``python -m sb3_o2o.zoo.enjoy``: RL Zoo's ``enjoy`` with our algorithms."""

from sb3_o2o.zoo.registration import register


def main() -> None:
    """RL Zoo's program."""
    register()
    import rl_zoo3.enjoy

    rl_zoo3.enjoy.enjoy()


if __name__ == "__main__":
    main()
