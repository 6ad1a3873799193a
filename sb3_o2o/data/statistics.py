"""Numbers that describe a dataset."""

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from sb3_o2o.data.dataset import OfflineDataset


def mean_and_std(rows: np.ndarray, row_index: np.ndarray, part: int = 65536) -> tuple[np.ndarray, np.ndarray]:
    """
    :param rows: ``(R, *shape)``, possibly larger than memory
    :param row_index: rows that count, ``(N,)``
    :param part: rows to look at in one go
    :return: mean and population standard deviation of each entry, ``shape`` float32
    """
    parts = [row_index[start : start + part] for start in range(0, len(row_index), part)]
    mean, variance = np.zeros(rows.shape[1:]), np.zeros(rows.shape[1:])
    for chosen in parts:
        mean += rows[chosen].sum(axis=0, dtype=np.float64) / len(row_index)
    # About the mean, in a second pass: the difference of two large sums would lose the digits of a small deviation
    for chosen in parts:
        variance += np.square(rows[chosen] - mean).sum(axis=0) / len(row_index)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def describe(dataset: "OfflineDataset") -> dict[str, Any]:
    """
    :param dataset: any
    :return: ``transitions``, ``episodes``, ``terminated`` and ``truncated`` (episodes that ended so), mean, standard
        deviation, minimum and maximum of ``return`` and ``length`` over episodes, of ``reward`` over transitions,
        and the mean normalised ``score`` if the reference scores are known and the rewards are the environment's
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
    known = dataset.ref_min_score is not None and dataset.ref_max_score is not None
    # Scores are about the environment's own rewards
    if known and "reward_scale" not in dataset.options:
        numbers["score_mean"] = float(dataset.normalized_score(numbers["return_mean"]))
    return numbers


def print_table(dataset: "OfflineDataset", numbers: dict[str, Any]) -> None:
    """
    :param dataset: what is described
    :param numbers: from ``describe``
    """
    table = Table(title=dataset.source, title_justify="left", show_header=True)
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
        + (f", environment {dataset.env_id}" if dataset.env_id else "")
    )
    console.print(f"observations {dataset.observation_space}\nactions {dataset.action_space}", highlight=False)
