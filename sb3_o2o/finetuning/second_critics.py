"""A second set of critics beside a model's own, with target networks and optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn

from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.objectives import LossesAndMetrics, Objective
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
        trained = (self.critic.ensemble if shared else self.critic).parameters()
        self.optimizers = Optimizers(second_critic=FusedAdam(trained, lr=model.qf_lr_schedule(1.0)))
        if self.value is not None:
            rate = objective.optimizers["value"].param_groups[0]["lr"]
            self.optimizers["second_value"] = FusedAdam(self.value.parameters(), lr=rate)
        if copy:
            self.critic.load_state_dict(model.critic.state_dict())
            self.critic_target.load_state_dict(model.critic_target.state_dict())
            if self.value is not None:
                self.value.load_state_dict(objective.value.state_dict())  # type: ignore[union-attr]

    def trained_parameters(self) -> dict[str, th.Tensor]:
        """:return: what the optimisers train, by name: no target networks, no extractor of the actor's, none frozen"""
        groups = [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]
        ours = {id(parameter) for group in groups for parameter in group["params"]}
        return {name: each for name, each in self.named_parameters() if id(each) in ours and each.requires_grad}

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
