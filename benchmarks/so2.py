"""
SO2's four lines: one pessimistic ensemble, fine-tuned without the pessimism, with perturbed targets only, with
frequent Q updates only, and with both; learning curves and diagnostics of each.

    python benchmarks/so2.py --dataset o2o/hopper/medium-replay-v0 --out runs/so2_hopper --seed 0

pre-trains once (EDAC as in the paper, which needs many updates; ``--objective cql`` for an ensemble that needs fewer;
``--policy`` to fit an ensemble to the policy of a saved TD3) or takes ``--checkpoint``, and fine-tunes each variant of
``--variants``. Every variant's folder holds ``evaluations.npz``, ``diagnostics/`` and ``diagnostics.png``;
``<variant>.json`` holds scores and arguments, and ``curves.png`` scores and Kendall's tau of all variants so far. Sizes
are scaled down from the paper's by default.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from sb3_o2o import O2OSAC, OfflineDataset
from sb3_o2o.diagnostics import (
    DataDiagnostics,
    DriftDiagnostics,
    QValueDiagnostics,
    SwitchDiagnostics,
    read_diagnostics,
    report,
)
from sb3_o2o.evaluation import NormalizedEvalCallback, ReferenceScore, read_evaluations
from sb3_o2o.finetuning import FIFOReplay, PerturbedTargets, Warmup
from sb3_o2o.transfer.load_offline import recover_environment

#: perturbed targets, frequent updates
VARIANTS = {"plain": (False, False), "perturbed": (True, False), "frequent": (False, True), "both": (True, True)}
#: ensembles to start from, with their arguments
OBJECTIVES: dict[str, dict[str, Any]] = {"edac": {}, "sac_n": {}, "cql": {"cql_weight": 5.0, "n_actions": 4}}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="o2o/hopper/medium-replay-v0")
    parser.add_argument("--env", default=None, help="recovered from the dataset by default")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--policy", type=Path, default=None, help="a saved TD3 or O2OTD3, to start from its policy")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrain-steps", type=int, default=50_000)
    parser.add_argument("--online-steps", type=int, default=20_000)
    parser.add_argument("--warmup", type=int, default=2_000)
    parser.add_argument("--hidden", type=int, nargs="*", default=[64, 64])
    parser.add_argument("--n-critics", type=int, default=10)
    parser.add_argument("--online-critics", type=int, default=None, help="the first so many of them; all by default")
    parser.add_argument("--tau", type=float, default=0.005, help="of the target networks; more carries values faster")
    parser.add_argument("--critic-layer-norm", action="store_true")
    parser.add_argument("--normalize-observations", action="store_true")
    parser.add_argument("--keep-best", type=int, default=None, help="evaluate pre-training so often; the best goes on")
    parser.add_argument("--objective", choices=list(OBJECTIVES), default="edac")
    parser.add_argument("--eta", type=float, default=1.0, help="EDAC's")
    parser.add_argument("--updates", type=int, default=10, help="critic updates per step where they are frequent")
    parser.add_argument("--online-batch-size", type=int, default=640)
    parser.add_argument("--online-fraction", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="offline; online it is --online-rate")
    parser.add_argument("--online-rate", type=float, default=1e-3)
    parser.add_argument("--ent-coef", type=float, default=0.2, help="online, fixed; negative: tuned on")
    parser.add_argument("--sigma", type=float, default=0.3)
    parser.add_argument("--clip", type=float, default=0.6)
    parser.add_argument("--eval-freq", type=int, default=2_000)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--tau-freq", type=int, default=5_000)
    parser.add_argument("--tau-episodes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def make_env(args: argparse.Namespace) -> gym.Env[Any, Any]:
    return Monitor(gym.make(args.env) if args.env else recover_environment(args.dataset))


def callbacks(args: argparse.Namespace, folder: Path, reference: ReferenceScore | None, freq: int) -> list[Any]:
    """Evaluation and every diagnostic, in environments of their own. Some skip pre-training by themselves."""
    evaluation = NormalizedEvalCallback(
        make_env(args),
        reference=reference,
        seed=args.seed + 10_000,
        eval_freq=freq,
        n_eval_episodes=args.eval_episodes,
        log_path=str(folder),
        best_model_save_path=str(folder),
        verbose=1,
    )
    tau = QValueDiagnostics(lambda: make_env(args), freq=args.tau_freq, n_episodes=args.tau_episodes, log_path=folder)
    others = [each(log_path=folder) for each in (DataDiagnostics, DriftDiagnostics)]
    return [evaluation, tau, *others, SwitchDiagnostics(evaluation, log_path=folder)]


def pretrain(args: argparse.Namespace, dataset: OfflineDataset, reference: ReferenceScore | None) -> Path:
    env = make_env(args)
    model = O2OSAC(
        "MultiInputPolicy" if isinstance(env.observation_space, gym.spaces.Dict) else "MlpPolicy",
        env,
        seed=args.seed,
        learning_rate=args.learning_rate,
        policy_kwargs={"net_arch": args.hidden},
        objective=args.objective,
        objective_kwargs={"eta": args.eta} if args.objective == "edac" else OBJECTIVES[args.objective],
        n_critics=args.n_critics,
        tau=args.tau,
        critic_layer_norm=args.critic_layer_norm,
        normalize_observations=args.normalize_observations,
        dataset=dataset,
        compile=args.compile,
    )
    folder = args.out / "offline"
    model.set_logger(configure(str(folder), ["csv"]))
    looking = callbacks(args, folder, reference, args.keep_best or max(args.pretrain_steps // 5, 1))
    started = time.time()
    model.pretrain(dataset, args.pretrain_steps, callback=looking)
    announce("pre-training", started, looking)
    model.save(args.out / "pretrained")
    return folder / "best_model.zip" if args.keep_best else args.out / "pretrained.zip"


def take_policy(args: argparse.Namespace, dataset: OfflineDataset) -> Path:
    """A policy from elsewhere, with an ensemble of critics that is fitted to it while it stays as it is."""
    model = O2OSAC.load_offline(
        args.policy,
        make_env(args),
        seed=args.seed,
        load_critic=False,
        learning_rate=args.learning_rate,
        n_critics=args.n_critics,
        tau=args.tau,
        ent_coef=max(args.ent_coef, 0.0),
        dataset=dataset,
        compile=args.compile,
    )
    model.set_logger(configure(str(args.out / "offline"), ["csv"]))
    buffer = model.open_offline_buffer(dataset)
    model.gradient_phase("reevaluation", model.reevaluation_objective(), args.pretrain_steps, buffer)
    model.save(args.out / "pretrained")
    return args.out / "pretrained.zip"


def finetune(variant: str, args: argparse.Namespace, dataset: OfflineDataset, reference: ReferenceScore | None) -> None:
    perturbed, frequent = VARIANTS[variant]
    updates = args.updates if frequent else 1
    changes: dict[str, Any] = {} if args.online_critics is None else {"n_critics": args.online_critics}
    if args.ent_coef >= 0:
        changes["ent_coef"] = args.ent_coef
    model = O2OSAC.load_offline(
        args.checkpoint,
        make_env(args),
        load_optimizer=False,
        seed=args.seed,
        dataset=dataset,
        learning_rate=args.online_rate,
        batch_size=args.online_batch_size,
        tau=args.tau,
        buffer_size=args.online_steps,
        gradient_steps=updates,
        policy_delay=updates,
        online_objective_kwargs={"target_reduction": "none", "critic_reduction": "mean"},
        finetuning=[
            Warmup(args.warmup),
            FIFOReplay(args.online_fraction),
            *([PerturbedTargets(args.sigma, args.clip)] if perturbed else []),
        ],
        compile=args.compile,
        **changes,
    )
    folder = args.out / variant
    model.set_logger(configure(str(folder), ["csv"]))
    looking = callbacks(args, folder, reference, args.eval_freq)
    started = time.time()
    model.learn(args.online_steps, callback=looking)
    announce(variant, started, looking)
    report(folder, reference=reference, title=f"{args.dataset}, {variant}, seed {args.seed}")
    evaluated = looking[0]
    result = {
        "variant": variant,
        "seconds": time.time() - started,
        "steps": evaluated.evaluations_timesteps,
        "returns": evaluated.evaluations_results,
        "tau": dict(zip(looking[1].timesteps, looking[1].values["kendall_tau"], strict=True)),
        "arguments": vars(args),
    }
    (args.out / f"{variant}.json").write_text(json.dumps(result, default=str))


def announce(name: str, started: float, looking: list[BaseCallback]) -> None:
    seconds, spent = time.time() - started, sum(getattr(each, "seconds", 0.0) for each in looking)
    print(f"{name}: {seconds:.0f} s, diagnostics {spent:.1f} s ({100 * spent / seconds:.1f} %)", flush=True)


def draw(args: argparse.Namespace, reference: ReferenceScore | None) -> None:
    """Scores and tau of the variants that are there."""
    figure, (scores, taus) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for variant in VARIANTS:
        evaluations, found = read_evaluations(args.out / variant), read_diagnostics(args.out / variant)
        if evaluations is None:
            continue
        steps, returns = evaluations
        values = returns if reference is None else reference.normalize(returns)
        scores.plot(steps, values.mean(axis=1), marker="o", markersize=3, label=variant)
        taus.plot(*found["kendall_tau"], marker="o", markersize=3, label=variant)
        tau = " ".join(f"{value:.2f}" for value in found["kendall_tau"][1])
        print(f"{variant}: scores {' '.join(f'{value:.1f}' for value in values.mean(axis=1))}; tau {tau}")
    scores.set(xlabel="environment steps", ylabel="return" if reference is None else "normalised score")
    taus.set(xlabel="environment steps", ylabel="Kendall's tau of Q")
    figure.legend(*scores.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(f"{args.dataset}, seed {args.seed}")
    figure.savefig(args.out / "curves.png", dpi=120)


def main() -> None:
    args = parse()
    th.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = OfflineDataset.load(args.dataset)
    reference = None
    if dataset.ref_min_score is not None and dataset.ref_max_score is not None:
        reference = ReferenceScore(dataset.ref_min_score, dataset.ref_max_score, "the dataset's own")
    if args.checkpoint is None:
        start = pretrain(args, dataset, reference) if args.policy is None else take_policy(args, dataset)
        args.checkpoint = start
    for variant in args.variants:
        finetune(variant, args, dataset, reference)
    draw(args, reference)


if __name__ == "__main__":
    main()
