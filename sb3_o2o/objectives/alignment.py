"""Optimistic critic reconstruction: what makes a critic fit for online updates while the data are still offline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import InnerFraction, NotNegative, Positive
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step
from sb3_o2o.objectives.cql import CQLObjective
from sb3_o2o.objectives.learner import CriticLearner, SACLearner, TD3Learner
from sb3_o2o.objectives.objective import Objective, SACObjective
from sb3_o2o.objectives.td3_objective import TD3Objective


class ReevaluationObjective(Objective):
    """
    Fitted Q evaluation of a frozen policy by the rule that the critics will be trained with online: the online
    objective's critic loss, without the actor's (OCR-CFT, eq. 10 and 11; Luo et al. 2024). Targets follow at every
    update.

    :param model: the algorithm whose critics are trained
    :raises ValueError: if the online objective has no rule that evaluates the policy optimistically
    """

    delayed = False

    @checked
    def __init__(self, model: CriticLearner):
        super().__init__(model)
        online = model.finetuning_objective
        if isinstance(online, CQLObjective) or not isinstance(online, SACObjective | TD3Objective):
            raise ValueError(
                f"The online rule of {type(online).__name__} does not evaluate the policy optimistically: "
                f"PolicyReevaluation needs online_objective={model.default_online_objective!r}."
            )
        # what the rule trains beside critics
        self.optimizers.update(online.optimizers)
        self.follows.update(online.follows)

    @property
    def model(self) -> CriticLearner:
        """The algorithm whose critics are trained."""
        return self._model[0]

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        yield from self.model.finetuning_objective.steps(batch, None)


class OnReevaluatedCriticsObjective(Objective):
    """
    The policy on critics that were re-evaluated and are not aligned with it: what OCR-CFT compares its alignment with
    (figure 1). The critics stay as they are, or go on as the policy does; the temperature stays.

    :param model: the algorithm whose networks are trained
    :param iterative: update the critics by the online rule as well
    """

    delayed = False

    @checked
    def __init__(self, model: CriticLearner, *, iterative: bool):
        super().__init__(model)
        rule = ReevaluationObjective(model)  # refuses what has no online rule
        self.optimizers.update(rule.optimizers)
        self.follows.update(rule.follows)
        self.iterative = iterative
        # an attribute of the object: fixed critics have fixed targets
        self.moves_targets = iterative  # type: ignore[misc]

    @property
    def model(self) -> CriticLearner:
        """The algorithm whose networks are trained."""
        return self._model[0]

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        online = self._online
        if self.iterative:
            yield from online.steps(batch, None)
        if self.model.actor.stochastic:
            learner: Any = self.model
            arguments = (batch, online.noise("policy", batch.observations), learner.current_ent_coef())
            yield Step(self.soft_loss, arguments)
        else:
            yield Step(self.deterministic_loss, (batch,))

    def soft_loss(self, batch: Batch, noise: th.Tensor | None, ent_coef: th.Tensor) -> LossesAndMetrics:
        """
        :param batch: transitions
        :param noise: standard normal draws for the actions, ``(B, act)``; None with gSDE
        :param ent_coef: temperature, ``(1,)``
        :return: the actor's loss
        """
        losses, metrics, _ = SACObjective.actor_loss(self._online, batch, noise, ent_coef)
        return losses, metrics

    def deterministic_loss(self, batch: Batch) -> LossesAndMetrics:
        """
        :param batch: transitions
        :return: the actor's loss
        """
        return TD3Objective.actor_losses(self._online, batch)

    @property
    def _online(self) -> Any:
        """What is minimised online, whose terms beyond SAC's and TD3's are left out."""
        return self.model.finetuning_objective


class StochasticAlignmentObjective(SACObjective):
    """
    Align a soft critic with a policy that has a density (OCR-CFT, eq. 12 and 13): the value of the offline policy's
    most likely action is the anchor, and other values may be no larger than the energy policy makes them. The actor is
    updated alike, and finds the actions that are overestimated. There is no Bellman backup, temperature and target
    critics stay as they are, and all losses are formed from the same parameters.

    The log-probability of an action under the offline policy has no floor here, as in the official code; the paper says
    -50.

    :param model: the algorithm whose networks are trained
    :param reference: the offline policy, frozen
    :param action_clip: largest action magnitude that is scored, in (0, 1)
    """

    delayed = False
    moves_targets: ClassVar[bool] = False

    @checked
    def __init__(self, model: SACLearner, reference: nn.Module, *, action_clip: InnerFraction = 1 - 1e-4):
        super().__init__(model, critic_reduction="sum")
        # in a tuple: a callback owns it, this module must not register it
        self._reference: Any = (reference,)
        self.action_clip = action_clip

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        noise = self.noise("policy", batch.observations)
        yield Step(self.alignment_losses, (batch, noise, self.model.current_ent_coef()))

    def alignment_losses(self, batch: Batch, noise: th.Tensor, ent_coef: th.Tensor) -> LossesAndMetrics:
        """
        :param batch: transitions, of which only the observations count
        :param noise: standard normal draws for the policy's actions, ``(B, act)``
        :param ent_coef: temperature, ``(1,)``
        :return: the losses of actor and critics
        """
        model = self.model
        actions, log_prob = model.actor.rsample(batch.observations, noise)
        values = F.reduce_ensemble(model.critic.q_values(batch.observations, actions), model.actor_critics)
        # a value is one of the action that is carried out
        pair, targets = self.targets(batch, actions.detach().clamp(-1.0, 1.0), ent_coef)
        found = model.critic.q_values(batch.observations, pair)
        aligned = F.ensemble_mse(found[..., 0], targets[0], self.critic_reduction)
        anchored = F.ensemble_mse(found[..., 1], targets[1], self.critic_reduction)
        losses = {"actor": (ent_coef * log_prob - values).mean(), "critic": aligned + anchored}
        return losses, {"aligned_loss": aligned.detach(), "anchored_loss": anchored.detach()}

    @th.no_grad()
    def targets(
        self, batch: Batch, actions: th.Tensor, ent_coef: th.Tensor
    ) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
        """
        :param batch: transitions
        :param actions: of the policy, ``(B, act)``
        :param ent_coef: temperature, ``(1,)``
        :return: these actions and the anchors, ``(B, 2, act)``; and the values that the critics should give each
        """
        (reference,) = self._reference
        anchors = reference.mode(batch.observations).clamp(-self.action_clip, self.action_clip)
        mean, log_std, _ = reference.get_action_dist_params(batch.observations)
        anchor_log_prob = reference.density(mean, log_std, anchors, self.action_clip)
        log_prob = reference.density(mean, log_std, actions, self.action_clip)
        pair = th.stack([actions, anchors], dim=1)
        values, anchor_values = F.reduce_ensemble(
            self.model.critic_target.q_values(batch.observations, pair), "min"
        ).unbind(dim=1)
        return pair, (FF.aligned_values(anchor_values, anchor_log_prob, log_prob, values, ent_coef), anchor_values)


class DeterministicAlignmentObjective(TD3Objective):
    """
    Align a critic with a deterministic policy (OCR-CFT, eq. 15, 43 and 44): the value of the offline policy's action is
    the anchor, and values of actions near it shrink with their distance. The actor is updated at every step, on values
    that are not scaled; there is no Bellman backup and no target network moves.

    :param model: the algorithm whose networks are trained
    :param reference: the offline policy, frozen
    :param weight: beta of the distance, >= 0
    :param largest_distance: clamp of the distance, > 0; the standard deviation of the target noise in the paper
    """

    delayed = False
    moves_targets: ClassVar[bool] = False

    @checked
    def __init__(
        self, model: TD3Learner, reference: nn.Module, *, weight: NotNegative = 1.0, largest_distance: Positive = 0.2
    ):
        super().__init__(model, critic_reduction="sum")
        self._reference: Any = (reference,)
        self.weight = weight
        self.largest_distance = largest_distance

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        yield Step(self.alignment_losses, (batch, self.noise("policy", batch.observations)))

    def alignment_losses(self, batch: Batch, noise: th.Tensor) -> LossesAndMetrics:
        """
        :param batch: transitions, of which only the observations count
        :param noise: standard normal draws for the smoothing of the policy's actions, ``(B, act)``
        :return: the losses of actor and critics
        """
        actions, values = self.policy_values(batch)
        pair, targets = self.targets(batch, actions.detach(), noise)
        found = self.model.critic.q_values(batch.observations, pair)
        aligned = F.ensemble_mse(found[..., 0], targets[0], self.critic_reduction)
        anchored = F.ensemble_mse(found[..., 1], targets[1], self.critic_reduction)
        losses = {"actor": -values.mean(), "critic": aligned + anchored}
        return losses, {"aligned_loss": aligned.detach(), "anchored_loss": anchored.detach()}

    @th.no_grad()
    def targets(
        self, batch: Batch, actions: th.Tensor, noise: th.Tensor
    ) -> tuple[th.Tensor, tuple[th.Tensor, th.Tensor]]:
        """
        :param batch: transitions
        :param actions: of the policy, without noise, ``(B, act)``
        :param noise: standard normal draws, likewise
        :return: the smoothed actions and the anchors, ``(B, 2, act)``; and the values that each critic should give the
            first, ``(N, B)``, and all critics the second, ``(B,)``
        """
        model, (reference,) = self.model, self._reference
        anchors = reference(batch.observations)
        actions = F.smoothed_actions(actions, noise, model.target_policy_noise, model.target_noise_clip)
        pair = th.stack([actions, anchors], dim=1)
        values, of_anchors = model.critic_target.q_values(batch.observations, pair).unbind(dim=2)
        anchor_values = F.reduce_ensemble(of_anchors, "min")
        distance = FF.action_distance(actions, anchors, self.largest_distance)
        shrunk = FF.shrunk_values(anchor_values, distance, self.weight)
        return pair, (th.minimum(shrunk, values), anchor_values)  # each critic is bounded by its own target critic
