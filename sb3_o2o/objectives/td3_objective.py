"""Twin delayed deterministic policy gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch as th

from sb3_o2o.checked import checked
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step
from sb3_o2o.objectives.learner import CriticSet, TD3Learner
from sb3_o2o.objectives.objective import CriticReduction, Objective, TargetReduction, check_target_reduction

if TYPE_CHECKING:
    from sb3_o2o.networks.ensemble import EnsembleCritic


class TD3Objective(Objective):
    """
    TD3 (Fujimoto et al. 2018), in Stable-Baselines3's order: critic, then, every ``policy_delay``-th update, actor.
    Noise and clip of the target actions are the model's ``target_policy_noise`` and ``target_noise_clip``. A
    deterministic policy has no density: hooks get None for its log-probability.

    A second set of critics Q2 has the same target with its own target networks:
    ``y2 = r + discount (1 - d) min Qb2(s', a')``.

    :param model: the algorithm whose networks are trained
    :param critic_reduction: see :func:`~sb3_o2o.objectives.functional.ensemble_mse`; the sum in Stable-Baselines3
    :param normalize_values: the actor maximises its values divided by their mean magnitude, so that penalties weigh
        alike on tasks with other rewards (OCR-CFT's code)
    :param target_reduction: ``"min"`` backs up the minimum over the target critics, ``"none"`` gives each critic a
        target of its own (SO2, eq. 3), ``"pairs"`` each pair (Off2On), ``"max"`` backs up the maximum
    """

    unused_hooks: ClassVar[tuple[str, ...]] = ("advantages",)

    @checked
    def __init__(
        self,
        model: TD3Learner,
        *,
        critic_reduction: CriticReduction = "sum",
        normalize_values: bool = False,
        target_reduction: TargetReduction = "min",
    ):
        super().__init__(model)
        check_target_reduction(target_reduction, model.critic_subset, model.n_critics)
        self.critic_reduction = critic_reduction
        self.normalize_values = normalize_values
        self.target_reduction = target_reduction

    @property
    def model(self) -> TD3Learner:
        """The algorithm whose networks are trained."""
        return self._model[0]

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        yield Step(self.critic_losses, (batch, *self.second_draws(batch)))
        if actor_batch is not None:
            yield Step(self.actor_losses, (actor_batch,))

    # -- critic ----------------------------------------------------------------------------------------------------

    def critic_losses(self, batch: Batch, noise: th.Tensor, members: th.Tensor | None) -> LossesAndMetrics:
        """
        :param batch: transitions
        :param noise: see :meth:`td_target`
        :param members: likewise
        :return: the critics' loss
        """
        target = self.td_target(batch, noise, members)
        values = self.model.critic.q_values(batch.observations, batch.actions)
        return {"critic": F.ensemble_mse(values, target, self.critic_reduction)}, {}

    def second_draws(self, batch: Batch) -> tuple[Any, ...]:
        """See :meth:`Objective.second_draws`."""
        noise = self.noise("target_smoothing", batch.next_observations)
        return noise, self.model.draw_critics(self.model.critic_subset)

    def second_losses(self, second: CriticSet, batch: Batch, *draws: Any) -> LossesAndMetrics:
        """See :meth:`Objective.second_losses`."""
        target = self.td_target(batch, *draws, second.critic_target)  # type: ignore[call-arg]
        values = second.critic.q_values(batch.observations, batch.actions)
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
        :param noise: standard normal draws for the smoothing of the next actions, ``(B, act)``
        :param members: target critics to evaluate, ``(m,)``; all by default
        :param critic_target: target critics; the model's own by default
        :return: ``(B,)``, or ``(N, B)`` for a target per critic
        """
        model, hooks = self.model, self.model.hooks
        actions = model.actor_target(batch.next_observations)
        actions = F.smoothed_actions(actions, noise, model.target_policy_noise, model.target_noise_clip)
        evaluated = hooks.next_actions(actions, None, batch)
        critic_target = model.critic_target if critic_target is None else critic_target
        values = critic_target.q_values(batch.next_observations, evaluated, members)
        if self.target_reduction == "pairs":
            values = F.pair_minima(values).repeat_interleave(2, dim=0)
        elif self.target_reduction != "none":
            values = F.reduce_ensemble(values, self.target_reduction)
        values = self.backed_up(values, actions, batch)
        values = hooks.next_values(values, actions, None, batch)
        target = F.bellman_target(batch.rewards, batch.dones, batch.discounts, values)
        return hooks.td_target(target, batch)

    def backed_up(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """
        For sub-classes: what is backed up, where it is more than the critics' values.

        :param values: of the target critics, ``(B,)`` or ``(N, B)``
        :param actions: the smoothed next actions, ``(B, act)``
        :param batch: transitions
        :return: as ``values``
        """
        return values

    # -- actor -----------------------------------------------------------------------------------------------------

    def actor_losses(self, batch: Batch) -> LossesAndMetrics:
        """
        :param batch: the actor's transitions
        :return: the actor's loss
        """
        actions, values = self.policy_values(batch)
        if self.normalize_values:
            values = values / values.detach().abs().mean()
        return self.model.hooks.actor_losses(-values, actions, None, batch)

    def policy_values(self, batch: Batch) -> tuple[th.Tensor, th.Tensor]:
        """
        :param batch: transitions
        :return: the policy's actions, ``(B, act)``, and their values to maximise, ``(B,)``
        """
        model = self.model
        actions = model.actor(batch.observations)
        if model.actor_critics == "first":  # without evaluating the rest
            values = model.critic.q1_forward(batch.observations, actions).squeeze(1)
        else:
            values = F.reduce_ensemble(model.critic.q_values(batch.observations, actions), model.actor_critics)
        return actions, model.hooks.actor_values(values, actions, batch)
