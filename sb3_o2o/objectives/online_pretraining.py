"""What a fresh second pair of critics minimises before fine-tuning: OPT's meta-adaptation objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch as th
from torch.func import functional_call

from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.base import Objective
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Step


class OnlinePretrainingObjective(Objective):
    """
    ``L_off(psi) + w L_on(psi - a grad L_off(psi))`` for the second critics psi (Shin et al. 2025): the TD errors of
    the online objective on a batch of the dataset and on one of fresh transitions, towards the second critics' own
    target networks. Policy and first critics stay as they are. For IQL psi are Q2 and V2, and each loss is the sum of
    theirs; that and SAC's entropy in the targets are ours, the paper has equations for TD3 alone.

    A gradient of a gradient is not compiled: this step runs eagerly.

    :param model: the algorithm whose second critics are trained
    :param online_batch: draws fresh transitions, given their number
    :param meta: see :func:`~sb3_o2o.objectives.functional.meta_adaptation_loss`
    :param inner_learning_rate: a, the step size of the inner update, >= 0
    :param learning_rate: of the second critics' optimiser, > 0
    :param gradient_weight: use the weight w
    :param target_interval: updates between two of the target networks
    """

    trains_critic: ClassVar[bool] = False
    delayed: ClassVar[bool] = False
    moves_targets: ClassVar[bool] = False

    def __init__(
        self,
        model: Any,
        online_batch: Callable[[int], Batch],
        *,
        meta: str,
        inner_learning_rate: float,
        learning_rate: float,
        gradient_weight: bool,
        target_interval: int,
    ):
        super().__init__(model)
        self.online_batch = online_batch
        self.meta = meta
        self.inner_learning_rate = inner_learning_rate
        self.learning_rate = learning_rate
        self.gradient_weight = gradient_weight
        self.target_interval = target_interval

    @property
    def model(self) -> Any:
        """The algorithm whose second critics are trained."""
        return self._model[0]

    def learning_rate_factor(self, name: str, progress_remaining: float) -> float:
        """See :meth:`Objective.learning_rate_factor`."""
        if name != "second_critic":
            return 1.0
        return self.learning_rate / self.model.qf_lr_schedule(progress_remaining)

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        """See :meth:`Objective.steps`; ``batch`` comes from the dataset."""
        model = self.model
        online, draws = self.online_batch(len(batch)), model.finetuning_objective.second_draws
        n_made = model.phase_steps[model.phase]
        yield Step(self.losses, (batch, draws(batch), online, draws(online)), eager=True)
        if (n_made + 1) % self.target_interval == 0:
            model.second_critics.update_targets(model.tau)

    def losses(
        self, offline: Batch, offline_draws: tuple[Any, ...], online: Batch, online_draws: tuple[Any, ...]
    ) -> LossesAndMetrics:
        """
        :param offline: transitions of the dataset
        :param offline_draws: their random numbers, see :meth:`Objective.second_draws`
        :param online: fresh transitions
        :param online_draws: theirs
        :return: the same loss for each optimiser of the second critics
        """
        second, td_losses = self.model.second_critics, self.model.finetuning_objective.second_losses

        def loss(parameters: dict[str, th.Tensor], batch: Batch, draws: tuple[Any, ...]) -> th.Tensor:
            losses, _ = functional_call(second, parameters, (td_losses, batch, *draws))
            return th.stack(list(losses.values())).sum()

        total, metrics = F.meta_adaptation_loss(
            lambda parameters: loss(parameters, offline, offline_draws),
            lambda parameters: loss(parameters, online, online_draws),
            second.trained_parameters(),
            rate=self.inner_learning_rate,
            meta=self.meta,
            weighted=self.gradient_weight,
        )
        return dict.fromkeys(second.optimizers, total), metrics
