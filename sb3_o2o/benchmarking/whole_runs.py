"""Whole runs side by side: environment, acting, updates, evaluation, and the rest."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from sb3_o2o.benchmarking import peers as peers_package
from sb3_o2o.benchmarking.contestants import Competitor, own_forms, peer_competitors
from sb3_o2o.benchmarking.race import Worker, WorkerError
from sb3_o2o.errors import unknown
from sb3_o2o.files import whole_file

PARTS = ("environment", "acting", "updates", "evaluation", "rest")
_COLOURS = ("#bfc7cd", "#ffa600", "#ef5675", "#7a5195", "#5b6770")


@dataclass(frozen=True)
class WholeRun:
    """
    A schedule, the same for everybody.

    :param name: by which it is asked for
    :param title: for people
    :param gradient_steps: updates after each step
    :param n_critics: critics
    :param hidden: widths of hidden layers
    :param env_id: Gymnasium id
    :param n_envs: environments
    :param steps: environment steps
    :param learning_starts: steps before the first update
    :param warm_up: steps before the clock starts; the first updates among them compile
    :param eval_freq: environment steps between two evaluations
    :param n_eval_episodes: episodes of each
    """

    name: str
    title: str
    gradient_steps: int = 1
    n_critics: int = 2
    hidden: tuple[int, ...] = (256, 256)
    env_id: str = "Hopper-v5"
    n_envs: int = 1
    steps: int = 10_000
    learning_starts: int = 100
    warm_up: int = 200
    eval_freq: int = 1_000
    n_eval_episodes: int = 10


RUNS = (
    WholeRun("sac", "SAC, 2 critics, UTD 1"),
    WholeRun("wsrl", "ensemble SAC, 10 critics, UTD 4", gradient_steps=4, n_critics=10),
)


def runs_by_name(names: Sequence[str] | None) -> list[WholeRun]:
    """
    :param names: of schedules; None for all
    :return: the schedules
    :raises ValueError: for an unknown one, naming the nearest
    """
    known = {run.name: run for run in RUNS}
    for name in names or ():
        if name not in known:
            raise unknown("run", name, known)
    return list(RUNS) if names is None else [known[name] for name in names]


def competitors(interpreters: Sequence[Path] = (), precisions: Sequence[str] = ("fp32",)) -> list[Competitor]:
    """
    :param interpreters: Python interpreters of environments that may hold SBX; this one is looked at as well
    :param precisions: of our matrix products
    :return: ours, eager and compiled, stock Stable-Baselines3, and SBX where there is one
    :raises ValueError: for an unknown precision, naming the nearest
    """
    script = str(Path(peers_package.__file__).with_name("run_worker.py"))
    own = (sys.executable, script)
    found = [
        *own_forms((*own, "ours"), precisions),
        Competitor("sb3", "SB3", (*own, "stable_baselines3"), "stock"),
    ]
    for peer in peer_competitors(interpreters):
        if peer.key == "sbx":
            command = (peer.command[0], script, "sbx")
            found.append(Competitor("sbx", "SBX", command, "peer", compiles=True, foreign=peer.foreign))
    return found


@dataclass
class Result:
    """
    One contestant's run.

    :param key: of the contestant
    :param label: of the contestant
    :param slices: seconds from one evaluation to the next, one dictionary of parts for each
    :param warm_up_seconds: first steps, compilation included, which are not in the slices
    :param missing: why there is nothing
    """

    key: str
    label: str
    slices: list[dict[str, float]] = field(default_factory=list)
    warm_up_seconds: float | None = None
    missing: str = ""

    def total(self, part: str) -> float:
        """
        :param part: one of the parts, or ``evaluated_steps``
        :return: its sum over the run
        """
        return float(sum(each[part] for each in self.slices))

    @property
    def seconds(self) -> float:
        """The whole run, s."""
        return sum(self.total(part) for part in PARTS)

    def seconds_with(self, evaluated_steps: float) -> float:
        """
        :param evaluated_steps: steps of all evaluations
        :return: the whole run, s, had its policies lasted that long in their evaluations
        """
        own = self.total("evaluated_steps")
        scale = evaluated_steps / own if own else 1.0
        return self.seconds + (scale - 1.0) * self.total("evaluation")


def race_runs(
    runs: Sequence[WholeRun],
    contestants: Sequence[Competitor],
    *,
    threads: int,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> list[tuple[WholeRun, list[Result]]]:
    """
    Every contestant's run from start to end. They advance in turn, from evaluation to evaluation; who is first rotates.

    :param runs: schedules
    :param contestants: who takes part
    :param threads: of each
    :param device: ``"cpu"`` or ``"cuda"``
    :param say: is told what is going on
    :return: for each schedule, what each needed
    """
    with tempfile.TemporaryDirectory() as folder:
        shared = {"device": device, "folder": folder}
        return [(run, _race(run, contestants, threads, shared, say)) for run in runs]


def _race(
    run: WholeRun, contestants: Sequence[Competitor], threads: int, shared: dict[str, str], say: Callable[[str], None]
) -> list[Result]:
    results = {each.key: Result(each.key, each.label) for each in contestants}
    workers: dict[str, Worker] = {}
    try:
        for each in contestants:
            say(f"{run.name}: warming up {each.label}")
            try:
                workers[each.key] = Worker(each, threads)
                options = {**each.options, **shared, "warm_up": run.warm_up}
                answer = workers[each.key].ask({"prepare": asdict(run), "options": options})
                results[each.key].warm_up_seconds = answer["ready"]["warm_up_seconds"]
            except (WorkerError, OSError) as error:
                results[each.key].missing = str(error)
        ready = [key for key in workers if not results[key].missing]
        n_slices = run.steps // run.eval_freq
        for index in range(n_slices):
            for key in ready[index % len(ready) :] + ready[: index % len(ready)] if ready else []:
                say(f"{run.name}: {index * run.eval_freq:,} of {run.steps:,} steps, {results[key].label}")
                results[key].slices.append(workers[key].ask({"run": run.eval_freq})["parts"])
        return list(results.values())
    finally:
        for worker in workers.values():
            worker.close()


def table(run: WholeRun, results: Sequence[Result]) -> Table:
    """
    :param run: a schedule
    :param results: what each needed
    :return: seconds by part, and our time over theirs
    """
    title = f"{run.title}, {run.env_id}: seconds for {run.steps:,} steps"
    shown = Table(box=None, pad_edge=False, title=title, title_justify="left")
    measured = [each for each in results if each.slices]
    shown.add_column("")
    for each in measured:
        shown.add_column(each.label, justify="right")
    for part in PARTS:
        shown.add_row(part, *(f"{each.total(part):.1f}" for each in measured))
    shown.add_row("whole", *(f"{each.seconds:.1f}" for each in measured))
    shown.add_row("steps of evaluations", *(f"{each.total('evaluated_steps'):,.0f}" for each in measured))
    for other in measured:
        if not other.key.startswith("ours"):
            shown.add_row(f"time / {other.label}'s", *(f"{ratio(each, other):.2f}" for each in measured))
            shown.add_row("  evaluations of equal length", *(f"{ratio(each, other, True):.2f}" for each in measured))
    shown.add_row("warm-up, not in the above", *(f"{each.warm_up_seconds or 0:.1f}" for each in measured))
    return shown


def ratio(mine: Result, other: Result, equal_evaluations: bool = False) -> float:
    """
    :param mine: a contestant's
    :param other: another's
    :param equal_evaluations: as if both policies had lasted equally long in their evaluations: who learns faster stands
        longer, and pays for it
    :return: the time of the first over that of the second
    """
    if not equal_evaluations:
        return mine.seconds / other.seconds
    steps = float(np.mean([mine.total("evaluated_steps"), other.total("evaluated_steps")]))
    return mine.seconds_with(steps) / other.seconds_with(steps)


def to_document(results: Sequence[tuple[WholeRun, list[Result]]], about: dict[str, Any]) -> dict[str, Any]:
    """
    :param results: by :func:`race_runs`
    :param about: command, machine and settings
    :return: everything, in plain types
    """
    rows = []
    for run, each in results:
        contestants = [{**asdict(result), "seconds": result.seconds} for result in each]
        rows.append({"run": asdict(run), "contestants": contestants})
    return {**about, "runs": rows}


def draw(path: Path, results: Sequence[tuple[WholeRun, list[Result]]], subtitle: str) -> None:
    """
    One stacked bar for each contestant.

    :param path: picture to write
    :param results: by :func:`race_runs`
    :param subtitle: the machine
    """
    shown = [(run, [each for each in found if each.slices]) for run, found in results]
    shown = [(run, found) for run, found in shown if found]
    figure = Figure(figsize=(9.0, 1.2 + 0.5 * sum(len(found) + 1 for _, found in shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for axis, (run, found) in zip(axes, shown, strict=True):
        labels, left = [each.label for each in found], np.zeros(len(found))
        for part, colour in zip(PARTS, _COLOURS, strict=True):
            seconds = np.array([each.total(part) for each in found])
            axis.barh(labels, seconds, left=left, color=colour, label=part)
            left += seconds
        for position, each in enumerate(found):
            axis.annotate(f" {each.seconds:.1f}", (each.seconds, position), va="center", fontsize="small")
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.set_title(f"{run.title}, {run.env_id}, {run.steps:,} steps", fontsize="small", loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize="small")
    if len(shown):
        axes[-1].set_xlabel("seconds")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    figure.suptitle(subtitle, fontsize="small")
    with whole_file(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=150)
