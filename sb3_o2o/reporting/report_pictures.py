"""The pictures of a report, as SVG: each small enough for a phone, in colours for light and dark pages."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sb3_o2o.evaluation.plotting import as_written, short_number
from sb3_o2o.progress import counted
from sb3_o2o.reporting.intervals import Aggregates, Estimate, Line

#: Of methods, in their order; between light and dark, and told apart by people who see few colours with the marks.
COLOURS = ("#2f7fd0", "#e0762f", "#2f9e66", "#c04f97", "#8a6fd1", "#b58900", "#1d9aa5", "#d1495b", "#7d8590", "#6a9a2d")
_MARKS = "osD^vPX<>*"
#: What matplotlib numbers in every picture anew.
_NUMBERED = r"figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|\w+Collection"
#: Text and axes: in files a dark grey, on the page the colour of its text.
INK = "#3b4252"
_SIZE = (4.3, 3.1)


@dataclass(frozen=True)
class Picture:
    """
    :param name: of its file, without ``.svg``
    :param title: for people
    :param caption: what is to be seen
    :param svg: the picture
    """

    name: str
    title: str
    caption: str
    svg: str

    @property
    def inline(self) -> str:
        """For a page: text and axes in its colour, no name that another picture on it has as well."""
        svg = self.svg[self.svg.index("<svg") :].replace(INK, "currentColor")
        svg = re.sub(rf' id="(?:{_NUMBERED})_\d+"', "", svg)
        svg = re.sub(r'(?<=id=")|(?<=href="#)|(?<=url\(#)', f"{self.name}-", svg)
        svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
        return svg.replace("<svg", f'<svg role="img" aria-label="{escape(self.title)}"', 1)


def colour_of(labels: Sequence[str]) -> dict[str, str]:
    """
    :param labels: of all methods
    :return: the colour of each
    """
    return {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(labels)}


def curves(
    task: str, lines: Mapping[str, Sequence[Line]], labels: Sequence[str], unit: str, name: str, note: str = ""
) -> Picture:
    """
    Learning curves on a task: pre-training left of the switch, fine-tuning right of it.

    :param task: name
    :param lines: phase -> curves
    :param labels: of all methods, for their colours
    :param unit: ``score`` or ``return``
    :param name: of the file
    :param note: what the caption says beside seeds
    :return: the picture
    """
    phases = [phase for phase in ("offline", "online") if lines.get(phase)]
    figure = _figure()
    widths = [1.0 if phase == "offline" else 2.2 for phase in phases]
    axes = figure.subplots(1, len(phases), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axis, phase in zip(axes, phases, strict=True):
        for each in lines[phase]:
            _draw_line(axis, each, labels)
        axis.set_xlabel("gradient steps" if phase == "offline" else "environment steps", fontsize=8)
        axis.xaxis.set_major_formatter(FuncFormatter(short_number))
        axis.xaxis.set_major_locator(MaxNLocator(nbins=2 if phase == "offline" and len(phases) > 1 else 5))
        axis.set_title("offline" if phase == "offline" else "online", fontsize=8, color=INK)
        _style(axis)
    if len(phases) == 2:
        axes[1].spines["left"].set_linewidth(2)  # the switch
        axes[1].tick_params(axis="y", length=0)
    axes[0].set_ylabel("normalised score" if unit == "score" else "return", fontsize=8)
    _legend(figure, axes, labels)
    seeds = sorted({each.seeds for of_phase in lines.values() for each in of_phase})
    one = seeds == [1]
    said = "One seed: no interval." if one else f"Mean and 95 % bootstrap interval of {_range(seeds)} seeds."
    switch = " The thick line is the switch from dataset to environment." if len(phases) == 2 else ""
    return Picture(name, task, f"{said}{switch}{' ' + note if note else ''}", _svg(figure, name))


def _draw_line(axis: Axes, each: Line, labels: Sequence[str]) -> None:
    index = labels.index(each.label)
    colour = colour_of(labels)[each.label]
    mark = _MARKS[index % len(_MARKS)]
    axis.plot(each.steps, each.mean, color=colour, marker=mark, markersize=3, linewidth=1.4, label=each.label)
    if each.low is not None and each.high is not None:
        axis.fill_between(each.steps, each.low, each.high, color=colour, alpha=0.18, linewidth=0)


def aggregates(found: Aggregates, labels: Sequence[str]) -> Picture:
    """
    :param found: over tasks
    :param labels: of all methods, for their colours
    :return: the four metrics, one below the other
    """
    methods = [label for label in labels if label in next(iter(found.metrics.values()))]
    figure = _figure(height=0.9 + 0.22 * len(methods) * len(found.metrics) + 0.25 * len(found.metrics))
    axes = figure.subplots(len(found.metrics), 1, squeeze=False)[:, 0]
    for axis, (name, of_metric) in zip(axes, found.metrics.items(), strict=True):
        _draw_bars(axis, {label: of_metric[label] for label in methods}, labels)
        axis.set_title(f"{name} ({'lower' if name == 'optimality gap' else 'higher'} is better)", fontsize=8, color=INK)
    axes[-1].set_xlabel("in parts of the expert's score", fontsize=8)
    return Picture("aggregates", "Over all tasks", _seeds_and_tasks(found), _svg(figure, "aggregates"))


def _draw_bars(axis: Axes, estimates: Mapping[str, Estimate], labels: Sequence[str]) -> None:
    colours = colour_of(labels)
    for place, (label, each) in enumerate(reversed(list(estimates.items()))):
        if each.low is not None and each.high is not None:
            axis.barh(place, each.high - each.low, left=each.low, height=0.6, color=colours[label], alpha=0.35)
        axis.plot([each.value, each.value], [place - 0.32, place + 0.32], color=colours[label], linewidth=2)
    axis.set_yticks(range(len(estimates)), [as_written(label) for label in reversed(list(estimates))], fontsize=7.5)
    axis.set_ylim(-0.6, len(estimates) - 0.4)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
    _style(axis)


def profiles(found: Aggregates, labels: Sequence[str]) -> Picture:
    """
    :param found: over tasks
    :param labels: of all methods, for their colours
    :return: performance profiles
    """
    figure = _figure()
    axis = figure.subplots()
    colours = colour_of(labels)
    for label in (label for label in labels if label in found.profiles):
        point, interval = found.profiles[label]
        axis.plot(found.thresholds, point, color=colours[label], linewidth=1.4, label=label)
        if interval is not None:
            axis.fill_between(found.thresholds, interval[0], interval[1], color=colours[label], alpha=0.15, linewidth=0)
    axis.set_xlabel("score above which (1: the expert's)", fontsize=8)
    axis.set_ylabel("part of the runs", fontsize=8)
    axis.set_ylim(-0.02, 1.02)
    _style(axis)
    _legend(figure, [axis], labels)
    return Picture("profiles", "Performance profiles", _seeds_and_tasks(found), _svg(figure, "profiles"))


def improvements(found: Aggregates, labels: Sequence[str], baseline: str | None = None) -> Picture | None:
    """
    :param found: over tasks
    :param labels: of all methods, for their order
    :param baseline: method that the others are compared with; None for all pairs
    :return: probabilities that one method beats another, each pair once; None for a single method
    """
    order = [label for label in labels if label in found.profiles]
    chosen = list(combinations(order, 2)) if baseline is None else [(each, baseline) for each in order]
    pairs = {f"{one} > {other}": found.improvement(one, other) for one, other in chosen if one != other}
    if not pairs:
        return None
    figure = _figure(height=0.8 + 0.28 * len(pairs))
    axis = figure.subplots()
    for place, each in enumerate(reversed(list(pairs.values()))):
        if each.low is not None and each.high is not None:
            axis.barh(place, each.high - each.low, left=each.low, height=0.5, color=COLOURS[0], alpha=0.35)
        axis.plot([each.value, each.value], [place - 0.3, place + 0.3], color=COLOURS[0], linewidth=2)
    axis.axvline(0.5, color=INK, linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(pairs)), [as_written(pair) for pair in reversed(list(pairs))], fontsize=7.5)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("probability of improvement", fontsize=8)
    _style(axis)
    return Picture("improvements", "Probability of improvement", _seeds_and_tasks(found), _svg(figure, "improvements"))


def _seeds_and_tasks(found: Aggregates) -> str:
    tasks = f"{counted(len(found.tasks), 'task')} ({', '.join(found.tasks)})"
    if found.seeds == 1:
        return f"{tasks}, one seed each: no interval."
    return f"{tasks}, {found.seeds} seeds each; 95 % stratified bootstrap intervals over seeds (rliable)."


# -- matplotlib ----------------------------------------------------------------------------------------------------


def _figure(height: float = _SIZE[1]) -> Figure:
    return Figure(figsize=(_SIZE[0], height), layout="constrained")


def _style(axis: Axes) -> None:
    axis.grid(alpha=0.25, linewidth=0.6, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.patch.set_alpha(0)
    for spine in axis.spines.values():
        spine.set_color(INK)
    axis.tick_params(colors=INK, labelsize=7.5)
    for text in (axis.xaxis.label, axis.yaxis.label):
        text.set_color(INK)


def _legend(figure: Figure, axes: Sequence[Axes], labels: Sequence[str]) -> None:
    # not by what matplotlib would collect, which leaves out names that begin with an underscore
    drawn = {str(each.get_label()): each for axis in axes for each in axis.lines}
    entries = {as_written(label): drawn[label] for label in labels if label in drawn}
    columns = min(len(entries), 3 if max(map(len, entries)) < 16 else 2)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=7.5,
        labelcolor=INK,
    )


def _svg(figure: Figure, name: str) -> str:
    figure.patch.set_alpha(0)
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
