"""How much likelier a transition is online than in a dataset: the density-ratio network of balanced replay."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, Positive, Seed
from sb3_o2o.networks.layers import sequential
from sb3_o2o.networks.optimizers import FusedAdam


class DensityRatio:
    """
    A network w(s, a) >= 0 with its optimiser. As in Off2On's official code the output is rectified, and the bias of the
    output layer starts at 1: at first all ratios are about 1. Pickled, it holds both on the CPU.

    :param n_inputs: see :func:`state_action_inputs`
    :param net_arch: units per hidden layer
    :param learning_rate: of Adam
    :param seed: of the initial weights, which leave torch's own generator alone
    """

    @checked
    def __init__(self, n_inputs: Count, net_arch: list[Count], learning_rate: Positive, seed: Seed):
        self._arguments = (n_inputs, net_arch, learning_rate, seed)
        with th.random.fork_rng(devices=[]):
            th.default_generator.manual_seed(seed)  # th.manual_seed would seed a GPU as well
            self.network = nn.Sequential(*create_mlp(n_inputs, 1, net_arch), nn.ReLU())
        nn.init.ones_(self.network[-2].bias)  # type: ignore[arg-type]
        self.optimizer = FusedAdam(self.network.parameters(), lr=learning_rate)

    def to(self, device: th.device) -> None:
        """
        :param device: where the network is wanted
        """
        if next(self.network.parameters()).device != device:
            state = self.optimizer.state_dict()
            self.network.to(device)
            self.optimizer.load_state_dict(state)

    def __call__(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: ``(B, n_inputs)``
        :return: w, ``(B,)``
        """
        return sequential(self.network, inputs).squeeze(1)

    def __getstate__(self) -> dict[str, Any]:
        weights = {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        moments = {
            key: {name: value.cpu() for name, value in state.items()} for key, state in optimizer["state"].items()
        }
        return {"arguments": self._arguments, "weights": weights, "optimizer": {**optimizer, "state": moments}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["arguments"])  # type: ignore[misc]
        self.network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])


def state_action_inputs(observations: PyTorchObs, actions: th.Tensor) -> th.Tensor:
    """
    :param observations: ``(B, *obs)``, or a dict of them
    :param actions: ``(B, act)``
    :return: everything side by side, a dict's entries sorted by name, float32, ``(B, n_inputs)``
    """
    entries = [observations[key] for key in sorted(observations)] if isinstance(observations, dict) else [observations]
    return th.cat([*(entry.flatten(1).float() for entry in entries), actions], dim=1)
