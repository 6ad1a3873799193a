"""Behaviour cloning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch as th

from sb3_o2o.checked import checked
from sb3_o2o.kinds import InnerFraction
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step
from sb3_o2o.objectives.learner import Learner, SACLearner
from sb3_o2o.objectives.objective import UNUSED, Objective
from sb3_o2o.search_space import Choice, SearchSpace

Imitation = Literal["likelihood", "mse"]


def check_imitation(model: Learner, objective: str, argument: str | None, loss: Imitation | None) -> Imitation:
    """
    :param model: the algorithm whose actor is trained
    :param objective: who asks, for the error message
    :param argument: the name that ``loss`` has there; None where there is no choice
    :param loss: ``"likelihood"`` or ``"mse"``; by default the first where the policy has a density
    :return: the loss
    :raises ValueError: if the policy has no such density
    """
    stochastic = model.actor.stochastic
    if loss is None:
        loss = "likelihood" if stochastic else "mse"
    if loss == "likelihood" and not stochastic:
        instead = "use O2OSAC or O2OPPO" if argument is None else f"use {argument}='mse'"
        raise ValueError(
            f"Objective {objective!r}: the deterministic policy of {type(model).__name__} has no likelihood, {instead}."
        )
    if loss == "likelihood" and model.use_sde:
        instead = "set use_sde=False" if argument is None else f"use {argument}='mse'"
        raise ValueError(f"Objective {objective!r} scores actions under a Gaussian, which gSDE is not: {instead}.")
    return loss


class BCObjective(Objective):
    """
    Imitate the dataset's actions.

    ``loss="likelihood"`` minimises ``E[-log pi(a|s)] - alpha H(pi(.|s))`` with alpha tuned so that the entropy
    stays above the target entropy, after ODT (OCR-CFT, eq. 52): without the second term the standard deviation
    collapses, and SAC's ``alpha log pi`` jumps when fine-tuning starts. ``loss="mse"`` minimises the squared
    distance of the deterministic action, and leaves the standard deviation as it is. The actor steps at every update,
    whatever the delay, unless a callback holds it.

    :param model: the algorithm whose actor is trained
    :param loss: ``"likelihood"`` or ``"mse"``; by default the first where the policy has a density
    :param entropy_term: keep the entropy term of the likelihood
    :param action_clip: largest action magnitude that is scored, in (0, 1)
    """

    trains_critic: ClassVar[bool] = False
    actor_waits: ClassVar[bool] = False
    unused_hooks: ClassVar[tuple[str, ...]] = (
        *("next_actions", "next_values", "td_target", "actor_values", "advantages", "actor_penalty"),
    )
    search_space: ClassVar[SearchSpace] = {"entropy_term": Choice((True, False))}

    @checked
    def __init__(
        self,
        model: Learner,
        *,
        loss: Imitation | None = None,
        entropy_term: bool = True,
        action_clip: InnerFraction = 1 - 1e-5,
    ):
        super().__init__(model)
        self.overrides.update(critic_subset=UNUSED, actor_critics=UNUSED, entropy_backup=UNUSED)
        self.overrides.update(policy_delay=1, actor_batch="minibatch")
        self.loss = check_imitation(model, "bc", "loss", loss)
        self.entropy_term = entropy_term
        self.action_clip = action_clip

    @property
    def model(self) -> SACLearner:
        """The algorithm whose actor is trained. Only a policy with a density is asked for a temperature."""
        return self._model[0]

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        if actor_batch is None:
            return
        if self.loss == "mse":
            yield Step(self.distance_loss, (actor_batch,))
        else:
            noise = self.noise("policy", actor_batch.observations)
            yield Step(self.likelihood_losses, (actor_batch, noise, self.model.current_ent_coef()))

    def distance_loss(self, batch: Batch) -> LossesAndMetrics:
        """
        :param batch: transitions
        :return: mean squared distance of the deterministic actions from the data's
        """
        return {"actor": (self.model.actor.mode(batch.observations) - batch.actions).pow(2).mean()}, {}

    def likelihood_losses(self, batch: Batch, noise: th.Tensor, ent_coef: th.Tensor) -> LossesAndMetrics:
        """
        :param batch: transitions
        :param noise: standard normal draws for the entropy term, ``(B, act)``
        :param ent_coef: temperature, ``(1,)``
        :return: the losses of actor and temperature
        """
        model = self.model
        mean, log_std, _ = model.actor.get_action_dist_params(batch.observations)
        loss = -model.actor.density(mean, log_std, batch.actions, self.action_clip)
        if not self.entropy_term:
            return {"actor": loss.mean()}, {"ent_coef": ent_coef}
        _, log_prob = model.actor.sample(mean, log_std, noise)
        losses = {"actor": (loss + ent_coef * log_prob).mean()}
        if model.log_ent_coef is not None:
            losses["ent_coef"] = F.temperature_loss(model.log_ent_coef, log_prob, float(model.target_entropy))
        return losses, {"ent_coef": ent_coef}
