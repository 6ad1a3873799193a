"""The numbers of a report: how each method fared at the switch, and what it cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sb3_o2o.progress import clock_text, counted
from sb3_o2o.reporting.intervals import Aggregates, Comparison, Estimate, mean_estimate
from sb3_o2o.runs.records import EARLY, LAST, RunRecord, Summary


@dataclass(frozen=True)
class Cell:
    """
    :param text: for people
    :param value: to sort by: a number, or a text
    """

    text: str
    value: float | str


@dataclass(frozen=True)
class Table:
    """
    :param title: for people
    :param columns: names
    :param rows: of cells
    :param notes: what the columns mean
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: str = ""


def switch_table(records: Sequence[RunRecord], groups: Sequence[tuple[str, str]], after: int | None = None) -> Table:
    """
    :param records: all runs
    :param groups: task and method of each row
    :param after: environment steps after which scores are told as well; None for nowhere
    :return: a row for each, over its seeds
    """
    rows = []
    for task, label in groups:
        of_group = [each for each in records if (each.task, each.label) == (task, label)]
        summaries = [summary for each in of_group if (summary := each.summary()) is not None]
        if summaries:
            numbers = _numbers(summaries)
            if after is not None:
                numbers.insert(_AFTER, _score_after(of_group, after))
            rows.append([_text(task), _text(label), _count(len(summaries)), *numbers])
    columns = ["switch", "lowest", "drop", "steps to recover", "last", f"last {LAST}", "regret"]
    notes = (
        "Means over seeds, in brackets the ends of the 95 % bootstrap interval where there are two seeds or more. "
        f"Switch: evaluation at step 0. Lowest: within the first {EARLY:,} environment steps. Drop: how far below the "
        "switch the score fell. Steps to recover: mean over the seeds that did, 0 where the score never fell. "
        f"Last {LAST}: mean of the last {LAST} evaluations. Regret: part of the training episodes that failed, or, "
        "where an environment does not report success, 1 - mean score / 100; never a mean of both."
    )
    if after is not None:
        columns.insert(_AFTER, f"after {after:,}")
        notes += f" After {after:,}: first evaluation from there on; the mean is over the seeds that got so far, with "
        notes += "their number where not all did."
    return Table("At the switch and after it", ("task", "method", "seeds", *columns), rows, notes)


#: place among the numbers of the score after some steps: behind the lowest one
_AFTER = 2


def _score_after(records: Sequence[RunRecord], steps: int) -> Cell:
    """Of the runs that have evaluations, those that got so far."""
    running = [each for each in records if each.online is not None]
    return _of_some([score for each in running if (score := each.score_after(steps)) is not None], len(running))


def _of_some(values: Sequence[float], count: int, digits: int = 1) -> Cell:
    """The mean of those runs that have a value; says how many where not all of them have."""
    return _said(_estimate(mean_estimate(values), digits), len(values), count) if values else Cell("", math.inf)


def _said(cell: Cell, known: int, count: int) -> Cell:
    """:return: the cell, with the number of runs that it is about where there are more"""
    return replace(cell, text=f"{cell.text} ({known} of {count})") if 0 < known < count else cell


def _numbers(summaries: Sequence[Summary]) -> list[Cell]:
    def mean(of: Callable[[Summary], float]) -> Cell:
        return _estimate(mean_estimate([of(each) for each in summaries]))

    return [
        mean(lambda each: each.switch),
        mean(lambda each: each.lowest),
        mean(lambda each: each.drop),
        _recovered([each.recovered for each in summaries]),
        mean(lambda each: each.last),
        mean(lambda each: each.last_mean),
        _regret(summaries),
    ]


def _regret(summaries: Sequence[Summary]) -> Cell:
    """Of episodes where any run has counted them: what scores give in its place is another quantity."""
    of_episodes = [each.regret for each in summaries if each.regret is not None and each.regret_of == "episodes"]
    if of_episodes:
        return _of_some(of_episodes, len(summaries), 2)
    of_scores = [each.regret for each in summaries if each.regret is not None]
    return _estimate(mean_estimate(of_scores), 2) if len(of_scores) == len(summaries) else Cell("", math.inf)


def over_tasks_table(found: Aggregates, labels: Sequence[str], baseline: str | None = None) -> Table:
    """
    :param found: over the tasks that all methods ran on
    :param labels: all methods
    :param baseline: one of those that have scores there, with which the others are compared; None for no comparison
    :return: a row for each method that has scores there, the best first
    """
    labels = [label for label in labels if label in found.profiles]
    columns = ["method", *found.metrics]
    notes = (
        f"Means of the last {LAST} evaluations, in parts of the expert's score, over "
        f"{counted(len(found.tasks), 'task')} with {counted(found.seeds, 'seed')} each; in brackets the ends of the "
        "95 % stratified bootstrap interval where there are two seeds or more. IQM: mean of the middle half. "
        "Optimality gap: how far below 1 on average, where more counts as 1."
    )
    if baseline is not None:
        columns.append(f"P(better than {baseline})")
        notes += f" P: probability that a run beats one of {baseline} on the same task; a tie is half a win."
    rows = []
    for label in sorted(labels, key=lambda each: -found.metrics["IQM"][each].value):
        cells = [_text(label), *(_estimate(of_method[label], 2) for of_method in found.metrics.values())]
        if baseline is not None:
            cells.append(Cell("", -1.0) if label == baseline else _estimate(found.improvement(label, baseline), 2))
        rows.append(cells)
    return Table("Over all tasks", columns, rows, notes)


def comparison_table(found: Sequence[Comparison], baseline: str) -> Table:
    """
    :param found: methods beside the baseline, > 0 of them
    :param baseline: that they are compared with
    :return: a row for each, the best first
    """
    rows = [
        [
            _text(each.label),
            _count(len(each.tasks)),
            Cell(f"{each.runs[0]}, {each.runs[1]}", each.runs[0]),
            _estimate(each.better, 2),
            _estimate(_in_points(each.difference)),
        ]
        for each in sorted(found, key=lambda each: (-each.better.value, -each.difference.value))
    ]
    return Table(
        f"Beside {baseline}",
        ("method", "tasks", "runs of both", f"P(better than {baseline})", "difference"),
        rows,
        f"On the tasks that both ran on, with all seeds of each, by means of the last {LAST} evaluations. P: "
        f"probability that a run beats one of {baseline} on the same task; a tie is half a win. Difference: of the "
        "means over seeds, mean over tasks, in points of the score. In brackets the ends of the 95 % stratified "
        "bootstrap interval, where both have two seeds or more on each of the tasks. Without brackets, P tells no more "
        "than on which part of the tasks the one run there is was the better.",
    )


def _in_points(found: Estimate) -> Estimate:
    def scaled(value: float | None) -> float | None:
        return None if value is None else 100 * value

    return Estimate(100 * found.value, scaled(found.low), scaled(found.high))


def cost_table(records: Sequence[RunRecord], groups: Sequence[tuple[str, str]]) -> Table | None:
    """
    :param records: all runs
    :param groups: task and method of each row
    :return: wall time of each; None where no run knows any
    """
    rows = []
    for task, label in groups:
        of_group = [each for each in records if (each.task, each.label) == (task, label)]
        seconds = [each.seconds for each in of_group if each.seconds is not None]
        before = [each.offline_seconds for each in of_group if each.offline_seconds is not None]
        if seconds:
            together = _time([sum(seconds) / len(seconds) + _mean(before)])
            cells = [_said(_time(before), len(before), len(seconds)), _time(seconds), together]
            rows.append([_text(task), _text(label), _count(len(seconds)), *cells])
    if not rows:
        return None
    return Table(
        "Cost in wall time",
        ("task", "method", "seeds", "pre-training", "fine-tuning", "together"),
        rows,
        "Mean over seeds, evaluations included, on whatever else the machine did; a pre-training that several methods "
        "share is counted for each.",
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _text(value: str) -> Cell:
    return Cell(value, value)


def _count(value: int) -> Cell:
    return Cell(str(value), value)


def _time(seconds: Sequence[float]) -> Cell:
    return Cell(clock_text(_mean(seconds)), _mean(seconds)) if seconds else Cell("", math.inf)


def _estimate(found: Estimate, digits: int = 1) -> Cell:
    text = f"{found.value:.{digits}f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return Cell(text, found.value)


def _recovered(steps: Sequence[float]) -> Cell:
    """Sorted by how many did, then by when."""
    finite = [each for each in steps if math.isfinite(each)]
    never = len(steps) - len(finite)
    if not finite:
        return Cell("never", math.inf)
    text = f"{_mean(finite):,.0f}"
    return Cell(f"{text} ({never} of {len(steps)} never)" if never else text, 1e12 * never / len(steps) + _mean(finite))
