"""
Whether ``precision="bf16"`` learns like float32: curves of both on two tasks, over several seeds.

    python benchmarks/precision.py --out runs/precision --seeds 0 1 2 3 4

Tasks: ``pendulum``, SAC from scratch on Pendulum-v1; ``wsrl``, five critics with layer normalisation on the double
pendulum that comes with the library, CQL on its dataset and then WSRL. Every run writes its evaluations to
``<task>-<precision>-<seed>.json`` and is not repeated when it is there; then all that are there are compared: the mean
over a run's evaluations, and how often chance alone would part the seeds of two equal precisions as far (an exact
permutation test). One curve picture per task.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT
from sb3_o2o.finetuning import Warmup

PRECISIONS = ("fp32", "bf16")
ENVIRONMENTS = {"pendulum": "Pendulum-v1", "wsrl": DEMO_ENVIRONMENT}
N_EVALUATIONS = 10


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=list(ENVIRONMENTS), choices=list(ENVIRONMENTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--online-steps", type=int, default=4_000)
    parser.add_argument("--pretrain-steps", type=int, default=1_000, help="of wsrl")
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def make_model(task: str, precision: str, seed: int, pretrain_steps: int) -> O2OSAC:
    settings: dict[str, Any] = {
        "precision": precision,
        "seed": seed,
        "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [64, 64]},
    }
    env = make_vec_env(ENVIRONMENTS[task], seed=seed)
    if task == "pendulum":
        return O2OSAC("MlpPolicy", env, batch_size=128, learning_starts=200, **settings)
    model = O2OSAC(
        "MlpPolicy",
        env,
        objective="cql",
        objective_kwargs={"n_actions": 4, "cql_weight": 5.0, "critic_subset": 2},
        n_critics=5,
        critic_subset=2,
        critic_layer_norm=True,
        finetuning=[Warmup(500)],
        learning_starts=0,
        train_freq=1,
        gradient_steps=2,
        policy_delay=2,
        **settings,
    )
    return model.pretrain(DEMO_DATASET, pretrain_steps)


def run(task: str, precision: str, seed: int, args: argparse.Namespace) -> None:
    path = args.out / f"{task}-{precision}-{seed}.json"
    if path.exists():
        return
    started = time.time()
    model = make_model(task, precision, seed, args.pretrain_steps)
    evaluation = EvalCallback(
        make_vec_env(ENVIRONMENTS[task], seed=1000 + seed),
        eval_freq=args.online_steps // N_EVALUATIONS,
        n_eval_episodes=args.eval_episodes,
        log_path=str(args.out / path.stem),
        verbose=0,
    )
    model.learn(args.online_steps, callback=evaluation)
    returns = [float(np.mean(results)) for results in evaluation.evaluations_results]
    report = {
        "steps": [int(step) for step in evaluation.evaluations_timesteps],
        "returns": returns,
        "seconds": time.time() - started,
        "arguments": {name: value for name, value in vars(args).items() if name != "out"},
    }
    path.write_text(json.dumps(report))
    print(
        f"{path.stem}: {report['seconds']:.0f} s, returns {' '.join(f'{value:.0f}' for value in returns)}", flush=True
    )


def chance(first: list[float], second: list[float]) -> float:
    """
    :param first: one number per seed
    :param second: likewise
    :return: the share of all ways to deal the numbers to two sides whose means differ at least as much
    """
    numbers = np.array([*first, *second])
    observed = abs(np.mean(first) - np.mean(second))
    differences = []
    for chosen in itertools.combinations(range(len(numbers)), len(first)):
        side = np.isin(np.arange(len(numbers)), chosen)
        differences.append(abs(numbers[side].mean() - numbers[~side].mean()))
    return float(np.mean(np.array(differences) >= observed - 1e-9))


def compare(task: str, out: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    means: dict[str, list[float]] = {}
    for precision in PRECISIONS:
        runs = [json.loads(path.read_text()) for path in sorted(out.glob(f"{task}-{precision}-*.json"))]
        curves = np.array([each["returns"] for each in runs])
        means[precision] = curves.mean(axis=1).tolist()
        line = axes.plot(runs[0]["steps"], curves.mean(axis=0), marker="o", markersize=3, label=precision)[0]
        axes.plot(runs[0]["steps"], curves.T, color=line.get_color(), alpha=0.25, linewidth=0.8)
        print(f"{task} {precision}: means over a run {' '.join(f'{value:.0f}' for value in means[precision])}")
        print(f"    curve {' '.join(f'{value:.0f}' for value in curves.mean(axis=0))}")
        print(f"    last {curves[:, -1].mean():.0f} ± {curves[:, -1].std():.0f}")
    print(f"{task}: chance of such a difference between equals: {chance(*means.values()):.2f}")
    axes.set(xlabel="environment steps", ylabel="return", title=f"{task}: mean and single seeds")
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(out / f"{task}.png", dpi=120)


def main() -> None:
    args = parse()
    th.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for task in args.tasks:
        for seed, precision in itertools.product(args.seeds, PRECISIONS):
            run(task, precision, seed, args)
        compare(task, args.out)


if __name__ == "__main__":
    main()
