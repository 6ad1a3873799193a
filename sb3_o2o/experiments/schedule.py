"""Runs an experiment: what can start starts, what fails blocks only what needs it, and a stop is for all."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Protocol

from sb3_o2o.experiments.grid_folder import (
    BLOCKED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    WAITING,
    Status,
    finished_status,
)
from sb3_o2o.experiments.plan import Plan, PlannedRun
from sb3_o2o.experiments.results import add_to_tables

#: Seconds between two looks at what runs.
INTERVAL = 0.5


class Task(Protocol):
    """A run that was started somewhere."""

    def is_over(self) -> bool:
        """Whether it has ended, however it did."""

    def ending(self) -> str:
        """Of one that is over: what is known of an end that the run itself could not write down; may be empty."""

    def stop(self, at_once: bool) -> None:
        """
        Ask it to save and end.

        :param at_once: end it without saving
        """


class Launcher(Protocol):
    """Where runs are made."""

    #: runs at the same time; None leaves it to the cluster
    workers: int | None

    def start(self, folder: Path) -> Task:
        """
        :param folder: of the run, which goes on with what it has
        :return: the started run
        """

    def close(self) -> None:
        """Nothing more will be started."""


Watcher = Callable[[Mapping[str, Status]], None]


class Schedule:
    """
    The runs of an experiment, from the first to the last.

    :param plan: the runs; their folders exist
    :param launcher: where they are made
    :param watcher: is shown the status of every run now and then
    """

    def __init__(self, plan: Plan, launcher: Launcher, watcher: Watcher | None = None):
        self.plan, self.launcher, self.watcher = plan, launcher, watcher
        self.statuses = {run.name: self._before(run) for run in plan.runs}
        self.tasks: dict[str, Task] = {}
        self.stops = 0
        self._stopped = 0
        #: what could not be written into the tables, and why
        self.table_errors: list[str] = []

    def _before(self, run: PlannedRun) -> Status:
        """What an earlier call left: finished runs stay, all others are to be made or to go on."""
        path = self.plan.folder / run.name
        found = finished_status(path, run.phase)
        if found is not None:
            return found
        status = Status.read(path)
        status.state, status.error = WAITING, ""
        return status

    def run(self) -> Mapping[str, Status]:
        """
        :return: the status of every run, when nothing is left that can run or all was stopped
        """
        with self._stop_on_signal():
            self._note([self.plan.folder / name for name, status in self.statuses.items() if status.state == FINISHED])
            try:
                self._start_what_can()
                while self.tasks:
                    self._look()
                    self._stop_if_asked()
                    self._start_what_can()
                    if self.watcher is not None:
                        self.watcher(self.statuses)
                    if self.tasks and not any(task.is_over() for task in self.tasks.values()):
                        time.sleep(INTERVAL)
            finally:
                self.launcher.close()
        if self.stops:
            for status in self.statuses.values():
                if status.state == WAITING:
                    status.state = INTERRUPTED
        if self.watcher is not None:
            self.watcher(self.statuses)
        return self.statuses

    def _start_what_can(self) -> None:
        for run in self.plan.runs:
            status = self.statuses[run.name]
            if self.stops or status.state != WAITING:
                continue
            before = None if run.needs is None else self.statuses[run.needs].state
            if before in (FAILED, BLOCKED):
                status.state, status.error = BLOCKED, f"its pre-training {run.needs} failed"
            elif before in (None, FINISHED):
                if self.launcher.workers is not None and len(self.tasks) >= max(self.launcher.workers, 1):
                    return
                status.state = RUNNING
                self.tasks[run.name] = self.launcher.start(self.plan.folder / run.name)

    def _look(self) -> None:
        for name, task in list(self.tasks.items()):
            over = task.is_over()
            path = self.plan.folder / name
            status = self.statuses[name] = Status.read(path)
            if not over:
                status.state = RUNNING
                continue
            del self.tasks[name]
            if status.state not in (FINISHED, FAILED, INTERRUPTED):
                status.state = INTERRUPTED if self.stops else FAILED
                status.error = task.ending() or "its process ended without a word"
                with suppress(OSError):
                    status.write(path)
            self._note([path])

    def _note(self, paths: Sequence[Path]) -> None:
        """Runs have done so themselves where they could, but a table may have been moved away."""
        try:
            add_to_tables(self.plan.folder, paths)
        except (OSError, ValueError) as error:
            self.table_errors.append(str(error))

    def _stop_if_asked(self) -> None:
        if self._stopped < self.stops:
            self._stopped = self.stops
            for task in self.tasks.values():
                task.stop(at_once=self.stops > 1)

    @contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) has every run save itself, a second one ends all at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.stops += 1

        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main_thread else ()
        previous = {number: signal.signal(number, ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
