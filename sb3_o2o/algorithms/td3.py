"""TD3, offline to online."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.td3 import policies as stock

from sb3_o2o.algorithms.arguments import TD3Arguments
from sb3_o2o.algorithms.constructors import takes_arguments
from sb3_o2o.algorithms.off_policy import O2OOffPolicyAlgorithm
from sb3_o2o.networks.ensemble import EnsembleCritic
from sb3_o2o.networks.td3_policies import O2OTD3Actor, O2OTD3CnnPolicy, O2OTD3MultiInputPolicy, O2OTD3Policy
from sb3_o2o.objectives import TD3_OBJECTIVES
from sb3_o2o.transfer.archive import opens_family


@takes_arguments(TD3Arguments, objective="td3", actor_critics="first")
@opens_family
class O2OTD3(O2OOffPolicyAlgorithm, TD3):
    """
    Twin delayed deterministic policy gradient that pre-trains on a fixed dataset and fine-tunes online. Arguments come
    first that are those of Stable-Baselines3's TD3, in its order; ours follow, by keyword alone. With ours at their
    defaults it follows TD3.

    :raises ValueError: for an argument out of range or an unknown name
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": O2OTD3Policy,
        "CnnPolicy": O2OTD3CnnPolicy,
        "MultiInputPolicy": O2OTD3MultiInputPolicy,
    }
    available_objectives: ClassVar = TD3_OBJECTIVES  # type: ignore[misc]
    default_online_objective: ClassVar[str] = "td3"
    pretrain_keys: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "qf_learning_rate", "batch_size", "actor_max_grad_norm", "tau"),
        *("policy_delay", "target_policy_noise", "target_noise_clip"),
        *("n_critics", "critic_layer_norm", "policy_kwargs", "critic_subset", "subset_replacement", "actor_critics"),
    )
    stock_class: ClassVar = TD3
    stock_policies: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {
        stock.TD3Policy: O2OTD3Policy,
        stock.CnnPolicy: O2OTD3CnnPolicy,
        stock.MultiInputPolicy: O2OTD3MultiInputPolicy,
    }
    policy: O2OTD3Policy
    actor: O2OTD3Actor
    actor_target: O2OTD3Actor
    critic: EnsembleCritic  # type: ignore[assignment]
    critic_target: EnsembleCritic  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[stock.TD3Policy],
        env: GymEnv | str | None,
        *args: Any,
        **arguments: Unpack[TD3Arguments],
    ):
        super().__init__(policy, env, *args, **arguments)

    def _setup_model(self) -> None:
        super()._setup_model()
        # under the names by which the shared update copies them
        self.batch_norm_stats = [*self.critic_batch_norm_stats, *self.actor_batch_norm_stats]
        self.batch_norm_stats_target = [*self.critic_batch_norm_stats_target, *self.actor_batch_norm_stats_target]

    def draws_blocks(self, gradient_steps: int) -> bool:
        """Only for an actor that steps on them: stock TD3 draws each minibatch by itself."""
        return self.actor_batch == "block" and gradient_steps > 1

    def is_actor_step(self) -> bool:
        return self._n_updates % self.policy_delay == 0

    def is_target_step(self, step: int, is_actor_step: bool) -> bool:
        return is_actor_step

    def target_pairs(self) -> list[tuple[th.nn.Module, th.nn.Module]]:
        return [*super().target_pairs(), (self.actor, self.actor_target)]
