"""Pictures of runs."""

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from sb3_o2o.evaluation.eval_callback import read_evaluations
from sb3_o2o.evaluation.scores import ReferenceScore
from sb3_o2o.files import whole_file

OFFLINE_COLOUR, ONLINE_COLOUR, REFERENCE_COLOUR = "#7a5195", "#ef5675", "#5b6770"


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
    figure = Figure(figsize=(4.2 * len(present) + 0.8, 3.8), layout=layout)
    axes = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
    for index, (axis, (name, steps, returns)) in enumerate(zip(axes, present, strict=True)):
        values = returns if reference is None else reference.normalize(returns)
        draw_phase(axis, name, steps, values)
        if dataset_return is not None:
            level = dataset_return if reference is None else float(reference.normalize(dataset_return))
            axis.axhline(level, color=REFERENCE_COLOUR, linestyle="--", linewidth=1, label="dataset")
        if index < len(present) - 1:
            # Its last number would run into the next axis's first.
            axis.xaxis.set_major_locator(MaxNLocator(nbins=6, prune="upper"))
        if index > 0:
            # The switch: nothing was learned in the environment before this line.
            axis.spines["left"].set_linewidth(2.0)
            axis.tick_params(axis="y", length=0)
    axes[0].set_ylabel("return" if reference is None else "normalised score")
    axes[-1].legend(loc="lower right", frameon=False, fontsize="small")
    if title:
        figure.suptitle(title, fontsize="medium")
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
    # One evaluation is a point, which a line alone would not show.
    axis.plot(steps, mean, color=colour, marker="o", markersize=3, label="policy")
    axis.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    axis.set_title("offline: dataset only" if offline else "online: fine-tuning", fontsize="small", color=colour)
    axis.set_xlabel("gradient steps" if offline else "environment steps")
    axis.set_xlim(0, max(int(steps[-1]), 1))
    axis.xaxis.set_major_formatter(FuncFormatter(short_number))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def short_number(value: float, _: int) -> str:
    """20000 as 20k, for an axis' formatter: five digits collide under a narrow one."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
