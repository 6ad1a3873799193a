"""
How often a worse policy takes over by luck: ``ChampionChallenger``'s rule on returns that are drawn from normal
distributions of one spread. No environment, no training.

    python benchmarks/champion.py

A line for each confidence and number of the champion's episodes: the part of the cases in which one of twenty
challengers, all as good as the column says (in standard deviations of a return), took over.
"""

from __future__ import annotations

import argparse

import numpy as np

from sb3_o2o.finetuning import ChampionChallenger

DIFFERENCES = (-1.0, -0.5, 0.0, 0.5, 1.0)


def takes_over(
    difference: float, confidence: float, n_episodes: int, n_challengers: int, rng: np.random.Generator
) -> bool:
    """
    :param difference: of a challenger's mean return to the champion's, in standard deviations
    :param confidence: see ``ChampionChallenger``
    :param n_episodes: of the champion
    :param n_challengers: one after the other
    :param rng: draws the returns
    :return: whether one of them won
    """
    callback = ChampionChallenger(confidence=confidence)
    callback.champion_returns = rng.normal(size=n_episodes).tolist()
    for _ in range(n_challengers):
        callback.challenger_returns, verdict = [], "open"
        while verdict == "open":
            if len(callback.champion_returns) < len(callback.challenger_returns):
                callback.champion_returns.append(rng.normal())
            else:
                callback.challenger_returns.append(rng.normal(difference))
            verdict = callback.verdict()
        if verdict == "champion":
            return True
    return False


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="of each cell")
    parser.add_argument("--challengers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    print("| confidence | champion's episodes |" + "".join(f" {each:+.1f} |" for each in DIFFERENCES))
    print("|---|---|" + "---|" * len(DIFFERENCES))
    for confidence in (0.5, 1.0, 2.0, 3.0):
        for n_episodes in (3, 10):
            parts = [
                np.mean(
                    [takes_over(each, confidence, n_episodes, options.challengers, rng) for _ in range(options.cases)]
                )
                for each in DIFFERENCES
            ]
            print(f"| {confidence} | {n_episodes} |" + "".join(f" {part:.2f} |" for part in parts), flush=True)


if __name__ == "__main__":
    main()
