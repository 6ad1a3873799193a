"""Numbers that describe a dataset."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sb3_o2o.data.episodes import Episodes


def describe(dataset: Episodes) -> dict[str, Any]:
    """
    :param dataset: any
    :return: ``transitions``, ``episodes``, ``terminated`` and ``truncated`` (episodes that ended so), mean, standard
        deviation, minimum and maximum of ``return`` and ``length`` over episodes, of ``reward`` over transitions
    """
    terminated = int(dataset.terminations[dataset.episode_ends - 1].sum())
    numbers: dict[str, Any] = {
        "transitions": len(dataset),
        "episodes": len(dataset.episode_starts),
        "terminated": terminated,
        "truncated": len(dataset.episode_starts) - terminated,
    }
    values = {"return": dataset.episode_returns, "length": dataset.episode_lengths, "reward": dataset.rewards}
    for name, array in values.items():
        array = array.astype(np.float64)
        for statistic in (np.mean, np.std, np.min, np.max):
            numbers[f"{name}_{statistic.__name__}"] = float(statistic(array))
    return numbers


def print_table(numbers: dict[str, Any], source: str, env_id: str | None, spaces: tuple[Any, Any]) -> None:
    """
    :param numbers: from ``describe``, and ``score_mean`` and ``episode_ends`` where they are known
    :param source: what is described
    :param env_id: its environment, if it is known
    :param spaces: of observations and actions
    """
    table = Table(title=source, title_justify="left", show_header=True)
    for column in ("", "mean", "std", "min", "max"):
        table.add_column(column, justify="right" if column else "left")
    for name, label in (("return", "episode return"), ("length", "episode length"), ("reward", "reward")):
        table.add_row(label, *(f"{numbers[f'{name}_{statistic}']:.4g}" for statistic in ("mean", "std", "min", "max")))
    if "score_mean" in numbers:
        table.add_row("normalised score", f"{numbers['score_mean']:.1f}", "", "", "")
    console = Console()
    console.print(table)
    console.print(
        f"{numbers['transitions']:,} transitions, {numbers['episodes']:,} episodes "
        f"({numbers['terminated']:,} terminated, {numbers['truncated']:,} truncated)"
        + (f", environment {env_id}" if env_id else "")
    )
    if "episode_ends" in numbers:
        console.print(f"episode ends: {numbers['episode_ends']}", highlight=False, markup=False)
    console.print(f"observations {spaces[0]}\nactions {spaces[1]}", highlight=False)
