"""What updates rely on of an algorithm: its constructor's arguments, and its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import Schedule

from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.objectives import Objective
from sb3_o2o.updates.gradients import GradientFunctions
from sb3_o2o.updates.hooks import Hooks

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm as _Base
else:
    _Base = object


class AlgorithmArguments(_Base):
    """What the mixins of an algorithm rely on: its constructor's arguments, described there, and its state."""

    stock_class: ClassVar[type[BaseAlgorithm]]
    stock_policies: ClassVar[dict[type, type]]
    #: constructor arguments that are arguments of the policy
    policy_arguments: ClassVar[tuple[str, ...]]
    #: constructor arguments of a model that only acts
    acting_arguments: ClassVar[dict[str, Any]] = {}
    available_objectives: dict[str, type[Objective]]
    default_online_objective: ClassVar[str]
    qf_lr_schedule: Schedule
    actor: Any
    critic: Any
    critic_target: Any
    replay_buffer: Any  # of off-policy algorithms
    # constructor arguments, described at the algorithms
    explicit_arguments: tuple[str, ...]
    #: where its recipe can be found
    recipe: str | None
    #: gradient steps that the recipe wants on the dataset
    recipe_pretrain_steps: int = 0
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
    _has_statistics: bool
    _online_steps: tuple[int, int, float] | None
    # of PPO
    value_learning_rate: float | str | Schedule | None
    pretrain_optimizer: th.optim.Optimizer
    reevaluation_optimizer: th.optim.Optimizer

    if TYPE_CHECKING:
        # what the algorithm does, for the mixins that stand before it

        @property
        def action_dim(self) -> int:
            """Number of action dimensions."""

        def pretrain(self, *args: Any, **kwargs: Any) -> Any:
            """Minimise the offline objective."""

        def full_policy_kwargs(self) -> dict[str, Any]:
            """The policy's arguments."""

        def _setup_objectives(self) -> None:
            """Make objectives and callbacks of the arguments."""

        def _networks_replaced(self) -> None:
            """Follow a new policy."""

        def _target_pairs(self) -> list[tuple[th.nn.Module, th.nn.Module]]:
            """Networks with their target networks."""

        def _pretraining_loop(self, callback: Any, total: int, log_interval: int) -> None:
            """The gradient steps of ``pretrain``."""

        def _leave_pretraining(self) -> None:
            """Give ``num_timesteps`` back."""

        def _default_pretrain_steps(self) -> int:
            """Gradient steps where the user names none."""

        def _act_from_the_first_step(self) -> None:
            """Begin without random actions."""

    @property
    def _offline_batch_size(self) -> int:
        """Transitions per update of the offline phase."""
        return self.batch_size


def own_containers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Stable-Baselines3 writes into some of the dictionaries that it is given, and a model keeps them: a caller may use
    one for two models.

    :param arguments: of a constructor
    :return: the same in dictionaries and lists of their own, nested ones included; what these hold is not copied
    """

    def own(value: Any) -> Any:
        if type(value) is dict:
            return {key: own(item) for key, item in value.items()}
        return [own(item) for item in value] if type(value) is list else value

    is_taken = {name: name.endswith("_kwargs") or name == "finetuning" for name in arguments}
    return {name: own(value) if is_taken[name] else value for name, value in arguments.items()}
