"""
Evaluations of other code as one more line of a report.

    python benchmarks/official/to_results.py official.csv --recipe "o2td3 (official)" --dataset hopper-medium-v0 \
        --env Hopper-v5 --seed 0 --evaluations data_True.json
    sb3-o2o report benchmarks/results/o2o-small/results.csv official.csv

Evaluations are a JSON file with two lists of equal length, ``steps`` and ``eval_returns``, as OCR-CFT's code writes it,
or a CSV file with two columns of the same names. Scores are normalised ones, 0 to 100, unless ``--raw`` is given. A
second call adds to the file.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from sb3_o2o.experiments.results import EVALUATION_COLUMNS

STEPS, VALUES = "steps", "eval_returns"


def read(path: Path) -> list[tuple[int, float]]:
    """:return: step and value of each evaluation"""
    with path.open(newline="") as file:
        if path.suffix == ".json":
            document = json.load(file)
            pairs = list(zip(document[STEPS], document[VALUES], strict=True))
        else:
            pairs = [(row[STEPS], row[VALUES]) for row in csv.DictReader(file)]
    return [(int(step), float(value)) for step, value in pairs]


def add(out: Path, evaluations: list[tuple[int, float]], about: dict[str, str | int], raw: bool) -> None:
    """
    :param out: table to write to, made if need be
    :param evaluations: step and value of each
    :param about: dataset, env, recipe and seed
    :param raw: whether the values are returns, and not scores
    """
    is_new = not out.exists()
    run = f"{about['dataset']}-{about['recipe']}-s{about['seed']}"
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in EVALUATION_COLUMNS])
        if is_new:
            writer.writeheader()
        for step, value in evaluations:
            values = {"return": value} if raw else {"score": value}
            writer.writerow({"run": run, **about, "phase": "online", "step": step, **values})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="table to write to")
    for name in ("recipe", "dataset", "env"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--evaluations", type=Path, required=True, help="JSON or CSV")
    parser.add_argument("--raw", action="store_true", help="the values are returns")
    arguments = parser.parse_args()
    about = {name: getattr(arguments, name) for name in ("dataset", "env", "recipe", "seed")}
    add(arguments.out, read(arguments.evaluations), about, arguments.raw)


if __name__ == "__main__":
    main()
