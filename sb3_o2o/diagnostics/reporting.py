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
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from sb3_o2o.diagnostics.diagnostic import FOLDER
from sb3_o2o.diagnostics.switch import SwitchDiagnostics
from sb3_o2o.evaluation import ReferenceScore, read_evaluations, reference_score
from sb3_o2o.evaluation.plotting import OFFLINE_COLOUR, ONLINE_COLOUR, REFERENCE_COLOUR, draw_phase, short_number
from sb3_o2o.files import whole_file

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class _Panel:
    """
    A row of the picture.

    :param label: of the y-axis
    :param lines: quantities drawn in it: name -> text and colour
    :param level: where a thin line is drawn
    :param logarithmic: scale of the y-axis
    """

    label: str
    lines: dict[str, tuple[str, str]]
    level: float | None = None
    logarithmic: bool = False


def _both(name: str) -> dict[str, tuple[str, str]]:
    return {f"{name}_offline": ("on the dataset", OFFLINE_COLOUR), f"{name}_online": ("on new data", ONLINE_COLOUR)}


_PANELS: tuple[_Panel, ...] = (
    _Panel("Kendall's tau of Q", {"kendall_tau": ("", ONLINE_COLOUR)}, level=0.0),
    _Panel("normalised Q difference", {"q_difference": ("", ONLINE_COLOUR)}, level=0.0),
    _Panel("Q on-policy", {"q_estimated": ("estimated", ONLINE_COLOUR), "q_true": ("as earned", REFERENCE_COLOUR)}),
    _Panel("mean Q", _both("q")),
    _Panel("squared TD error", _both("td_error"), logarithmic=True),
    _Panel("KL(pi before || pi)", _both("policy_kl")),
    _Panel("KL(softmax Q before || Q)", _both("q_kl")),
    _Panel("regret", {"regret": ("", ONLINE_COLOUR)}),
)


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
    panels = [panel for panel in _PANELS if any(_has(panel, diagnostics) for *_, diagnostics in phases)]
    figure = Figure(figsize=(4.2 * len(phases) + 1.2, 2.6 + 1.7 * len(panels)), layout="constrained")
    heights = [1.6, *[1.0] * len(panels)]
    axes = figure.subplots(len(heights), len(phases), sharex="col", sharey="row", squeeze=False, height_ratios=heights)
    for column, (name, place, evaluations, diagnostics) in enumerate(phases):
        _draw_curve(axes[0, column], name, evaluations, reference)
        if "drop" in diagnostics:
            _write_drop(axes[0, column], diagnostics, _return_of_a_point(_measured_by(place)), reference)
        for axis, panel in zip(axes[1:, column], panels, strict=True):
            _draw_panel(axis, panel, diagnostics)
        _finish_column(axes[-1, column], name, [evaluations, *diagnostics.values()])
    for axis, label in zip(axes[:, 0], [_score_label(reference), *[panel.label for panel in panels]], strict=True):
        axis.set_ylabel(label, fontsize="small")
    if title:
        figure.suptitle(title, fontsize="medium")
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
    except (yaml.YAMLError, TypeError, KeyError) as error:
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


def _has(panel: _Panel, diagnostics: dict[str, Curve]) -> bool:
    return any(name in diagnostics and np.isfinite(diagnostics[name][1]).any() for name in panel.lines)


def _draw_curve(axis: Axes, name: str, evaluations: Curve | None, reference: ReferenceScore | None) -> None:
    if evaluations is not None:
        steps, returns = evaluations
        draw_phase(axis, name, steps, returns if reference is None else reference.normalize(returns))
        axis.set_xlabel("")


def _write_drop(axis: Axes, diagnostics: dict[str, Curve], point: float, reference: ReferenceScore | None) -> None:
    """
    :param axis: the learning curve's
    :param diagnostics: with ``drop`` and ``steps_to_recover``
    :param point: what the unit of ``drop`` is worth in returns
    :param reference: of the curve, in whose unit the drop is written
    """
    drop, recovery = diagnostics["drop"][1][-1], diagnostics["steps_to_recover"][1][-1]
    drop = drop * point / _return_of_a_point(reference)
    back = "not recovered" if np.isinf(recovery) else f"recovered after {recovery:g} steps"
    text = f"fell by {drop:.3g}, {back}" if drop > 0 else "no drop"
    axis.text(0.98, 0.04, text, transform=axis.transAxes, ha="right", fontsize="x-small", color=REFERENCE_COLOUR)


def _draw_panel(axis: Axes, panel: _Panel, diagnostics: dict[str, Curve]) -> None:
    for name, (text, colour) in panel.lines.items():
        if name not in diagnostics:
            continue
        steps, values = diagnostics[name]
        known = np.isfinite(values)
        if known.any():
            axis.plot(steps[known], values[known], color=colour, marker="o", markersize=2, linewidth=1.2, label=text)
    if panel.level is not None:
        axis.axhline(panel.level, color=REFERENCE_COLOUR, linewidth=0.6)
    if panel.logarithmic:
        axis.set_yscale("log")
    if len(panel.lines) > 1 and axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize="x-small", loc="best")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _finish_column(axis: Axes, name: str, curves: Sequence[Any]) -> None:
    axis.set_xlabel("gradient steps" if name == "offline" else "environment steps")
    axis.xaxis.set_major_formatter(FuncFormatter(short_number))
    last = max(int(curve[0][-1]) for curve in curves if curve is not None and len(curve[0]))
    axis.set_xlim(0, max(last, 1))
