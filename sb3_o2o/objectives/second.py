"""A second set of critics beside the policy's own, with target networks and optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn

from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.objectives.batch import LossesAndMetrics, Optimizers


class SecondCritics(nn.Module):
    """
    Critics, their target networks, and V where the objective learns one: fresh, and of the same shapes as the model's.
    With a shared features extractor they read the actor's, as the first critics do, and do not train it.

    :param objective: the objective that will train them
    """

    def __init__(self, objective: Any):
        super().__init__()
        model = objective.model
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

    def _parameters_by_owner(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        critic = {
            f"critic.{name}": parameter
            for name, parameter in self.critic.named_parameters()
            if not (self.critic.share_features_extractor and name.startswith("features_extractor"))
        }
        value = {} if self.value is None else {f"value.{n}": each for n, each in self.value.named_parameters()}
        return critic, value

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """:return: what the optimisers train, by name: no target networks, no extractor of the actor's, none frozen"""
        critic, value = self._parameters_by_owner()
        return {name: parameter for name, parameter in (critic | value).items() if parameter.requires_grad}

    @th.no_grad()
    def copy_first(self, objective: Any) -> None:
        """
        Start as a copy of the model's own critics, target networks and V included.

        :param objective: the objective that trains the model's own
        """
        model = objective.model
        self.critic.load_state_dict(model.critic.state_dict())
        self.critic_target.load_state_dict(model.critic_target.state_dict())
        if self.value is not None:
            self.value.load_state_dict(objective.value.state_dict())  # type: ignore[operator,union-attr]

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
