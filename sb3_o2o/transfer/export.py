"""Weights out: a model of ours as a stock Stable-Baselines3 one."""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from sb3_o2o.data import MonteCarloDictReplayBuffer, MonteCarloReplayBuffer
from sb3_o2o.transfer import conversion

if TYPE_CHECKING:
    _Base: Any
else:
    _Base = object


class ExportMixin(_Base):
    """``to_sb3``."""

    def to_sb3(self) -> BaseAlgorithm:
        """
        The same model as a stock Stable-Baselines3 algorithm, Adam moments and temperature included. Without layer
        normalisation or normaliser its policy is stock as well; with them its policy class is ours, and loading it
        needs this package installed.

        :return: a model of the stock class, without replay buffer contents
        """
        policy: Any = self.policy
        inverse = {ours: theirs for theirs, ours in self.stock_policies.items()}
        is_stock = policy.is_stock and type(policy) in inverse
        policy_class: Any = inverse[type(self.policy)] if is_stock else type(self.policy)
        constructor: Any = self.stock_class
        model = constructor(policy=policy_class, env=None, device=self.device, _init_setup_model=False)
        own = ("policy_class", "policy", "device", "replay_buffer", "policy_kwargs", "seed")
        shared = {name: value for name, value in vars(self).items() if name in vars(model) and name not in own}
        # copies of what training adds to: the two models may go on apart
        vars(model).update(
            {name: copy.copy(value) if isinstance(value, dict | deque) else value for name, value in shared.items()}
        )
        extra = () if not is_stock else tuple(policy.extra_arguments)
        model.policy_kwargs = {name: value for name, value in self.full_policy_kwargs().items() if name not in extra}
        for name in ("env", "n_envs", "observation_space", "action_space"):
            setattr(model, name, getattr(self, name))
        if getattr(self, "replay_buffer_class", None) in (MonteCarloReplayBuffer, MonteCarloDictReplayBuffer):
            model.replay_buffer_class, model.replay_buffer_kwargs = None, {}
        # exporting must not change the run: no seeding, and weights that are replaced at once are drawn aside
        with th.random.fork_rng(devices=[]):
            model._setup_model()
        model.seed = self.seed
        parameters = self._to_stock(model) if is_stock else super().get_parameters()
        names = model._get_torch_save_params()
        model.set_parameters({name: parameters[name] for name in names[0]}, device=self.device)
        for name in names[1]:
            recursive_getattr(model, name).data.copy_(recursive_getattr(self, name).data)
        return model

    def _to_stock(self, model: Any) -> dict[str, Any]:
        parameters = self.get_parameters()
        parameters["policy"] = conversion.policy_to_stock(parameters["policy"], self.critic)
        parameters["critic.optimizer"] = conversion.optimizer_to_stock(
            parameters["critic.optimizer"],
            self.critic,
            self._n_extractor_parameters(),
            model.critic.optimizer.state_dict(),
        )
        parameters["actor.optimizer"] = conversion.keep_flags(
            parameters["actor.optimizer"], model.actor.optimizer.state_dict()
        )
        return parameters

    def _n_extractor_parameters(self) -> int:
        """Parameters in front of the Q-networks' in the critic's optimiser."""
        n_optimized = sum(len(group["params"]) for group in self.critic.optimizer.param_groups)
        return n_optimized - len(list(self.critic.ensemble.parameters()))
