"""WSRL's warm-up."""

from __future__ import annotations

from sb3_o2o.finetuning.base import FineTuningCallback


class Warmup(FineTuningCallback):
    """
    Collect with the pre-trained policy's own sampled actions before the first online update, so that the replay
    buffer starts with what that policy does (WSRL, algorithm 1).

    :param steps: environment steps without updates, over all environments; 5000 in the paper
    """

    needs_replay_buffer = True

    def __init__(self, steps: int = 5000):
        super().__init__()
        if steps < 0:
            raise ValueError(f"Warmup(steps) must be >= 0, not {steps}.")
        self.steps = steps
        self.done = False

    def _on_training_start(self) -> None:
        if self.model.num_timesteps == 0 and self.model.replay_buffer.size() == 0:
            self.done = False  # a new fine-tuning run of a saved model
        if not self.done and self.steps > 0:
            self.model.set_phase("warmup")

    def allow_update(self) -> bool:
        """:return: whether the warm-up is over."""
        self.done = self.done or self.model.num_timesteps > self.steps
        return self.done
