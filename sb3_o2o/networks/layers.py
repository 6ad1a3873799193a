"""Linear layers, written so that a compiler can do more with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch as th
from torch import nn

from sb3_o2o.kinds import number

#: of matrix products
Precision = Literal["fp32", "bf16"]
#: share of units that an update leaves out, in [0, 1)
Dropout = Annotated[float, number(0, below=1)]


@dataclass(frozen=True)
class Details:
    """
    What hidden layers have beside their widths, and how the output layer starts. The defaults are torch's.

    :param norm_after: layer normalisation comes after the activation instead of before it, as in ReBRAC; says
        nothing where there is none
    :param dropout: share of a hidden layer's units that an update leaves out, in [0, 1); acting and target networks
        leave none out
    :param hidden_bias: what biases of hidden layers start at; 0.1 in SAC-N, EDAC and ReBRAC
    :param head_init: weights and biases of the output layer start uniform within +- this; 1e-3 for actors and 3e-3 for
        critics in the same
    :raises ValueError: for a number out of range
    """

    norm_after: bool = False
    dropout: float = 0.0
    hidden_bias: float | None = None
    head_init: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Dropout must lie in [0, 1), not {self.dropout}.")
        if self.head_init is not None and not self.head_init > 0:
            raise ValueError(f"The range of an output layer's first weights must be > 0, not {self.head_init}.")

    def norms(self, layer_norm: bool) -> list[type[nn.Module]] | None:
        """
        :param layer_norm: whether hidden layers are normalised
        :return: what Stable-Baselines3's ``create_mlp`` puts between a linear layer and its activation
        """
        return [nn.LayerNorm] if layer_norm and not self.norm_after else None

    def complete(self, layers: list[nn.Module], n_hidden: int, layer_norm: bool) -> list[nn.Module]:
        """
        Add what ``create_mlp`` has no place for. No random number is drawn.

        :param layers: of one network
        :param n_hidden: hidden layers; the linear one after them is the output
        :param layer_norm: whether hidden layers are normalised
        :return: the same with dropout after each hidden linear layer and normalisation after its activation
        """
        found: list[nn.Module] = []
        widths: list[int] = []
        for layer in layers:
            found.append(layer)
            is_linear = isinstance(layer, nn.Linear)
            if isinstance(layer, nn.Linear):
                widths.append(layer.out_features)
            if len(widths) > n_hidden:
                continue
            if is_linear and self.dropout > 0:
                found.append(nn.Dropout(self.dropout))
            if not is_linear and layer_norm and self.norm_after:
                found.append(nn.LayerNorm(widths[-1]))
        return found

    @th.no_grad()
    def initialize(self, layers: list[nn.Module], n_hidden: int) -> None:
        """
        :param layers: of one network, hidden layers first; what follows them are output layers
        :param n_hidden: hidden layers
        """
        linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        if self.hidden_bias is not None:
            for layer in linears[:n_hidden]:
                layer.bias.fill_(self.hidden_bias)
        if self.head_init is not None:
            for layer in linears[n_hidden:]:
                layer.weight.uniform_(-self.head_init, self.head_init)
                layer.bias.uniform_(-self.head_init, self.head_init)


def linear(layer: nn.Module, inputs: th.Tensor) -> th.Tensor:
    """
    :param layer: a linear layer, or any other, which is applied as it is
    :param inputs: ``(rows, in)``
    :return: ``(rows, out)``
    """
    if not isinstance(layer, nn.Linear) or layer.bias is None or not th.compiler.is_compiling():
        return layer(inputs)
    # a bias apart from the product joins the activation in one pass over memory, instead of being copied first
    return inputs @ layer.weight.t() + layer.bias


def sequential(layers: nn.Sequential, inputs: th.Tensor) -> th.Tensor:
    """
    :param layers: layers to apply in turn
    :param inputs: ``(rows, in)``
    :return: ``(rows, out)``
    """
    for layer in layers:
        inputs = linear(layer, inputs)
    return inputs


def heads(inputs: th.Tensor, *layers: nn.Linear) -> tuple[th.Tensor, ...]:
    """
    Several linear layers on the same input; compiled, in one product.

    :param inputs: ``(rows, in)``
    :param layers: linear layers with biases
    :return: ``(rows, out)`` of each
    """
    if not th.compiler.is_compiling():
        return tuple(layer(inputs) for layer in layers)
    weight, bias = th.cat([layer.weight for layer in layers]), th.cat([layer.bias for layer in layers])
    return (inputs @ weight.t() + bias).split([layer.out_features for layer in layers], dim=-1)
