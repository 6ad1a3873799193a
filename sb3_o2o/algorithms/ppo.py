"""PPO, offline to online."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from stable_baselines3 import PPO
from stable_baselines3.common import policies as stock
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from sb3_o2o.algorithms.arguments import PPOArguments
from sb3_o2o.algorithms.constructors import takes_arguments
from sb3_o2o.algorithms.on_policy import O2OOnPolicyAlgorithm
from sb3_o2o.networks.ppo_policies import O2OPPOCnnPolicy, O2OPPOMultiInputPolicy, O2OPPOPolicy
from sb3_o2o.objectives import PPO_OBJECTIVES
from sb3_o2o.transfer.archive import opens_family


@takes_arguments(PPOArguments, objective="bc")
@opens_family
class O2OPPO(O2OOnPolicyAlgorithm, PPO):
    """
    Proximal policy optimisation that pre-trains on a fixed dataset and fine-tunes online. ``learn`` is
    Stable-Baselines3's own. PPO learns online from its last rollout alone, so the dataset is for the time before.
    Arguments come first that are those of Stable-Baselines3's PPO, in its order; ours follow, by keyword alone. With
    ours at their defaults PPO is followed bit for bit.

    :raises ValueError: for an argument out of range, an unknown name, actions that are not continuous and bounded, or
        gSDE
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": O2OPPOPolicy,
        "CnnPolicy": O2OPPOCnnPolicy,
        "MultiInputPolicy": O2OPPOMultiInputPolicy,
    }
    available_objectives: ClassVar = PPO_OBJECTIVES  # type: ignore[misc]
    stock_class: ClassVar = PPO
    stock_policies: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {
        stock.ActorCriticPolicy: O2OPPOPolicy,
        stock.ActorCriticCnnPolicy: O2OPPOCnnPolicy,
        stock.MultiInputActorCriticPolicy: O2OPPOMultiInputPolicy,
    }
    policy: O2OPPOPolicy

    def __init__(
        self,
        policy: str | type[stock.ActorCriticPolicy],
        env: GymEnv | str | None,
        *args: Any,
        **arguments: Unpack[PPOArguments],
    ):
        super().__init__(policy, env, *args, **arguments)
