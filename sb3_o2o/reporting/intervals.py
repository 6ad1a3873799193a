"""Intervals from seeds: over a curve, over tasks. One seed has none, and none is invented."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_o2o.errors import missing_package
from sb3_o2o.evaluation import preserved_random_state
from sb3_o2o.runs.records import RunRecord

#: Bootstrap samples, and how much of them an interval holds.
SAMPLES, COVERAGE = 2_000, 0.95
#: Scores at which performance profiles are read off.
POINTS = 61


@dataclass(frozen=True)
class Line:
    """
    The curve of a method on a task: mean over seeds, and its interval.

    :param label: of the method
    :param steps: shape (points,)
    :param mean: shape (points,)
    :param low: lower end of the interval, shape (points,); None for one seed
    :param high: upper end
    :param seeds: how many
    """

    label: str
    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    seeds: int


def line(label: str, records: Sequence[RunRecord], phase: str) -> Line | None:
    """
    :param label: of the method
    :param records: its runs on one task
    :param phase: ``offline`` or ``online``
    :return: their curve, from the latest beginning to the earliest end; None where no run has evaluations of the phase,
        or they have no step in common
    """
    curves = [(curve, each) for each in records if (curve := each.curve(phase)) is not None]
    if not curves:
        return None
    start = max(curve.steps[0] for curve, _ in curves)
    end = min(curve.steps[-1] for curve, _ in curves)
    steps = np.unique(np.concatenate([curve.steps for curve, _ in curves]))
    steps = steps[(steps >= start) & (steps <= end)].astype(np.float64)
    if len(steps) == 0:
        return None
    scores = [
        np.interp(steps, curve.steps.astype(np.float64), curve.scores(each.reference).mean(axis=1))
        for curve, each in curves
    ]
    values = np.stack(scores)
    interval = bootstrap(values)
    low, high = (None, None) if interval is None else interval
    return Line(label, steps, values.mean(axis=0), low, high, len(values))


def bootstrap(values: NDArray[np.float64], seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """
    Percentile interval of the mean over seeds.

    :param values: shape (seeds, ...)
    :param seed: of the resampling
    :return: both ends, shape (...); None for one seed
    """
    count = len(values)
    if count < 2:
        return None
    rng = np.random.default_rng(seed)
    return _ends(values[rng.integers(0, count, (SAMPLES, count))].mean(axis=1))


def _ends(samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the percentile interval of bootstrap samples, shape (samples, ...)."""
    edge = (1 - COVERAGE) / 2
    low, high = np.quantile(samples, [edge, 1 - edge], axis=0)
    return low, high


@dataclass(frozen=True)
class Estimate:
    """
    A number and its interval.

    :param value: the number
    :param low: lower end; None where there is no interval
    :param high: upper end
    """

    value: float
    low: float | None = None
    high: float | None = None


def mean_estimate(values: Sequence[float]) -> Estimate:
    """
    :param values: of the seeds, > 0 of them
    :return: their mean with its interval
    """
    array = np.asarray(values, dtype=np.float64)
    interval = bootstrap(array) if np.isfinite(array).all() else None
    if interval is None:
        return Estimate(float(array.mean()))
    return Estimate(float(array.mean()), float(interval[0]), float(interval[1]))


@dataclass(frozen=True)
class Aggregates:
    """
    Methods over all tasks that they share, by rliable (Agarwal et al. 2021, arXiv:2108.13264). Scores are means of the
    last evaluations in parts of the expert's.

    :param tasks: that count
    :param seeds: of each method on each task
    :param metrics: name of the metric -> method -> estimate
    :param thresholds: of the profiles, shape (thresholds,)
    :param profiles: method -> part of the runs above each threshold, and both ends of its interval, or None
    :param improvements: one method, a later one -> probability that a run of the one beats a run of the other
    """

    tasks: Sequence[str]
    seeds: int
    metrics: Mapping[str, Mapping[str, Estimate]]
    thresholds: NDArray[np.float64]
    profiles: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]
    improvements: Mapping[tuple[str, str], Estimate]

    def improvement(self, label: str, baseline: str) -> Estimate:
        """
        :param label: a method
        :param baseline: another one
        :return: probability that a run of the first beats a run of the second
        """
        if (label, baseline) in self.improvements:
            return self.improvements[label, baseline]
        mirrored = self.improvements[baseline, label]
        if mirrored.low is None or mirrored.high is None:
            return Estimate(1 - mirrored.value)
        return Estimate(1 - mirrored.value, 1 - mirrored.high, 1 - mirrored.low)


def _last_scores(records: Sequence[RunRecord]) -> dict[str, dict[str, list[float]]]:
    """Method -> task -> a score for each seed, in parts of the expert's, of runs that have normalised ones."""
    scores: dict[str, dict[str, list[float]]] = {}
    for record in sorted(records, key=lambda each: (each.label, each.seed is None, each.seed or 0)):
        summary = record.summary()
        if summary is not None and record.reference is not None:
            scores.setdefault(record.label, {}).setdefault(record.task, []).append(summary.last_mean / 100)
    return scores


@dataclass(frozen=True)
class Comparison:
    """
    Two methods on the tasks that both ran on, with all seeds of each.

    :param label: of the one
    :param tasks: that count, > 0 of them
    :param runs: of the one, and of the other
    :param better: probability that a run of the one beats a run of the other on the same task; a tie is half a win
    :param difference: of their means over seeds, mean over tasks, in parts of the expert's score
    """

    label: str
    tasks: Sequence[str]
    runs: tuple[int, int]
    better: Estimate
    difference: Estimate


def compare(records: Sequence[RunRecord], baseline: str) -> list[Comparison]:
    """
    Each method beside one, where :func:`aggregate` needs tasks and seeds that all have. Intervals are of a stratified
    bootstrap: the seeds of each task and method are drawn for themselves, which needs two of each.

    :param records: of runs
    :param baseline: the one
    :return: the others that ran on a task of its, by name
    """
    scores = _last_scores(records)
    theirs = scores.pop(baseline, {})
    found = []
    for label, of_method in sorted(scores.items()):
        tasks = sorted(of_method.keys() & theirs.keys())
        if tasks:
            pairs = [(np.array(of_method[task]), np.array(theirs[task])) for task in tasks]
            runs = sum(len(ours) for ours, _ in pairs), sum(len(other) for _, other in pairs)
            found.append(Comparison(label, tasks, runs, *_paired(pairs)))
    return found


_Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def _paired(pairs: Sequence[_Pair]) -> tuple[Estimate, Estimate]:
    """:param pairs: for each task the scores of the one and of the other, each of shape (seeds,)"""
    points = _better_and_difference([(ours[None], other[None]) for ours, other in pairs])[:, 0]
    if min(len(each) for pair in pairs for each in pair) < 2:
        return Estimate(float(points[0])), Estimate(float(points[1]))
    rng = np.random.default_rng(0)

    def drawn(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores[rng.integers(0, len(scores), (SAMPLES, len(scores)))]

    samples = _better_and_difference([(drawn(ours), drawn(other)) for ours, other in pairs])
    low, high = _ends(samples.T)
    better, difference = (Estimate(float(points[i]), float(low[i]), float(high[i])) for i in range(2))
    return better, difference


def _better_and_difference(pairs: Sequence[_Pair]) -> NDArray[np.float64]:
    """Of scores of shape (samples, seeds) for each task; shape (2, samples)."""
    better = [_wins(ours, other) for ours, other in pairs]
    difference = [ours.mean(axis=1) - other.mean(axis=1) for ours, other in pairs]
    return np.array([np.mean(better, axis=0), np.mean(difference, axis=0)])


def score_matrices(records: Sequence[RunRecord]) -> tuple[list[str], dict[str, NDArray[np.float64]], list[str]]:
    """
    :param records: of runs
    :return: the tasks that all methods have normalised scores on; method -> scores of shape (seeds, tasks), in parts of
        the expert's; what is left out, a sentence for each
    """
    scores = _last_scores(records)
    if not scores:
        return [], {}, ["Nothing is aggregated over tasks: no run has normalised scores."]
    every = {task for of_method in scores.values() for task in of_method}
    tasks = sorted(task for task in every if all(task in of_method for of_method in scores.values()))
    remarks = []
    if len(tasks) < len(every):
        left_out = ", ".join(sorted(every - set(tasks)))
        remarks.append(f"Aggregates leave out what not all methods ran on: {left_out}.")
    if not tasks:
        return [], {}, [*remarks, "Nothing is aggregated over tasks: the methods have no task in common."]
    counts = {len(of_method[task]) for of_method in scores.values() for task in tasks}
    seeds = min(counts)
    if len(counts) > 1:
        first = "seed" if seeds == 1 else f"{seeds} seeds"
        remarks.append(f"Aggregates take the first {first} of each: some have more, up to {max(counts)}.")
    matrices = {label: np.array([of_method[task][:seeds] for task in tasks]).T for label, of_method in scores.items()}
    return tasks, matrices, remarks


def aggregate(tasks: Sequence[str], matrices: Mapping[str, NDArray[np.float64]]) -> Aggregates:
    """
    :param tasks: names
    :param matrices: method -> scores of shape (seeds, tasks)
    :return: point estimates, with stratified bootstrap intervals where there are two seeds or more
    :raises ImportError: without rliable
    """
    library, metrics = _rliable()
    seeds = min(len(matrix) for matrix in matrices.values())
    functions = {
        "IQM": metrics.aggregate_iqm,
        "median": metrics.aggregate_median,
        "mean": metrics.aggregate_mean,
        "optimality gap": metrics.aggregate_optimality_gap,
    }

    def all_metrics(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([function(scores) for function in functions.values()])

    thresholds = _thresholds(matrices)

    def profile(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return share_above(scores, thresholds)

    found = _estimates(library, dict(matrices), all_metrics, seeds)
    by_metric = {name: {label: _one(found[label], index) for label in matrices} for index, name in enumerate(functions)}
    pairs = {(one, other): [matrices[one], matrices[other]] for one, other in combinations(matrices, 2)}
    improvements = _estimates(library, pairs, probability_of_improvement, seeds)
    return Aggregates(
        tasks=tasks,
        seeds=seeds,
        metrics=by_metric,
        thresholds=thresholds,
        profiles=_estimates(library, dict(matrices), profile, seeds),
        improvements={pair: _one(each, 0) for pair, each in improvements.items()},
    )


def share_above(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    rliable's ``score_distributions``, which takes a hundred times as long.

    :param scores: shape (seeds, tasks)
    :param thresholds: shape (thresholds,)
    :return: part of the runs above each, shape (thresholds,)
    """
    return np.asarray((scores[..., None] > thresholds).mean(axis=(0, 1)))


def probability_of_improvement(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    rliable's metric of that name, which takes a hundred times as long: the mean over tasks of Mann and Whitney's
    statistic, in which a tie is half a win.

    :param ours: scores of one method, shape (seeds, tasks)
    :param theirs: of another
    :return: probability that a run of the one beats a run of the other, shape (1,)
    """
    return np.array([_wins(ours.T, theirs.T).mean()])


def _wins(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """
    Mann and Whitney's statistic.

    :param ours: shape (n, seeds)
    :param theirs: shape (n, other seeds)
    :return: part of the pairs of seeds that the one wins, a tie being half a win, shape (n,)
    """
    one, other = ours[:, :, None], theirs[:, None]
    return np.asarray(((one > other) + 0.5 * (one == other)).mean(axis=(1, 2)))


def _thresholds(matrices: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """From where all runs are above to where none is."""
    lowest = min(float(matrix.min()) for matrix in matrices.values())
    highest = max(float(matrix.max()) for matrix in matrices.values())
    margin = 0.05 * max(highest - lowest, 0.01)
    return np.linspace(lowest - margin, highest + margin, POINTS)


_Found = tuple[NDArray[np.float64], NDArray[np.float64] | None]


def _estimates(library: Any, scores: dict[Any, Any], function: Any, seeds: int) -> dict[Any, _Found]:
    if seeds < 2:
        arguments = {key: value if isinstance(value, list) else [value] for key, value in scores.items()}
        return {key: (function(*value), None) for key, value in arguments.items()}
    # rliable draws from NumPy's global stream, which is the user's, whatever generator it is given
    with preserved_random_state():
        np.random.seed(0)
        points, intervals = library.get_interval_estimates(
            scores, function, reps=SAMPLES, confidence_interval_size=COVERAGE
        )
    return {key: (points[key], intervals[key]) for key in scores}


def _one(found: _Found, index: int) -> Estimate:
    point, interval = found
    if interval is None:
        return Estimate(float(point[index]))
    return Estimate(float(point[index]), float(interval[0, index]), float(interval[1, index]))


def _rliable() -> tuple[Any, Any]:
    try:
        from rliable import library, metrics
    except ImportError as error:
        raise missing_package("Aggregates over tasks need", "rliable", "report", error) from error
    return library, metrics
