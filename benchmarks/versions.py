"""
An update of this version beside one of another: ``python benchmarks/versions.py --other OTHER/.venv/bin/python``.

The other interpreter sees another checkout of this package. Both are asked in turn, round by round, by the rows of
``sb3-o2o bench speed``. Printed: milliseconds per update (median and least of the rounds) and the median over the
rounds of the ratio within a round, with its quartiles. Below 1 this version is the faster one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sb3_o2o.benchmarking.contestants import Competitor, own_competitors
from sb3_o2o.benchmarking.race import RowResult, race
from sb3_o2o.benchmarking.work import rows_by_name


def contestants(other: Path) -> list[Competitor]:
    """:return: ours of this version, and the same of the other one"""
    here = [each for each in own_competitors() if each.group == "ours"]
    there = [
        replace(each, key=f"{each.key}_other", command=(str(other), *each.command[1:]), foreign=True) for each in here
    ]
    return [*here, *there]


def table(results: list[RowResult]) -> Table:
    """:return: a line for each row of the benchmark, eager and compiled"""
    built = Table("row", "", "this, ms", "least", "other, ms", "least", "this / other", "quartiles")
    for result in results:
        for key in ("ours", "ours_compiled"):
            mine, theirs = result[key], result[f"{key}_other"]
            if not mine.ms or not theirs.ms:
                built.add_row(result.work.name, key, mine.missing or theirs.missing)
                continue
            ratios = np.divide(mine.ms, theirs.ms)
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            built.add_row(
                result.work.name,
                mine.label,
                f"{mine.median:.2f}",
                f"{min(mine.ms):.2f}",
                f"{theirs.median:.2f}",
                f"{min(theirs.ms):.2f}",
                f"{middle:.3f}",
                f"{low:.3f} to {high:.3f}",
            )
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="Python interpreter that sees the other checkout")
    parser.add_argument("--rows", default="sac,wsrl,td3_bc,iql", help="with commas")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--updates", type=int, default=40, help="of each round")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    rows = rows_by_name(arguments.rows.split(","))
    competitors = contestants(arguments.other.absolute())
    os.chdir(tempfile.gettempdir())  # a checkout in the working folder would be imported by both
    results, _ = race(rows, competitors, rounds=arguments.rounds, updates=arguments.updates, threads=arguments.threads)
    Console(width=120).print(table(results))


if __name__ == "__main__":
    main()
