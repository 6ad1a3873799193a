"""
Scores before and after fine-tuning of an experiment's runs, as a Markdown table; also while it runs.

    python benchmarks/suite/smoke_table.py runs/smoke
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from sb3_o2o.experiments.grid import read_grid

COLUMNS = ("recipe", "before", "lowest", "after", "seconds")


def rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """
    :param folder: of the experiment
    :return: a row for each dataset, recipe and seed of its grid, in the grid's order
    """
    with (folder / "runs.csv").open(newline="") as file:
        runs = {row["run"]: row for row in csv.DictReader(file)}
    grid = read_grid(folder / "grid.yml")
    for dataset in grid.datasets:
        for recipe in grid.recipes:
            for seed in grid.seeds:
                run = runs.get(f"{dataset.name}-{recipe.name}-s{seed}", {})
                if run.get("state") == "finished":
                    scores = [f"{float(run[name]):.1f}" for name in ("switch", "lowest_10k", "last")]
                    yield (f"`{recipe.name}`", *scores, f"{float(run['seconds']):.0f}")
                else:
                    yield (f"`{recipe.name}`", "", "", "", run.get("state", "not made"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the experiment")
    for row in (COLUMNS, ("---",) * len(COLUMNS), *rows(parser.parse_args().folder)):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
