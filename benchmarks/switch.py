"""
The score across the switch: a policy that is fine-tuned naively, and the same policy with two parts of O2TD3.

    sb3-o2o demo --seed 0
    python benchmarks/switch.py --policy runs/wsrl-InvertedDoublePendulum-v5_1/online/best_model.zip --out runs/switch

records a dataset with the demo's policy, whose every action is disturbed so that most episodes fall over, pre-trains
with TD3+BC, and fine-tunes each policy twice: by plain TD3 on what it collects, and by TD3 whose critics were first
evaluated anew and whose policy stays near the best one so far. Writes ``seed<n>.json`` and draws all seeds of the
folder, also without training any (``--seeds``).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC, O2OTD3, OfflineDataset
from sb3_o2o.data import collect
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT
from sb3_o2o.evaluation import NormalizedEvalCallback, ReferenceScore
from sb3_o2o.finetuning import ConstrainedFineTuning, PolicyReevaluation, SymmetricReplay, Warmup

LABELS = {"constrained": "re-evaluated,\nconstrained", "naive": "naive"}
COLOURS = {"constrained": "tab:blue", "naive": "tab:red"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="the demo's, which balances")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--transitions", type=int, default=10_000)
    parser.add_argument("--noise", type=float, default=0.15, help="standard deviation of what disturbs the actions")
    parser.add_argument("--pretrain-steps", type=int, default=6_000)
    parser.add_argument("--reevaluation-steps", type=int, default=2_000)
    parser.add_argument("--online-steps", type=int, default=2_500)
    parser.add_argument("--warmup", type=int, default=250)
    parser.add_argument("--eval-freq", type=int, default=250)
    parser.add_argument("--eval-episodes", type=int, default=3)
    return parser.parse_args()


def record(args: argparse.Namespace) -> OfflineDataset:
    """The demo's policy with noise on every action. It is made once for a folder."""
    path = args.out / "dataset.npz"
    if not path.is_file():
        os.environ["MINARI_DATASETS_PATH"] = str(args.out / "minari")
        policy, rng = O2OSAC.load(args.policy), np.random.default_rng(0)
        references = OfflineDataset.load(DEMO_DATASET)

        def disturbed(observations: np.ndarray) -> np.ndarray:
            actions, _ = policy.predict(observations, deterministic=True)
            return np.clip(actions + rng.normal(0.0, args.noise, actions.shape), -1.0, 1.0).astype(np.float32)

        collect(
            disturbed,
            DEMO_ENVIRONMENT,
            "switch/disturbed-v0",
            n_steps=args.transitions,
            seed=1,
            ref_min_score=references.ref_min_score,
            ref_max_score=references.ref_max_score,
        ).save(path)
    return OfflineDataset.load(path)


def finetune(variant: str, seed: int, args: argparse.Namespace, dataset: OfflineDataset) -> dict[str, Any]:
    """From the same policy, with the recipe's rates and noise; gives the curve."""
    method: dict[str, Any] = {}
    if variant == "constrained":
        method = {
            "load_critic": False,
            "critic_layer_norm": True,
            "online_objective_kwargs": {"critic_reduction": "sum", "normalize_values": True},
            "finetuning": [
                PolicyReevaluation(args.reevaluation_steps),
                ConstrainedFineTuning(anneal_steps=args.online_steps),
                Warmup(args.warmup),
                SymmetricReplay(0.5),
            ],
        }
    model = O2OTD3.load_offline(
        args.out / f"offline{seed}",
        make_vec_env(DEMO_ENVIRONMENT, seed=seed),
        dataset=dataset,
        seed=seed,
        learning_rate=1e-4,
        qf_learning_rate=3e-4,
        action_noise=0.1,
        buffer_size=args.online_steps,
        **method,
    )
    assert dataset.ref_min_score is not None
    assert dataset.ref_max_score is not None
    evaluation = NormalizedEvalCallback(
        DEMO_ENVIRONMENT,
        reference=ReferenceScore(dataset.ref_min_score, dataset.ref_max_score, dataset.source),
        n_eval_episodes=args.eval_episodes,
        eval_freq=args.eval_freq,
        verbose=0,
    )
    model.learn(args.online_steps, callback=evaluation)
    scores = dataset.normalized_score(np.array(evaluation.evaluations_results)).mean(axis=1)
    print(f"seed {seed}, {variant}: {' '.join(f'{score:.0f}' for score in scores)}", flush=True)
    return {"steps": list(map(int, evaluation.evaluations_timesteps)), "scores": scores.round(2).tolist()}


def train(seed: int, args: argparse.Namespace, dataset: OfflineDataset) -> None:
    model = O2OTD3(
        "MlpPolicy",
        make_vec_env(DEMO_ENVIRONMENT, seed=seed),
        objective="td3_bc",
        seed=seed,
        batch_size=128,
        learning_rate=1e-3,
        qf_learning_rate=1e-3,
        normalize_observations=True,
        policy_kwargs={"net_arch": [64, 64]},
    )
    model.pretrain(dataset, args.pretrain_steps)
    model.save(args.out / f"offline{seed}")
    curves = {variant: finetune(variant, seed, args, dataset) for variant in LABELS}
    score = float(dataset.normalized_score(dataset.episode_returns).mean())
    report = {"seed": seed, "dataset_score": score, "arguments": vars(args), **curves}
    (args.out / f"seed{seed}.json").write_text(json.dumps(report, default=str, indent=1))


def draw(folder: Path) -> Path:
    """A thin line for each seed, a thick one for their mean."""
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("seed*.json"))]
    plt.rcParams["svg.hashsalt"] = "switch"
    figure, axes = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    for variant, label in LABELS.items():
        curves = np.array([report[variant]["scores"] for report in reports])
        steps = reports[0][variant]["steps"]
        axes.plot(steps, curves.T, color=COLOURS[variant], alpha=0.3, linewidth=1)
        axes.plot(steps, curves.mean(axis=0), color=COLOURS[variant], linewidth=2.5, label=label)
    axes.axhline(reports[0]["dataset_score"], color="grey", linestyle="--", linewidth=1, label="dataset")
    axes.set(xlabel="environment steps after the switch", ylabel="normalised score", xlim=(0, None), ylim=(-3, 103))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    target = folder / "switch.svg"
    figure.savefig(target, metadata={"Date": None})
    return target


def main() -> None:
    args = parse()
    th.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.seeds:
        dataset = record(args)
        for seed in args.seeds:
            train(seed, args, dataset)
    print(draw(args.out))


if __name__ == "__main__":
    main()
