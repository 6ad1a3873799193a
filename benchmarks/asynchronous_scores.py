"""
What asynchronous updates cost in score: SAC one after the other, with ``AsynchronousUpdates`` as the clock has it, and
with updates that are always as late as they may be, which is the worst that a clock can do. The recipe is the same.

    python benchmarks/asynchronous_scores.py --out DIR --seeds 0 1 2

Every run writes its evaluations to ``<task>-<how>-<seed>.json`` and is not repeated when it is there; then all that are
there are put into a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o import O2OSAC
from sb3_o2o.evaluation import NormalizedEvalCallback
from sb3_o2o.finetuning import AsynchronousUpdates

N_EVALUATIONS = 5


class AlwaysLate(AsynchronousUpdates):
    """Updates that lag behind by ``max_lag`` steps from the first on, whatever the clock says."""

    def defer_updates(self, gradient_steps: int, batch_size: int) -> bool:
        """See :class:`AsynchronousUpdates`."""
        deferred = super().defer_updates(gradient_steps, batch_size)
        while len(self.pending) > self.max_lag:
            self._update()
        return deferred

    def _update_during(self, step_wait: Any) -> Any:
        return step_wait()


class Lag(BaseCallback):
    """
    How far updates lag behind.

    :param watched: makes them
    """

    def __init__(self, watched: AsynchronousUpdates):
        super().__init__()
        self.watched = watched
        self.seen: list[int] = []

    def _on_step(self) -> bool:
        self.seen.append(len(self.watched.pending))
        return True


HOW: dict[str, type[AsynchronousUpdates] | None] = {
    "in turn": None,
    "asynchronous": AsynchronousUpdates,
    "always late": AlwaysLate,
}


def run(task: str, how: str, seed: int, args: argparse.Namespace) -> None:
    """Train, and write what came of it."""
    path = args.out / f"{task}-{how.replace(' ', '_')}-{seed}.json"
    if path.exists():
        return
    started = time.perf_counter()
    model = O2OSAC(
        "MlpPolicy",
        task,
        learning_rate=args.learning_rate,
        learning_starts=args.learning_starts,
        gradient_steps=args.updates,
        policy_kwargs={"net_arch": args.hidden},
        seed=seed,
    )
    evaluation = NormalizedEvalCallback(
        task, eval_freq=args.steps // N_EVALUATIONS, n_eval_episodes=args.eval_episodes, seed=1000 + seed, verbose=0
    )
    kind = HOW[how]
    late = None if kind is None else kind(args.max_lag)
    callbacks: list[BaseCallback] = [evaluation]
    lag = None
    if late is not None:
        lag = Lag(late)
        callbacks += [late, lag]
    model.learn(args.steps, callback=callbacks)
    returns = [float(np.mean(results)) for results in evaluation.evaluations_results]
    report = {
        "steps": [int(step) for step in evaluation.evaluations_timesteps],
        "returns": returns,
        "mean_lag": 0.0 if lag is None else float(np.mean(lag.seen[args.learning_starts :])),
        "seconds": time.perf_counter() - started,
        "arguments": {name: value for name, value in vars(args).items() if name != "out"},
    }
    path.write_text(json.dumps(report))
    print(f"{path.stem}: {report['seconds']:.0f} s, {' '.join(f'{value:.0f}' for value in returns)}", flush=True)


def table(task: str, args: argparse.Namespace) -> None:
    """Print mean and deviation over seeds: of the last evaluation, and of the mean over a run's."""
    print(f"| {task} | mean lag | last evaluation, by seed | mean ± deviation | mean of all evaluations |")
    print("|---|---|---|---|---|")
    for how in HOW:
        paths = sorted(args.out.glob(f"{task}-{how.replace(' ', '_')}-*.json"))
        runs = [json.loads(path.read_text()) for path in paths]
        if not runs:
            continue
        last = np.array([each["returns"][-1] for each in runs])
        whole = np.array([np.mean(each["returns"]) for each in runs])
        lag = np.mean([each["mean_lag"] for each in runs])
        seeds = " / ".join(f"{value:.0f}" for value in last)
        print(
            f"| {how} | {lag:.1f} | {seeds} | {last.mean():.0f} ± {last.std():.0f} | "
            f"{whole.mean():.0f} ± {whole.std():.0f} |"
        )


def main() -> None:
    """Run what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["Pendulum-v1", "Hopper-v5"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--how", nargs="+", default=list(HOW), choices=list(HOW))
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--updates", type=int, default=1, help="after each step")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--learning-starts", type=int, default=500)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--max-lag", type=int, default=10)
    args = parser.parse_args()
    th.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for how in args.how:
        for seed, task in itertools.product(args.seeds, args.tasks):
            run(task, how, seed, args)
    for task in args.tasks:
        table(task, args)


if __name__ == "__main__":
    main()
