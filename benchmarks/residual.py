"""
What a residual adds to a frozen policy: a clone of the demo's dataset alone, the same with a residual that SAC learns,
and SAC from scratch in as many steps. Mean returns on the double pendulum that comes with the library.

    python benchmarks/residual.py --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC, ResidualActions, ResidualPolicy
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT
from sb3_o2o.evaluation import evaluate

#: of every agent here
SETTINGS: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64]}, "learning_rate": 1e-3, "critic_layer_norm": True}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--clone-steps", type=int, default=2_000, help="gradient steps of the clone")
    parser.add_argument("--steps", type=int, default=4_000, help="environment steps of what learns")
    parser.add_argument("--scale", type=float, default=0.3, help="largest correction")
    parser.add_argument("--eval-episodes", type=int, default=20)
    return parser.parse_args()


def scores(seed: int, arguments: argparse.Namespace) -> list[float]:
    """:return: mean returns of the clone, of it with its residual, and of SAC from scratch"""

    def score(policy: object) -> float:
        return float(evaluate(policy, DEMO_ENVIRONMENT, arguments.eval_episodes, seed=1_000).returns.mean())

    clone = O2OSAC("MlpPolicy", make_vec_env(DEMO_ENVIRONMENT, seed=seed), objective="bc", seed=seed, **SETTINGS)
    clone.pretrain(DEMO_DATASET, arguments.clone_steps)
    wrapped = make_vec_env(lambda: ResidualActions(gym.make(DEMO_ENVIRONMENT), clone, scale=arguments.scale), seed=seed)
    residual = O2OSAC("MlpPolicy", wrapped, seed=seed, learning_starts=200, **SETTINGS).learn(arguments.steps)
    both = ResidualPolicy(clone, residual, gym.make(DEMO_ENVIRONMENT), scale=arguments.scale)
    scratch = O2OSAC(
        "MlpPolicy", make_vec_env(DEMO_ENVIRONMENT, seed=seed), seed=seed, learning_starts=200, **SETTINGS
    ).learn(arguments.steps)
    return [score(clone), score(both), score(scratch)]


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore")
    print("| seed | clone | with its residual | SAC from scratch |\n|---|---|---|---|")
    for seed in arguments.seeds:
        print(f"| {seed} | " + " | ".join(f"{each:.1f}" for each in scores(seed, arguments)) + " |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
