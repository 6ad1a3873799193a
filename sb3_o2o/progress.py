"""Progress as people and logs want it: bars in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

#: seconds between two lines of progress where there is no terminal
HEARTBEAT = 30.0
#: columns of a terminal from which there is room for rate and losses beside a bar
WIDE = 100
#: seconds until what a speed was counts for about a third in what it is said to be
MEMORY = 300.0


class Pace:
    """
    Steps per second of late. Evaluations and whatever else passes between two steps are in it, as they are in the time
    that is left.

    :param step: where it begins
    :param clock: gives the present time in seconds
    """

    def __init__(self, step: int = 0, clock: Callable[[], float] = time.monotonic):
        self.step = step
        self.clock = clock
        self.speed: float | None = None
        self._since = clock()
        self._steps = self._seconds = 0.0

    def silent_for(self) -> float:
        """:return: seconds since it was told last how far it is"""
        return self.clock() - self._since

    def reached(self, step: int) -> None:
        """
        :param step: how far it is now
        """
        passed = self.silent_for()
        kept = math.exp(-passed / MEMORY)
        self._steps = kept * self._steps + step - self.step
        self._seconds = kept * self._seconds + passed
        self.step, self._since = step, self._since + passed
        self.speed = self._steps / self._seconds if self._steps > 0 and self._seconds > 0 else None

    def seconds_left(self, total: float) -> float | None:
        """
        :param total: where it ends
        :return: seconds until then at this speed; None as long as there was no step
        """
        return None if self.speed is None else max(total - self.step, 0) / self.speed


class Display(Protocol):
    """Where progress is shown."""

    def open(self) -> None:
        """Begin with nothing shown."""

    def close(self) -> None:
        """Leave the terminal as it was."""

    def show(self, name: str, unit: str, done: int, total: int, losses: str = "") -> None:
        """
        Say how far something is. Before :meth:`open` and after :meth:`close` nothing happens.

        :param name: what it is, such as ``online``
        :param unit: what is counted
        :param done: steps made
        :param total: steps to be made
        :param losses: text behind it; what stands there stays by default
        """


def display_on(console: Console) -> Display:
    """
    :param console: where to write
    :return: bars where they can be drawn, else lines
    """
    return Bars(console) if console.is_terminal or console.is_jupyter else Lines(console)


class Bars:
    """
    One bar for each name, on a line of its own however narrow the terminal.

    :param console: where to write
    :param clock: gives the present time in seconds
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.console = console
        self.clock = clock
        self.progress: Progress | None = None

    def open(self) -> None:
        """See :class:`Display`."""
        whole = Column(no_wrap=True)
        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", table_column=whole),
            BarColumn(bar_width=12 if self.console.width >= WIDE else 8, table_column=whole),
            MofNCompleteColumn(table_column=whole),
            TextColumn("{task.fields[unit]}", table_column=whole),
            _Clock(lambda task: task.finished_time if task.finished else task.elapsed),
            _Clock(_left),
        ]
        if self.console.width >= WIDE:
            columns += [_Rate(table_column=whole), _Losses("{task.fields[losses]}", table_column=Column())]
        self.progress = Progress(*columns, console=self.console, refresh_per_second=4)
        self.progress.start()

    def close(self) -> None:
        """See :class:`Display`."""
        if self.progress is not None:
            self.progress.stop()
        self.progress = None

    def show(self, name: str, unit: str, done: int, total: int, losses: str = "") -> None:
        """See :class:`Display`."""
        if self.progress is None:
            return
        description = f"[bold]{name:<8}[/]"
        task = next((task.id for task in self.progress.tasks if task.description == description), None)
        if task is None:
            fields: dict[str, Any] = {"unit": unit, "losses": losses, "pace": Pace(done, self.clock)}
            self.progress.add_task(description, total=total, completed=done, **fields)
            return
        self.progress.tasks[task].fields["pace"].reached(done)
        self.progress.update(task, completed=done)
        if losses:
            self.progress.update(task, losses=losses)


class Lines:
    """
    A line now and then, with rate and time left, and one at the end: what a log file or a pipe can hold.

    :param console: where to write
    :param clock: gives the present time in seconds
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.console = console
        self.clock = clock
        self._is_open = False
        self._name, self._began = "", 0.0
        self._pace = Pace(clock=clock)  # from line to line

    def open(self) -> None:
        """See :class:`Display`."""
        self._is_open, self._name = True, ""

    def close(self) -> None:
        """See :class:`Display`."""
        self._is_open = False

    def show(self, name: str, unit: str, done: int, total: int, losses: str = "") -> None:
        """See :class:`Display`."""
        if not self._is_open:
            return
        if name != self._name:
            self._name, self._began, self._pace = name, self.clock(), Pace(done, self.clock)
            return
        is_end = self._pace.step < total <= done
        if not is_end and (self._pace.silent_for() < HEARTBEAT or done <= self._pace.step):
            return
        self._pace.reached(done)
        speed, left = self._pace.speed, self._pace.seconds_left(total)
        line = f"{name:<8} {done:>9,} of {total:,} {unit}"
        if is_end:
            line += f" in {clock_text(self.clock() - self._began)}"
        elif speed is not None and left is not None:
            line += f", {rate_text(speed)}, {clock_text(left)} left"
        self.console.print(line + (f"   {losses}" if losses else ""), markup=False, highlight=False, soft_wrap=True)


class Remarks:
    """
    Says what is being done, at most once in :data:`HEARTBEAT` seconds.

    :param console: where to write
    :param clock: gives the present time in seconds
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self.console = console
        self.clock = clock
        self._next = clock()

    def __call__(self, text: str) -> None:
        """
        :param text: what is being done
        """
        if self.clock() >= self._next:
            self._next = self.clock() + HEARTBEAT
            self.console.print(text, highlight=False, soft_wrap=True)


def _left(task: Task) -> float | None:
    seconds: float | None = task.fields["pace"].seconds_left(task.total or 0)
    return seconds


class _Clock(ProgressColumn):
    """A time in hours, minutes and seconds, that of long runs included."""

    max_refresh = 0.5

    def __init__(self, seconds: Callable[[Task], float | None]):
        super().__init__(Column(no_wrap=True))
        self.seconds = seconds

    def render(self, task: Task) -> Text:
        seconds = self.seconds(task)
        return Text("-:--:--" if seconds is None else clock_text(seconds), style="progress.remaining")


class _Rate(ProgressColumn):
    """Steps per second."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        speed = task.fields["pace"].speed
        return Text("" if speed is None else rate_text(speed), style="progress.data.speed")


class _Losses(TextColumn):
    """What gives way where there is not enough room."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def clock_text(seconds: float) -> str:
    """
    :param seconds: a time span
    :return: the same as ``2:03:45``
    """
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}"


def counted(number: int, word: str) -> str:
    """
    :param number: how many
    :param word: of what, for one
    :return: the same as ``1 run`` or ``2 runs``
    """
    return f"{number} {word}{'s' * (number != 1)}"


def rate_text(per_second: float) -> str:
    """
    :param per_second: a rate
    :return: the same in a few characters
    """
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s"
