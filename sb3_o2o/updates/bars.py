"""Progress of phases that count gradient steps."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback

from sb3_o2o.progress import Display, display_on

_UNIT = "gradient steps"


def losses_text(metrics: Mapping[str, float]) -> str:
    """
    :param metrics: of an update
    :return: the losses among them, for display
    """
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items() if name.endswith("_loss"))


def close_bars(callbacks: Iterable[BaseCallback]) -> None:
    """
    Close the bars of ``learn``, which Stable-Baselines3 leaves open where a call ends in an error: the attempt that
    follows opens another one, and a terminal has room for one.

    :param callbacks: of a call that is over
    """
    for each in callbacks:
        if isinstance(each, ProgressBarCallback) and hasattr(each, "pbar"):
            each.pbar.close()  # again, where it is closed: nothing


class PhaseProgressBar:
    """
    A bar for the gradient steps of a phase, with the losses where there is room; lines where there is no terminal.

    :param start: gradient steps made before
    :param total: gradient steps at the end
    :param description: text before the bar
    """

    def __init__(self, start: int, total: int, description: str):
        self.description = description
        self.done, self.total = start, total
        # a console of its own: the bar of ``learn`` is running on the common one
        self.display: Display = display_on(Console(file=sys.stderr))
        self.display.open()
        self.display.show(description, _UNIT, start, total)

    def update(self, metrics: Mapping[str, float]) -> None:
        """
        :param metrics: to show the losses of; where empty, what stands there stays
        """
        self.done += 1
        self.display.show(self.description, _UNIT, self.done, self.total, losses_text(metrics))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.display.close()


class PretrainingProgressBar(BaseCallback):
    """
    A bar for the gradient steps of pre-training, and one for what an objective trains first.

    :param total: gradient steps at the end
    :param description: text before the bar
    """

    def __init__(self, total: int, description: str = "pre-training"):
        super().__init__()
        self.total = total
        self.description = description
        self.display: Display = display_on(Console())

    def _on_training_start(self) -> None:
        self.display.open()

    def on_preparation_step(self, name: str, done: int, total: int) -> None:
        """
        A bar of its own for what an objective trains first.

        :param name: text before the bar
        :param done: steps made
        :param total: steps to be made
        """
        self.display.show(name, _UNIT, done, total)

    def _on_step(self) -> bool:
        self.display.show(self.description, _UNIT, self.model.num_timesteps, self.total)
        return True

    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.display.close()
