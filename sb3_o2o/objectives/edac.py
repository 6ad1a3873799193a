"""Pessimism by many critics: SAC-N, and EDAC, which needs fewer because it keeps them apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch as th

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, NotNegative
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step
from sb3_o2o.objectives.learner import SACLearner
from sb3_o2o.objectives.objective import CriticReduction, SACObjective, TargetReduction
from sb3_o2o.search_space import Range, SearchSpace


class SACNObjective(SACObjective):
    """
    SAC-N (An et al. 2021, section 3): SAC whose target and actor both take the minimum over all N critics, whatever
    ``critic_subset`` and ``actor_critics`` say of fine-tuning. In CORL's order: temperature, actor, critics, each with
    what the one before has stepped to, and draws of its own for the temperature.

    :param model: the algorithm whose networks are trained
    :param critic_reduction: see :class:`~sb3_o2o.objectives.objective.SACObjective`; CORL sums over critics
    :param entropy_backup: likewise
    :param max_target_backup: likewise
    :param n_actions: likewise
    :param entropy_at_next: likewise
    :param target_reduction: likewise; ``"none"`` gives each critic a target of its own in place of the minimum
    """

    @checked
    def __init__(
        self,
        model: SACLearner,
        *,
        critic_reduction: CriticReduction = "sum",
        entropy_backup: bool | None = None,
        max_target_backup: bool = False,
        n_actions: Count = 10,
        entropy_at_next: bool = False,
        target_reduction: TargetReduction = "min",
    ):
        super().__init__(
            model,
            entropy_backup=entropy_backup,
            critic_reduction=critic_reduction,
            max_target_backup=max_target_backup,
            n_actions=n_actions,
            entropy_at_next=entropy_at_next,
            target_reduction=target_reduction,
        )
        self.overrides.update(critic_subset=self.target_subset, actor_critics=self.actor_reduction)

    def reductions(self, model: SACLearner) -> tuple[int | None, str]:
        """See :meth:`~sb3_o2o.objectives.objective.SACObjective.reductions`; SAC-N is the minimum over all."""
        return None, "min"

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`~sb3_o2o.objectives.objective.Objective.steps`."""
        model = self.model
        if model.use_sde:
            model.actor.reset_noise()  # it was drawn with the standard deviation before the last step
        if actor_batch is not None:
            if model.log_ent_coef is not None:
                own_noise = self.noise("policy", actor_batch.observations)
                yield Step(self.temperature_losses, (actor_batch, own_noise, self.temperature_draws(actor_batch)))
            noise, ent_coef = self.noise("policy", actor_batch.observations), model.current_ent_coef()
            yield Step(self.actor_losses, (actor_batch, noise, None, ent_coef))
        yield Step(self.critic_losses, (batch, *self.critic_draws(batch), model.current_ent_coef()))

    def temperature_losses(
        self, batch: Batch, noise: th.Tensor | None, next_noise: th.Tensor | None
    ) -> LossesAndMetrics:
        """
        :param batch: the actor's transitions
        :param noise: standard normal draws for the actions, ``(B, act)``; None with gSDE
        :param next_noise: the same at the next observations, where the entropy is measured there
        :return: the temperature's loss
        """
        observations = batch.next_observations if self.entropy_at_next else batch.observations
        with th.no_grad():
            _, log_prob = self.model.actor.rsample(observations, next_noise if self.entropy_at_next else noise)
        return {"ent_coef": self.temperature_loss(log_prob)}, {}

    def actor_losses(
        self, batch: Batch, noise: th.Tensor | None, next_noise: th.Tensor | None, ent_coef: th.Tensor
    ) -> LossesAndMetrics:
        """See :meth:`~sb3_o2o.objectives.objective.SACObjective.actor_losses`; the temperature has stepped before."""
        losses, metrics, _ = self.actor_loss(batch, noise, ent_coef)
        return losses, {**metrics, "ent_coef": ent_coef}


class EDACObjective(SACNObjective):
    """
    EDAC (An et al. 2021, algorithm 1): SAC-N, and a penalty on critics whose gradients by the action point the same way
    at the dataset's actions, :func:`~sb3_o2o.objectives.functional.diversity_penalty`.

    The penalty's weight is relative to the sum of the critics' errors, as in CORL;
    another ``critic_reduction`` scales both alike.

    :param model: the algorithm whose networks are trained
    :param eta: weight of the penalty, >= 0; 1 in most of the paper's MuJoCo tasks
    :param critic_reduction: see :class:`SACNObjective`
    :param entropy_backup: likewise
    :param max_target_backup: likewise
    :param n_actions: likewise
    :param entropy_at_next: likewise
    :param target_reduction: likewise
    :raises ValueError: for a single critic, or a negative weight
    """

    least_critics: ClassVar[int] = 2
    search_space: ClassVar[SearchSpace] = {"eta": Range(0.1, 10.0, log=True)}

    @checked
    def __init__(
        self,
        model: SACLearner,
        *,
        eta: NotNegative = 1.0,
        critic_reduction: CriticReduction = "sum",
        entropy_backup: bool | None = None,
        max_target_backup: bool = False,
        n_actions: Count = 10,
        entropy_at_next: bool = False,
        target_reduction: TargetReduction = "min",
    ):
        super().__init__(
            model,
            critic_reduction=critic_reduction,
            entropy_backup=entropy_backup,
            max_target_backup=max_target_backup,
            n_actions=n_actions,
            entropy_at_next=entropy_at_next,
            target_reduction=target_reduction,
        )
        if model.n_critics < self.least_critics:
            raise ValueError(f"Objective 'edac' compares critics: set n_critics to at least 2, not {model.n_critics}.")
        self.eta = eta

    def critic_losses(
        self, batch: Batch, noise: th.Tensor | None, members: th.Tensor | None, ent_coef: th.Tensor
    ) -> LossesAndMetrics:
        """See :meth:`~sb3_o2o.objectives.objective.SACObjective.critic_losses`; with the diversity penalty."""
        losses, metrics = super().critic_losses(batch, noise, members, ent_coef)
        penalty = F.diversity_penalty(self.model.critic.action_gradients(batch.observations, batch.actions))
        scale = {"half_sum": 0.5, "sum": 1.0, "mean": 1.0 / self.model.n_critics}[self.critic_reduction]
        losses["critic"] = losses["critic"] + scale * self.eta * penalty
        return losses, {**metrics, "edac_similarity": penalty.detach()}
