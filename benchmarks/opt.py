"""
OPT against plain fine-tuning, from one TD3+BC model: curves, the switch magnified, and what an update costs.

    python benchmarks/opt.py --dataset o2o/hopper/medium-replay-v0 --out runs/opt --seeds 0 1

For each seed: pre-trains with TD3+BC once (or takes ``pretrained.zip`` of an earlier run), fine-tunes each variant, and
writes ``<variant>/evaluations.npz`` and ``<variant>.json``. Variants: ``td3`` (the imitation dropped), ``opt``,
``opt_no_meta`` (a fresh second pair, trained by plain TD), ``opt_auto`` (kappa measured). All replay the dataset and
the online steps. Sizes are scaled down from the paper's by the defaults below, schedules of kappa with them;
``--costs`` only measures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from sb3_o2o import O2OTD3, OfflineDataset
from sb3_o2o.finetuning import DatasetReplay, DualCritic, FineTuningCallback, LinearSchedule, OnlinePretraining
from sb3_o2o.finetuning.kappa import PUBLISHED
from sb3_o2o.transfer.load_offline import recover_environment

VARIANTS = ("td3", "opt", "opt_no_meta", "opt_auto")
PAPER_STEPS = 300_000


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="o2o/hopper/medium-replay-v0")
    parser.add_argument("--kappa", default=None, choices=sorted(PUBLISHED), help="by the dataset's name by default")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--pretrain-steps", type=int, default=50_000)
    parser.add_argument("--online-steps", type=int, default=30_000)
    parser.add_argument("--collect-steps", type=int, default=2_500)
    parser.add_argument("--meta-steps", type=int, default=5_000)
    parser.add_argument("--utd", type=int, default=1, help="updates a step; 5 in the paper's code on MuJoCo")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 256])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--eval-freq", type=int, default=1_000)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--switch", type=int, default=5_000, help="steps shown in the magnified plot")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--normalize-observations", action="store_true", help="as TD3+BC does, and OPT's code does not")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--costs", action="store_true", help="measure updates, and train nothing else")
    parser.add_argument("--n-timed", type=int, default=200, help="updates to time")
    args = parser.parse_args()
    if args.kappa is None:
        kinds = [kind for kind in ("random", "medium-replay", "medium") if kind in args.dataset]
        if not kinds:
            parser.error(f"the kind of {args.dataset} is not in its name: give --kappa")
        args.kappa = kinds[0]
    return args


def make_env(args: argparse.Namespace) -> gym.Env:
    return Monitor(recover_environment(args.dataset))


def pretrain(args: argparse.Namespace, seed: int, dataset: OfflineDataset, folder: Path) -> Path:
    path = folder / "pretrained.zip"
    if path.is_file():
        return path
    model = O2OTD3(
        "MlpPolicy",
        make_env(args),
        seed=seed,
        learning_rate=3e-4,
        batch_size=args.batch_size,
        policy_kwargs={"net_arch": args.hidden},
        normalize_observations=args.normalize_observations,
        objective="td3_bc",
        action_noise=0.1,
        compile=args.compile,
    )
    started = time.time()
    model.pretrain(dataset, args.pretrain_steps)
    print(f"seed {seed}: pre-training took {time.time() - started:.0f} s")
    model.save(path)
    return path


def scaled_kappa(args: argparse.Namespace) -> float | LinearSchedule:
    """The published schedule, its end at the same share of the run."""
    schedule = PUBLISHED[args.kappa]
    if not isinstance(schedule, LinearSchedule):
        return schedule
    end = round(schedule.end_step * args.online_steps / PAPER_STEPS)
    return LinearSchedule(schedule.start, schedule.end, end)


def callbacks(variant: str, args: argparse.Namespace) -> list[FineTuningCallback]:
    replay = DatasetReplay("all")
    if variant == "td3":
        return [replay]
    meta = "none" if variant == "opt_no_meta" else "second_order"
    window = max(round(2000 * args.online_steps / PAPER_STEPS), 500)
    kappa: Any = "auto" if variant == "opt_auto" else scaled_kappa(args)
    dual = DualCritic(kappa, auto_window=window, auto_interval=window // 2)
    return [replay, OnlinePretraining(args.collect_steps, args.meta_steps, meta=meta), dual]


def load(variant: str, args: argparse.Namespace, seed: int, dataset: OfflineDataset, checkpoint: Path) -> O2OTD3:
    return O2OTD3.load_offline(
        checkpoint,
        make_env(args),
        finetuning=callbacks(variant, args),
        dataset=dataset,
        gradient_steps=args.utd,
        buffer_size=len(dataset) + args.online_steps,
        load_optimizer=variant != "td3",  # OPT makes new ones itself
        seed=seed,
        compile=args.compile,
    )


def finetune(variant: str, args: argparse.Namespace, seed: int, dataset: OfflineDataset, folder: Path) -> None:
    model = load(variant, args, seed, dataset, folder / "pretrained.zip")
    evaluation = EvalCallback(
        make_env(args),
        eval_freq=args.eval_freq,
        n_eval_episodes=args.eval_episodes,
        log_path=str(folder / variant),
        verbose=0,
    )
    model.set_logger(configure(str(folder / variant), ["csv"]))
    evaluation.init_callback(model)
    evaluation.n_calls = args.eval_freq - 1
    evaluation.on_step()  # the score at the switch
    evaluation.n_calls = 0
    started = time.time()
    model.learn(args.online_steps, callback=evaluation)
    scores = [[dataset.normalized_score(r) for r in results] for results in evaluation.evaluations_results]
    report = {
        "variant": variant,
        "seed": seed,
        "seconds": time.time() - started,
        "steps": evaluation.evaluations_timesteps,
        "scores": scores,
        "arguments": vars(args),
    }
    target = folder / f"{variant}.json"
    target.write_text(json.dumps(report, default=lambda x: getattr(x, "tolist", lambda: str(x))()))
    print(f"seed {seed}, {variant}: {report['seconds']:.0f} s,", " ".join(f"{np.mean(s):.1f}" for s in scores))


def plot(args: argparse.Namespace) -> None:
    """Means over seeds, with the range between them; on the right the first steps."""
    figure, both = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for variant in args.variants:
        paths = [args.out / f"seed{seed}" / f"{variant}.json" for seed in args.seeds]
        reports = [json.loads(path.read_text()) for path in paths if path.is_file()]
        if not reports:
            continue
        steps = np.array(reports[0]["steps"])
        means = np.array([[np.mean(scores) for scores in report["scores"]] for report in reports])
        for axes, shown in zip(both, (steps >= 0, steps <= args.switch), strict=True):
            axes.plot(steps[shown], means.mean(axis=0)[shown], marker="o", markersize=3, label=variant)
            axes.fill_between(steps[shown], means.min(axis=0)[shown], means.max(axis=0)[shown], alpha=0.12)
    for axes, title in zip(both, (args.dataset, "the switch"), strict=True):
        axes.axvline(args.collect_steps, color="grey", linewidth=1, linestyle=":", label="first update")
        axes.set(xlabel="environment steps", ylabel="normalised score", title=title)
    figure.suptitle("means, and from the worst to the best seed", fontsize="small")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(args.out / "opt.png", dpi=120)
    print(args.out / "opt.png")


class Clock(FineTuningCallback):
    """When each update ended, by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, list[float]] = {}

    def on_gradient_step(self) -> None:
        self.times.setdefault(str(self.model.phase), []).append(time.perf_counter())  # type: ignore[attr-defined]


def costs(args: argparse.Namespace, dataset: OfflineDataset) -> None:
    """
    Milliseconds of a step of the pre-training and of an update of fine-tuning. Medians between two updates of one
    rollout, sampling included, without environment steps.
    """
    args.collect_steps, args.meta_steps = 300, args.n_timed + 1
    args.utd, args.online_steps = args.n_timed + 1, 301
    folder = args.out / f"seed{args.seeds[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = pretrain(args, args.seeds[0], dataset, folder)
    found: dict[str, float] = {}
    for variant, meta in (
        *(("td3", "-"), ("opt", "second_order"), ("opt", "first_order"), ("opt", "none"), ("opt_auto", "second_order")),
    ):
        model, clock = load(variant, args, args.seeds[0], dataset, checkpoint), Clock()
        model.learning_starts = args.online_steps - 1
        for callback in model.finetuning:
            if isinstance(callback, OnlinePretraining):
                callback.meta = meta
        model.learn(args.online_steps, callback=clock)
        for phase, times in clock.times.items():
            found[f"{variant} {meta} {phase}"] = 1000 * float(np.median(np.diff(times)))
    for name, milliseconds in found.items():
        print(f"{name:32s} {milliseconds:7.2f} ms")
    (args.out / "costs.json").write_text(json.dumps({"milliseconds": found, "arguments": vars(args)}, default=str))


def main() -> None:
    args = parse()
    th.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = OfflineDataset.load(args.dataset)
    if args.costs:
        costs(args, dataset)
        return
    for seed in args.seeds:
        folder = args.out / f"seed{seed}"
        folder.mkdir(exist_ok=True)
        pretrain(args, seed, dataset, folder)
        for variant in args.variants:
            finetune(variant, args, seed, dataset, folder)
        plot(args)


if __name__ == "__main__":
    main()
