"""
A dataset from an environment that has none: stock SAC from scratch, its replay buffer, and the policy it came to.

    python benchmarks/replay_of_sac.py Walker2d-v5 --steps 100000 --out runs/walker2d
    sb3-o2o collect Walker2d-v5 o2o/walker2d/medium-v0 --policy runs/walker2d/sac.zip --n-steps 60000

``OUT/replay.pkl`` is a dataset as it is (``OfflineDataset.load``, a grid's ``dataset``), every transition from the
first on; ``OUT/sac.zip`` is the policy, for ``sb3-o2o collect``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor


def main(arguments: list[str] | None = None) -> None:
    """Train, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", help="Gymnasium id")
    parser.add_argument("--steps", type=int, default=100_000, help="of the environment, all of which are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    th.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    env = Monitor(gym.make(options.env), str(options.out / "sac"))
    model = SAC("MlpPolicy", env, seed=options.seed, buffer_size=options.steps)
    model.learn(options.steps, progress_bar=True)
    model.save(options.out / "sac.zip")
    model.save_replay_buffer(options.out / "replay.pkl")


if __name__ == "__main__":
    main()
