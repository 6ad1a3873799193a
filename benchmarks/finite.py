"""
What it costs to look whether losses are finite: ``python benchmarks/finite.py``.

Rows of ``sb3-o2o bench speed``, eager and compiled. In one process, blocks of updates with the check and without it
follow each other, in turns first and second. Printed: milliseconds per update of both (medians of the blocks), the
median over the pairs of their ratio with its quartiles, and microseconds inside the check itself, which a busy machine
blurs less than a ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch as th

from sb3_o2o.benchmarking.peers.worker_protocol import Contestant
from sb3_o2o.benchmarking.work import Work, rows_by_name
from sb3_o2o.benchmarking.workers import ours
from sb3_o2o.updates.finite import FiniteWatch

CHECK: Callable[..., None] = FiniteWatch.check_losses


def set_check(check: Callable[..., None]) -> None:
    setattr(FiniteWatch, "check_losses", check)  # noqa: B010


def measure(work: Work, compiled: bool, rounds: int, updates: int) -> str:
    """:return: a row of the table"""
    contestant = ours(asdict(work), {"compile": compiled, "precision": "fp32", "device": "cpu"})
    contestant.run(updates)  # the first ones compile
    off, on = [], []
    for number in range(rounds):
        for checks in (number % 2 == 0, number % 2 == 1):
            set_check(CHECK if checks else lambda *_: None)
            (on if checks else off).append(milliseconds(contestant, updates))
    low, middle, high = np.quantile(np.divide(on, off), (0.25, 0.5, 0.75))
    return (
        f"| {work.name} | {'compiled' if compiled else 'eager'} | {np.median(off):.2f} | {np.median(on):.2f} | "
        f"{middle:.3f} ({low:.3f} to {high:.3f}) | {inside(contestant, updates):.1f} µs |"
    )


def milliseconds(contestant: Contestant, updates: int) -> float:
    """:return: of an update"""
    made, seconds = contestant.run(updates)
    return 1e3 * seconds / made


def inside(contestant: Contestant, updates: int) -> float:
    """:return: microseconds of the check in an update, with what reading a clock takes"""
    seconds = 0.0

    def timed(*args: Any) -> None:
        nonlocal seconds
        started = time.perf_counter()
        CHECK(*args)
        seconds += time.perf_counter() - started

    set_check(timed)
    made, _ = contestant.run(updates)
    set_check(CHECK)
    return 1e6 * seconds / made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="sac,wsrl,td3_bc,iql,cql", help="by name, with commas")
    parser.add_argument("--rounds", type=int, default=21, help="pairs of blocks")
    parser.add_argument("--updates", type=int, default=40, help="in a block")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    given = parser.parse_args()
    th.set_num_threads(given.threads)
    print("| row | | without, ms | with, ms | with / without | inside the check |")
    print("|---|---|---|---|---|---|")
    for work in rows_by_name(given.rows.split(",")):
        for compiled in (False, True):
            print(measure(work, compiled, given.rounds, given.updates), flush=True)


if __name__ == "__main__":
    main()
