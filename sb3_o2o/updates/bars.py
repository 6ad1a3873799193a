"""Progress bars for phases that count gradient steps."""

from __future__ import annotations

import sys
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


def losses_text(metrics: dict[str, float]) -> str:
    """
    :param metrics: of an update
    :return: the losses among them, for display
    """
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items() if name.endswith("_loss"))


class PhaseProgressBar:
    """
    One tick per gradient step, with the losses, in SB3's style.

    :param start: gradient steps made before
    :param total: gradient steps at the end
    :param description: text before the bar
    """

    def __init__(self, start: int, total: int, description: str):
        from rich.console import Console
        from tqdm.rich import tqdm

        # a console of its own: the bar of ``learn`` is running on the common one
        options = {"console": Console(file=sys.stderr)}
        self.description = description
        self.bar: Any = tqdm(total=total, initial=start, desc=description, unit="step", options=options)

    def update(self, metrics: dict[str, float]) -> None:
        """
        :param metrics: to show the losses of; where empty, what stands there stays
        """
        if metrics:
            self.bar.set_description(f"{self.description} ({losses_text(metrics)})", refresh=False)
        self.bar.update(1)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.refresh()
        self.bar.close()


class PretrainingProgressBar(BaseCallback):
    """
    One tick per gradient step, in SB3's style.

    :param total: gradient steps at the end
    :param description: text before the bar
    """

    def __init__(self, total: int, description: str = "pre-training"):
        super().__init__()
        self.total = total
        self.description = description
        self.bar: Any = None

    def on_preparation_step(self, name: str, done: int, total: int) -> None:
        """
        A bar of its own for what an objective trains first.

        :param name: text before the bar
        :param done: steps made
        :param total: steps to be made
        """
        if self.bar is None:
            self._open(name, total, done - 1)
        self.bar.update(1)
        if done == total:
            self._close()

    def _on_step(self) -> bool:
        if self.bar is None:  # not before: two bars cannot be shown at a time
            self._open(self.description, self.total, self.model.num_timesteps - 1)
        self.bar.update(1)
        return True

    def _open(self, description: str, total: int, done: int) -> None:
        from tqdm.rich import tqdm

        self.bar = tqdm(total=total - done, desc=description, unit="step")

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.refresh()
            self.bar.close()
        self.bar = None

    def _on_training_end(self) -> None:
        self._close()
