"""The short way from an observation to an action: the same layers on the same numbers, without what surrounds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import nn
from torch.nn import functional as F

from sb3_o2o.networks.normalizer import NormalizedExtractor

#: layers that do the same in training and in evaluation, so that the mode need not be set
_WITHOUT_MODES = frozenset(
    (nn.Linear, nn.LayerNorm, nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Mish, nn.Flatten)
)


def rows_of(observation: Any, space: spaces.Space) -> tuple[np.ndarray, bool] | None:
    """
    :param observation: what ``predict`` was given
    :param space: the observation space
    :return: float32 rows ``(batch, obs)`` of their own, and whether the observation was one of several environments;
        None unless it is a plain vector, or several
    """
    # Stable-Baselines3 takes integers and booleans apart, images too: those have one byte, or three dimensions
    if type(observation) is not np.ndarray or observation.dtype.kind != "f" or type(space) is not spaces.Box:
        return None
    shape = space.shape
    if len(shape) != 1 or space.dtype == np.uint8:
        return None
    if observation.shape == shape:
        return np.array(observation, dtype=np.float32)[None], False
    if observation.ndim == 2 and observation.shape[1:] == shape:
        return np.array(observation, dtype=np.float32), True
    return None


def features(extractor: nn.Module, rows: th.Tensor) -> th.Tensor | None:
    """
    :param extractor: an actor's features extractor
    :param rows: observations, ``(batch, obs)``
    :return: features ``(batch, obs)`` where the extractor leaves vectors flat, or normalises them; None otherwise
    """
    if type(extractor) is NormalizedExtractor and type(extractor.extractor) is FlattenExtractor:
        return extractor.normalize(rows)  # type: ignore[return-value]
    return rows if type(extractor) is FlattenExtractor else None


def in_turn(layers: nn.Sequential, inputs: th.Tensor) -> th.Tensor:
    """
    :param layers: layers to apply in turn
    :param inputs: ``(batch, in)``, of their own: they may change in place
    :return: ``(batch, out)``; ``forward`` of each, so without the hooks of a layer, see :func:`is_plain`
    """
    for layer in layers._modules.values():
        kind = type(layer)
        if kind is nn.Linear:
            inputs = _product(layer, inputs)  # type: ignore[arg-type]
        elif kind is nn.ReLU:
            inputs = inputs.relu_()
        else:
            inputs = layer.forward(inputs)  # type: ignore[union-attr]
    return inputs


def head(layer: nn.Module, inputs: th.Tensor) -> th.Tensor:
    """
    :param layer: what gives means or deviations, a linear layer most often
    :param inputs: ``(batch, in)``
    :return: ``(batch, out)``
    """
    if type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks:
        return _product(layer, inputs)
    return layer(inputs)  # type: ignore[no-any-return]


def _product(layer: nn.Linear, inputs: th.Tensor) -> th.Tensor:
    """What its ``forward`` does, whose ways to the weights cost a third of a small product."""
    parameters = layer._parameters
    return F.linear(inputs, parameters["weight"], parameters["bias"])  # type: ignore[arg-type]


def is_plain(layers: nn.Sequential) -> bool:
    """
    :param layers: layers that are applied in turn
    :return: whether each does the same in training as otherwise, unlike dropout, and is watched by no hook
    """
    return all(
        type(layer) in _WITHOUT_MODES and not layer._forward_hooks and not layer._forward_pre_hooks for layer in layers
    )


def gaussian_actions(mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """
    Draws as ``SquashedDiagGaussianDistribution`` does, and the same numbers from the same random stream.

    :param mean: before the squashing, ``(batch, act)``
    :param log_std: log standard deviation, ``(batch, act)`` or ``(act,)``
    :return: actions in [-1, 1], ``(batch, act)``
    """
    std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp_()
    noise = th.empty_like(mean).normal_()  # what torch.distributions draws, in fewer calls
    return noise.mul_(std).add_(mean).tanh_()


def set_mode(module: nn.Module, training: bool) -> None:
    """
    What ``module.train(training)`` does, without the search for parameters that each of its assignments makes.

    :param module: a module, with all below it
    :param training: training, or evaluation
    """
    if type(module).train is not nn.Module.train:
        module.train(training)  # frozen statistics, for example, are kept by a ``train`` of one's own
        return
    module.__dict__["training"] = training
    for child in module._modules.values():
        if child is not None:
            set_mode(child, training)
