"""What a running training shows: how far it is, its evaluations, a table at the end."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sb3_o2o.evaluation import (
    Evaluation,
    NormalizedEvalCallback,
    ReferenceScore,
    drop_at_switch,
    read_evaluations,
    steps_to_recover,
)
from sb3_o2o.progress import Display, display_on
from sb3_o2o.runs.folder import RunFolder
from sb3_o2o.runs.training import Prepared, RunListener
from sb3_o2o.updates.bars import losses_text

_UNITS = {"offline": "gradient steps", "online": "environment steps"}


class RunProgress(RunListener):
    """
    What a run says while it trains: bars in a terminal, a line now and then elsewhere, and a line for each evaluation.

    :param console: where to write
    """

    def __init__(self, console: Console):
        super().__init__()
        self.console = console
        # one object for the callback's life: a plain attribute would come back from the bundle of an interrupted run
        self.display: Display = display_on(console)
        self._phase = ""
        self._total = 0

    def begin_phase(self, phase: str, done: int, total: int, evaluation: NormalizedEvalCallback) -> None:
        super().begin_phase(phase, done, total, evaluation)
        self._phase, self._total = phase, total
        self.display.open()
        self.display.show(phase, _UNITS[phase], done, total)

    def on_preparation_step(self, name: str, done: int, total: int) -> None:
        """
        A bar of its own for what an objective trains before pre-training.

        :param name: text before the bar
        :param done: steps made
        :param total: steps to be made
        """
        self.display.show(name, _UNITS["offline"], done, total)

    def on_phase_step(self, name: str, done: int, total: int, metrics: dict[str, float]) -> None:
        """
        A bar of its own for a phase of fine-tuning that makes no environment steps.

        :param name: text before the bar
        :param done: updates made
        :param total: updates to be made
        :param metrics: to show the losses of; where empty, what stands there stays
        """
        self.display.show(name, _UNITS["offline"], done, total, losses_text(metrics))

    def _on_step(self) -> bool:
        self.display.show(self._phase, _UNITS[self._phase], self.num_timesteps, self._total)
        return super()._on_step()

    def _on_training_end(self) -> None:
        super()._on_training_end()
        self.close()

    def evaluated(self, step: int, result: Evaluation) -> None:
        unit = "return" if result.normalized is None else "score"
        success = "" if result.successes is None else f"   success {100 * result.successes.mean():3.0f} %"
        self.console.print(
            f"{self._phase:<8} {step:>9,} {_UNITS[self._phase]:<17}  "
            f"{unit} {result.score:8.1f} ± {result.deviation:.1f}{success}",
            highlight=False,
        )

    def close(self) -> None:
        """Takes bars down, which leaves the terminal as it was."""
        self.display.close()


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
