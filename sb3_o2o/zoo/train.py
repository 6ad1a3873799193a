"""
``python -m sb3_o2o.zoo.train``: RL Zoo's ``train`` with ``--algo o2o_sac``, ``o2o_td3`` and ``o2o_ppo``.

Pre-training goes through constructor arguments: ``--conf-file wsrl -params dataset:"'mujoco/hopper/medium-v0'"``.
"""

from sb3_o2o.zoo.registration import register


def main() -> None:
    """RL Zoo's program."""
    import rl_zoo3.train

    register()
    rl_zoo3.train.train()


if __name__ == "__main__":
    main()
