"""Asks all contestants in turn, round by round, so that what disturbs a machine disturbs them alike."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from sb3_o2o.benchmarking.contestants import FUSED, Competitor, worker_environment
from sb3_o2o.benchmarking.products import megaflop
from sb3_o2o.benchmarking.work import Work

#: updates before the first round: a whole number of everybody's calls, so that all are compiled
WARM_UP = FUSED
#: batches by which sampling alone is timed
_SAMPLED_BATCHES = 20


class WorkerError(RuntimeError):
    """A worker failed; the message holds the end of what it wrote."""


class Worker:
    """
    A process that runs one contestant.

    :param competitor: what to start
    :param threads: threads that it may use
    :raises WorkerError: if it does not start
    """

    def __init__(self, competitor: Competitor, threads: int):
        self.competitor = competitor
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            competitor.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=worker_environment(threads, competitor.foreign),
        )
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except WorkerError:
            self.close()
            raise

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """
        :param question: see ``worker_protocol``
        :return: the answer
        :raises WorkerError: if it fails
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: reading its answer says why
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            tail = self._errors.read()[-2000:].strip()
            raise WorkerError(f"{self.competitor.label}: the worker ended. {tail}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.competitor.label}: {answer['error'].strip()}")
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Measurement:
    """
    What one contestant needed for one row.

    :param key: of the contestant
    :param label: of the contestant
    :param group: of the contestant
    :param ms: milliseconds per update, one for each round; empty if there is none
    :param missing: why there is none
    :param failed: whether that is a fault, and not a library's limit
    :param compiles: whether its first updates compile
    :param warm_up_seconds: first updates, compilation included
    :param sampling_ms: part of an update that draws the batch
    :param cores: processor cores kept busy, one number for each round
    :param megaflop: products of what it does, which is the row's unless it differs
    :param note: what it does otherwise than the row says
    :param extra: further measurements
    """

    key: str
    label: str
    group: str
    ms: list[float] = field(default_factory=list)
    missing: str = ""
    failed: bool = False
    compiles: bool = False
    warm_up_seconds: float | None = None
    sampling_ms: float | None = None
    cores: list[float] = field(default_factory=list)
    megaflop: float | None = None
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """
        Count as not measured: half of the rounds would compare different moments.

        :param reason: what the worker said
        """
        self.ms, self.missing, self.failed = [], reason, True

    @property
    def median(self) -> float | None:
        """Median over the rounds, ms."""
        return float(np.median(self.ms)) if self.ms else None

    @property
    def compile_seconds(self) -> float | None:
        """The first updates without what as many cost later: about the time to compile."""
        if not self.compiles or self.warm_up_seconds is None or self.median is None:
            return None
        return max(self.warm_up_seconds - 1e-3 * WARM_UP * self.median, 0.0)

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """First and third quartile over the rounds, ms: the spread."""
        return (float(np.quantile(self.ms, 0.25)), float(np.quantile(self.ms, 0.75))) if self.ms else None


@dataclass
class RowResult:
    """
    A row of the table.

    :param work: what was done
    :param measurements: of each contestant, in the order of the columns
    """

    work: Work
    measurements: list[Measurement]

    def __getitem__(self, key: str) -> Measurement:
        return next(each for each in self.measurements if each.key == key)

    def ratio(self, key: str, other: str) -> float | None:
        """
        :param key: of a contestant
        :param other: of the one to compare it with
        :return: median over the rounds of the ratio within a round; None where one was not measured
        """
        by_key = {each.key: each.ms for each in self.measurements}
        mine, theirs = by_key.get(key), by_key.get(other)
        return float(np.median(np.divide(mine, theirs))) if mine and theirs else None


def race(
    rows: Sequence[Work],
    competitors: Sequence[Competitor],
    *,
    rounds: int,
    updates: int,
    threads: int,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[RowResult], dict[str, dict[str, str]]]:
    """
    Measure all rows. All contestants are alive at once and are asked in turn; who is first rotates.

    :param rows: what to do
    :param competitors: who takes part
    :param rounds: how often each is asked
    :param updates: per round
    :param threads: of each contestant
    :param device: ``"cpu"`` or ``"cuda"``
    :param say: is told what is going on
    :return: the rows, and versions by contestant
    """
    workers: dict[str, Worker] = {}
    unstarted: dict[str, str] = {}
    try:
        for competitor in competitors:
            say(f"starting {competitor.label}")
            try:
                workers[competitor.key] = Worker(competitor, threads)
            except (WorkerError, OSError) as error:
                unstarted[competitor.key] = str(error)
        results = []
        for work in rows:
            entries = {
                each.key: Measurement(each.key, each.label, each.group, compiles=each.compiles) for each in competitors
            }
            for key, reason in unstarted.items():
                entries[key].fail(reason)
            ready = _prepare({key: (worker, entries[key]) for key, worker in workers.items()}, work, device, say)
            _run_rounds(ready, work, rounds, updates, say)
            results.append(RowResult(work, list(entries.values())))
        return results, {key: worker.versions for key, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()


_Entries = dict[str, tuple[Worker, Measurement]]


def _prepare(entries: _Entries, work: Work, device: str, say: Callable[[str], None]) -> _Entries:
    """:return: the entries of those that can do it, warmed up"""
    ready: _Entries = {}
    for key, (worker, measurement) in entries.items():
        say(f"{work.name}: warming up {worker.competitor.label}")
        options = {**worker.competitor.options, "device": device, "warm_up": WARM_UP}
        try:
            answer = worker.ask({"prepare": asdict(work), "options": options})
        except WorkerError as error:
            measurement.fail(str(error))
            continue
        if "unavailable" in answer:
            measurement.missing = answer["unavailable"]
            continue
        details = answer["ready"]
        measurement.warm_up_seconds = details["warm_up_seconds"]
        measurement.note, measurement.extra = details["note"], details["extra"]
        measurement.megaflop = megaflop(replace(work, **details["differs"]))
        ready[key] = worker, measurement
    return ready


def _run_rounds(ready: _Entries, work: Work, rounds: int, updates: int, say: Callable[[str], None]) -> None:
    for index in range(rounds):
        say(f"{work.name}: round {index + 1} of {rounds}")
        first = index % max(len(ready), 1)
        for worker, measurement in [*list(ready.values())[first:], *list(ready.values())[:first]]:
            if measurement.failed:
                continue
            try:
                answer = worker.ask({"run": updates})
            except WorkerError as error:
                measurement.fail(str(error))
                continue
            measurement.ms.append(1e3 * answer["seconds"] / answer["updates"])
            measurement.cores.append(answer["cores"])
    for worker, measurement in ready.values():
        if not measurement.failed:
            seconds = worker.ask({"sample": _SAMPLED_BATCHES})["seconds"]
            measurement.sampling_ms = None if seconds is None else 1e3 * seconds / _SAMPLED_BATCHES
