"""Progress as people and logs want it: bars in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

#: seconds between two lines of progress where there is no terminal
HEARTBEAT = 30.0
#: columns of a terminal from which there is room for rate and losses beside a bar
WIDE = 100


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
    """

    def __init__(self, console: Console):
        self.console = console
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
            _Clock(lambda task: task.time_remaining),
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
            self.progress.add_task(description, total=total, completed=done, unit=unit, losses=losses)
            return
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
        self._name = ""
        # when it began; when the last line was written, and how far it was
        self._began, self._since, self._done = 0.0, 0.0, 0

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
        now = self.clock()
        if name != self._name:
            self._name, self._began, self._since, self._done = name, now, now, done
            return
        passed, made = now - self._since, done - self._done
        is_end = self._done < total <= done
        if not is_end and (passed < HEARTBEAT or made < 1):
            return
        self._since, self._done = now, done
        line = f"{name:<8} {done:>9,} of {total:,} {unit}"
        if is_end:
            line += f" in {clock_text(now - self._began)}"
        else:
            line += f", {rate_text(made / passed)}, {clock_text((total - done) * passed / made)} left"
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
        speed = task.finished_speed or task.speed
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
