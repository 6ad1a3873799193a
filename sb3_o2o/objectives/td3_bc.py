"""TD3 with behaviour cloning."""

from __future__ import annotations

from typing import ClassVar

from sb3_o2o.checked import checked
from sb3_o2o.kinds import NotNegative
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics
from sb3_o2o.objectives.learner import TD3Learner
from sb3_o2o.objectives.objective import CriticReduction, TargetReduction
from sb3_o2o.objectives.td3_objective import TD3Objective
from sb3_o2o.search_space import Range, SearchSpace


class TD3BCObjective(TD3Objective):
    """
    TD3+BC (Fujimoto and Gu 2021), wired as in CORL: TD3 whose actor also imitates the batch's actions, its values
    weighted by ``alpha / mean |Q|``. The published configurations normalise observations, and shift AntMaze's rewards
    by -1. Published fine-tuning drops the imitation: go on with ``"td3"``.

    :param model: the algorithm whose networks are trained
    :param alpha: weight of the values against imitation, >= 0; 0 clones
    :param critic_reduction: see :class:`TD3Objective`
    :param target_reduction: likewise
    """

    search_space: ClassVar[SearchSpace] = {"alpha": Range(1.0, 10.0, log=True)}

    @checked
    def __init__(
        self,
        model: TD3Learner,
        *,
        alpha: NotNegative = 2.5,
        critic_reduction: CriticReduction = "sum",
        target_reduction: TargetReduction = "min",
    ):
        super().__init__(model, critic_reduction=critic_reduction, target_reduction=target_reduction)
        self.alpha = alpha

    def actor_losses(self, batch: Batch) -> LossesAndMetrics:
        """See :meth:`TD3Objective.actor_losses`."""
        actions, values = self.policy_values(batch)
        loss, weight = F.td3_bc_loss(values, actions, batch.actions, self.alpha)
        losses, metrics = self.model.hooks.actor_losses(loss, actions, None, batch)
        return losses, {**metrics, "q_weight": weight}
