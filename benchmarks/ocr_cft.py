"""
Critic reconstruction and constrained fine-tuning against direct fine-tuning, with ablations.

    python benchmarks/ocr_cft.py --algorithm o2td3 --dataset o2o/hopper/medium-v0 --out runs/ocr-hopper --seed 0

pre-trains the offline method once (or takes ``--checkpoint``), fine-tunes each variant, writes
``<run>/<variant>.json`` and draws all variants of the run. The offline method is the algorithm's own by default (CQL
for O2SAC, TD3+BC for O2TD3, IQL for O2PPO) and may be another's: its policy is then taken over. Variants: ``full``,
``direct``, ``no_reevaluation``, ``no_alignment`` (not for PPO), ``no_constraint`` (for PPO, no auxiliary advantage).
Sizes are scaled down from the paper's by the defaults below; they are written into the JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from stable_baselines3.common.monitor import Monitor

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3, OfflineDataset
from sb3_o2o.evaluation import evaluate
from sb3_o2o.evaluation.eval_callback import NormalizedEvalCallback
from sb3_o2o.evaluation.scores import ReferenceScore
from sb3_o2o.finetuning import (
    AuxiliaryAdvantage,
    ConstrainedFineTuning,
    FineTuningCallback,
    PolicyReevaluation,
    SymmetricReplay,
    ValueAlignment,
    Warmup,
)
from sb3_o2o.transfer.load_offline import recover_environment

VARIANTS = ("full", "direct", "no_reevaluation", "no_alignment", "no_constraint")
#: class, own offline method, arguments of the online objective
ALGORITHMS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "o2sac": (O2OSAC, "cql", {"critic_reduction": "sum", "simultaneous": True}),
    "o2td3": (O2OTD3, "td3_bc", {"critic_reduction": "sum", "normalize_values": True}),
    "o2ppo": (O2OPPO, "iql_ppo", {}),
}
#: class and arguments of the offline methods
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cql": (O2OSAC, {"objective": "cql", "objective_kwargs": {"cql_weight": 10.0, "n_actions": 4}}),
    "td3_bc": (O2OTD3, {"objective": "td3_bc"}),
    "iql": (O2OSAC, {"objective": "iql"}),
    "iql_ppo": (O2OPPO, {"objective": "iql"}),
}
#: PPO's, as in the recipe
PPO: dict[str, Any] = {
    "value_learning_rate": "lin_2e-4",
    "n_steps": 2048,
    "batch_size": 128,
    "normalize_advantage": False,
    "ent_coef": 0.01,
    "vf_coef": 1.0,
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=list(ALGORITHMS), default="o2td3")
    parser.add_argument("--offline", choices=list(METHODS), default=None, help="the algorithm's own by default")
    parser.add_argument("--dataset", default="o2o/hopper/medium-v0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrain-steps", type=int, default=50_000)
    parser.add_argument("--reevaluation-steps", type=int, default=20_000)
    parser.add_argument("--alignment-steps", type=int, default=20_000)
    parser.add_argument("--online-steps", type=int, default=30_000)
    parser.add_argument("--warmup", type=int, default=1_000)
    parser.add_argument("--updates-per-step", type=int, default=1)
    parser.add_argument("--anneal-steps", type=int, default=None, help="of the constraint; the online steps by default")
    parser.add_argument("--clone-steps", type=int, default=10_000, help="of another family's policy")
    parser.add_argument("--ppo-learning-rate", default="lin_3e-5", help="of O2PPO's actor")
    parser.add_argument("--ent-coef", type=float, default=0.2, help="O2SAC's temperature in the reconstruction")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 256])
    parser.add_argument("--eval-freq", type=int, default=1_000)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    args.offline = args.offline or ALGORITHMS[args.algorithm][1]
    args.anneal_steps = args.anneal_steps or args.online_steps
    if args.algorithm == "o2ppo":
        args.variants = [variant for variant in args.variants if variant != "no_alignment"]
    return args


class AfterReconstruction(FineTuningCallback):
    """Evaluates between the gradient-only phases and the first step."""

    def __init__(self, evaluation: NormalizedEvalCallback):
        super().__init__()
        self.evaluation, self.score = evaluation, float("nan")

    def before_collecting(self) -> None:
        watched = self.evaluation
        self.score = evaluate(
            self.model, watched.eval_env, watched.n_eval_episodes, reference=watched.reference, seed=watched.seed
        ).score


def shared(args: argparse.Namespace, dataset: OfflineDataset) -> dict[str, Any]:
    """What offline and online phases have in common."""
    return {
        "seed": args.seed,
        "dataset": dataset,
        "compile": args.compile,
        "device": "cpu" if not th.cuda.is_available() else "cuda",
    }


def of_class(algorithm: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Rates and batches."""
    if algorithm is O2OPPO:
        return {"learning_rate": args.ppo_learning_rate, **PPO}
    return {"learning_rate": 1e-4, "qf_learning_rate": 3e-4, "batch_size": 256}


def networks(algorithm: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What is built anew."""
    common: dict[str, Any] = {"normalize_observations": True}
    if algorithm is O2OPPO:
        kwargs = {"net_arch": args.hidden, "activation_fn": "relu", "value_activation_fn": "tanh", "squash_mean": True}
        return {**common, "policy_kwargs": kwargs, "pretrain_learning_rate": 3e-4}
    return {**common, "critic_layer_norm": True, "policy_kwargs": {"net_arch": args.hidden}}


def pretrain(args: argparse.Namespace, dataset: OfflineDataset) -> Path:
    algorithm, method = METHODS[args.offline]
    arguments = {**shared(args, dataset), **of_class(algorithm, args), **networks(algorithm, args), **method}
    model = algorithm("MlpPolicy", make_env(args), **arguments)
    started = time.time()
    model.pretrain(None, args.pretrain_steps)
    path = args.out / f"{args.offline}.zip"
    model.save(path)
    print(f"{args.offline}: {args.pretrain_steps} updates in {time.time() - started:.0f} s")
    return path


def make_env(args: argparse.Namespace) -> gym.Env[Any, Any]:
    return Monitor(recover_environment(args.dataset))


def callbacks_of(variant: str, args: argparse.Namespace) -> list[FineTuningCallback]:
    """Data and warm-up are the same for all, so that only the method differs."""
    if args.algorithm == "o2ppo":
        for_ppo: dict[str, FineTuningCallback] = {
            "no_reevaluation": PolicyReevaluation(args.reevaluation_steps, batch_size=512),
            "no_constraint": AuxiliaryAdvantage(args.anneal_steps),
        }
        return [] if variant == "direct" else [each for name, each in for_ppo.items() if name != variant]
    data: list[FineTuningCallback] = [Warmup(args.warmup), SymmetricReplay(0.5)]
    if variant == "direct":
        return data
    ent_coef = args.ent_coef if args.algorithm == "o2sac" else None
    method: dict[str, FineTuningCallback] = {
        "no_reevaluation": PolicyReevaluation(args.reevaluation_steps, ent_coef),
        "no_alignment": ValueAlignment(args.alignment_steps, ent_coef),
        "no_constraint": ConstrainedFineTuning(anneal_steps=args.anneal_steps),
    }
    return [callback for left_out, callback in method.items() if left_out != variant] + data


def finetune(variant: str, args: argparse.Namespace, dataset: OfflineDataset, folder: Path) -> None:
    algorithm, _, objective_kwargs = ALGORITHMS[args.algorithm]
    if variant == "direct" and algorithm is O2OTD3:
        objective_kwargs = {}  # plain TD3, whose actor's values are not scaled
    online: dict[str, Any] = {
        **shared(args, dataset),
        **of_class(algorithm, args),
        "finetuning": callbacks_of(variant, args),
    }
    if algorithm is not O2OPPO:
        online |= {
            "online_objective_kwargs": objective_kwargs,
            "gradient_steps": args.updates_per_step,
            "buffer_size": args.online_steps,
        }
    foreign = METHODS[args.offline][0]
    if O2OPPO in (algorithm, foreign) and foreign is not algorithm:
        online |= networks(algorithm, args) | {"pretrain_steps": args.clone_steps}  # it is cloned
    if algorithm is O2OPPO and variant in ("direct", "no_constraint"):
        online["normalize_advantage"] = True  # which AuxiliaryAdvantage does elsewhere
    if algorithm is O2OTD3:
        online["action_noise"] = 0.1
    elif algorithm is O2OSAC and foreign is not algorithm:
        online["ent_coef"] = f"auto_{args.ent_coef}"  # a policy without a temperature; 1 would be a handicap for some
    model = algorithm.load_offline(args.checkpoint, make_env(args), **online)
    assert dataset.ref_min_score is not None
    assert dataset.ref_max_score is not None
    evaluation = NormalizedEvalCallback(
        make_env(args),
        reference=ReferenceScore(dataset.ref_min_score, dataset.ref_max_score, dataset.source),
        seed=args.seed + 1000,
        eval_freq=args.eval_freq,
        n_eval_episodes=args.eval_episodes,
        verbose=0,
    )
    after = AfterReconstruction(evaluation)
    started = time.time()
    model.learn(args.online_steps, callback=[evaluation, after])
    scores = dataset.normalized_score(np.array(evaluation.evaluations_results))
    report = {
        "variant": variant,
        "offline_score": float(scores[0].mean()),
        "reconstructed_score": after.score,
        "steps": evaluation.evaluations_timesteps,
        "scores": scores.tolist(),
        "lowest_in_first_10k": float(scores.mean(axis=1)[np.array(evaluation.evaluations_timesteps) <= 10_000].min()),
        "final_score": float(scores[-1].mean()),
        "seconds": time.time() - started,
        "arguments": vars(args),
    }
    (folder / f"{variant}.json").write_text(json.dumps(report, default=str))
    names = ("offline_score", "reconstructed_score", "lowest_in_first_10k", "final_score")
    print(f"{variant}: " + ", ".join(f"{name} {report[name]:.1f}" for name in names) + f", {report['seconds']:.0f} s")


def draw(folder: Path) -> Path:
    """All variants that the folder holds so far."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text())
        scores = np.array(report["scores"])
        (line,) = axes.plot(report["steps"], scores.mean(axis=1), marker="o", markersize=3, label=report["variant"])
        axes.fill_between(report["steps"], scores.min(axis=1), scores.max(axis=1), alpha=0.1, color=line.get_color())
    axes.set(
        xlabel="environment steps",
        ylabel="normalised score",
        title=folder.name,
    )
    figure.suptitle("means, and from the worst to the best episode", fontsize="small")
    figure.legend(loc="outside right upper", frameon=False)
    target = folder / "learning_curves.png"
    figure.savefig(target, dpi=120)
    return target


def main() -> None:
    args = parse()
    th.set_num_threads(args.threads)
    folder = args.out / f"{args.algorithm}_from_{args.offline}_seed{args.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    dataset = OfflineDataset.load(args.dataset)
    if args.checkpoint is None:
        args.checkpoint = pretrain(args, dataset)
    for variant in args.variants:
        finetune(variant, args, dataset, folder)
        print(draw(folder))


if __name__ == "__main__":
    main()
