"""Pictures of runs."""

import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from sb3_o2o.checked import checked
from sb3_o2o.evaluation.eval_callback import read_evaluations
from sb3_o2o.evaluation.scores import ReferenceScore
from sb3_o2o.files import whole_file

#: For ``handler_map``: a tuple of lines or bands is drawn as them all, beside one text.
SIDE_BY_SIDE: Any = {tuple: HandlerTuple(ndivide=None)}
#: Letters of a title; more run out of the picture.
CHARACTERS_PER_INCH = 11

OFFLINE_COLOUR, ONLINE_COLOUR, REFERENCE_COLOUR = "#7a5195", "#ef5675", "#5b6770"


@checked
def plot_learning_curve(
    run_folder: str | os.PathLike[str],
    *,
    title: str | None = None,
    reference: ReferenceScore | None = None,
    dataset_return: float | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Path:
    """
    Draw a run's evaluations: gradient steps on the dataset left of the switch, environment steps right of it.

    The line is the mean over an evaluation's episodes, the band one standard deviation on either side.

    :param run_folder: folder with ``offline/evaluations.npz``, ``online/evaluations.npz`` or both
    :param title: text above the picture
    :param reference: references of the normalised score; without them raw returns are drawn
    :param dataset_return: mean return of the dataset's episodes, drawn as a dashed line
    :param path: picture to write; default: ``learning_curve.png`` in the folder
    :return: path of the picture
    :raises ValueError: the folder holds no evaluations
    """
    folder = Path(run_folder)
    phases = {name: read_evaluations(folder / name) for name in ("offline", "online")}
    present = [(name, *curve) for name, curve in phases.items() if curve is not None]
    if not present:
        raise ValueError(f"{str(folder)!r} holds no evaluations to draw.")
    layout = ConstrainedLayoutEngine(wspace=0.0)
    figure = Figure(figsize=(4.2 * len(present) + 0.8, 4.0), layout=layout)
    axes = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
    for index, (axis, (name, steps, returns)) in enumerate(zip(axes, present, strict=True)):
        values = returns if reference is None else reference.normalize(returns)
        draw_phase(axis, name, steps, values)
        if dataset_return is not None:
            level = dataset_return if reference is None else float(reference.normalize(dataset_return))
            axis.axhline(level, color=REFERENCE_COLOUR, linestyle="--", linewidth=1, label="dataset (mean)")
        if index < len(present) - 1:
            # Its last number would run into the next axis's first.
            axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, prune="upper"))
        if index > 0:
            # The switch: nothing was learned in the environment before this line.
            axis.spines["left"].set_linewidth(2.0)
            axis.tick_params(axis="y", length=0)
    give_room(axes[0])
    axes[0].set_ylabel("return" if reference is None else "normalised score")
    handles, labels = legend_entries(axes)
    # outside of the axes: inside, some run's curve is everywhere
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3 if len(present) > 1 else 2,
        frameon=False,
        fontsize="small",
        handler_map=SIDE_BY_SIDE,
    )
    write_title(figure, title)
    path = Path(path) if path is not None else folder / "learning_curve.png"
    with whole_file(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=150)
    return path


def draw_phase(axis: Axes, name: str, steps: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    """
    Draw one phase of a learning curve.

    :param axis: where
    :param name: ``offline`` or ``online``
    :param steps: ``(evaluations,)``
    :param values: of each episode, ``(evaluations, episodes)``
    """
    offline = name == "offline"
    colour = OFFLINE_COLOUR if offline else ONLINE_COLOUR
    mean, deviation = values.mean(axis=1), values.std(axis=1)
    # One evaluation is a point, which a line alone would not show; the first and the last one are on the frame.
    axis.plot(steps, mean, color=colour, marker="o", markersize=3, clip_on=False, label="policy (mean)")
    axis.fill_between(
        steps,
        mean - deviation,
        mean + deviation,
        color=colour,
        alpha=0.2,
        linewidth=0,
        label="± one standard deviation of the episodes",
    )
    if not np.isfinite(mean).any():
        axis.text(0.5, 0.5, "no finite returns", transform=axis.transAxes, ha="center", color=REFERENCE_COLOUR)
    axis.set_title("offline: dataset only" if offline else "online: fine-tuning", fontsize="small", color=colour)
    axis.set_xlabel("gradient steps" if offline else "environment steps")
    limit_steps(axis, int(steps[0]), int(steps[-1]))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def limit_steps(axis: Axes, first: int, last: int) -> None:
    """
    Set an axis of steps: from 0 to the last one, whole numbers, and a single point in the middle.

    :param axis: where
    :param first: first step that is drawn
    :param last: last one
    """
    axis.xaxis.set_major_formatter(FuncFormatter(short_number))
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if first == last:
        axis.set_xlim(last - 1, last + 1)
        axis.set_xticks([last])
    else:
        axis.set_xlim(min(first, 0), last)


def give_room(axis: Axes) -> None:
    """
    Widen an axis of values that are all the same: rounding errors would fill the picture.

    :param axis: of values; those that share it follow
    """
    low, high = axis.get_ylim()
    if axis.get_yscale() == "linear" and high - low < 1e-9 * max(abs(low), abs(high)):
        middle = (low + high) / 2
        room = 0.05 * abs(middle) or 0.5
        axis.set_ylim(middle - room, middle + room)


def legend_entries(axes: Iterable[Axes]) -> tuple[list[Any], list[str]]:
    """
    What a legend of several axes says: each text once, beside the colours of all that it stands for.

    :param axes: those that it explains
    :return: handles (tuples, see :data:`SIDE_BY_SIDE`) and texts
    """
    found: dict[str, dict[Any, Any]] = {}
    for axis in axes:
        handle: Any
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            colour = handle.get_color() if isinstance(handle, Line2D) else tuple(handle.get_facecolor()[0])
            found.setdefault(label, {})[colour] = handle
    return [tuple(handles.values()) for handles in found.values()], list(found)


def write_title(figure: Figure, title: str | None) -> None:
    """
    Write a title that stays inside the picture.

    :param figure: where
    :param title: the text; None or empty for none
    """
    if title:
        width = int(CHARACTERS_PER_INCH * figure.get_figwidth())
        figure.suptitle(as_written("\n".join(textwrap.wrap(title, width))), fontsize="medium")


def as_written(name: str) -> str:
    """
    :param name: that somebody gave to a file or a folder
    :return: the same for matplotlib, which takes what stands between two dollars for a formula
    """
    return name.replace("$", r"\$")


def short_number(value: float, _: int) -> str:
    """20000 as 20k, for an axis' formatter: five digits collide under a narrow one."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
