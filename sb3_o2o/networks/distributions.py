"""The Gaussian and the tanh-Gaussian, as pure functions."""

from __future__ import annotations

import math

import torch as th

# added inside the logarithm of the squash correction, as Stable-Baselines3 does
SQUASH_EPSILON = 1e-6
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def squashed_gaussian(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Reparametrised sample of a tanh-Gaussian and its log-probability (SAC, appendix C), with the squash
    correction ``log(1 - a^2 + 1e-6)`` of Stable-Baselines3.

    :param mean: mean before the squashing, ``(..., act)``
    :param log_std: log standard deviation, likewise
    :param noise: standard normal draws, likewise
    :return: action in [-1, 1], ``(..., act)``, and log-probability ``(...)``
    """
    action = th.tanh(mean + log_std.exp() * noise)
    log_density = -0.5 * noise.pow(2) - log_std - _HALF_LOG_TWO_PI
    correction = th.log(1 - action.pow(2) + SQUASH_EPSILON)
    return action, (log_density - correction).sum(dim=-1)


def squashed_log_prob(mean: th.Tensor, log_std: th.Tensor, actions: th.Tensor, clip: float = 1 - 1e-5) -> th.Tensor:
    """
    Log-probability of given actions under a tanh-Gaussian. Actions are clipped inside the bounds first: at
    exactly +-1 the pre-squash value is infinite, and close to it float32 is noise.

    :param mean: mean before the squashing, ``(..., act)``
    :param log_std: log standard deviation, likewise
    :param actions: in [-1, 1], likewise
    :param clip: largest magnitude that is scored, in (0, 1)
    :return: ``(...)``
    """
    actions = actions.clamp(-clip, clip)
    noise = (th.atanh(actions) - mean) * th.exp(-log_std)
    log_density = -0.5 * noise.pow(2) - log_std - _HALF_LOG_TWO_PI
    return (log_density - th.log(1 - actions.pow(2) + SQUASH_EPSILON)).sum(dim=-1)


def gaussian_log_prob(mean: th.Tensor, log_std: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    Log-density of given actions under a diagonal Gaussian.

    :param mean: ``(..., act)``
    :param log_std: log standard deviation, likewise
    :param actions: likewise
    :return: ``(...)``
    """
    noise = (actions - mean) * th.exp(-log_std)
    return (-0.5 * noise.pow(2) - log_std - _HALF_LOG_TWO_PI).sum(dim=-1)


def mixture_moments(means: th.Tensor, log_stds: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    The Gaussian with the mean and the variance of an even mixture of Gaussians: ``mean = avg mu_i``, ``var = avg
    (sigma_i^2 + mu_i^2) - mean^2`` (Lee et al. 2021).

    :param means: of N Gaussians, ``(N, ..., act)``
    :param log_stds: their log standard deviations, likewise
    :return: mean and log standard deviation, ``(..., act)``
    """
    mean = means.mean(dim=0)
    # the spread of the means around their mean cannot become negative, as a difference of squares can
    variance = (2 * log_stds).exp().mean(dim=0) + (means - mean).pow(2).mean(dim=0)
    return mean, 0.5 * variance.log()


def gaussian_entropy(log_std: th.Tensor) -> th.Tensor:
    """
    Entropy of a diagonal Gaussian.

    :param log_std: log standard deviation, ``(..., act)``
    :return: ``(...)``
    """
    return (log_std + 0.5 + _HALF_LOG_TWO_PI).sum(dim=-1)
