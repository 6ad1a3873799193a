"""
Milliseconds of an update by the number of critics, with and without EDAC's diversity penalty.

    python benchmarks/edac.py --critics 10 50

prints the median of ``--repeats`` updates of SAC-N and EDAC (three hidden layers of 256, batches of 256, a state of 17
and an action of 6 numbers, as HalfCheetah has them).
"""

from __future__ import annotations

import argparse
import statistics
import time

import gymnasium as gym
import numpy as np
import torch as th

from sb3_o2o import O2OSAC
from sb3_o2o.objectives import Batch


class Shapes(gym.Env):
    """HalfCheetah's spaces."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (17,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)


def milliseconds(objective: str, n_critics: int, args: argparse.Namespace) -> float:
    model = O2OSAC(
        "MlpPolicy",
        Shapes(),
        objective=objective,
        online_objective=objective,
        n_critics=n_critics,
        policy_kwargs={"net_arch": [args.hidden] * 3},
        buffer_size=1,
        device=args.device,
        compile=args.compile,
    )
    states, following = th.randn(2, args.batch, 17, device=model.device)
    flat = th.zeros(args.batch, device=model.device)
    batch = Batch(states, th.rand(args.batch, 6, device=model.device) * 2 - 1, following, flat, flat, flat + 0.99)
    times = []
    for _ in range(args.repeats + 3):
        started = time.perf_counter()
        model.loop.gradient_step(batch, batch)
        model.update_targets()
        if model.device.type == "cuda":
            th.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--critics", type=int, nargs="*", default=[10, 50])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    print("critics  sac_n ms  edac ms  ratio")
    for n_critics in args.critics:
        plain, diverse = (milliseconds(objective, n_critics, args) for objective in ("sac_n", "edac"))
        print(f"{n_critics:7d}  {plain:8.1f}  {diverse:7.1f}  {diverse / plain:5.2f}", flush=True)


if __name__ == "__main__":
    main()
