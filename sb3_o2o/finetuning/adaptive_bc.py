"""Adaptive behaviour cloning: how much the policy imitates follows its returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from sb3_o2o.checked import checked
from sb3_o2o.evaluation import reference_score
from sb3_o2o.finetuning.callback import FineTuningCallback
from sb3_o2o.kinds import Fraction, NotNegative, Positive
from sb3_o2o.objectives import Penalty
from sb3_o2o.objectives import finetuning_functional as FF

if TYPE_CHECKING:
    from sb3_o2o.objectives import Batch


class AdaptiveBC(FineTuningCallback):
    """
    Adaptive behaviour cloning (Zhao et al. 2022): the actor also imitates the batch's actions, with a weight that a
    controller moves at the end of each episode. It falls while returns are below their target, so that the policy may
    leave the data, and rises where an episode was worse than those before it::

        weight <- weight + length [-k_p (target - average) + k_d max(0, average - score)],  in [0, largest]
        average <- (1 - smoothing) average + smoothing score

    Scores are returns between two references, 0 and 1 of D4RL's. The weight is for values of magnitude 1
    (``online_objective_kwargs={"normalize_values": True}`` of TD3), the squared distance averaged over dimensions. The
    average begins with the first episode; the official code begins with an evaluation.

    Returns are those that a ``Monitor`` counts, so unscaled.

    :param weight: at the start, and the largest, >= 0; 0.4 in the paper
    :param k_p: how fast it falls, for each environment step, >= 0
    :param k_d: how fast it rises, likewise
    :param target: score that is aimed at, > 0
    :param smoothing: weight of an episode in the average, in [0, 1]
    :param references: returns that are scored 0 and 1; by default D4RL's of the environment
    :raises ValueError: where none are known, the two are equal, or the environments count no returns
    """

    exclusive = ("how much the policy imitates the batch",)

    @checked
    def __init__(
        self,
        weight: NotNegative = 0.4,
        k_p: NotNegative = 3e-5,
        k_d: NotNegative = 1e-4,
        target: Positive = 1.05,
        smoothing: Fraction = 0.05,
        references: list[float] | tuple[float, float] | None = None,
    ):
        super().__init__()
        if references is not None and (len(references) != 2 or references[0] == references[1]):
            raise ValueError(
                f"references of AdaptiveBC are two different returns, of scores 0 and 1, not {references}."
            )
        self.weight, self.k_p, self.k_d = weight, k_p, k_d
        self.target, self.smoothing, self.references = target, smoothing, references
        self.begin_new_run()

    def begin_new_run(self) -> None:
        """See :meth:`FineTuningCallback.begin_new_run`."""
        #: now, as a tensor: a number that changes would be compiled anew
        self.current_weight = th.full((), float(self.weight))
        self.average: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "current_weight": self.current_weight.cpu()}

    def _init_callback(self) -> None:
        self._bounds()

    def _on_training_start(self) -> None:
        self.current_weight = self.current_weight.to(self.model.device)

    def _bounds(self) -> tuple[float, float]:
        if self.references is not None:
            return self.references[0], self.references[1]
        model: Any = self.model
        spec = model.get_env().get_attr("spec")[0]  # None where Gymnasium has not made it
        known = reference_score(None if spec is None else spec.id)
        if known is None:
            name = "this environment" if spec is None else repr(spec.id)
            raise ValueError(
                f"AdaptiveBC scores returns, and no reference returns are known for {name}: give "
                "references=(low, high), the returns that are scored 0 and 1."
            )
        return known.minimum, known.maximum

    def _on_step(self) -> bool:
        for index in np.flatnonzero(self.locals["dones"]):
            episode = self.locals["infos"][index].get("episode")
            if episode is None:
                raise ValueError("AdaptiveBC follows the returns that a Monitor counts: wrap the environments in one.")
            self._episode_ended(float(episode["r"]), int(episode["l"]))
        return True

    def _episode_ended(self, total: float, length: int) -> None:
        low, high = self._bounds()
        score = (total - low) / (high - low)
        average = score if self.average is None else self.average
        change = FF.controlled_change(score, average, self.target, self.k_p, self.k_d)
        self.current_weight.add_(length * change).clamp_(0.0, self.weight)
        self.average = (1 - self.smoothing) * average + self.smoothing * score
        self.logger.record("finetune/imitation_score", score)

    def actor_penalty(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> Penalty:
        """See :meth:`FineTuningCallback.actor_penalty`."""
        distance = (actions - batch.actions).pow(2).mean(dim=1)
        metrics = {"imitation_weight": self.current_weight.clone(), "imitation_distance": distance.detach().mean()}
        return Penalty(self.current_weight * distance, {}, metrics)
