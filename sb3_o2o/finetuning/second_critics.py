"""OPT's second critics: the networks, and what a fresh pair minimises before fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch as th
from torch import nn
from torch.func import functional_call

from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.objectives import Batch, LossesAndMetrics, Objective, Step
from sb3_o2o.objectives import functional as F
from sb3_o2o.objectives.batch import Optimizers


class SecondCritics(nn.Module):
    """
    Critics beside a model's own, their target networks, and V where the objective learns one, with their optimisers: of
    the same shapes as the model's. With a shared features extractor they read the actor's, as the first critics do, and
    do not train it.

    A callback owns them. Pickled, as callbacks are with their model and in resume bundles, they keep all of their
    weights and moments; :meth:`attach_to` ties them to the model again.

    :param objective: the objective that will train them
    :param copy: start as a copy of the model's own, target networks and V included, instead of afresh
    :raises ValueError: if the objective has no loss for them
    """

    def __init__(self, objective: Objective, copy: bool = False):
        super().__init__()
        if not objective.supports_second_critics:
            raise ValueError(
                f"{type(objective).__name__} trains no critics, so there is nothing that a second pair could learn: "
                "choose another online_objective."
            )
        model: Any = objective.model
        shared = model.critic.share_features_extractor
        self.critic = model.policy.make_critic(model.actor.features_extractor if shared else None)
        self.critic_target = model.policy.make_critic(None)
        # statistics that normalise observations are no weights: the same for all networks
        first = dict(model.critic.named_buffers())
        for name, buffer in self.critic.named_buffers():
            buffer.copy_(first[name])
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.set_training_mode(False)
        self.value = objective.new_value_network()
        critic, value = self._parameters_by_owner()
        self.optimizers = Optimizers(second_critic=FusedAdam(critic.values(), lr=model.qf_lr_schedule(1.0)))
        if self.value is not None:
            rate = objective.optimizers["value"].param_groups[0]["lr"]
            self.optimizers["second_value"] = FusedAdam(value.values(), lr=rate)
        if copy:
            self._copy_first(objective)

    def _parameters_by_owner(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        critic = {
            f"critic.{name}": parameter
            for name, parameter in self.critic.named_parameters()
            if not (self.critic.share_features_extractor and name.startswith("features_extractor"))
        }
        value = {} if self.value is None else {f"value.{n}": each for n, each in self.value.named_parameters()}
        return critic, value

    def trained_parameters(self) -> dict[str, th.Tensor]:
        """:return: what the optimisers train, by name: no target networks, no extractor of the actor's, none frozen"""
        critic, value = self._parameters_by_owner()
        return {name: parameter for name, parameter in (critic | value).items() if parameter.requires_grad}

    def _copy_first(self, objective: Any) -> None:
        model = objective.model
        self.critic.load_state_dict(model.critic.state_dict())
        self.critic_target.load_state_dict(model.critic_target.state_dict())
        if self.value is not None:
            self.value.load_state_dict(objective.value.state_dict())

    def attach_to(self, objective: Any) -> bool:
        """
        Go on with a model, after having been pickled.

        :param objective: the objective that will train them
        :return: False if these learned by another objective, so that there is nothing to go on with
        """
        learns_value = getattr(objective, "value", None) is not None
        if not objective.supports_second_critics or learns_value != (self.value is not None):
            return False
        if self.critic.share_features_extractor:
            self.critic.features_extractor = objective.model.actor.features_extractor
        if self.critic.device != objective.model.device:
            self.to(objective.model.device)
        return True

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)
        for optimizer in self.optimizers.values():
            optimizer.load_state_dict(optimizer.state_dict())  # moments follow their parameters
        return self

    @th.no_grad()
    def update_targets(self, tau: float) -> None:
        """
        :param tau: how far the target networks move, in [0, 1]
        """
        th._foreach_lerp_(list(self.critic_target.parameters()), list(self.critic.parameters()), tau)

    def forward(self, losses: Callable[..., LossesAndMetrics], *arguments: Any) -> LossesAndMetrics:
        """
        So that ``torch.func.functional_call`` can form a loss at other parameters.

        :param losses: a function of these networks and of ``arguments``
        :param arguments: of the function
        """
        return losses(self, *arguments)


class OnlinePretrainingObjective(Objective):
    """
    ``L_off(psi) + w L_on(psi - a grad L_off(psi))`` for the second critics psi (Shin et al. 2025): the TD errors of
    the online objective on a batch of the dataset and on one of fresh transitions, towards the second critics' own
    target networks. Policy and first critics stay as they are. For IQL psi are Q2 and V2, and each loss is the sum of
    theirs; that and SAC's entropy in the targets are ours, the paper has equations for TD3 alone.

    A gradient of a gradient is not compiled: this step runs eagerly.

    :param model: the algorithm beside whose critics these are
    :param critics: the second critics
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
        critics: SecondCritics,
        online_batch: Callable[[int], Batch],
        *,
        meta: str,
        inner_learning_rate: float,
        learning_rate: float,
        gradient_weight: bool,
        target_interval: int,
    ):
        super().__init__(model)
        # in a tuple: a callback owns them, this module must not register them
        self._critics = (critics,)
        self.optimizers = critics.optimizers
        self.follows = {"second_critic": "critic"}
        self.online_batch = online_batch
        self.meta = meta
        self.inner_learning_rate = inner_learning_rate
        self.learning_rate = learning_rate
        self.gradient_weight = gradient_weight
        self.target_interval = target_interval

    @property
    def model(self) -> Any:
        """The algorithm beside whose critics these are."""
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
            self._critics[0].update_targets(model.tau)

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
        (second,), td_losses = self._critics, self.model.finetuning_objective.second_losses

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
