"""What PPO needs beyond pre-training: its own rollouts and updates, with our features around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_o2o.algorithms.arguments import linear_start
from sb3_o2o.algorithms.offline_to_online import OfflineToOnlineAlgorithm
from sb3_o2o.data.rewards import scaled_rewards
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.networks.ppo_policies import ACTIVATIONS, O2OPPOPolicy
from sb3_o2o.objectives import MonteCarloValueObjective, Objective, PPOCritics
from sb3_o2o.transfer.archive import ON_POLICY_ACTING
from sb3_o2o.transfer.weights import OnPolicyWeights, Weights
from sb3_o2o.updates.finite import TROUBLE, named_arrays
from sb3_o2o.updates.hooks import UPDATE_HOOKS, Hooks, as_list, walk

if TYPE_CHECKING:
    from stable_baselines3 import PPO as _Base
else:
    _Base = object

#: hooks that only a replay buffer's update asks for
_UNUSED_HOOKS = tuple(name for name in UPDATE_HOOKS if not name.startswith(("before_", "on_")))


class ScaledRewards(VecEnvWrapper):
    """
    Rewards on the scale of training.

    :param env: environments
    :param scale: factor
    :param shift: added afterwards
    """

    def __init__(self, env: VecEnv, scale: float, shift: float):
        super().__init__(env)
        self.scale, self.shift = scale, shift

    def reset(self) -> Any:
        """See ``VecEnv.reset``."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """See ``VecEnv.step_wait``."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, scaled_rewards(rewards, self.scale, self.shift), dones, infos


class O2OOnPolicyAlgorithm(OfflineToOnlineAlgorithm, _Base):
    """Online, Stable-Baselines3's own rollouts and updates; offline, an optimiser of its own for the actor."""

    weights: ClassVar[Weights] = OnPolicyWeights()
    counted_argument: ClassVar[str] = "n_steps"
    policy_arguments: ClassVar[tuple[str, ...]] = ("normalize_observations",)
    acting_arguments: ClassVar[dict[str, Any]] = ON_POLICY_ACTING
    value_learning_rate: float | str | Schedule | None
    pretrain_learning_rate: float | str | Schedule | None
    pretrain_batch_size: int
    policy: O2OPPOPolicy

    #: what ``pretrain_kwargs`` may hold: two names of one argument each, as the other algorithms have them
    pretrain_keys: ClassVar[tuple[str, ...]] = ("learning_rate", "batch_size")

    # -- set-up ----------------------------------------------------------------------------------------------------

    def _init_offline_to_online(self, **arguments: Any) -> None:
        for name, value in (arguments.pop("pretrain_kwargs", None) or {}).items():
            own = f"pretrain_{name}"
            if own in self.explicit_arguments and arguments[own] != value:
                raise ValueError(
                    f"{own}={arguments[own]!r} and pretrain_kwargs={{{name!r}: {value!r}}} are one argument."
                )
            arguments[own] = value
        super()._init_offline_to_online(**arguments)

    def _setup_model(self) -> None:
        self.rollout_buffer_kwargs = self.rollout_buffer_kwargs or {}  # ``load(rollout_buffer_kwargs=None)``
        self._check_on_policy_arguments()
        super()._setup_model()

    @staticmethod
    def _check_together(arguments: Mapping[str, Any]) -> None:
        if arguments["normalize_advantage"] and arguments["batch_size"] == 1:
            raise ValueError(
                "batch_size must be above 1 with normalize_advantage=True, not "
                f"{arguments['batch_size']!r}: one advantage has no deviation."
            )

    def _check_on_policy_arguments(self) -> None:
        """:raises ValueError: for a space or an argument that does not go with pre-training"""
        self._check_together(vars(self))
        name, space = type(self).__name__, self.action_space
        if not isinstance(space, spaces.Box):
            raise ValueError(f"{name} learns continuous actions (Box), as offline datasets hold them, not {space}.")
        if self.use_sde:
            raise ValueError(
                f"{name} scores actions under a diagonal Gaussian, which gSDE is not: set use_sde=False. "
                "The policy of a model with gSDE can be cloned: load_offline(model.policy, env, dataset=…)."
            )

    def full_policy_kwargs(self) -> dict[str, Any]:
        """:return: the policy's arguments, activation functions as classes"""
        kwargs = super().full_policy_kwargs()
        for name in ("activation_fn", "value_activation_fn"):
            given = kwargs.get(name)
            if isinstance(given, str):
                if given not in ACTIVATIONS:
                    raise ValueError(f"policy_kwargs[{name!r}] must be one of {sorted(ACTIVATIONS)}, not {given!r}.")
                kwargs[name] = ACTIVATIONS[given]
        kwargs["separate_value_optimizer"] = self.value_learning_rate is not None
        return kwargs

    def _setup_lr_schedule(self) -> None:
        for name in ("learning_rate", "value_learning_rate", "pretrain_learning_rate"):
            setattr(self, name, linear_schedule(getattr(self, name)))
        super()._setup_lr_schedule()
        self.value_lr_schedule = self._schedule_or_default(self.value_learning_rate)
        #: also of what an objective owns
        self.qf_lr_schedule = self._schedule_or_default(self.pretrain_learning_rate)

    def _setup_objectives(self) -> None:
        # the offline loss is another one: its moments are none for PPO's own Adam
        self.pretrain_optimizer = self._offline_optimizer(self.policy.actor_parameters(), self.qf_lr_schedule(1.0))
        #: of V's regression to the returns of the dataset
        self.reevaluation_optimizer = self._offline_optimizer(self.policy.value_parameters(), 1e-3)
        super()._setup_objectives()
        self._refuse_replay(self.finetuning)

    def _offline_optimizer(self, parameters: Iterable[th.nn.Parameter], rate: float) -> th.optim.Optimizer:
        """Of the class and with the arguments that the user has given the policy; PPO's own epsilon is for online."""
        optimizer_class = self.policy_kwargs.get("optimizer_class", th.optim.Adam)
        given = self.policy_kwargs.get("optimizer_kwargs") or {}
        fitting: Any = FusedAdam if optimizer_class is th.optim.Adam else optimizer_class
        return fitting(parameters, lr=rate, **given)  # type: ignore[no-any-return]

    def _make_finetuning_objective(self) -> Objective:
        return self.offline_objective  # online, PPO minimises its own

    def reevaluation_objective(self) -> Objective:
        """:return: what re-evaluates the offline policy before fine-tuning"""
        return MonteCarloValueObjective(self)  # type: ignore[arg-type]

    @property
    def actor(self) -> Any:  # type: ignore[override]
        """The actor's side of the policy."""
        return self.policy.actor

    # -- offline updates -------------------------------------------------------------------------------------------

    @property
    def offline_batch_size(self) -> int:
        return self.pretrain_batch_size

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        return {"actor": self.pretrain_optimizer}

    def learning_rates(self) -> dict[str, Schedule]:
        return {"actor": self.qf_lr_schedule, "critic": self.qf_lr_schedule}

    def target_pairs(self) -> list[tuple[th.nn.Module, th.nn.Module]]:
        return []

    def update_targets(self) -> None:
        if isinstance(self.active_objective, PPOCritics):
            self.active_objective.update_targets()

    # -- online ----------------------------------------------------------------------------------------------------

    def _setup_learn(self, total_timesteps: int, callback: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._refuse_replay(each for given in as_list(callback) for each in walk(given))
        return super()._setup_learn(total_timesteps, callback, *args, **kwargs)

    def _refuse_replay(self, callbacks: Iterable[BaseCallback]) -> None:
        """:raises ValueError: if a callback needs a replay buffer"""
        for callback in callbacks:
            if getattr(callback, "needs_replay_buffer", False):
                raise ValueError(
                    f"{type(callback).__name__} works on a replay buffer, and {type(self).__name__} has none: PPO "
                    "learns from its last rollout alone, because older transitions are not its present policy's. Leave "
                    "the callback out, or fine-tune with O2OSAC or O2OTD3."
                )

    def refuse_unused_hooks(self, hooks: Hooks) -> None:
        hooks.refuse(_UNUSED_HOOKS, "PPO's own update", "leave the callback out, or use O2OSAC or O2OTD3")

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, *args: Any, **kwargs: Any) -> bool:
        """Stable-Baselines3's, with rewards on the scale of training. What comes before fine-tuning runs first."""
        if not self.may_collect():
            return False
        self.start_finetuning()  # the first rollout is a part of the first update
        watch = self.loop.watch
        watch.before_updates(every=1)
        env = watch.env(env)
        if (self.reward_scale, self.reward_shift) != (1.0, 0.0):
            env = ScaledRewards(env, self.reward_scale, self.reward_shift)
        while True:
            try:
                goes_on = super().collect_rollouts(env, callback, *args, **kwargs)
                if not goes_on:  # a callback has stopped at a step, whose observation SB3 leaves out
                    self._last_obs = callback.locals["new_obs"]
                    self._last_episode_starts = callback.locals["dones"]
                return goes_on
            except TROUBLE as error:
                watch.answer(error)  # raises unless the model has gone back to earlier weights
                self._begin_new_episodes()

    def train(self) -> None:
        """Stable-Baselines3's update on the last rollout."""
        self.hooks.call("before_updates")
        watch = self.loop.watch
        try:
            with self._gradient_hooks():
                super().train()
            watch.check_weights()
        except TROUBLE as error:
            watch.answer(error, kept=self._rollout_arrays)

    def _rollout_arrays(self) -> dict[str, np.ndarray]:
        """What the last update was made on."""
        names = ("observations", "actions", "rewards", "returns", "advantages", "values", "log_probs", "episode_starts")
        return named_arrays({name: getattr(self.rollout_buffer, name) for name in names})

    def note_on_counts(self) -> str | None:
        """See :class:`~sb3_o2o.recipes.counts.RecipeCount`."""
        return None if self.recipe_count is None else self.recipe_count.note_on_rollouts(self.n_steps, self.n_envs)

    @contextmanager
    def _gradient_hooks(self) -> Iterator[None]:
        """Tell callbacks of each gradient step; with two learning rates, clip the gradients of each part by itself."""
        optimizer, largest = self.policy.optimizer, self.max_grad_norm

        def tell(*_: Any) -> None:
            inside, self.max_grad_norm = self.max_grad_norm, largest  # a callback may save the model
            self.hooks.call("on_gradient_step")
            self.max_grad_norm = inside

        def look(*_: Any) -> None:
            self.loop.watch.check_gradients(optimizer)

        handles = [optimizer.register_step_post_hook(tell), optimizer.register_step_pre_hook(look)]
        if self.value_learning_rate is not None:

            def clip(*_: Any) -> None:
                for group in optimizer.param_groups:
                    th.nn.utils.clip_grad_norm_(group["params"], largest)

            handles.append(optimizer.register_step_pre_hook(clip))
            self.max_grad_norm = math.inf
        try:
            yield
        finally:
            self.max_grad_norm = largest
            for handle in handles:
                handle.remove()

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        if self.value_learning_rate is not None:
            rate = self.value_lr_schedule(self._current_progress_remaining)
            self.policy.optimizer.param_groups[1]["lr"] = rate
            self.logger.record("train/value_learning_rate", rate)

    # -- saving ----------------------------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "pretrain_optimizer", "reevaluation_optimizer"], variables


def linear_schedule(rate: Any) -> Any:
    """
    :param rate: a number, a schedule, or ``"lin_3e-4"``, as RL Zoo writes what falls linearly to 0
    :return: the same, the text as a schedule
    """
    start = linear_start(rate) if isinstance(rate, str) else None
    return rate if start is None else LinearSchedule(start, 0.0, 1.0)
