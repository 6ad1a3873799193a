"""The state-value network V(s)."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, Positive
from sb3_o2o.networks.ensemble import initialize
from sb3_o2o.networks.layers import Details, Precision, sequential


class ValueNetwork(nn.Module):
    """
    V(s) on features that another network's extractor makes.

    :param features_dim: number of features
    :param net_arch: units per hidden layer
    :param activation_fn: activation function
    :param layer_norm: normalise each hidden layer before its activation
    :param orthogonal_gain: see :func:`~sb3_o2o.networks.ensemble.initialize`
    :param last_hidden_gain: likewise
    :param precision: ``"bf16"`` runs the matrix products in bfloat16, weights and outputs stay float32
    :param details: of hidden and output layers
    """

    @checked
    def __init__(
        self,
        features_dim: Count,
        net_arch: list[Count],
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        orthogonal_gain: Positive | None = None,
        last_hidden_gain: Positive | None = None,
        precision: Precision = "fp32",
        details: Details | None = None,
    ):
        super().__init__()
        details, n_hidden = details or Details(), len(net_arch)
        layers = create_mlp(features_dim, 1, net_arch, activation_fn, post_linear_modules=details.norms(layer_norm))
        initialize(layers, orthogonal_gain, last_hidden_gain)
        details.initialize(layers, n_hidden)
        self.layers = nn.Sequential(*details.complete(layers, n_hidden, layer_norm))
        self.precision = precision

    def forward(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: ``(batch, features_dim)``
        :return: ``(batch,)``, float32
        """
        with th.autocast(features.device.type, dtype=th.bfloat16, enabled=self.precision == "bf16"):
            return sequential(self.layers, features).squeeze(-1).float()
