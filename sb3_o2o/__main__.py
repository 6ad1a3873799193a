"""``sb3-o2o``, and ``python -m sb3_o2o``."""

import sys


def main() -> None:
    """The command line. Ctrl-C is answered from the first import on."""
    try:
        from sb3_o2o.cli import app
    except KeyboardInterrupt:
        print("Interrupted: nothing was saved.", file=sys.stderr)
        sys.exit(130)
    app()


if __name__ == "__main__":
    main()
