"""What a running training shows: a bar for each phase, a line for each evaluation, a table at the end."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from sb3_o2o.evaluation import (
    Evaluation,
    NormalizedEvalCallback,
    ReferenceScore,
    drop_at_switch,
    read_evaluations,
    steps_to_recover,
)
from sb3_o2o.runs.folder import RunFolder
from sb3_o2o.runs.training import Prepared, RunListener
from sb3_o2o.updates.bars import losses_text

_UNITS = {"offline": "gradient steps", "online": "environment steps"}


class _Losses(TextColumn):
    """What gives way where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class _Tasks:
    """
    One bar for each name. The callback keeps one object for its life: of plain attributes, such as None, it would get
    those of the interrupted run back.

    :param console: where to write
    """

    def __init__(self, console: Console):
        self.console = console
        self.progress: Progress | None = None

    def open(self) -> None:
        """Begin with no bar."""
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            _Losses("{task.fields[losses]}", table_column=Column()),
            console=self.console,
            refresh_per_second=4,
        )
        self.progress.start()

    def close(self) -> None:
        """Take the bars down, which leaves the terminal as it was."""
        if self.progress is not None:
            self.progress.stop()
        self.progress = None

    def show(self, name: str, unit: str, done: int, total: int, losses: str = "") -> None:
        """
        Move a bar, which is made the first time. Where there are to be none, nothing happens.

        :param name: text before the bar
        :param unit: what is counted
        :param done: steps made
        :param total: steps to be made
        :param losses: text behind it; what stands there stays by default
        """
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


class Bars(RunListener):
    """
    Progress bars in a terminal, plain lines elsewhere.

    :param console: where to write
    :param quiet: write nothing
    """

    def __init__(self, console: Console, quiet: bool = False):
        super().__init__()
        self.console = console
        self.quiet = quiet
        self._tasks = _Tasks(console)
        self._phase = ""
        self._total = 0

    def begin_phase(self, phase: str, done: int, total: int, evaluation: NormalizedEvalCallback) -> None:
        super().begin_phase(phase, done, total, evaluation)
        self._phase, self._total = phase, total
        if self.quiet or not self.console.is_terminal:
            return
        self._tasks.open()
        self._tasks.show(phase, _UNITS[phase], done, total)

    def on_preparation_step(self, name: str, done: int, total: int) -> None:
        """
        A bar of its own for what an objective trains before pre-training.

        :param name: text before the bar
        :param done: steps made
        :param total: steps to be made
        """
        self._tasks.show(name, _UNITS["offline"], done, total)

    def on_phase_step(self, name: str, done: int, total: int, metrics: dict[str, float]) -> None:
        """
        A bar of its own for a phase of fine-tuning that makes no environment steps.

        :param name: text before the bar
        :param done: updates made
        :param total: updates to be made
        :param metrics: to show the losses of; where empty, what stands there stays
        """
        self._tasks.show(name, _UNITS["offline"], done, total, losses_text(metrics))

    def _on_step(self) -> bool:
        self._tasks.show(self._phase, _UNITS[self._phase], self.num_timesteps, self._total)
        return super()._on_step()

    def _on_training_end(self) -> None:
        super()._on_training_end()
        self.close()

    def evaluated(self, step: int, result: Evaluation) -> None:
        if self.quiet:
            return
        unit = "return" if result.normalized is None else "score"
        success = "" if result.successes is None else f"   success {100 * result.successes.mean():3.0f} %"
        self.console.print(
            f"{self._phase:<8} {step:>9,} {_UNITS[self._phase]:<17}  "
            f"{unit} {result.score:8.1f} ± {result.deviation:.1f}{success}",
            highlight=False,
        )

    def close(self) -> None:
        """Takes the bar down, which leaves the terminal as it was."""
        self._tasks.close()


def summary_table(prepared: Prepared, folder: RunFolder) -> Table:
    """
    How the run went: dataset, offline and fine-tuned policy side by side, and the switch in three numbers.

    :param prepared: the run
    :param folder: its folder, with the evaluations
    """
    reference, config = prepared.reference, prepared.config
    unit = "return" if reference is None else "normalised score"
    table = Table(
        title=f"{config.environment.id}, {config.recipe or 'no recipe'}, seed {config.seed}", title_justify="left"
    )
    table.add_column("policy")
    table.add_column(unit, justify="right")
    table.add_column("episodes", justify="right")
    returns = prepared.dataset_returns
    if returns is not None:
        name = Path(str(config.dataset)).name if Path(str(config.dataset)).exists() else str(config.dataset)
        table.add_row(f"dataset ({name})", _mean(returns, reference), str(len(returns)))
    offline, online = read_evaluations(folder.path / "offline"), read_evaluations(folder.path / "online")
    start = None if online is None else online[1][0]
    if start is None and offline is not None:
        start = offline[1][-1]
    if start is not None:
        trained = config.pretrain_steps or config.source is not None
        table.add_row("offline policy" if trained else "untrained policy", _mean(start, reference), str(len(start)))
    if online is not None and len(online[0]) > 1:
        steps, values = online
        table.add_row(f"fine-tuned policy ({steps[-1]:,} steps)", _mean(values[-1], reference), str(values.shape[1]))
        scores = (values if reference is None else reference.normalize(values)).mean(axis=1)
        table.caption = (
            f"drop after the switch {drop_at_switch(steps, scores, scores[0]):.1f}, "
            f"steps to recover {steps_to_recover(steps, scores, scores[0]):,.0f}"
        )
        table.caption_justify = "left"
    return table


def _mean(returns: NDArray[Any], reference: ReferenceScore | None) -> str:
    values = returns if reference is None else reference.normalize(returns)
    return f"{values.mean():.1f} ± {values.std():.1f}"
