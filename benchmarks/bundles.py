"""
What resume bundles cost: ``python benchmarks/bundles.py``.

A model of usual size with a full replay buffer writes a bundle, collects for two minutes at a usual speed, and writes
the next. Printed: seconds of both, megabytes that the second one added to the disk, what a whole copy takes and weighs,
and the second one's part of the two minutes; and seconds of processor time of one that compares all rows, as where a
run is stopped.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_o2o import O2OSAC
from sb3_o2o.resume import series

#: observations and actions, of 64-bit floats as MuJoCo gives them
TASKS = {"Hopper": (11, 3), "HalfCheetah": (17, 6), "Ant": (105, 8)}
#: seconds between two bundles of the command line, and environment steps, with an update each, in one of them
SECONDS, STEPS_PER_SECOND = 120, 150


class Shape(gym.Env):
    """Spaces alone; nothing steps in it."""

    def __init__(self, n_observations: int, n_actions: int):
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_observations,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (n_actions,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape), {}


def megabytes(folder: Path, seen: set[int]) -> float:
    """What a bundle has that no bundle before it had."""
    new = [each.stat() for each in folder.iterdir() if each.stat().st_ino not in seen]
    return sum(each.st_size for each in new) / 1e6


def collect(model: O2OSAC, n_steps: int, rng: np.random.Generator) -> None:
    """Transitions without structure."""
    buffer = model.replay_buffer
    assert buffer is not None
    shape, actions = (n_steps, 1, *buffer.obs_shape), (n_steps, 1, buffer.action_dim)
    for step in zip(rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=actions), strict=True):
        buffer.add(*step, np.zeros(1), np.zeros(1), [{}])


def measure(name: str, n_rows: int, folder: Path) -> str:
    """:return: a row of the table"""
    rng = np.random.default_rng(0)
    model = O2OSAC("MlpPolicy", Shape(*TASKS[name]), buffer_size=n_rows, seed=0, device="cpu")
    buffer = model.replay_buffer
    assert buffer is not None
    for array in (buffer.observations, buffer.next_observations, buffer.actions):
        array[:] = rng.random(array.shape[1:])  # written, and not all zero
    buffer.full, buffer.pos = True, n_rows // 3
    collect(model, 2_000, rng)
    started = time.perf_counter()
    first = series.write(model, folder)
    whole = time.perf_counter() - started
    seen = {each.stat().st_ino for each in first.iterdir()}
    collect(model, SECONDS * STEPS_PER_SECOND, rng)
    started, cpu = time.perf_counter(), time.process_time()
    second = series.write(model, folder, compare_all=False)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    new = megabytes(second, seen)
    collect(model, SECONDS * STEPS_PER_SECOND, rng)
    of_all = time.process_time()
    series.write(model, folder)
    of_all = time.process_time() - of_all
    started = time.perf_counter()
    with (folder / "copy").open("wb") as file:
        pickle.dump(buffer, file, protocol=5)
    copy = time.perf_counter() - started
    size = (folder / "copy").stat().st_size / 1e6
    share = 100 * seconds / SECONDS
    return (
        f"| {name} | {size:,.0f} MB in {copy:.2f} s | {whole:.2f} s | {seconds:.2f} s ({cpu:.2f} s of CPU) | "
        f"{new:,.1f} MB | {share:.2f} % | {of_all:.2f} s |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions of the replay buffer")
    given = parser.parse_args()
    th.set_num_threads(1)
    heads = ("task", "a whole copy of the buffer", "first bundle", "next bundle", "it adds", "of two minutes")
    print(f"| {' | '.join(heads)} | CPU with all rows compared |")
    print("|---|---|---|---|---|---|---|")
    for name in TASKS:
        folder = Path(tempfile.mkdtemp())
        try:
            print(measure(name, given.rows, folder), flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
