"""Progress bar for phases that count gradient steps."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


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

    def _on_training_start(self) -> None:
        from tqdm.rich import tqdm

        self.bar = tqdm(total=self.total - self.model.num_timesteps, desc=self.description, unit="step")

    def _on_step(self) -> bool:
        self.bar.update(1)
        return True

    def _on_training_end(self) -> None:
        self.bar.refresh()
        self.bar.close()
