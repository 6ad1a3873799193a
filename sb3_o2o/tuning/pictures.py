"""Pictures of a study: its history, what mattered, and which values went together."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from sb3_o2o.checked import checked
from sb3_o2o.evaluation.plotting import OFFLINE_COLOUR, ONLINE_COLOUR, REFERENCE_COLOUR, as_written
from sb3_o2o.files import whole_file

#: Fewer trials than these that ended by themselves say nothing about what mattered.
ENOUGH = 4


@checked
def draw_study(study: optuna.Study, folder: str | os.PathLike[str]) -> list[Path]:
    """
    Draw what there is to draw: ``history.png``, ``importances.png`` (PED-ANOVA, Watanabe et al. 2023) and
    ``parallel_coordinates.png``.

    :param study: the study
    :param folder: where the pictures go
    :return: their paths; of the second and third only where enough trials ended by themselves
    """
    folder = Path(folder)
    complete = [each for each in study.get_trials(deepcopy=False) if each.state is TrialState.COMPLETE]
    if not complete:
        return []
    drawn = [_save(_history(study, complete), folder / "history.png")]
    importances = importances_of(study)
    if importances:
        drawn.append(_save(_importances(importances, len(complete)), folder / "importances.png"))
    if len(complete) >= 2:
        order = list(importances) or sorted(complete[0].params)
        drawn.append(_save(_parallel(study, complete, order), folder / "parallel_coordinates.png"))
    return drawn


def importances_of(study: optuna.Study) -> dict[str, float]:
    """
    How much each hyper-parameter sets the best trials apart from the rest (PED-ANOVA), largest first.

    :param study: the study
    :return: parts of 1; empty where too few trials ended by themselves, or all of them alike
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < ENOUGH or len({each.value for each in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=130)
    return path


def _history(study: optuna.Study, complete: Sequence[FrozenTrial]) -> Figure:
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axis = figure.subplots()
    numbers, values = np.array([each.number for each in complete]), np.array([each.value for each in complete])
    for trial, value in zip(complete, values, strict=True):
        seeds = list(trial.intermediate_values.values())
        axis.vlines(trial.number, min([*seeds, value]), max([*seeds, value]), color=OFFLINE_COLOUR, alpha=0.35)
    axis.plot(
        numbers, values, "o", color=OFFLINE_COLOUR, markersize=5, label="mean over seeds (line: from worst to best)"
    )
    best = [*np.maximum.accumulate(values), values.max()]
    numbers = np.append(numbers, len(study.get_trials(deepcopy=False)) - 1)
    axis.step(numbers, best, where="post", color=ONLINE_COLOUR, linewidth=1.6, label="best so far")
    pruned = [each for each in study.get_trials(deepcopy=False) if each.state is TrialState.PRUNED]
    if pruned:
        low = float(
            min(values.min(), *(min(each.intermediate_values.values(), default=values.min()) for each in complete))
        )
        axis.plot(
            [each.number for each in pruned],
            [low] * len(pruned),
            "x",
            color=REFERENCE_COLOUR,
            markersize=5,
            label=f"pruned ({len(pruned)})",
        )
    axis.set(xlabel="trial", ylabel="value", title=as_written(study.study_name))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    _plain_frame(axis)
    return figure


def _importances(importances: dict[str, float], n_trials: int) -> Figure:
    figure = Figure(figsize=(7.2, 1.3 + 0.36 * len(importances)), layout="constrained")
    axis = figure.subplots()
    names = list(importances)[::-1]
    bars = axis.barh(names, [importances[name] for name in names], color=OFFLINE_COLOUR)
    axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axis.set(xlabel="importance", title=f"What set the best trials apart (PED-ANOVA, {n_trials} trials)")
    axis.margins(x=0.1)
    _plain_frame(axis)
    return figure


def _parallel(study: optuna.Study, complete: Sequence[FrozenTrial], order: Sequence[str]) -> Figure:
    names = [name for name in order if all(name in each.params for each in complete)]
    figure = Figure(figsize=(max(1.6 * len(names) + 2.4, 5.0), 4.6), layout="constrained")
    axis = figure.subplots()
    values = np.array([each.value for each in complete], dtype=float)
    colours, scale = colormaps["viridis"], Normalize(values.min(), values.max())
    columns = [_column(name, complete) for name in names]
    for row in np.argsort(values):  # the best on top
        heights = [heights[row] for heights, _ in columns]
        best = row == int(values.argmax())
        axis.plot(heights, color=colours(scale(values[row])), alpha=0.9, linewidth=2.6 if best else 1.1)
    style: Any = {"fontsize": 7, "bbox": {"boxstyle": "round,pad=0.1", "color": "white", "alpha": 0.8}}
    for place, (_, ticks) in enumerate(columns):
        axis.axvline(place, color=REFERENCE_COLOUR, linewidth=0.8, zorder=0)
        for height, text in ticks:
            axis.annotate(text, (place, height), (4, 0), textcoords="offset points", va="center", **style)
    axis.set_xticks(range(len(names)), [name.replace(".", ".\n", 1) for name in names], fontsize=8)
    axis.set_yticks([])
    axis.set(title=f"{study.study_name}: each line a trial", xlim=(-0.2, len(names) - 0.7))
    for spine in axis.spines.values():
        spine.set_visible(False)
    figure.colorbar(ScalarMappable(scale, colours), ax=axis, label="value")
    return figure


def _column(name: str, complete: Sequence[FrozenTrial]) -> tuple[list[float], list[tuple[float, str]]]:
    """:return: heights in [0, 1] of the trials on an axis, and its ticks"""
    distribution: Any = complete[0].distributions[name]
    found = [each.params[name] for each in complete]
    if isinstance(distribution, CategoricalDistribution):
        options = list(distribution.choices)
        step = 1 / max(len(options) - 1, 1)
        return [options.index(value) * step for value in found], [
            (place * step, str(option)) for place, option in enumerate(options)
        ]
    low, high, log = distribution.low, distribution.high, distribution.log

    def height(value: float) -> float:
        if log:
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return (value - low) / (high - low)

    middle = math.sqrt(low * high) if log else (low + high) / 2
    return [height(value) for value in found], [(height(value), f"{value:.3g}") for value in (low, middle, high)]


def _plain_frame(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
