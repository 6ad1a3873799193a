"""Where batches come from: the dataset, the online buffer, or a callback."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_o2o.algorithms.arguments import AlgorithmArguments
from sb3_o2o.algorithms.phases import PRETRAINING
from sb3_o2o.data import (
    MixedReplayBuffer,
    MonteCarloDictReplayBuffer,
    MonteCarloReplayBuffer,
    OfflineDataset,
    OfflineReplayBuffer,
)
from sb3_o2o.data.filling import fill_replay_buffer
from sb3_o2o.objectives import Batch


class SamplingMixin(AlgorithmArguments):
    """Opens datasets, puts rewards on the training scale, and draws batches."""

    def _monte_carlo_buffer(self) -> tuple[type[ReplayBuffer], dict[str, Any]] | None:
        """
        :return: class and arguments of the buffer that an online objective with returns-to-go needs; None for SB3's
            choice, or the user's
        """
        online = self.available_objectives.get(self.online_objective or self.default_online_objective)
        if online is None or not online.needs_returns:
            return None
        if self.n_steps > 1:
            raise ValueError(f"Online objective {self.online_objective!r} needs n_steps=1, not {self.n_steps}.")
        if self.replay_buffer_class not in (None, ReplayBuffer, DictReplayBuffer):
            return None
        is_dict = isinstance(self.observation_space, spaces.Dict)
        kwargs = {**self.replay_buffer_kwargs, "gamma": self.gamma, "negative_reward": self._negative_reward}
        return MonteCarloDictReplayBuffer if is_dict else MonteCarloReplayBuffer, kwargs

    def _check_reward_scale(self) -> None:
        """:raises ValueError: where rewards reach a batch on another way than through this model"""
        if (self.reward_scale, self.reward_shift) == (1.0, 0.0):
            return
        if isinstance(self.replay_buffer, MixedReplayBuffer | HerReplayBuffer):
            name = type(self.replay_buffer).__name__
            raise ValueError(
                f"reward_scale and reward_shift do not reach what {name} makes itself: leave them at 1 and 0, "
                "and use SymmetricReplay to mix a dataset into the batches."
            )
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

    def open_offline_buffer(self, source: Any = None, for_whom: str = "pretrain") -> OfflineReplayBuffer:
        """
        A buffer with a random generator of its own on a dataset.

        :param source: a dataset; the one of the last ``pretrain``, or of the constructor, by default
        :param for_whom: who asks, for the error message
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
        if isinstance(self.replay_buffer, MonteCarloReplayBuffer | MonteCarloDictReplayBuffer):
            # an online episode fails by the same mark as one of the dataset
            self.replay_buffer.negative_reward = self._negative_reward = dataset.negative_reward()
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
            n_steps=self.n_steps,
            gamma=self.gamma,
            seed=seed,
            returns_to_go=any(objective.needs_returns for objective in objectives),
        )

    def fill_replay_buffer(self, dataset: OfflineDataset) -> None:
        """
        Load transitions into the online buffer, as if they had been collected.

        :param dataset: transitions on the training scale of rewards
        """
        assert self.replay_buffer is not None
        fill_replay_buffer(self.replay_buffer, dataset)

    def _store_transition(
        self, replay_buffer: Any, buffer_action: np.ndarray, new_obs: Any, reward: np.ndarray, *rest: Any
    ) -> None:
        if (self.reward_scale, self.reward_shift) != (1.0, 0.0):
            reward = reward * self.reward_scale + self.reward_shift
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, *rest)

    def _sample(self, batch_size: int) -> Batch:
        """
        :param batch_size: number of transitions
        :return: from the dataset, from whichever callback answers, or from the online buffer
        """
        if self.phase == PRETRAINING:
            assert self.offline_buffer is not None
            samples: Any = self.offline_buffer.sample(batch_size, env=self._vec_normalize_env)
        elif self._phase_in_progress is not None:
            samples = self._phase_in_progress[1].sample(batch_size, env=self._vec_normalize_env)
        else:
            samples = self.hooks.first("sample", batch_size)
            if samples is None:
                samples = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
        return self.to_batch(samples)

    def to_batch(self, samples: Any) -> Batch:
        """
        :param samples: what a replay buffer gives
        :return: the same with flat per-sample quantities, and a discount for each
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
            th.full_like(rewards, objective.gamma) if discounts is None else discounts.flatten(),
            None if returns is None else returns.flatten(),
        )

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        actions = self.hooks.first("act", self._last_obs)
        if actions is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        return actions, self.policy.scale_action(actions)
