"""
What balanced replay costs: drawing a batch by priority, against uniformly; giving a batch new priorities; and the whole
of what an update costs beside that, the density-ratio network included.

    python benchmarks/balanced_replay.py --threads 1

prints milliseconds (median) for 10,000, 100,000 and 1,000,000 transitions, half of them offline.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_o2o import O2OSAC
from sb3_o2o.data import OfflineDataset, SumTree
from sb3_o2o.finetuning import BalancedReplay


def milliseconds(function: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[3:])


class Still(gym.Env[Any, Any]):
    """Spaces of Hopper's size, and nothing that happens."""

    observation_space = spaces.Box(-10.0, 10.0, (11,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(11, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(11, np.float32), 0.0, False, False, {}


def dataset(n: int) -> OfflineDataset:
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(2, n, 11)).astype(np.float32).clip(-10, 10)
    ends = np.arange(n) % 1000 == 999
    fields = {
        "observations": observations[0],
        "next_observations": observations[1],
        "actions": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminations": np.zeros(n, bool),
        "truncations": ends,
    }
    return OfflineDataset.load(fields, observation_space=Still.observation_space, action_space=Still.action_space)


def model_on(n: int, batch_size: int) -> tuple[O2OSAC, BalancedReplay]:
    """A model with ``n`` transitions, half offline and half in a full online buffer."""
    callback = BalancedReplay()
    data = dataset(n // 2)
    model = O2OSAC(
        "MlpPolicy",
        Still(),
        buffer_size=n // 2,
        batch_size=batch_size,
        learning_starts=10,
        finetuning=[callback],
        dataset=data,
        seed=0,
        device="cpu",
    )
    model.learn(2)
    model.replay_buffer.reset()  # type: ignore[union-attr]
    model.fill_replay_buffer(data)
    callback._plant(n // 2)
    return model, callback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    print("transitions  tree draw  tree update  balanced batch  uniform batch  priorities and ratio  one new")
    for n in args.sizes:
        rng, tree = np.random.default_rng(0), SumTree(n)
        tree.update(np.arange(n), rng.random(n))
        indices, values = rng.integers(n, size=args.batch_size), rng.random(args.batch_size)
        model, callback = model_on(n, args.batch_size)

        def update(model: Any = model, callback: Any = callback) -> None:
            callback.after_update(model.sample_batch(args.batch_size), {})

        draw = milliseconds(lambda tree=tree, rng=rng: tree.sample(args.batch_size, rng), args.repeats)
        change = milliseconds(lambda tree=tree, i=indices, v=values: tree.update(i, v), args.repeats)
        balanced = milliseconds(lambda model=model: model.sample_batch(args.batch_size), args.repeats)
        uniform = milliseconds(lambda b=model.replay_buffer: b.sample(args.batch_size), args.repeats)
        whole = milliseconds(update, args.repeats) - balanced
        one = milliseconds(lambda tree=tree: tree.update(np.zeros(1, dtype=np.int64), 1.0), args.repeats)
        row = f"{n:11,d}  {draw:9.3f}  {change:11.3f}  {balanced:14.3f}  {uniform:13.3f}  {whole:20.3f}  {one:7.3f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
