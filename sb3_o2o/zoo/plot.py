"""
``python -m sb3_o2o.zoo.plot PROGRAM …``: RL Zoo's programs that draw, ``plot_train``, ``all_plots`` and
``plot_from_file``, each with its own options.
"""

import sys

from sb3_o2o.errors import missing_package, unknown

PROGRAMS = ("plot_train", "all_plots", "plot_from_file")


def main() -> None:
    """
    RL Zoo's programs.

    :raises SystemExit: for another name
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help", ""):
        print(f"python -m sb3_o2o.zoo.plot PROGRAM …, where PROGRAM is one of {', '.join(PROGRAMS)} (with --help).")
        return
    if name not in PROGRAMS:
        sys.exit(str(unknown("program of the zoo's", name, PROGRAMS)))
    try:
        import rl_zoo3.plots
    except ImportError as error:
        sys.exit(str(missing_package("The zoo's plots need", "more", "zoo", error)))
    del sys.argv[1]
    getattr(rl_zoo3.plots, name)()


if __name__ == "__main__":
    main()
