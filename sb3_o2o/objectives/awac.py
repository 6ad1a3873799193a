"""Advantage-weighted actor-critic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_o2o.checked import checked
from sb3_o2o.kinds import InnerFraction, Positive
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step
from sb3_o2o.objectives.bc import check_imitation
from sb3_o2o.objectives.learner import CriticLearner, CriticSet
from sb3_o2o.objectives.objective import CriticReduction, Objective

if TYPE_CHECKING:
    from sb3_o2o.networks.ensemble import EnsembleCritic


class AWACObjective(Objective):
    """
    Advantage-weighted actor-critic (Nair et al. 2020), wired as in CORL: critics evaluate the policy,
    ``y = r + gamma (1 - d) min Qb(s', a')`` without entropy, and after their step the policy imitates the batch's
    actions, weighted by ``min(exp(A / lambda), w)`` with ``A = min Q(s, a) - min Q(s, b)``, one sample b of the policy
    standing for V(s). The same online: the imitation keeps the policy near what has been seen, dataset and own steps.

    CORL's Gaussian is not squashed and has one standard deviation for all states:
    ``policy_kwargs={"squash": "none", "state_dependent_std": False}``. Actions are clipped to the bounds wherever a
    critic is asked.

    The hook ``advantages`` may change what the weights are made of.

    :param model: the algorithm whose networks are trained
    :param temperature: lambda, > 0; 1/3 on MuJoCo, 0.1 on AntMaze and Adroit
    :param max_weight: w, the largest weight of a transition, > 0
    :param action_clip: largest action magnitude that is scored, in (0, 1)
    :param critic_reduction: see :func:`~sb3_o2o.objectives.functional.ensemble_mse`; the sum in CORL
    :raises ValueError: for a number out of range, or a policy without a density
    """

    unused_hooks: ClassVar[tuple[str, ...]] = ("actor_values",)
    #: over the critics, of the values that advantages are made of
    actor_reduction: ClassVar[str] = "min"

    @checked
    def __init__(
        self,
        model: CriticLearner,
        *,
        temperature: Positive = 1 / 3,
        max_weight: Positive = 100.0,
        action_clip: InnerFraction = 1 - 1e-5,
        critic_reduction: CriticReduction = "sum",
    ):
        super().__init__(model)
        check_imitation(model, "awac", None, "likelihood")
        self.temperature = temperature
        self.max_weight = max_weight
        self.action_clip = action_clip
        self.critic_reduction = critic_reduction
        self.overrides.update(actor_critics=self.actor_reduction, entropy_backup=False)

    @property
    def model(self) -> CriticLearner:
        """The algorithm whose networks are trained."""
        return self._model[0]

    def q_values(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :return: Q of every critic, ``(N, batch)``
        """
        return self.model.critic.q_values(obs, actions)

    def target_q_values(self, obs: PyTorchObs, actions: th.Tensor, members: th.Tensor | None) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :param members: target critics to evaluate, ``(m,)``; all by default
        :return: Q of target critics, ``(N, batch)``
        """
        return self.model.critic_target.q_values(obs, actions, members)

    def draw_members(self) -> th.Tensor | None:
        """:return: target critics that are evaluated, ``(m,)``; None for all"""
        return self.model.draw_critics(self.model.critic_subset)

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        yield Step(self.critic_losses, (batch, *self.second_draws(batch)))
        if actor_batch is not None:
            yield Step(self.actor_losses, (actor_batch, self.noise("policy", actor_batch.observations)))

    # -- critic ----------------------------------------------------------------------------------------------------

    def critic_losses(self, batch: Batch, noise: th.Tensor, members: th.Tensor | None) -> LossesAndMetrics:
        """
        :param batch: transitions
        :param noise: standard normal draws for the next actions, ``(B, act)``
        :param members: see :meth:`target_q_values`
        :return: the critics' loss
        """
        values = self.q_values(batch.observations, batch.actions)
        return {"critic": F.ensemble_mse(values, self.td_target(batch, noise, members), self.critic_reduction)}, {}

    def second_draws(self, batch: Batch) -> tuple[Any, ...]:
        """See :meth:`Objective.second_draws`."""
        return self.noise("next_policy", batch.next_observations), self.draw_members()

    def second_losses(self, second: CriticSet, batch: Batch, *draws: Any) -> LossesAndMetrics:
        """See :meth:`Objective.second_losses`."""
        values = second.critic.q_values(batch.observations, batch.actions)
        target = self.td_target(batch, *draws, second.critic_target)  # type: ignore[call-arg]
        return {"second_critic": F.ensemble_mse(values, target, self.critic_reduction)}, {}

    @th.no_grad()
    def td_target(
        self,
        batch: Batch,
        noise: th.Tensor,
        members: th.Tensor | None,
        critic_target: EnsembleCritic | None = None,
    ) -> th.Tensor:
        """
        :param batch: transitions
        :param noise: standard normal draws for the next actions, ``(B, act)``
        :param members: target critics to evaluate, ``(m,)``; all by default
        :param critic_target: target critics; the model's own by default
        :return: ``(B,)``
        """
        hooks, ask = self.model.hooks, self.target_q_values if critic_target is None else critic_target.q_values
        actions, log_prob = self.model.actor.rsample(batch.next_observations, noise)
        # critics see what the environment would: Gaussians that are not squashed are clipped on the way there
        evaluated = hooks.next_actions(actions, log_prob, batch).clamp(-1.0, 1.0)
        values = F.reduce_ensemble(ask(batch.next_observations, evaluated, members), "min")
        values = hooks.next_values(values, actions, log_prob, batch)
        target = F.bellman_target(batch.rewards, batch.dones, batch.discounts, values)
        return hooks.td_target(target, batch)

    # -- actor -----------------------------------------------------------------------------------------------------

    def actor_losses(self, batch: Batch, noise: th.Tensor) -> LossesAndMetrics:
        """
        :param batch: the actor's transitions
        :param noise: standard normal draws for the actions that V(s) is estimated by, ``(B, act)``
        :return: the losses of the actor and of callbacks, and the mean weight of a transition
        """
        actor, hooks = self.model.actor, self.model.hooks
        actions, log_prob = actor.rsample(batch.observations, noise)
        with th.no_grad():
            batch = batch.with_actions(hooks.imitated_actions(batch.actions, batch))
            taken = F.reduce_ensemble(self.q_values(batch.observations, batch.actions), self.actor_reduction)
            sampled = self.q_values(batch.observations, actions.clamp(-1.0, 1.0))
            sampled = F.reduce_ensemble(sampled, self.actor_reduction)
            advantages = hooks.advantages(taken - sampled, batch)
            weights = F.advantage_weights(advantages, 1 / self.temperature, self.max_weight)
        loss = -weights * actor.log_prob(batch.observations, batch.actions, self.action_clip)
        losses, metrics = hooks.actor_losses(loss, actions, log_prob, batch)
        return losses, {**metrics, "advantage": advantages.mean(), "advantage_weight": weights.mean()}
