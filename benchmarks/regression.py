"""
Does this code still learn as well? ``python benchmarks/regression.py``, or ``make regression``.

Trains the grid of ``benchmarks/suite/regression.yml`` and compares the mean of each run's last evaluations with that of
the stored runs of the same dataset and recipe: the probability that a new run beats a stored one (a tie is half a win),
and how often a random exchange of new and stored runs would have lost as much (a permutation test within each dataset
and recipe). Ends with 1 if the new ones are worse and chance would do that in less than one of twenty cases.

A change that is meant to learn otherwise stores its own numbers with ``--store`` and says so.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sb3_o2o.reporting.intervals import probability_of_improvement

HERE = Path(__file__).parent
GRID, STORED = HERE / "suite" / "regression.yml", HERE / "results" / "regression.csv"
#: of the stored table
COLUMNS = ("dataset", "recipe", "seed", "switch", "lowest_10k", "last", "last_5", "processor", "sb3_o2o", "torch")
#: level of the test, and how many exchanges it draws
LEVEL, EXCHANGES = 0.05, 20_000

Scores = Mapping[tuple[str, str], NDArray[np.float64]]


def make_runs(log_dir: Path, workers: int) -> Path:
    """:return: table of the runs of the present commit, which go on where they were stopped"""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    command = (sys.executable, "-m", "sb3_o2o")
    os.environ["MINARI_DATASETS_PATH"] = str((log_dir / "regression-data").absolute())
    if not (log_dir / "regression-data" / "regression" / "pendulum" / "random-v0").is_dir():
        made = ("collect", "Pendulum-v1", "regression/pendulum/random-v0", "--n-steps", "10000", "--seed", "0")
        subprocess.run([*command, *made], check=True)
    name = f"regression-{commit.strip()}"
    options = ("--name", name, "--log-dir", str(log_dir), "--workers", str(workers))
    subprocess.run([*command, "run", str(GRID), *options], check=True)
    return log_dir / name / "runs.csv"


def read(path: Path) -> list[dict[str, str]]:
    """:return: the finished fine-tunings of a table"""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["recipe"] and row["last_5"]]
    return [row for row in rows if row.get("state", "finished") == "finished"]


def scores(rows: list[dict[str, str]]) -> Scores:
    """:return: where each run ended, by dataset and recipe"""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["dataset"], row["recipe"]), []).append(float(row["last_5"]))
    return {key: np.array(values) for key, values in found.items()}


def probability(new: Scores, stored: Scores) -> float:
    """:return: that a new run beats a stored one of the same dataset and recipe, their mean"""
    return float(np.mean([probability_of_improvement(new[key][:, None], stored[key][:, None])[0] for key in stored]))


def chance(new: Scores, stored: Scores, n_exchanges: int = EXCHANGES) -> float:
    """:return: part of the exchanges of new and stored runs after which the new ones are as bad as now, or worse"""
    rng, measured = np.random.default_rng(0), probability(new, stored)
    worse = 0
    for _ in range(n_exchanges):
        mixed = {key: rng.permutation(np.concatenate([new[key], stored[key]])) for key in stored}
        one = {key: each[: len(new[key])] for key, each in mixed.items()}
        other = {key: each[len(new[key]) :] for key, each in mixed.items()}
        worse += probability(one, other) <= measured + 1e-12
    return (worse + 1) / (n_exchanges + 1)


def compare(new: Scores, stored: Scores) -> bool:
    """:return: whether the new runs are as good; says how they are"""
    missing = sorted(set(stored) - set(new))
    if missing:
        raise SystemExit(f"Not compared: no finished run of {', '.join(' with '.join(each) for each in missing)}.")
    for key in stored:
        pairs = zip(("new", "stored"), (new[key], stored[key]), strict=True)
        texts = [
            f"{name} {np.mean(values):9.1f} ({', '.join(f'{each:.1f}' for each in values)})" for name, values in pairs
        ]
        print(f"{' with '.join(key):32} {'   '.join(texts)}")
    better, by_chance = probability(new, stored), chance(new, stored)
    print(
        f"A new run beats a stored one with probability {better:.2f}; chance alone would be as low in {by_chance:.1%}."
    )
    return not (better < 0.5 and by_chance < LEVEL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="table of runs that are there, in place of training")
    parser.add_argument("--log-dir", type=Path, default=Path("runs"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", action="store_true", help="store the new numbers in place of the old ones")
    arguments = parser.parse_args()
    rows = read(arguments.runs or make_runs(arguments.log_dir, arguments.workers))
    good = compare(scores(rows), scores(read(STORED))) if STORED.is_file() else True
    if arguments.store:
        with STORED.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        print(f"Stored: {STORED}")
    elif not STORED.is_file():
        raise SystemExit(f"There is nothing at {STORED} to compare with: --store makes it.")
    if not good:
        raise SystemExit("The new runs are worse.")


if __name__ == "__main__":
    main()
