"""SAC, offline to online."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Unpack

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.sac import policies as stock

from sb3_o2o.algorithms.arguments import AUTOMATIC, SACArguments, automatic_factor
from sb3_o2o.algorithms.constructors import takes_arguments
from sb3_o2o.algorithms.off_policy import O2OOffPolicyAlgorithm
from sb3_o2o.checked import checked
from sb3_o2o.kinds import NotNegative, Positive
from sb3_o2o.networks.ensemble import EnsembleCritic
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.networks.sac_policies import O2OActor, O2OSACCnnPolicy, O2OSACMultiInputPolicy, O2OSACPolicy
from sb3_o2o.objectives import SAC_OBJECTIVES
from sb3_o2o.transfer.archive import opens_family
from sb3_o2o.transfer.temperature import stated_start
from sb3_o2o.updates.phases import PRETRAINING


@takes_arguments(SACArguments, objective="sac", actor_critics="min")
@opens_family
class O2OSAC(O2OOffPolicyAlgorithm, SAC):
    """
    Soft actor-critic that pre-trains on a fixed dataset and fine-tunes online. Arguments come first that are those of
    Stable-Baselines3's SAC, in its order; ours follow, by keyword alone. With ours at their defaults it follows SAC.

    :raises ValueError: for an argument out of range or an unknown name
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": O2OSACPolicy,
        "CnnPolicy": O2OSACCnnPolicy,
        "MultiInputPolicy": O2OSACMultiInputPolicy,
    }
    policy_arguments: ClassVar[tuple[str, ...]] = (*O2OOffPolicyAlgorithm.policy_arguments, "use_sde")
    available_objectives: ClassVar = SAC_OBJECTIVES  # type: ignore[misc]
    default_online_objective: ClassVar[str] = "sac"
    pretrain_keys: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "qf_learning_rate", "ent_coef_learning_rate", "ent_coef"),
        *("batch_size", "actor_max_grad_norm", "tau", "target_update_interval"),
        *("n_critics", "critic_layer_norm", "policy_kwargs"),
        *("critic_subset", "subset_replacement", "actor_critics", "entropy_backup"),
    )
    stock_class: ClassVar = SAC
    stock_policies: ClassVar[dict[type[BasePolicy], type[BasePolicy]]] = {
        stock.SACPolicy: O2OSACPolicy,
        stock.CnnPolicy: O2OSACCnnPolicy,
        stock.MultiInputPolicy: O2OSACMultiInputPolicy,
    }
    ent_coef_learning_rate: float | Schedule | None
    entropy_backup: bool
    policy: O2OSACPolicy
    actor: O2OActor
    critic: EnsembleCritic  # type: ignore[assignment]
    critic_target: EnsembleCritic  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[stock.SACPolicy],
        env: GymEnv | str | None,
        *args: Any,
        **arguments: Unpack[SACArguments],
    ):
        super().__init__(policy, env, *args, **arguments)

    def _setup_model(self) -> None:
        self._resolve_target_entropy()
        super()._setup_model()
        if self.ent_coef_optimizer is not None:
            self.ent_coef_optimizer = FusedAdam([self.log_ent_coef], lr=self.lr_schedule(1))

    def _resolve_target_entropy(self) -> None:
        """``"auto_0.5"`` is half of SAC's ``-|A|``, as RLPD has it; written as SB3 writes ``ent_coef="auto_0.1"``."""
        factor = automatic_factor(self.target_entropy) if isinstance(self.target_entropy, str) else None
        if factor is not None:
            self.target_entropy = -factor * self.action_dim

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self.ent_coef_lr_schedule = self._schedule_or_default(self.ent_coef_learning_rate)

    @checked
    def fix_ent_coef(self, ent_coef: NotNegative) -> None:
        """
        Stop tuning the temperature.

        :param ent_coef: its value from now on
        """
        self.ent_coef = ent_coef
        self.ent_coef_tensor = th.tensor(float(ent_coef), device=self.device)
        self.log_ent_coef, self.ent_coef_optimizer = None, None

    @checked
    def tune_ent_coef(self, ent_coef: Annotated[str, AUTOMATIC]) -> None:
        """
        Tune the temperature from now on.

        :param ent_coef: ``"auto"``, or ``"auto_0.1"`` to start there; else it starts at 1
        """
        self.ent_coef = ent_coef
        self.log_ent_coef = th.full((1,), math.log(stated_start(ent_coef) or 1.0), device=self.device).requires_grad_()
        self.ent_coef_optimizer = FusedAdam([self.log_ent_coef], lr=self.ent_coef_lr_schedule(1))

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        optimizers = super().optimizers()
        if self.ent_coef_optimizer is not None:
            optimizers["ent_coef"] = self.ent_coef_optimizer
        return optimizers

    def learning_rates(self) -> dict[str, Schedule]:
        return {**super().learning_rates(), "ent_coef": self.ent_coef_lr_schedule}

    def draws_blocks(self, gradient_steps: int) -> bool:
        return self.policy_delay > 1 and gradient_steps > 1

    def is_actor_step(self) -> bool:
        """Pre-training updates the actor at every step; fine-tuning counts its own, so that blocks stay aligned."""
        if self.phase == PRETRAINING:
            return True
        self.finetuning_run.n_updates += 1
        return self.finetuning_run.n_updates % self.policy_delay == 0

    def is_target_step(self, step: int, is_actor_step: bool) -> bool:
        counter = self._n_updates - 1 if self.phase == PRETRAINING else step
        return counter % self.target_update_interval == 0

    @checked
    def set_ent_coef(self, ent_coef: Positive) -> None:
        """
        Start afresh with another temperature; one that is tuned goes on from there.

        :param ent_coef: temperature alpha, > 0
        """
        with th.no_grad():
            if self.log_ent_coef is None:
                self.ent_coef_tensor.fill_(ent_coef)
            else:
                self.log_ent_coef.fill_(math.log(ent_coef))
        if self.ent_coef_optimizer is not None:
            self.ent_coef_optimizer.state.clear()

    def current_ent_coef(self) -> th.Tensor:
        """:return: the temperature alpha, without gradient"""
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()
