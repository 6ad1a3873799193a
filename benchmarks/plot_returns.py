"""
Draw the learning curves that ``returns.py`` has written so far.

    python benchmarks/plot_returns.py runs/hopper --dataset o2o/hopper/medium-v0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sb3_o2o import OfflineDataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", required=True, help="for the normalised score")
    args = parser.parse_args()
    dataset = OfflineDataset.load(args.dataset)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for path in sorted(args.folder.glob("*/evaluations.npz")):
        if path.parent.name == "offline":
            continue
        with np.load(path) as saved:
            steps, scores = saved["timesteps"], dataset.normalized_score(saved["results"])
        mean = scores.mean(axis=1)
        axes.plot(steps, mean, marker="o", markersize=3, label=path.parent.name)
        axes.fill_between(steps, scores.min(axis=1), scores.max(axis=1), alpha=0.12)
        print(path.parent.name, " ".join(f"{step}:{score:.1f}" for step, score in zip(steps, mean, strict=True)))
    score = dataset.normalized_score(dataset.episode_returns).mean()
    axes.axhline(score, color="grey", linewidth=1, linestyle="--", label="dataset")
    axes.set(
        xlabel="environment steps",
        ylabel="normalised score",
        title=args.dataset,
    )
    figure.suptitle("means, and from the worst to the best episode", fontsize="small")
    figure.legend(loc="outside right upper", frameon=False)
    target = args.folder / "learning_curves.png"
    figure.savefig(target, dpi=120)
    print(target)


if __name__ == "__main__":
    main()
