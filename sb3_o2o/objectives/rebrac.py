"""ReBRAC: TD3 with behaviour cloning in the actor and in the critics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch as th

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, Fraction, NotNegative
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step
from sb3_o2o.objectives.learner import TD3Learner
from sb3_o2o.objectives.objective import CriticReduction, TargetReduction
from sb3_o2o.objectives.td3_objective import TD3Objective


class ReBRACObjective(TD3Objective):
    """
    ReBRAC (Tarasov et al. 2023, "Revisiting the minimalist approach to offline reinforcement learning"), wired as in
    CORL: TD3 whose actor stays near the dataset's actions, and whose targets pay for next actions far from the
    dataset's next ones. The actor's Q is of those critics that the model's ``actor_critics`` says: the paper and the
    recipe have ``"min"``, the smallest; ``O2OTD3`` itself has TD3's ``"first"``::

        y    = r + gamma (1 - d) [min Qb(s', a') - beta_2 |a' - a'_data|^2]
        L_pi = beta_1 |pi(s) - a|^2 - Q(s, pi(s)) / mean |Q|

    Squares are summed over dimensions. Where an episode was cut by a time limit nobody knows its next action, and
    nothing is paid. (CORL leaves these transitions out.) Online targets pay nothing, and beta_1 falls with the
    environment steps to ``anneal_to`` of what it was.

    The paper's networks have layer normalisation after the activation in the critics and small output layers:
    ``policy_kwargs={"norm_after_activation": True, "critic_head_init": 3e-3, ...}``, see the recipe.

    :param model: the algorithm whose networks are trained
    :param actor_weight: beta_1, >= 0
    :param critic_weight: beta_2, >= 0; only while pre-training
    :param anneal_to: part of beta_1 that is left after ``anneal_steps``, in [0, 1]; 1 leaves all of it
    :param anneal_steps: environment steps of the fine-tuning run over which it falls, linearly, at least 1. In CORL it
        falls to nought over the run, a million steps, but not below ``anneal_to``: a half is reached in the middle
    :param normalize_values: divide the actor's values by their mean magnitude
    :param critic_reduction: see :class:`~sb3_o2o.objectives.td3_objective.TD3Objective`
    :param target_reduction: likewise
    :raises ValueError: for a number out of range
    """

    needs_next_actions: ClassVar[bool] = True
    imitation_weight: th.Tensor

    @checked
    def __init__(
        self,
        model: TD3Learner,
        *,
        actor_weight: NotNegative = 0.01,
        critic_weight: NotNegative = 0.01,
        anneal_to: Fraction = 0.5,
        anneal_steps: Count = 500_000,
        normalize_values: bool = True,
        critic_reduction: CriticReduction = "sum",
        target_reduction: TargetReduction = "min",
    ):
        super().__init__(
            model,
            critic_reduction=critic_reduction,
            normalize_values=normalize_values,
            target_reduction=target_reduction,
        )
        self.actor_weight = actor_weight
        self.critic_weight = critic_weight
        self.anneal_to = anneal_to
        self.anneal_steps = anneal_steps
        # a tensor that is filled anew, so that what is compiled sees the same object
        self.register_buffer("imitation_weight", th.full((1,), actor_weight, device=model.device), persistent=False)

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        self.imitation_weight.fill_(self.current_weight())
        yield from super().steps(batch, actor_batch)

    def current_weight(self) -> float:
        """:return: beta_1: constant while pre-training, then falling with the environment steps"""
        if self.model.phase == "pretraining":
            return self.actor_weight
        progress = min(self.model.n_finetuning_steps / self.anneal_steps, 1.0)
        return self.actor_weight * (1 + (self.anneal_to - 1) * progress)

    def backed_up(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """See :meth:`TD3Objective.backed_up`."""
        if self.model.phase != "pretraining" or self.critic_weight == 0:
            return values
        if batch.next_actions is None:
            raise ValueError("Objective 'rebrac' needs the data's next actions in its batches (Batch.next_actions).")
        return values - self.critic_weight * F.behaviour_distance(actions, batch.next_actions)

    def actor_losses(self, batch: Batch) -> LossesAndMetrics:
        """See :meth:`TD3Objective.actor_losses`."""
        actions, values = self.policy_values(batch)
        if self.normalize_values:
            values = values / values.detach().abs().mean()
        distance = F.behaviour_distance(actions, batch.actions)
        losses, metrics = self.model.hooks.actor_losses(self.imitation_weight * distance - values, actions, None, batch)
        return losses, {**metrics, "behaviour_distance": distance.detach().mean()}
