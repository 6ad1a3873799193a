"""A picture of a run's diagnostics beside its learning curve."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sb3_o2o.checked import checked
from sb3_o2o.diagnostics.diagnostic import FOLDER
from sb3_o2o.diagnostics.switch import SwitchDiagnostics
from sb3_o2o.evaluation import ReferenceScore, read_evaluations, reference_score
from sb3_o2o.evaluation.plotting import (
    OFFLINE_COLOUR,
    ONLINE_COLOUR,
    REFERENCE_COLOUR,
    SIDE_BY_SIDE,
    draw_phase,
    give_room,
    legend_entries,
    limit_steps,
    write_title,
)
from sb3_o2o.files import whole_file

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


ESTIMATE_COLOUR = "#003f5c"


@dataclass(frozen=True)
class _Panel:
    """
    A row of the picture.

    :param label: of the y-axis, in lines that are no longer than a row is high
    :param lines: quantities drawn in it: name -> text and colour; None for the phase's colour
    :param level: where a thin line is drawn, and what it means
    :param logarithmic: scale of the y-axis
    """

    label: str
    lines: dict[str, tuple[str, str | None]]
    level: tuple[float, str] | None = None
    logarithmic: bool = False

    def shown(self, diagnostics: dict[str, Curve]) -> dict[str, Curve]:
        """Its quantities, without values that cannot be drawn."""
        found = {}
        for name in self.lines:
            steps, values = diagnostics.get(name, (np.zeros(0, np.int64), np.zeros(0)))
            drawn = np.isfinite(values) & ((values > 0) | (not self.logarithmic))
            if drawn.any():
                found[name] = (steps[drawn], values[drawn])
        return found


def _alone(name: str, text: str) -> dict[str, tuple[str, str | None]]:
    return {name: (text, None)}


def _both(name: str) -> dict[str, tuple[str, str | None]]:
    return {f"{name}_offline": ("on the dataset", OFFLINE_COLOUR), f"{name}_online": ("on new data", ONLINE_COLOUR)}


_PANELS: tuple[_Panel, ...] = (
    _Panel("Kendall's tau", _alone("kendall_tau", "Q against returns"), level=(0.0, "ranks by chance")),
    _Panel("normalised\nQ difference", _alone("q_difference", "estimated and earned"), level=(0.0, "the same")),
    _Panel("Q on-policy", {"q_estimated": ("estimated", ESTIMATE_COLOUR), "q_true": ("as earned", REFERENCE_COLOUR)}),
    _Panel("mean Q", _both("q")),
    _Panel("squared\nTD error", _both("td_error"), logarithmic=True),
    _Panel("KL(pi before || pi)", _both("policy_kl")),
    _Panel("KL(softmax Q\nbefore || now)", _both("q_kl")),
    _Panel("regret", _alone("regret", "of training's episodes")),
)


@checked
def read_diagnostics(folder: str | os.PathLike[str]) -> dict[str, Curve]:
    """
    What diagnostics left in a folder.

    :param folder: what they were given as ``log_path``
    :return: for each quantity its steps and values, both ``(n,)``; empty where there is nothing
    """
    found: dict[str, Curve] = {}
    for path in sorted((Path(folder) / FOLDER).glob("*.npz")):
        with np.load(path) as saved:
            steps = saved["timesteps"].astype(np.int64)
            names = set(saved.files) - {"timesteps", "reference"}
            found.update({name: (steps, saved[name]) for name in sorted(names)})
    return found


@checked
def report(
    run_dir: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    reference: ReferenceScore | None = None,
    title: str | None = None,
) -> Path:
    """
    Draw a run's diagnostics below its learning curve, on the same steps: gradient steps on the left, environment steps
    on the right.

    :param run_dir: a run folder (``offline`` and ``online`` in it), or any folder that was given as ``log_path``
    :param path: picture to write, its folder included; default: ``diagnostics.png`` in the run folder
    :param reference: references of the normalised score; default: those by which the drop was measured, else the
        table's for the environment in ``config.yml``
    :param title: text above the picture
    :return: path of the picture
    :raises ValueError: if there are no diagnostics in the folder
    """
    folder = Path(run_dir)
    phases = _phases(folder)
    if not any(diagnostics for *_, diagnostics in phases):
        raise ValueError(
            f"{str(folder)!r} holds no diagnostics: give log_path=… to QValueDiagnostics, DataDiagnostics or "
            "DriftDiagnostics, or run sb3-o2o with --diagnostics."
        )
    reference = reference or _reference_of(folder)
    panels = [panel for panel in _PANELS if any(panel.shown(diagnostics) for *_, diagnostics in phases)]
    has_curve = any(evaluations is not None for *_, evaluations, _ in phases)
    heights = [*[1.6] * has_curve, *[1.0] * len(panels)]
    if not heights:
        raise ValueError(f"{str(folder)!r} holds no diagnostics to draw: none of their values is finite.")
    figure = Figure(figsize=(4.2 * len(phases) + 3.0, 1.0 + 1.7 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), len(phases), sharex="col", sharey="row", squeeze=False, height_ratios=heights)
    for column, (name, _, evaluations, diagnostics) in enumerate(phases):
        if has_curve:
            _draw_curve(axes[0, column], name, evaluations, reference)
        for axis, panel in zip(axes[int(has_curve) :, column], panels, strict=True):
            _draw_panel(axis, panel, diagnostics, OFFLINE_COLOUR if name == "offline" else ONLINE_COLOUR)
    labels = [*[_score_label(reference)] * has_curve, *[panel.label for panel in panels]]
    for row, label in zip(axes, labels, strict=True):
        _finish_row(row, label)
    for column, (name, place, evaluations, diagnostics) in zip(axes.T, phases, strict=True):
        _finish_column(column, name, [evaluations, *diagnostics.values()], _drop(diagnostics, place, reference))
    write_title(figure, title)
    path = Path(path) if path is not None else folder / "diagnostics.png"
    with whole_file(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=120)
    return path


def _phases(folder: Path) -> list[tuple[str, Path, Any, dict[str, Curve]]]:
    """Name, folder, evaluations and diagnostics of each phase that left any."""
    found = [(name, folder / name) for name in ("offline", "online")]
    if not any((place / FOLDER).is_dir() or read_evaluations(place) for _, place in found):
        found = [("online", folder)]
    read = [(name, place, read_evaluations(place), read_diagnostics(place)) for name, place in found]
    return [each for each in read if each[2] is not None or each[3]]


def _reference_of(folder: Path) -> ReferenceScore | None:
    for place in (folder / "online", folder):
        reference = _measured_by(place)
        if reference is not None:
            return reference
    config = folder / "config.yml"
    return reference_score(_environment_of(config)) if config.is_file() else None


def _environment_of(config: Path) -> str:
    """:return: the id in a run's configuration"""
    try:
        return str(yaml.safe_load(config.read_text())["environment"]["id"])
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{config} is not the configuration of a run ({error}).") from error


def _measured_by(place: Path) -> ReferenceScore | None:
    """References by which a phase's drop was measured; None for raw returns, or without one."""
    path = place / FOLDER / f"{SwitchDiagnostics.name}.npz"
    if not path.is_file():
        return None
    with np.load(path) as saved:
        bounds = saved["reference"].tolist()
    return ReferenceScore(bounds[0], bounds[1], str(path)) if bounds else None


def _return_of_a_point(reference: ReferenceScore | None) -> float:
    """What one point of a score is worth in returns."""
    return 1.0 if reference is None else (reference.maximum - reference.minimum) / 100


def _score_label(reference: ReferenceScore | None) -> str:
    return "return" if reference is None else "normalised score"


def _draw_curve(axis: Axes, name: str, evaluations: Curve | None, reference: ReferenceScore | None) -> None:
    if evaluations is not None:
        steps, returns = evaluations
        draw_phase(axis, name, steps, returns if reference is None else reference.normalize(returns))


def _drop(diagnostics: dict[str, Curve], place: Path, reference: ReferenceScore | None) -> str:
    """
    :param diagnostics: of a phase
    :param place: its folder
    :param reference: of the curve, in whose unit the drop is written
    :return: what the switch cost; empty where nothing measured it
    """
    if "drop" not in diagnostics:
        return ""
    drop, recovery = diagnostics["drop"][1][-1], diagnostics["steps_to_recover"][1][-1]
    drop = drop * _return_of_a_point(_measured_by(place)) / _return_of_a_point(reference)
    back = "not recovered" if np.isinf(recovery) else f"recovered after {recovery:g} steps"
    return f"fell by {drop:.3g}, {back}" if drop > 0 else "no drop"


def _draw_panel(axis: Axes, panel: _Panel, diagnostics: dict[str, Curve], colour: str) -> None:
    shown = panel.shown(diagnostics)
    for name, (steps, values) in shown.items():
        text, own = panel.lines[name]
        # The first and the last point are on the frame.
        axis.plot(
            steps, values, color=own or colour, marker="o", markersize=2, linewidth=1.2, clip_on=False, label=text
        )
    if panel.level is not None and shown:
        level, meaning = panel.level
        axis.axhline(level, color=REFERENCE_COLOUR, linewidth=0.6, label=meaning)
    if panel.logarithmic and shown:
        axis.set_yscale("log")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _finish_row(row: NDArray[Any], label: str) -> None:
    """A phase without these values has no axis there; a legend beside the row hides nothing."""
    drawn = [axis for axis in row if axis.lines]
    for axis in row:
        axis.set_visible(bool(axis.lines))
    drawn[0].set_ylabel(label, fontsize="small")
    drawn[0].tick_params(labelleft=True)
    give_room(drawn[0])
    handles, labels = legend_entries(drawn)
    row[-1].set_visible(True)
    if not row[-1].lines:
        row[-1].set_axis_off()
    row[-1].legend(
        handles,
        labels,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        fontsize="x-small",
        handler_map=SIDE_BY_SIDE,
    )


def _finish_column(column: NDArray[Any], name: str, curves: Sequence[Any], drop: str) -> None:
    drawn = [axis for axis in column if axis.lines]
    if not drawn:
        return
    offline = name == "offline"
    title = "offline: dataset only" if offline else "online: fine-tuning"
    drawn[0].set_title(
        f"{title}\n{drop}" if drop else title, fontsize="small", color=OFFLINE_COLOUR if offline else ONLINE_COLOUR
    )
    for axis in drawn:
        axis.set_xlabel("")
    drawn[-1].set_xlabel("gradient steps" if offline else "environment steps")
    drawn[-1].tick_params(labelbottom=True)
    steps = np.concatenate([curve[0] for curve in curves if curve is not None])
    for axis in column:
        limit_steps(axis, int(steps.min()), int(steps.max()))
