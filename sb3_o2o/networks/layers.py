"""Linear layers, written so that a compiler can do more with them."""

from __future__ import annotations

import torch as th
from torch import nn


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
