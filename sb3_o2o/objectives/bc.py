"""Behaviour cloning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch as th

from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.base import Batch, LossesAndMetrics, Objective, Step

if TYPE_CHECKING:
    from sb3_o2o.algorithms.sac import O2OSAC


class BCObjective(Objective):
    """
    Imitate the dataset's actions.

    ``loss="likelihood"`` minimises ``E[-log pi(a|s)] - alpha H(pi(.|s))`` with alpha tuned so that the entropy
    stays above the target entropy, after ODT (OCR-CFT, eq. 52): without the second term the standard deviation
    collapses, and SAC's ``alpha log pi`` jumps when fine-tuning starts. ``loss="mse"`` minimises the squared
    distance of the deterministic action, and leaves the standard deviation as it is.

    :param model: the algorithm whose actor is trained
    :param loss: ``"likelihood"`` or ``"mse"``
    :param entropy_term: keep the entropy term of the likelihood
    :param action_clip: largest action magnitude that is scored, in (0, 1)
    """

    trains_critic: ClassVar[bool] = False

    def __init__(
        self, model: O2OSAC, *, loss: str = "likelihood", entropy_term: bool = True, action_clip: float = 1 - 1e-5
    ):
        super().__init__(model)
        if loss not in ("likelihood", "mse"):
            raise ValueError(f"loss of objective 'bc' must be 'likelihood' or 'mse', not {loss!r}.")
        if not 0 < action_clip < 1:
            raise ValueError(f"action_clip must lie in (0, 1), not {action_clip}.")
        if loss == "likelihood" and model.use_sde:
            raise ValueError(
                "Objective 'bc' scores actions under a squashed Gaussian, which gSDE is not: use loss='mse'."
            )
        self.loss = loss
        self.entropy_term = entropy_term
        self.action_clip = action_clip

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`."""
        batch = batch if actor_batch is None else actor_batch
        if self.loss == "mse":
            yield Step(self.distance_loss, (batch,))
        else:
            noise = self.noise(batch.observations)
            yield Step(self.likelihood_losses, (batch, noise, self.model.current_ent_coef()))

    def distance_loss(self, batch: Batch) -> LossesAndMetrics:
        """
        :param batch: transitions
        :return: mean squared distance of the deterministic actions from the data's
        """
        actions = th.tanh(self.model.actor.mean(batch.observations))
        return {"actor": (actions - batch.actions).pow(2).mean()}, {}

    def likelihood_losses(self, batch: Batch, noise: th.Tensor, ent_coef: th.Tensor) -> LossesAndMetrics:
        """
        :param batch: transitions
        :param noise: standard normal draws for the entropy term, ``(B, act)``
        :param ent_coef: temperature, ``(1,)``
        :return: the losses of actor and temperature
        """
        model = self.model
        mean, log_std, _ = model.actor.get_action_dist_params(batch.observations)
        loss = -F.squashed_log_prob(mean, log_std, batch.actions, self.action_clip)
        if not self.entropy_term:
            return {"actor": loss.mean()}, {"ent_coef": ent_coef}
        _, log_prob = F.squashed_gaussian(mean, log_std, noise)
        losses = {"actor": (loss + ent_coef * log_prob).mean()}
        if model.log_ent_coef is not None:
            losses["ent_coef"] = F.temperature_loss(model.log_ent_coef, log_prob, float(model.target_entropy))
        return losses, {"ent_coef": ent_coef}
