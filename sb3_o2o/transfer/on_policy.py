"""PPO's weights in and out: one network family of its own, and an optimiser of one or two groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_o2o.transfer.load_offline import TransferMixin


class OnPolicyTransferMixin(TransferMixin):
    """``load``, ``load_offline`` and ``to_sb3`` for PPO. Policies of other families are cloned."""

    shares_networks: ClassVar[bool] = False
    learned_arguments: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def takes_over(cls, source: Any) -> bool:
        """See :meth:`CrossingMixin.takes_over`."""
        return not source.use_sde and isinstance(source.action_space, spaces.Box)

    def _from_stock(self, parameters: dict[str, Any]) -> dict[str, Any]:
        own = ("pretrain_optimizer", "reevaluation_optimizer")
        converted = {**{name: getattr(self, name).state_dict() for name in own}, **parameters}
        if "policy.optimizer" in parameters:
            current, order = self.policy.optimizer.state_dict(), self._optimizer_order()
            saved = parameters["policy.optimizer"]
            if len(saved["param_groups"]) != len(current["param_groups"]):
                positions = order if len(current["param_groups"]) > 1 else np.argsort(order).tolist()
                converted["policy.optimizer"] = _regrouped(saved, positions, current)
        return converted

    def _to_stock(self, model: Any) -> dict[str, Any]:
        parameters = self.get_parameters()
        if self.value_learning_rate is not None:
            positions, current = np.argsort(self._optimizer_order()).tolist(), model.policy.optimizer.state_dict()
            parameters["policy.optimizer"] = _regrouped(parameters["policy.optimizer"], positions, current)
        return parameters

    def _optimizer_order(self) -> list[int]:
        """Where each parameter of the actor's group, then of the value network's, stands in a single group."""
        policy: Any = self.policy
        places = {id(parameter): index for index, parameter in enumerate(policy.parameters())}
        return [places[id(each)] for each in (*policy.actor_parameters(), *policy.value_parameters())]

    def _forget_values(self, fresh: Any) -> None:
        policy: Any = self.policy
        with th.no_grad():
            for own, other in zip(policy.value_parameters(), fresh.value_parameters(), strict=True):
                own.copy_(other)
                policy.optimizer.state.pop(own, None)

    def _policy_optimizers(self) -> dict[str, th.optim.Optimizer]:
        policy: Any = self.policy
        return {
            "policy": policy.optimizer,
            "pretraining": self.pretrain_optimizer,
            "reevaluation": self.reevaluation_optimizer,
        }

    def _all_optimizers(self) -> Iterable[th.optim.Optimizer]:
        return self._policy_optimizers().values()


def _regrouped(saved: dict[str, Any], positions: list[int], current: dict[str, Any]) -> dict[str, Any]:
    """
    :param saved: state of an Adam
    :param positions: for each parameter of the new one, its place in the saved one
    :param current: state of the new one, whose groups are kept
    :return: state for the new one
    """
    moments = {index: saved["state"][place] for index, place in enumerate(positions) if place in saved["state"]}
    settings = saved["param_groups"][0]
    return {"state": moments, "param_groups": [{**settings, "params": g["params"]} for g in current["param_groups"]]}
