"""What a running experiment shows: a table that lives in a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sb3_o2o.progress import clock_text, rate_text

if TYPE_CHECKING:
    from sb3_o2o.experiments.grid_folder import Status
    from sb3_o2o.experiments.plan import Plan

#: Lines of a terminal that are left to other things than the table's rows.
_MARGIN = 6
#: what is shown first where there is not enough room for all
_ORDER = ("running", "failed", "blocked", "interrupted", "waiting", "finished")


class ExperimentDisplay:
    """
    Shows how far the runs of an experiment are.

    :param console: where to write
    :param plan: the runs
    """

    def __init__(self, console: Console, plan: Plan):
        self.console, self.plan = console, plan
        self.width = max(len(run.name) for run in plan.runs)
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._said: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> ExperimentDisplay:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, statuses: Mapping[str, Status]) -> None:
        """
        :param statuses: of all runs
        """
        if self.live is not None:
            self.live.update(self.table(statuses), refresh=True)
            return
        for name, status in statuses.items():
            evaluations = sum(len(steps) for steps in status.times.values())
            if self._said.get(name, ("waiting", 0)) != (status.state, evaluations):
                self._said[name] = (status.state, evaluations)
                self.console.print(_line(name.ljust(self.width), status), markup=False, highlight=False, soft_wrap=True)

    def table(self, statuses: Mapping[str, Status]) -> Table:
        """
        :param statuses: of all runs
        :return: a row for each, as many as the terminal has room for
        """
        states = [status.state for status in statuses.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in _ORDER if state in states)
        table = Table(title=f"{self.plan.grid.name}: {counts}", title_justify="left", box=None, pad_edge=False)
        for column in ("run", "state", "phase", "step", "score", "speed", "left"):
            is_text = column in ("run", "state", "phase")
            table.add_column(column, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis")
        room = max(self.console.height - _MARGIN, 3)
        rows = sorted(statuses.items(), key=lambda item: _ORDER.index(item[1].state))
        for name, status in rows[:room]:
            table.add_row(name, _coloured(status.state), status.phase, *_numbers(status))
        if len(rows) > room:
            table.caption, table.caption_justify = f"… and {len(rows) - room} more", "left"
        return table


def _coloured(state: str) -> str:
    colour = {"running": "cyan", "failed": "red", "blocked": "red", "interrupted": "yellow", "finished": "green"}
    return f"[{colour[state]}]{state}[/]" if state in colour else state


def _numbers(status: Status) -> tuple[str, str, str, str]:
    step = f"{status.step:,}/{status.total:,}" if status.total else ""
    score = "" if status.score is None else f"{status.score:.1f}"
    running = status.state == "running"
    speed = rate_text(status.speed) if status.speed and running else ""
    left = status.seconds_left
    return step, score, speed, "" if left is None else clock_text(left)


def _line(name: str, status: Status) -> str:
    step, score, speed, left = _numbers(status)
    said = [f"{name}  {status.state:<11}", status.phase, step]
    said += [f"{status.unit} {score}" if score else "", speed, f"{left} left" if left else "", status.error]
    return "  ".join(text for text in said if text)
