"""What stock Stable-Baselines3 algorithms can have of ours: an offline phase of their own updates."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.checked import checked
from sb3_o2o.data import MixedReplayBuffer
from sb3_o2o.kinds import Count


class OfflineUpdates(BaseCallback):
    """
    Updates of a stock SAC, TD3, DDPG or TQC on the dataset of its :class:`~sb3_o2o.data.MixedReplayBuffer` before the
    first environment step. They are the algorithm's own: nothing is conservative about them, which is as good as
    updates on a dataset alone can be without an offline objective. Give the algorithm ``learning_starts=0``, or it
    acts at random first. A model that has been updated before skips them.

    ``callback: [{sb3_o2o.zoo.stock.OfflineUpdates: {gradient_steps: 10000}}]`` in RL Zoo's files.

    :param gradient_steps: updates, > 0
    :param block: updates between two looks at whether to stop, > 0
    :raises ValueError: when training starts, for a model without such a buffer
    """

    @checked
    def __init__(self, gradient_steps: Count, block: Count = 100):
        super().__init__()
        self.gradient_steps = gradient_steps
        self.block = block

    def _init_callback(self) -> None:
        if not isinstance(getattr(self.model, "replay_buffer", None), MixedReplayBuffer):
            raise ValueError(
                "OfflineUpdates needs a dataset in the model's replay buffer: replay_buffer_class=MixedReplayBuffer, "
                "replay_buffer_kwargs={'dataset': …}."
            )

    def _on_training_start(self) -> None:
        model: Any = self.model
        if model._n_updates > 0:
            return
        while model._n_updates < self.gradient_steps:
            model.train(min(self.block, self.gradient_steps - model._n_updates), batch_size=model.batch_size)
        self.logger.record("offline/n_updates", model._n_updates)
        self.logger.dump(self.num_timesteps)

    def _on_step(self) -> bool:
        return True
