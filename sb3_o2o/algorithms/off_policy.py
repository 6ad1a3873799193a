"""What O2OSAC and O2OTD3 share beyond pre-training: the replay buffer, and updates from it."""

from __future__ import annotations

import io
import os
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn, Schedule, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import get_parameters_by_name, polyak_update

from sb3_o2o.algorithms.offline_to_online import OfflineToOnlineAlgorithm
from sb3_o2o.checked import check_keyword_arguments, checked
from sb3_o2o.data import MixedReplayBuffer, MonteCarloDictReplayBuffer, MonteCarloReplayBuffer, OfflineDataset
from sb3_o2o.data.compatibility import check_replay_buffer
from sb3_o2o.data.filling import fill_replay_buffer
from sb3_o2o.data.online import can_be_sampled, close_episodes
from sb3_o2o.data.rewards import scaled_rewards
from sb3_o2o.errors import warn
from sb3_o2o.files import whole_file
from sb3_o2o.kinds import READABLE, WRITABLE
from sb3_o2o.objectives import Objective, ReevaluationObjective, make_objective, objective_class
from sb3_o2o.objectives.overlay import goes_on
from sb3_o2o.plain.pickles import load_pickle
from sb3_o2o.transfer.archive import OFF_POLICY_ACTING
from sb3_o2o.updates.finite import TROUBLE
from sb3_o2o.updates.sampling import fit_normalizer

if TYPE_CHECKING:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm as _Base
else:
    _Base = object


#: what SB3 itself gives a replay buffer
_OF_BUFFERS = ("buffer_size", "observation_space", "action_space", "device", "n_envs", "optimize_memory_usage", "env")


class O2OOffPolicyAlgorithm(OfflineToOnlineAlgorithm, _Base):
    """Online updates from a replay buffer, with critics and their target networks."""

    default_online_objective: ClassVar[str]
    # constructor arguments, described at the algorithms
    online_objective: str | None
    online_objective_kwargs: dict[str, Any] | None
    n_critics: int
    policy_delay: int
    actor_critics: str
    qf_learning_rate: float | Schedule | None
    critic_subset: int | None
    subset_replacement: bool
    precision: str
    batch_norm_stats: list[th.Tensor]
    batch_norm_stats_target: list[th.Tensor]

    policy_arguments: ClassVar[tuple[str, ...]] = (
        *("n_critics", "critic_layer_norm", "actor_layer_norm", "normalize_observations", "precision"),
    )
    acting_arguments: ClassVar[dict[str, Any]] = OFF_POLICY_ACTING

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self.replay_buffer_kwargs = self.replay_buffer_kwargs or {}  # ``load(replay_buffer_kwargs=None)``
        given = self.replay_buffer_class, self.replay_buffer_kwargs
        self.n_critics = self.policy_kwargs.get("n_critics", self.n_critics)  # SB3's own way to say it
        self.constructor.check({"n_critics": self.n_critics})
        self._check_off_policy_arguments()
        self._resolve_action_noise()
        if self.replay_buffer_kwargs:
            kind = self.replay_buffer_class or DictReplayBuffer
            check_keyword_arguments("argument of the replay buffer", kind, self.replay_buffer_kwargs, skip=_OF_BUFFERS)
        buffer_class, buffer_kwargs = self._monte_carlo_buffer() or given
        self.replay_buffer_class, self.replay_buffer_kwargs = buffer_class, dict(buffer_kwargs)
        try:
            super()._setup_model()
        finally:
            # what the user gave: another objective, or other n_steps or gamma of ``load``, need another buffer
            self.replay_buffer_class, self.replay_buffer_kwargs = given
        # whoever reads it as a dataset, or loads it, has to know on which scale its rewards are
        self.replay_buffer.reward_scale, self.replay_buffer.reward_shift = self.reward_scale, self.reward_shift  # type: ignore[union-attr]

    def _check_off_policy_arguments(self) -> None:
        """:raises ValueError: for arguments that do not go together"""
        if self.critic_subset is not None and not 1 <= self.critic_subset <= self.n_critics:
            raise ValueError(f"critic_subset must lie in [1, n_critics={self.n_critics}], not {self.critic_subset}.")
        if self.subset_replacement and not self._draws_subsets():
            raise ValueError(
                "subset_replacement=True is about how critic_subset draws, and nothing draws: set critic_subset=…, or "
                "leave it out."
            )
        if self.actor_critics == "pairs" and self.n_critics % 2:
            raise ValueError(f"actor_critics='pairs' needs an even number of critics, not n_critics={self.n_critics}.")
        if self.actor_batch == "block" and self.policy_delay == 1:
            raise ValueError("actor_batch='block' needs policy_delay > 1: the actor then waits for the whole block.")

    def _draws_subsets(self) -> bool:
        """Whether any phase or objective is told to draw some of the critics."""
        kwargs = (self.objective_kwargs, self.online_objective_kwargs, self.pretrain_kwargs, self.online_arguments)
        drawn = (self.critic_subset, *((each or {}).get("critic_subset") for each in kwargs))
        return any(each is not None for each in drawn)

    def _resolve_action_noise(self) -> None:
        """A number, which is what YAML can hold, is the standard deviation of Gaussian noise."""
        noise: Any = self.action_noise
        if isinstance(noise, int | float):
            shape = self.action_space.shape
            self.action_noise = NormalActionNoise(np.zeros(shape), np.full(shape, float(noise)))  # type: ignore[arg-type]

    def networks_replaced(self) -> None:
        self._create_aliases()  # type: ignore[attr-defined]
        pairs = [(get_parameters_by_name(each, ["running_"]) for each in pair) for pair in self.target_pairs()]
        self.batch_norm_stats, self.batch_norm_stats_target = map(
            list, map(chain.from_iterable, zip(*pairs, strict=True))
        )

    def _make_finetuning_objective(self) -> Objective:
        if goes_on(type(self), vars(self)):
            return self.offline_objective
        online = self.online_objective or self.default_online_objective
        return make_objective(online, self.online_objective_kwargs, self, self.available_objectives)

    def reevaluation_objective(self) -> Objective:
        """
        :return: what re-evaluates the offline policy before fine-tuning
        :raises ValueError: if the online objective has no rule that evaluates it optimistically
        """
        return ReevaluationObjective(self)

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.qf_lr_schedule = self._schedule_or_default(self.qf_learning_rate)

    def _monte_carlo_buffer(self) -> tuple[type[ReplayBuffer], dict[str, Any]] | None:
        """
        :return: class and arguments of the buffer that an online objective with returns-to-go needs; None for SB3's
            choice, or the user's
        """
        name = self.online_objective or self.default_online_objective
        online = objective_class(name, self.available_objectives, type(self).__name__)
        if not online.needs_returns:
            return None
        if self.n_steps > 1:
            raise ValueError(f"Online objective {self.online_objective!r} needs n_steps=1, not {self.n_steps}.")
        if self.replay_buffer_class not in (None, ReplayBuffer, DictReplayBuffer):
            return None
        is_dict = isinstance(self.observation_space, spaces.Dict)
        kwargs = {**self.replay_buffer_kwargs, "gamma": self.gamma, "negative_reward": self.negative_reward}
        return MonteCarloDictReplayBuffer if is_dict else MonteCarloReplayBuffer, kwargs

    def check_reward_scale(self) -> None:
        if (self.reward_scale, self.reward_shift) != (1.0, 0.0) and isinstance(
            self.replay_buffer, MixedReplayBuffer | HerReplayBuffer
        ):
            name = type(self.replay_buffer).__name__
            raise ValueError(
                f"reward_scale and reward_shift do not reach what {name} makes itself: leave them at 1 and 0, "
                "and use SymmetricReplay to mix a dataset into the batches."
            )
        super().check_reward_scale()

    def act_from_the_first_step(self) -> None:
        self.learning_starts = 0

    # -- data ------------------------------------------------------------------------------------------------------

    @property
    def offline_n_steps(self) -> int:
        return self.n_steps

    def dataset_opened(self, dataset: OfflineDataset) -> None:
        if isinstance(self.replay_buffer, MonteCarloReplayBuffer | MonteCarloDictReplayBuffer):
            # an online episode fails by the same mark as one of the dataset
            self.replay_buffer.negative_reward = self.negative_reward = dataset.negative_reward()

    @checked
    def fill_replay_buffer(self, dataset: OfflineDataset) -> None:
        """
        Load transitions into the online buffer, as if they had been collected.

        :param dataset: transitions on the training scale of rewards
        """
        assert self.replay_buffer is not None
        fill_replay_buffer(self.replay_buffer, dataset)

    @checked
    def load_replay_buffer(  # type: ignore[override]
        self, path: Annotated[Any, READABLE], truncate_last_traj: bool = True, trust: bool = False
    ) -> None:
        """
        Stable-Baselines3's ``load_replay_buffer``, which runs no code of the file.

        :param path: what ``save_replay_buffer`` wrote, with or without the ending, or a file-like object
        :param truncate_last_traj: of hindsight's buffers: end the last trajectory, which is not gone on with
        :param trust: open a file that may run any code, as one with a buffer class of your own has to
        :raises UntrustedError: if it holds such a class, without ``trust=True``
        :raises ValueError: if it holds something else than a replay buffer, or what is collected next would not fit to
            it: another number of environments, other spaces, another scale of rewards
        """
        source = path.read() if isinstance(path, io.BufferedIOBase) else Path(path)
        if isinstance(source, Path) and not source.is_file():
            source = source.with_name(f"{source.name}.pkl")
        buffer = load_pickle(source, trust)
        if not isinstance(buffer, ReplayBuffer):
            raise ValueError(f"{path} holds a {type(buffer).__name__}, expected a replay buffer.")
        if not hasattr(buffer, "handle_timeout_termination"):  # of Stable-Baselines3 before 2.1
            buffer.handle_timeout_termination, buffer.timeouts = False, np.zeros_like(buffer.dones)
        if self.replay_buffer is not None:
            check_replay_buffer(buffer, self.replay_buffer, str(path))
        if isinstance(buffer, HerReplayBuffer):
            if self.env is None:
                raise ValueError("A replay buffer of hindsight needs the model's environment: set_env first.")
            buffer.set_env(self.env)
            if truncate_last_traj:
                buffer.truncate_last_trajectory()
        buffer.device = self.device
        self.replay_buffer = buffer

    @checked
    def save_replay_buffer(self, path: Annotated[Any, WRITABLE]) -> None:
        """
        Stable-Baselines3's ``save_replay_buffer``, into a file that is replaced when the new one is complete.

        :param path: of the file, whose ending may be left out (``.pkl``), or a binary file
        :raises OSError: if it cannot be written
        """
        if not isinstance(path, str | os.PathLike):
            super().save_replay_buffer(path)
            return
        target = Path(path)
        with whole_file(target if target.suffix else target.with_name(f"{target.name}.pkl")) as file:
            super().save_replay_buffer(file)  # type: ignore[arg-type]

    def _store_transition(
        self, replay_buffer: Any, buffer_action: np.ndarray, new_obs: Any, reward: np.ndarray, *rest: Any
    ) -> None:
        if (self.reward_scale, self.reward_shift) != (1.0, 0.0):
            reward = scaled_rewards(reward, self.reward_scale, self.reward_shift)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, *rest)

    def sample_online(self, batch_size: int) -> Any:
        """
        :param batch_size: number of transitions
        :return: samples from whichever callback answers, or from the online buffer
        """
        samples = self.hooks.answer("sample", batch_size)
        if samples is None:
            samples = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
        return samples

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """SB3's; before it, callbacks may run their gradient-only phases, and a stop may be asked for."""
        if not self.may_collect():
            return RolloutReturn(0, 0, continue_training=False)
        watch = self.loop.watch
        watch.before_updates()
        try:
            rollout = super().collect_rollouts(watch.env(env), callback, *args, **kwargs)
        except TROUBLE as error:
            watch.answer(error)  # raises unless the model has gone back to earlier weights
            self._begin_new_episodes()
            return RolloutReturn(0, 0, continue_training=True)
        if not rollout.continue_training:
            self._keep_step(callback.locals)
        if self.recipe_count is not None:
            self.call.rounds = self.recipe_count.rounds(self.gradient_steps, self.n_envs)
        return rollout

    def _keep_step(self, seen: dict[str, Any]) -> None:
        """
        A callback has stopped the run, and SB3 leaves the step that it saw at once: the next call would store a
        transition from the observation before it to the one after.

        :param seen: what the callback saw
        """
        self._update_info_buffer(seen["infos"], seen["dones"])
        names = ("buffer_actions", "new_obs", "rewards", "dones", "infos")
        self._store_transition(self.replay_buffer, *(seen[name] for name in names))
        for index in np.flatnonzero(seen["dones"]):
            self._episode_num += 1
            if self.action_noise is not None:
                self.action_noise.reset(**({"indices": [int(index)]} if self.n_envs > 1 else {}))

    def episodes_cut(self) -> None:
        close_episodes(self.replay_buffer)

    def _begin_new_episodes(self) -> None:
        """After a step that was not stored."""
        super()._begin_new_episodes()
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        if self.action_noise is not None:
            self.action_noise.reset()

    def note_on_counts(self) -> str | None:
        """See :class:`~sb3_o2o.recipes.counts.RecipeCount`."""
        count = self.recipe_count
        return None if count is None else count.note_on_updates(self.gradient_steps, self.n_envs)

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        actions = self.hooks.answer("act", self._last_obs)
        if actions is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        scaled, left = self.policy.scale_action(actions), np.isnan(actions).reshape(n_envs, -1).any(axis=1)
        if left.any():  # the callback leaves these environments to the policy
            own, own_scaled = super()._sample_action(learning_starts, action_noise, n_envs)
            actions, scaled = actions.copy(), scaled.copy()
            actions[left], scaled[left] = own[left], own_scaled[left]
        return actions, scaled

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, BaseCallback]:
        frequency: Any = self.train_freq
        if isinstance(frequency, TrainFreq) and frequency.unit is TrainFrequencyUnit.EPISODE and self.n_envs > 1:
            raise ValueError(
                f"train_freq=({frequency.frequency}, 'episode') counts the episodes of one environment, and there are "
                f"{self.n_envs}: count steps, train_freq=(n, 'step'), or use one environment."
            )
        if isinstance(self.replay_buffer, MixedReplayBuffer):
            fit_normalizer(self, self.replay_buffer.offline.dataset)  # before the environment is reset
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    # -- update ----------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """
        SB3 calls this after each rollout. A recipe's updates are then made for each environment, see
        :class:`~sb3_o2o.recipes.counts.RecipeCount`.

        :param gradient_steps: updates to make
        :param batch_size: transitions per update
        """
        rounds, self.call.rounds = self.call.rounds, 1
        if not self.hooks.allow_update() or not self.can_sample():
            return
        self.start_finetuning()
        for _ in range(rounds):
            if not self.hooks.answer("defer_updates", gradient_steps, batch_size):
                self.make_updates(gradient_steps, batch_size)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def make_updates(self, gradient_steps: int, batch_size: int) -> None:
        """
        What follows a rollout, for one environment, whether updates may begin or not: for callbacks that defer it.

        :param gradient_steps: updates to make
        :param batch_size: transitions per update
        """
        self.hooks.call("before_updates")
        self.loop.run(gradient_steps, batch_size)

    def can_sample(self) -> bool:
        """Whether the online buffer holds what may be sampled: Cal-QL's and HER's wait for the end of an episode."""
        buffer: Any = self.replay_buffer
        if can_be_sampled(buffer):
            return True
        if buffer.full:
            warn(
                f"{type(buffer).__name__} draws from episodes that have ended, and none has in the last "
                f"{buffer.buffer_size * buffer.n_envs} transitions, so no update is made: raise buffer_size above the "
                "length of an episode, or give the environment a time limit.",
            )
        return False

    def target_pairs(self) -> list[tuple[th.nn.Module, th.nn.Module]]:
        return [(self.critic, self.critic_target)]

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        return {"actor": self.actor.optimizer, "critic": self.critic.optimizer}

    def learning_rates(self) -> dict[str, Schedule]:
        return {"actor": self.lr_schedule, "critic": self.qf_lr_schedule}

    @cached_property
    def _target_parameters(self) -> list[tuple[th.nn.Module, list[th.Tensor], list[th.Tensor]]]:
        return [
            (network, list(target.parameters()), list(network.parameters())) for network, target in self.target_pairs()
        ]

    @th.no_grad()
    def update_targets(self) -> None:
        for network, targets, sources in self._target_parameters:
            if network is not self.critic or self.active_objective.trains_critic:
                th._foreach_lerp_(targets, sources, self.tau)
        self.hooks.call("update_targets", self.tau)
        # running statistics of batch normalisation are copied, as SB3 does
        if self.batch_norm_stats:
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

    def draw_critics(self, size: int | None, name: str = "target_critics") -> th.Tensor | None:
        """
        :param size: critics to draw; None for all
        :param name: of the draw, see :class:`~sb3_o2o.objectives.draws.Draws`
        :return: their indices, ``(size,)``, or None for all
        """
        if size is None or (size == self.n_critics and not self.subset_replacement):
            return None
        return self.draws.members(name, self.n_critics, size, self.subset_replacement)
