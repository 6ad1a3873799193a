"""Where batches of the offline phase come from: the dataset."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch as th

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer
from sb3_o2o.objectives import Batch
from sb3_o2o.updates.finetuning_run import FineTuningRun
from sb3_o2o.updates.phases import PRETRAINING


@lru_cache(maxsize=16)
def _constant(value: float, device: th.device) -> th.Tensor:
    """A number on a device, to be expanded: torch refuses to write into that."""
    with th.inference_mode(False):  # whoever asks first, others will differentiate
        return th.tensor(value, dtype=th.float32, device=device)


class SamplingMixin(FineTuningRun):
    """Opens datasets, puts rewards on the training scale, and draws batches from them."""

    def _check_reward_scale(self) -> None:
        """:raises ValueError: where rewards reach a batch on another way than through this model"""
        if (self.reward_scale, self.reward_shift) == (1.0, 0.0):
            return
        if self._vec_normalize_env is not None:
            raise ValueError(
                "reward_scale and reward_shift cannot be combined with VecNormalize, which stores and scales raw "
                "rewards itself: leave them at 1 and 0, or do without VecNormalize."
            )

    def load_dataset(self, source: Any) -> OfflineDataset:
        """
        Open a dataset, check it against the spaces of this model, and put its rewards on the training scale.

        :param source: what :meth:`~sb3_o2o.data.OfflineDataset.load` accepts
        :return: the dataset
        :raises ValueError: if it does not fit
        """
        dataset = OfflineDataset.load(
            source,
            observation_space=self.observation_space,
            action_space=self.action_space,
            **(self.dataset_kwargs or {}),
        )
        dataset.check_compatible(self.observation_space, self.action_space)
        if (self.reward_scale, self.reward_shift) != (1.0, 0.0):
            dataset = dataset.with_rewards(self.reward_scale, self.reward_shift)
        return dataset

    def open_offline_buffer(
        self, source: Any = None, for_whom: str = "pretrain", *, whole_episodes: bool = False
    ) -> OfflineReplayBuffer:
        """
        A buffer with a random generator of its own on a dataset.

        :param source: a dataset; the one of the last ``pretrain``, or of the constructor, by default
        :param for_whom: who asks, for the error message
        :param whole_episodes: a transition leads to the end of its episode, for Monte-Carlo returns
        :return: the buffer
        :raises ValueError: if there is no dataset
        """
        if source is None and self.offline_buffer is not None:
            dataset = self.offline_buffer.dataset
        else:
            source = self.dataset if source is None else source
            if source is None:
                raise ValueError(
                    f"{for_whom} needs a dataset: pass dataset=… to it, to the constructor or to load_offline."
                )
            dataset = self.load_dataset(source)
        objectives = (self.offline_objective, self.finetuning_objective)
        self._dataset_opened(dataset)
        # each buffer a stream of its own, all fixed by the model's seed
        seed = (
            None
            if self.seed is None
            else int(np.random.SeedSequence([self.seed, self._n_offline_buffers]).generate_state(1)[0])
        )
        self._n_offline_buffers += 1
        return OfflineReplayBuffer(
            dataset,
            self.observation_space,
            self.action_space,
            self.device,
            n_steps=None if whole_episodes else self._offline_n_steps,
            gamma=self.gamma,
            seed=seed,
            returns_to_go=any(objective.needs_returns for objective in objectives),
        )

    @property
    def _offline_n_steps(self) -> int:
        """Steps over which a batch of the dataset sums its rewards."""
        return 1

    def _dataset_opened(self, dataset: OfflineDataset) -> None:
        """A dataset is about to be drawn from."""

    def _sample(self, batch_size: int) -> Batch:
        """
        :param batch_size: number of transitions
        :return: from the dataset: that of a gradient-only phase, or of ``pretrain``
        """
        buffer = self.offline_buffer if self._phase_in_progress is None else self._phase_in_progress[1]
        assert buffer is not None
        return self.to_batch(buffer.sample(batch_size, env=self._vec_normalize_env))

    def to_batch(self, samples: Any) -> Batch:
        """
        :param samples: what a buffer returned
        :return: the same as objectives take it
        """
        objective = self.offline_objective if self.phase == PRETRAINING else self.finetuning_objective
        discounts = samples.discounts
        rewards = samples.rewards.flatten()
        returns = getattr(samples, "returns_to_go", None)
        return Batch(
            samples.observations,
            samples.actions,
            samples.next_observations,
            rewards,
            samples.dones.flatten(),
            _constant(objective.gamma, rewards.device).expand(len(rewards))
            if discounts is None
            else discounts.flatten(),
            None if returns is None else returns.flatten(),
        )
