"""What O2OSAC and its siblings share: pre-training, the update loop, hooks, and what is saved."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, configure_logger, update_learning_rate

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer
from sb3_o2o.files import whole_file
from sb3_o2o.finetuning import build_finetuning
from sb3_o2o.networks.normalizer import needs_statistics, set_observation_statistics
from sb3_o2o.networks.optimizers import set_gradients, step_all
from sb3_o2o.objectives import Batch, Objective, make_objective
from sb3_o2o.updates.bars import PretrainingProgressBar
from sb3_o2o.updates.gradient_phases import UpdatePhases
from sb3_o2o.updates.gradients import GradientFunctions
from sb3_o2o.updates.hooks import Hooks, walk
from sb3_o2o.updates.phases import FINETUNING, PRETRAINING
from sb3_o2o.updates.preparation import prepare_objective

if TYPE_CHECKING:
    from typing import Self


class OfflineToOnlineMixin(UpdatePhases):
    """
    Turns an SB3 algorithm into an offline-to-online one: pre-training, phases, hooks and what is saved. What needs a
    replay buffer is in :class:`~sb3_o2o.algorithms.off_policy.OffPolicyMixin`.
    """

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _init_offline_to_online(self, **arguments: Any) -> None:
        """Store the arguments under their own names, as ``load(**kwargs)`` needs, and start the counters."""
        for name, value in arguments.items():
            setattr(self, name, value)
        self.policy_kwargs.pop("use_sde", None)  # SB3 puts it there: what the user gave stays what the user gave
        self.n_pretrain_steps = 0
        self._init_run()
        self._init_phases()
        self._has_statistics = False
        self._negative_reward: float | None = None
        self._n_offline_buffers = 0
        self.offline_buffer: OfflineReplayBuffer | None = None
        self.hooks = Hooks()
        self._pretrained_on: Any = None
        self._online_steps: tuple[int, int, float] | None = None

    def _setup_model(self) -> None:
        given = self.policy_kwargs
        self._check_offline_to_online_arguments()
        self.policy_class = self.stock_policies.get(self.policy_class, self.policy_class)
        self.policy_kwargs = self.full_policy_kwargs()
        try:
            super()._setup_model()  # type: ignore[safe-super]
        finally:
            self.policy_kwargs = given  # what the user gave: ``load(policy_kwargs=…)`` compares it
        self._setup_objectives()

    def full_policy_kwargs(self) -> dict[str, Any]:
        """:return: the policy's arguments: the user's, and those that are arguments of the algorithm"""
        return {**{name: getattr(self, name) for name in self.policy_arguments}, **self.policy_kwargs}

    def _setup_objectives(self) -> None:
        """Create the objectives, which may own parameters, and the fine-tuning callbacks."""
        self._gradient_functions = GradientFunctions(self.compile, self.verbose)
        self.finetuning = build_finetuning(self.finetuning or [])
        self.offline_objective = make_objective(self.objective, self.objective_kwargs, self, self.available_objectives)
        self.finetuning_objective = self._make_finetuning_objective()

    def _networks_replaced(self) -> None:
        """The policy is another object: whatever names its networks has to name the new ones."""

    def _make_finetuning_objective(self) -> Objective:
        """What ``learn`` minimises; the offline objective itself where it goes on."""
        raise NotImplementedError

    def _check_offline_to_online_arguments(self) -> None:
        """:raises ValueError: for an argument out of range"""
        if self.reward_scale == 0 or not np.isfinite([self.reward_scale, self.reward_shift]).all():
            raise ValueError(
                f"reward_scale and reward_shift must be finite and the scale not 0, not {self.reward_scale} and "
                f"{self.reward_shift}."
            )
        if self.pretrain_steps < 0:
            raise ValueError(f"pretrain_steps must be >= 0, not {self.pretrain_steps}.")

    def _schedule_or_default(self, learning_rate: Any) -> Any:
        return self.lr_schedule if learning_rate is None else FloatSchedule(learning_rate)

    @property
    def action_dim(self) -> int:
        """Number of action dimensions."""
        return math.prod(self.action_space.shape)  # type: ignore[arg-type]

    # -- update ----------------------------------------------------------------------------------------------------

    def _start_finetuning(self) -> None:
        """Enter the phase, and let callbacks do once what comes before it."""
        self.set_phase(FINETUNING)
        if not self._finetuning_started:
            self._finetuning_started = True
            self.hooks.call("before_finetuning")

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        """
        Make gradient steps. Where the algorithm draws blocks, the transitions of all steps are sampled and converted
        at once; the actor then steps on its own minibatch or on the whole block.

        :param gradient_steps: updates to make
        :param batch_size: transitions per update
        """
        if not self.policy.training:  # a walk through all modules, which a small update would notice
            self.policy.set_training_mode(True)
        self._update_learning_rates()
        block = self._sample(batch_size * gradient_steps) if self._draws_blocks(gradient_steps) else None
        for step in range(gradient_steps):
            batch = (
                self._sample(batch_size) if block is None else block.part(step * batch_size, (step + 1) * batch_size)
            )
            self._n_updates += 1
            objective = self.active_objective
            is_actor_step = not objective.delayed or self._is_actor_step()
            actor_batch = block if block is not None and self.actor_batch == "block" else batch
            metrics = self._gradient_step(batch, actor_batch if is_actor_step else None)
            if objective.moves_targets and (not objective.delayed or self._is_target_step(step, is_actor_step)):
                self._update_targets()
            self._accumulate(metrics)
            self.hooks.call("after_update", batch, metrics)
            self.hooks.call("on_gradient_step")

    def _draws_blocks(self, gradient_steps: int) -> bool:
        """Whether the transitions of all gradient steps are sampled at once."""
        return False

    def _is_actor_step(self) -> bool:
        """Whether the actor steps in this update; called once in each."""
        return True

    def _is_target_step(self, step: int, is_actor_step: bool) -> bool:
        """
        :param step: gradient step since the last rollout, from 0
        :param is_actor_step: whether the actor stepped
        :return: whether the target networks follow
        """
        return True

    def _target_pairs(self) -> list[tuple[th.nn.Module, th.nn.Module]]:
        """Every network that has a target network, with it."""
        raise NotImplementedError

    def _gradient_step(self, batch: Batch, actor_batch: Batch | None, prepare: bool = False) -> dict[str, th.Tensor]:
        """
        :param batch: transitions for the critics
        :param actor_batch: transitions for the actor; None when it waits
        :param prepare: train what the objective needs before pre-training instead
        :return: losses and other scalars, on the device
        """
        objective = self.active_objective
        is_shared = actor_batch is batch
        batch = self.hooks.prepare(batch)
        if actor_batch is not None:
            actor_batch = batch if is_shared else self.hooks.prepare(actor_batch)
        optimizers = self._optimizers() | objective.optimizers | self.hooks.optimizers()
        parameters = {name: _parameters(optimizer) for name, optimizer in optimizers.items()}
        metrics: dict[str, th.Tensor] = {}
        steps = (
            objective.preparation_steps(batch)
            if prepare
            else chain(self.hooks.critic_steps(batch), objective.steps(batch, actor_batch))
        )
        for step in steps:
            losses, step_metrics, gradients = self._gradient_functions(step, parameters)
            for name, values in zip(losses, gradients, strict=True):
                set_gradients(parameters[name], values)
            step_all(optimizers[name] for name in losses)  # once all gradients of the step are formed
            metrics.update(step_metrics, **{f"{name}_loss": loss for name, loss in losses.items()})
        return metrics

    def _lr_schedules(self) -> dict[str, Schedule]:
        """The learning rate of each optimiser."""
        raise NotImplementedError

    def _update_learning_rates(self) -> None:
        objective, schedules, remaining = self.active_objective, self._lr_schedules(), self._current_progress_remaining
        follows = self.hooks.follows() | objective.follows
        for name, optimizer in (self._optimizers() | objective.optimizers | self.hooks.optimizers()).items():
            schedule = schedules.get(follows.get(name, name))
            if schedule is not None:
                factor = objective.learning_rate_factor(name, remaining)
                update_learning_rate(optimizer, factor * schedule(remaining))

    def _update_targets(self) -> None:
        """Let the target networks follow."""
        raise NotImplementedError

    def copy_to_targets(self, critics: bool = True) -> None:
        """
        Make target networks equal to their networks.

        :param critics: the critics' as well
        """
        for network, target in self._target_pairs():
            if critics or network is not self.critic:
                target.load_state_dict(network.state_dict())

    # -- logging ---------------------------------------------------------------------------------------------------

    def dump_logs(self, *args: Any) -> None:
        """Write log data."""
        self._record_metrics("offline" if self.phase == PRETRAINING else "train")
        super().dump_logs(*args)  # type: ignore[misc]

    # -- pre-training ----------------------------------------------------------------------------------------------

    def pretrain(
        self,
        dataset: Any = None,
        gradient_steps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int = 1000,
        progress_bar: bool = False,
        tb_log_name: str = "offline",
        reset_gradient_steps: bool = True,
    ) -> Self:
        """
        Minimise the offline objective on a fixed dataset; the environment is not touched.

        SB3 callbacks run, one ``on_step`` per gradient step. While they do, ``num_timesteps`` counts gradient
        steps, so that checkpoints and evaluations are numbered; afterwards it is what it was.

        :param dataset: what :meth:`~sb3_o2o.data.OfflineDataset.load` accepts; the constructor's by default
        :param gradient_steps: updates to make, > 0; by default the constructor's ``pretrain_steps``, else the recipe's
        :param callback: as in ``learn``
        :param log_interval: gradient steps between two logs
        :param progress_bar: show a progress bar
        :param tb_log_name: name of the TensorBoard run
        :param reset_gradient_steps: count from zero; False goes on, as after an interruption
        :return: this model
        :raises ValueError: if the dataset does not fit, or there is nothing to do
        """
        gradient_steps = self._default_pretrain_steps() if gradient_steps is None else gradient_steps
        self._check_reward_scale()
        if gradient_steps <= 0:
            raise ValueError(f"pretrain(gradient_steps) must be at least 1, not {gradient_steps}.")
        self._open_pretraining_data(dataset)
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_gradient_steps)
        start = 0 if reset_gradient_steps else self.n_pretrain_steps
        total = start + gradient_steps
        bars: list[BaseCallback] = [PretrainingProgressBar(total)] if progress_bar else []
        callback = CallbackList([*as_list(callback), *bars])
        for each in (*self.finetuning, callback):
            each.init_callback(self)  # one that cannot start changes nothing
        self._start_pretraining(callback, start, total)
        try:
            callback.on_training_start(locals() | {"total_timesteps": total}, globals())
            self._pretraining_loop(callback, total, log_interval)
            callback.on_training_end()
        finally:
            self.hooks.deliver_to(())
            self._leave_pretraining()
            if "learning_starts" not in self.explicit_arguments:
                self._act_from_the_first_step()
        return self

    def _act_from_the_first_step(self) -> None:
        """A pre-trained policy does not begin with random actions."""

    def _default_pretrain_steps(self) -> int:
        return self.pretrain_steps or self.recipe_pretrain_steps

    def _leave_pretraining(self) -> None:
        """Give ``num_timesteps`` back to environment steps."""
        if self._online_steps is not None:
            self.num_timesteps, self._total_timesteps, self._current_progress_remaining = self._online_steps
            self._online_steps = None
            self._metric_sums = {}  # of an interrupted interval; they are not online ones

    def _open_pretraining_data(self, dataset: Any) -> None:
        source = self.dataset if dataset is None else dataset
        opened = self.offline_buffer
        if opened is not None and (source is None or source is self._pretrained_on or self._is_same(source, opened)):
            return  # its random generator goes on
        self.offline_buffer = None
        try:
            buffer = self.open_offline_buffer(source)
        except BaseException:
            self.offline_buffer = opened  # nothing is half-applied
            raise
        self.offline_buffer, self._pretrained_on = buffer, source
        if self.dataset is None:
            self.dataset = source  # what fine-tuning callbacks draw from
        if not self._has_statistics and needs_statistics(self.policy):
            self._set_statistics(buffer.dataset)

    def _is_same(self, source: Any, opened: OfflineReplayBuffer) -> bool:
        dataset = self.load_dataset(source)
        reference = opened._reference or opened.dataset.reference
        if dataset.fingerprint != reference.fingerprint:
            if opened._reference is not None and reference.source == dataset.source:
                reference.open()  # refuses a file that has changed since the run was interrupted
            return False
        opened.dataset = dataset  # a resumed run has to be given back what is in no file
        return True

    def _start_pretraining(self, callback: BaseCallback, start: int, total: int) -> None:
        self._online_steps = self.num_timesteps, self._total_timesteps, self._current_progress_remaining
        self.n_pretrain_steps = start
        self.phase_steps, self.finished_phases = {}, []  # another policy: what was made of the last one is over
        if start == 0:
            self._begin_new_run()
        self._take_callbacks(callback)
        self.hooks.deliver_to([*self.finetuning, *walk(callback)], offline=True)
        self.num_timesteps, self._total_timesteps = self.n_pretrain_steps, total
        self.start_time = time.time_ns()
        if self.ep_info_buffer is None:  # as ``learn`` does it: callbacks may write logs
            self.ep_info_buffer = deque(maxlen=self._stats_window_size)
            self.ep_success_buffer = deque(maxlen=self._stats_window_size)
        self._num_timesteps_at_start = self.num_timesteps
        self.set_phase(PRETRAINING)

    def _pretraining_loop(self, callback: BaseCallback, total: int, log_interval: int) -> None:
        if not prepare_objective(self, log_interval):
            return
        for step in self._gradient_steps(self.n_pretrain_steps, total, anneal=True):
            self.n_pretrain_steps = self.num_timesteps = step
            if not callback.on_step():
                return
            if self.n_pretrain_steps % log_interval == 0 or self.n_pretrain_steps == total:
                self._dump_pretraining_logs()

    def _dump_pretraining_logs(self) -> None:
        elapsed = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self._record_metrics("offline")
        # x-axis of the offline run: gradient steps
        self.logger.record("time/gradient_steps", self.n_pretrain_steps, exclude="tensorboard")
        self.logger.record("time/updates_per_second", (self.n_pretrain_steps - self._num_timesteps_at_start) / elapsed)
        self.logger.dump(step=self.n_pretrain_steps)

    # -- fine-tuning -----------------------------------------------------------------------------------------------

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.pretrain_steps > 0 and self.n_pretrain_steps < self.pretrain_steps:
            # RL Zoo knows only the constructor and ``learn``. Its callbacks belong to the online phase: their
            # evaluations and checkpoints are numbered by environment steps
            self._check_callbacks(callback)  # before hours of training
            is_new, missing = self.n_pretrain_steps == 0, self.pretrain_steps - self.n_pretrain_steps
            self.pretrain(None, missing, progress_bar=progress_bar, reset_gradient_steps=is_new)
            if self.n_pretrain_steps < self.pretrain_steps:
                self.request_stop()  # it was stopped: do not go on in the environment
        self._check_reward_scale()
        if self.n_pretrain_steps >= self.pretrain_steps:  # and not stopped in the middle of it
            self.finetuning_objective.check_prepared()
        if not self._has_statistics and needs_statistics(self.policy):
            self._set_statistics(self.load_dataset(self.dataset) if self.dataset is not None else None)
        with self._counting_on(reset_num_timesteps):
            total_timesteps, callback = super()._setup_learn(
                total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
            )
        self._is_collecting, self._shows_progress = False, progress_bar
        self._take_callbacks(callback)
        self._bring_into_run(walk(callback))
        self.hooks.deliver_to(walk(callback))
        self._refuse_unused_hooks()
        return total_timesteps, callback

    def _check_callbacks(self, callback: MaybeCallback) -> None:
        """:raises ValueError: if a callback of this run would do nothing, or cannot work beside the others"""
        callbacks = [each for given in (*self.finetuning, *as_list(callback)) for each in walk(given)]
        self.hooks.deliver_to(callbacks)
        self._refuse_unused_hooks()
        for each in callbacks:
            each.init_callback(self)  # in order, as ``learn`` will do it: some look at those before them
        for each in callbacks:
            if hasattr(each, "check_run"):
                each.check_run(callbacks)

    def _refuse_unused_hooks(self) -> None:
        """:raises ValueError: if a callback changes what is never asked for, and so would do nothing"""
        self.hooks.refuse(self.finetuning_objective.unused_hooks, type(self.finetuning_objective).__name__)

    def _set_statistics(self, dataset: OfflineDataset | None) -> None:
        if dataset is None:
            raise ValueError("normalize_observations=True needs the statistics of a dataset: pass dataset=…")
        set_observation_statistics(self.policy, *dataset.observation_stats())
        self._has_statistics = True

    def _take_callbacks(self, callback: BaseCallback) -> None:
        """Remember the callbacks of a call, for resume bundles."""
        raise NotImplementedError

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback([*self.finetuning, *as_list(callback)], progress_bar)

    # -- saving ----------------------------------------------------------------------------------------------------

    def save(self, path: Any, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        Stable-Baselines3's ``save``. The file replaces what was there when it is complete and on the disk.

        :param path: of the zip, whose ending may be left out, or a binary file
        :param exclude: attributes to leave out as well
        :param include: attributes to save although they are left out otherwise
        :raises OSError: if it cannot be written
        """
        if not isinstance(path, str | os.PathLike):
            super().save(path, exclude, include)  # type: ignore[misc]
            return
        target = Path(path)
        if target.suffix == "":
            target = target.with_name(f"{target.name}.zip")
        with whole_file(target) as file:
            super().save(file, exclude, include)  # type: ignore[misc,arg-type]

    def _excluded_save_params(self) -> list[str]:
        ours = ["hooks", "offline_buffer", "_pretrained_on", "offline_objective", "finetuning_objective"]
        ours += ["_metric_sums", "_gradient_functions", "_target_parameters", "_phase_in_progress"]
        by_reference = isinstance(self.dataset, OfflineDataset) and self.dataset.reopenable
        if not (self.dataset is None or by_reference or isinstance(self.dataset, str | os.PathLike)):
            ours.append("dataset")  # data in memory: megabytes that are no weights
        return [*super()._excluded_save_params(), *ours]

    def _objective_state_names(self) -> Iterator[str]:
        """Objectives that own parameters, each once."""
        if any(True for _ in self.offline_objective.parameters()):
            yield "offline_objective"
        same = self.finetuning_objective is self.offline_objective
        if not same and any(True for _ in self.finetuning_objective.parameters()):
            yield "finetuning_objective"

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        for name in self._objective_state_names():
            state_dicts.append(name)
            state_dicts += [f"{name}.optimizers.{key}" for key in getattr(self, name).optimizers]
        return state_dicts, variables


def _parameters(optimizer: th.optim.Optimizer) -> list[th.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def as_list(callback: MaybeCallback) -> list[BaseCallback]:
    """
    :param callback: what ``learn`` accepts
    :return: the callbacks
    """
    if callback is None:
        return []
    if isinstance(callback, BaseCallback):
        return [callback]
    if isinstance(callback, Iterable):
        return list(callback)
    return [ConvertCallback(callback)]
