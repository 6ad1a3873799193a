"""What of a model's weights its family decides: how they go from and to stock models, and which are of values."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_o2o.transfer import conversion
from sb3_o2o.transfer.foreign import copy_parameters


class Weights:
    """Of SAC and TD3, which share the layers of actor and critics."""

    #: whether actor and critics have the layers of SAC's and TD3's, and can be copied from one to another
    shares_networks: ClassVar[bool] = True
    #: constructor arguments that training replaces by something learned
    learned_arguments: ClassVar[tuple[str, ...]] = ("ent_coef",)

    def takes_over(self, source: Any) -> bool:
        """
        :param source: a live model of the stock class, with a stock policy
        :return: whether this class opens it
        """
        return True

    def from_stock(self, model: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        """
        :param model: about to be given parameters
        :param parameters: of a stock model or of one of ours, by name
        :return: the same as ours
        """
        if not conversion.is_stock_policy(parameters.get("policy", {})):
            return parameters
        converted = {**parameters, "policy": conversion.policy_from_stock(parameters["policy"], model.critic)}
        if "critic.optimizer" in parameters:
            current, n_shared = model.critic.optimizer.state_dict(), n_extractor_parameters(model)
            converted["critic.optimizer"] = conversion.optimizer_from_stock(
                parameters["critic.optimizer"], model.critic, n_shared, current
            )
        if "actor.optimizer" in parameters:
            converted["actor.optimizer"] = conversion.keep_flags(
                parameters["actor.optimizer"], model.actor.optimizer.state_dict()
            )
        return converted

    def to_stock(self, model: Any, stock: Any) -> dict[str, Any]:
        """
        :param model: one of ours
        :param stock: a stock model of the same shapes
        :return: parameters of the one, as the other takes them
        """
        parameters = model.get_parameters()
        parameters["policy"] = conversion.policy_to_stock(parameters["policy"], model.critic)
        parameters["critic.optimizer"] = conversion.optimizer_to_stock(
            parameters["critic.optimizer"],
            model.critic,
            n_extractor_parameters(model),
            stock.critic.optimizer.state_dict(),
        )
        parameters["actor.optimizer"] = conversion.keep_flags(
            parameters["actor.optimizer"], stock.actor.optimizer.state_dict()
        )
        return parameters

    def policy_optimizers(self, model: Any) -> dict[str, th.optim.Optimizer]:
        """The optimisers of the policy's networks, by name."""
        return {"actor": model.actor.optimizer, "critic": model.critic.optimizer}

    def forget_values(self, model: Any, fresh: Any) -> None:
        """
        :param fresh: a policy as this one was before training, whose value networks replace this one's
        """
        if not model.critic.share_features_extractor:  # a shared one belongs to the actor
            copy_parameters(fresh.critic.features_extractor, model.critic.features_extractor)
        model.critic.ensemble.load_state_dict(fresh.critic.ensemble.state_dict())
        model.critic_target.load_state_dict(model.critic.state_dict())
        model.critic.optimizer.load_state_dict(fresh.critic.optimizer.state_dict())


def n_extractor_parameters(model: Any) -> int:
    """Parameters in front of the Q-networks' in the critic's optimiser."""
    n_optimized = sum(len(group["params"]) for group in model.critic.optimizer.param_groups)
    return n_optimized - len(list(model.critic.ensemble.parameters()))


class OnPolicyWeights(Weights):
    """Of PPO: one network family of its own, and an optimiser of one or two groups. Other policies are cloned."""

    shares_networks: ClassVar[bool] = False
    learned_arguments: ClassVar[tuple[str, ...]] = ()

    def takes_over(self, source: Any) -> bool:
        """See :class:`Weights`."""
        return not source.use_sde and isinstance(source.action_space, spaces.Box)

    def from_stock(self, model: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        """
        :param model: about to be given parameters
        :param parameters: of a stock model or of one of ours, by name
        :return: the same as ours
        """
        own = ("pretrain_optimizer", "reevaluation_optimizer")
        converted = {**{name: getattr(model, name).state_dict() for name in own}, **parameters}
        if "policy.optimizer" in parameters:
            current, order = model.policy.optimizer.state_dict(), _optimizer_order(model)
            saved = parameters["policy.optimizer"]
            if len(saved["param_groups"]) != len(current["param_groups"]):
                positions = order if len(current["param_groups"]) > 1 else np.argsort(order).tolist()
                converted["policy.optimizer"] = _regrouped(saved, positions, current)
        return converted

    def to_stock(self, model: Any, stock: Any) -> dict[str, Any]:
        """
        :param model: one of ours
        :param stock: a stock model of the same shapes
        :return: parameters of the one, as the other takes them
        """
        parameters = model.get_parameters()
        if model.value_learning_rate is not None:
            positions, current = np.argsort(_optimizer_order(model)).tolist(), stock.policy.optimizer.state_dict()
            parameters["policy.optimizer"] = _regrouped(parameters["policy.optimizer"], positions, current)
        return parameters

    def policy_optimizers(self, model: Any) -> dict[str, th.optim.Optimizer]:
        policy: Any = model.policy
        return {
            "policy": policy.optimizer,
            "pretraining": model.pretrain_optimizer,
            "reevaluation": model.reevaluation_optimizer,
        }

    def forget_values(self, model: Any, fresh: Any) -> None:
        policy: Any = model.policy
        with th.no_grad():
            for own, other in zip(policy.value_parameters(), fresh.value_parameters(), strict=True):
                own.copy_(other)
                policy.optimizer.state.pop(own, None)


def _optimizer_order(model: Any) -> list[int]:
    """Where each parameter of the actor's group, then of the value network's, stands in a single group."""
    policy: Any = model.policy
    places = {id(parameter): index for index, parameter in enumerate(policy.parameters())}
    return [places[id(each)] for each in (*policy.actor_parameters(), *policy.value_parameters())]


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
