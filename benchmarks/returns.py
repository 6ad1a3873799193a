"""
Returns of fine-tuning variants from one pre-trained model, with learning curves.

    python benchmarks/returns.py --dataset o2o/hopper/medium-v0 --out runs/hopper --seed 0

pre-trains once (or takes ``--checkpoint``), fine-tunes each variant, and writes ``<variant>.json`` with the evaluation
curve. Variants: ``wsrl``, ``wsrl_no_warmup``, ``calql`` (continued). Several variants may run in parallel processes on
the checkpoint of one. Sizes are scaled down from the papers' by the defaults below; they are written into the JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from sb3_o2o import O2OSAC, OfflineDataset
from sb3_o2o.data import MonteCarloDictReplayBuffer, MonteCarloReplayBuffer
from sb3_o2o.finetuning import SymmetricReplay, Warmup
from sb3_o2o.transfer.load_offline import recover_environment


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="o2o/hopper/medium-v0")
    parser.add_argument("--env", default=None, help="recovered from the dataset by default")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--variants", nargs="*", default=["wsrl", "wsrl_no_warmup", "calql"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrain-steps", type=int, default=50_000)
    parser.add_argument("--online-steps", type=int, default=30_000)
    parser.add_argument("--warmup", type=int, default=5_000)
    parser.add_argument("--hidden", type=int, nargs="*", default=[64, 64])
    parser.add_argument("--objective", default="calql")
    parser.add_argument("--n-actions", type=int, default=4)
    parser.add_argument("--cql-weight", type=float, default=5.0)
    parser.add_argument("--max-target-backup", action="store_true")
    parser.add_argument("--reward-scale", type=float, default=1.0)
    parser.add_argument("--reward-shift", type=float, default=0.0)
    parser.add_argument("--eval-freq", type=int, default=2_500)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--online-batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def make_env(args: argparse.Namespace, dataset: OfflineDataset) -> gym.Env:
    return Monitor(gym.make(args.env) if args.env else recover_environment(args.dataset))


def pretrain(args: argparse.Namespace, dataset: OfflineDataset) -> Path:
    """WSRL's agent (ten critics, layer normalisation in both networks), pre-trained with Cal-QL or CQL."""
    env = make_env(args, dataset)
    cql = {"cql_weight": args.cql_weight, "n_actions": args.n_actions, "critic_subset": 2}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, gym.spaces.Dict) else "MlpPolicy"
    model = O2OSAC(
        policy,
        env,
        seed=args.seed,
        learning_rate=1e-4,
        qf_learning_rate=3e-4,
        policy_kwargs={"net_arch": args.hidden},
        objective=args.objective,
        objective_kwargs={**cql, "max_target_backup": args.max_target_backup},
        n_critics=10,
        critic_subset=2,
        subset_replacement=True,
        entropy_backup=False,
        critic_layer_norm=True,
        actor_layer_norm=True,
        reward_scale=args.reward_scale,
        reward_shift=args.reward_shift,
        compile=args.compile,
        verbose=1,
    )
    started = time.time()
    evaluation = EvalCallback(
        make_env(args, dataset),
        eval_freq=max(args.pretrain_steps // 5, 1),
        n_eval_episodes=args.eval_episodes,
        log_path=str(args.out / "offline"),
        verbose=1,
    )
    model.pretrain(dataset, args.pretrain_steps, callback=evaluation)
    print(f"pre-training took {time.time() - started:.0f} s")
    model.save(args.out / "pretrained")
    return args.out / "pretrained.zip"


def finetune(variant: str, args: argparse.Namespace, dataset: OfflineDataset) -> None:
    env = make_env(args, dataset)
    is_dict = isinstance(env.observation_space, gym.spaces.Dict)
    changes: dict[str, Any] = {
        "batch_size": args.online_batch_size,
        "gradient_steps": 4,
        "policy_delay": 4,
        "actor_batch": "block",
        "online_objective_kwargs": {"entropy_backup": False, "critic_reduction": "mean", "entropy_at_next": True},
        "finetuning": [Warmup(args.warmup)] if variant == "wsrl" else [],
    }
    if variant == "calql":
        changes = {
            "gradient_steps": 1,
            "policy_delay": 1,
            "online_objective": args.objective,
            "replay_buffer_class": MonteCarloDictReplayBuffer if is_dict else MonteCarloReplayBuffer,
            "replay_buffer_kwargs": {"gamma": 0.99},
            "finetuning": [SymmetricReplay(0.5)],
        }
    changes.update(buffer_size=args.online_steps, seed=args.seed, dataset=dataset, compile=args.compile)
    model = O2OSAC.load_offline(args.checkpoint, env, **changes)
    evaluation = EvalCallback(
        make_env(args, dataset),
        eval_freq=args.eval_freq,
        n_eval_episodes=args.eval_episodes,
        log_path=str(args.out / variant),
        verbose=0,
    )
    model.set_logger(configure(str(args.out / variant), ["csv"]))
    evaluation.init_callback(model)
    evaluation.n_calls = args.eval_freq - 1
    evaluation.on_step()  # the score at the switch
    evaluation.n_calls = 0
    started = time.time()
    model.learn(args.online_steps, callback=evaluation)
    scores = [[dataset.normalized_score(r) for r in results] for results in evaluation.evaluations_results]
    curve = {"steps": evaluation.evaluations_timesteps, "scores": scores, "returns": evaluation.evaluations_results}
    report = {"variant": variant, "seconds": time.time() - started, "curve": curve, "arguments": vars(args)}
    (args.out / f"{variant}.json").write_text(
        json.dumps(report, default=lambda x: getattr(x, "tolist", lambda: str(x))())
    )
    means = [f"{sum(s) / len(s):.1f}" for s in scores]
    print(f"{variant}: {time.time() - started:.0f} s, normalised scores {' '.join(means)}")


def main() -> None:
    args = parse()
    th.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = OfflineDataset.load(args.dataset)
    if args.checkpoint is None:
        args.checkpoint = pretrain(args, dataset)
    for variant in args.variants:
        finetune(variant, args, dataset)


if __name__ == "__main__":
    main()
