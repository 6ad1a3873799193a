"""Constructor arguments: which were given, and what a recipe adds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import Schedule

from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.objectives import Objective
from sb3_o2o.recipes import environment_id, recipe_arguments
from sb3_o2o.updates.gradients import GradientFunctions
from sb3_o2o.updates.hooks import Hooks

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm as _Base
else:
    _Base = object

#: arguments of a model that only acts, whatever it was trained with: no buffer, hence no environment, to speak of
OFF_POLICY_ACTING: dict[str, Any] = {
    "buffer_size": 1,
    "replay_buffer_class": None,
    "replay_buffer_kwargs": {},
    "optimize_memory_usage": False,
    "n_steps": 1,
}
ON_POLICY_ACTING: dict[str, Any] = {"n_steps": 1, "rollout_buffer_class": None, "rollout_buffer_kwargs": {}}

Init = TypeVar("Init", bound=Callable[..., None])


def fills_in_recipe(init: Init) -> Init:
    """
    Decorate a constructor that takes ``recipe``: arguments that the caller left out come from the recipe for the
    environment, and the names of those that were given are kept in ``self.explicit_arguments``.

    :param init: the constructor
    :return: the constructor with the same signature
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        given = dict(bound.arguments)
        explicit = tuple(name for name in given if name not in ("self", "policy", "env"))
        if given.get("recipe") is not None:
            for name, value in recipe_arguments(
                given["recipe"], environment_id(given.get("env")), type(self).__name__
            ).items():
                given.setdefault(name, value)
        self.explicit_arguments = explicit
        init(**given)

    return wrapper  # type: ignore[return-value]


def check_n_critics(n_critics: Any) -> None:
    """
    :param n_critics: size of an ensemble, as a user gave it; None where none was given
    :raises ValueError: if it is no whole number of at least 1
    """
    if n_critics is not None and (isinstance(n_critics, bool) or not isinstance(n_critics, int) or n_critics < 1):
        raise ValueError(f"n_critics must be a whole number of at least 1, not {n_critics!r}.")


class AlgorithmArguments(_Base):
    """What the mixins of an algorithm rely on: its constructor's arguments, described there, and its state."""

    stock_class: ClassVar[type[BaseAlgorithm]]
    stock_policies: ClassVar[dict[type, type]]
    #: constructor arguments that are arguments of the policy
    policy_arguments: ClassVar[tuple[str, ...]]
    #: constructor arguments of a model that only acts
    acting_arguments: ClassVar[dict[str, Any]] = {}
    available_objectives: dict[str, type[Objective]]
    default_online_objective: str
    actor: Any
    critic: Any
    critic_target: Any
    replay_buffer: Any  # of off-policy algorithms
    # constructor arguments, described at the algorithms
    explicit_arguments: tuple[str, ...]
    recipe: str | None
    objective: str
    online_objective: str | None
    objective_kwargs: dict[str, Any] | None
    online_objective_kwargs: dict[str, Any] | None
    finetuning: list[Any]
    gamma: float
    batch_size: int
    n_critics: int
    policy_delay: int
    actor_batch: str
    actor_critics: str
    qf_learning_rate: float | Schedule | None
    ent_coef_learning_rate: float | Schedule | None
    critic_subset: int | None
    subset_replacement: bool
    normalize_observations: bool
    reward_scale: float
    reward_shift: float
    dataset: Any
    dataset_kwargs: dict[str, Any] | None
    pretrain_steps: int
    compile: bool
    entropy_backup: bool
    precision: str
    target_update_interval: int
    batch_norm_stats: list[th.Tensor]
    batch_norm_stats_target: list[th.Tensor]
    # state
    phase: str | None
    n_pretrain_steps: int
    hooks: Hooks
    offline_objective: Objective
    finetuning_objective: Objective
    offline_buffer: OfflineReplayBuffer | None
    _n_offline_buffers: int
    _gradient_functions: GradientFunctions
    _phase_in_progress: tuple[Objective, OfflineReplayBuffer] | None
    _negative_reward: float | None

    @property
    def _offline_batch_size(self) -> int:
        """Transitions per update of the offline phase."""
        return self.batch_size

    def _check_offline_to_online_arguments(self) -> None:
        """:raises ValueError: for an argument out of range"""
        if self.reward_scale == 0 or not np.isfinite([self.reward_scale, self.reward_shift]).all():
            raise ValueError(
                f"reward_scale and reward_shift must be finite and the scale not 0, not {self.reward_scale} and "
                f"{self.reward_shift}."
            )
        if self.pretrain_steps < 0:
            raise ValueError(f"pretrain_steps must be >= 0, not {self.pretrain_steps}.")

    def _check_off_policy_arguments(self) -> None:
        """:raises ValueError: for an argument out of range"""
        if self.policy_delay < 1:
            raise ValueError(f"policy_delay must be at least 1, not {self.policy_delay}.")
        for name, allowed in {
            "actor_batch": ("minibatch", "block"),
            "actor_critics": ("min", "mean", "first"),
            "precision": ("fp32", "bf16"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}.")
        if self.critic_subset is not None and not 1 <= self.critic_subset <= self.n_critics:
            raise ValueError(f"critic_subset must lie in [1, n_critics={self.n_critics}], not {self.critic_subset}.")
        if self.actor_batch == "block" and self.policy_delay == 1:
            raise ValueError("actor_batch='block' needs policy_delay > 1: the actor then waits for the whole block.")

    def _resolve_action_noise(self) -> None:
        """A number, which is what YAML can hold, is the standard deviation of Gaussian noise."""
        noise: Any = self.action_noise
        if isinstance(noise, int | float):
            if noise < 0:
                raise ValueError(f"action_noise must be an ActionNoise or a number >= 0, not {noise}.")
            shape = self.action_space.shape
            self.action_noise = NormalActionNoise(np.zeros(shape), np.full(shape, float(noise)))  # type: ignore[arg-type]
