"""Behaviour cloning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch as th

from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.base import Batch, Objective

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

    def losses(self, batch: Batch, actor_batch: Batch | None) -> Iterator[tuple[str, th.Tensor]]:
        """See :meth:`Objective.losses`."""
        batch = batch if actor_batch is None else actor_batch
        if self.loss == "mse":
            mean, _, _ = self.model.actor.get_action_dist_params(batch.observations)
            yield "actor", (th.tanh(mean) - batch.actions).pow(2).mean()
            return
        ent_coef = self.model.current_ent_coef()
        loss, log_prob = self.run(self._likelihood_loss, batch, self.noise(batch.observations), ent_coef)
        yield "actor", loss
        self.metrics["ent_coef"] = ent_coef
        if self.entropy_term and self.model.log_ent_coef is not None:
            yield "ent_coef", F.temperature_loss(self.model.log_ent_coef, log_prob, float(self.model.target_entropy))

    def _likelihood_loss(self, batch: Batch, noise: th.Tensor, ent_coef: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        mean, log_std, _ = self.model.actor.get_action_dist_params(batch.observations)
        loss = -F.squashed_log_prob(mean, log_std, batch.actions, self.action_clip)
        _, log_prob = F.squashed_gaussian(mean, log_std, noise)
        if self.entropy_term:
            loss = loss + ent_coef * log_prob
        return loss.mean(), log_prob.detach()
