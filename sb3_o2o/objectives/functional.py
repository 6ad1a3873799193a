"""
The papers' formulas as pure functions of tensors. No state, no random numbers unless passed in. Those that belong to
fine-tuning alone are in :mod:`~sb3_o2o.objectives.finetuning_functional`.

Shapes: ``B`` batch, ``N`` critics, ``K`` actions per state. Q-values of an ensemble are ``(N, B)`` or ``(N, B, K)``.
"""

from __future__ import annotations

import math

import torch as th

from sb3_o2o.networks.distributions import (
    gaussian_entropy,
    gaussian_log_prob,
    mixture_moments,
    squashed_gaussian,
    squashed_log_prob,
)

__all__ = [
    "advantage_weights",
    "behaviour_distance",
    "bellman_target",
    "calibrated_values",
    "conservative_gap",
    "diversity_penalty",
    "ensemble_mse",
    "expectile_loss",
    "gaussian_entropy",
    "gaussian_log_prob",
    "gumbel_loss",
    "importance_weighted_bound",
    "lagrange_loss",
    "mixture_moments",
    "negative_elbo",
    "pair_minima",
    "reduce_ensemble",
    "smoothed_actions",
    "spot_loss",
    "squashed_gaussian",
    "squashed_log_prob",
    "td3_bc_loss",
    "temperature_loss",
    "uniform_log_density",
]


def bellman_target(rewards: th.Tensor, dones: th.Tensor, discounts: th.Tensor, next_values: th.Tensor) -> th.Tensor:
    """
    One-step (or n-step) TD target ``y = r + discount (1 - d) V(s')``.

    :param rewards: ``(B,)``
    :param dones: 1 on a true terminal and never on a time limit, ``(B,)``
    :param discounts: ``gamma``, or ``gamma^k`` for k-step returns, ``(B,)``
    :param next_values: values to back up, ``(B,)`` or ``(N, B)``
    :return: as ``next_values``
    """
    return rewards + (1 - dones) * discounts * next_values


def ensemble_mse(values: th.Tensor, target: th.Tensor, reduction: str = "half_sum") -> th.Tensor:
    """
    Squared TD error of an ensemble. Code bases differ by a constant factor, which matters as soon as another
    term is added to the loss, so the convention is an argument.

    :param values: ``(N, B)``
    :param target: ``(B,)``, or ``(N, B)`` for a target per critic; not differentiated
    :param reduction: over critics, each averaged over the batch: ``"half_sum"`` (Stable-Baselines3's SAC:
        0.5 * sum), ``"sum"`` (CORL, official Cal-QL), ``"mean"`` (WSRL, RLPD)
    :return: scalar
    """
    per_critic = (values - target.detach()).pow(2).mean(dim=1)
    if reduction == "half_sum":
        return 0.5 * per_critic.sum()
    return per_critic.sum() if reduction == "sum" else per_critic.mean()


def pair_minima(values: th.Tensor) -> th.Tensor:
    """
    :param values: of pairs of critics, members 2i and 2i + 1, ``(N, ...)``
    :return: the minimum of each pair, ``(N / 2, ...)`` (Lee et al. 2021: each agent of the ensemble has its own pair)
    """
    return values.unflatten(0, (-1, 2)).amin(dim=1)


def reduce_ensemble(values: th.Tensor, reduction: str) -> th.Tensor:
    """
    :param values: ``(N, ...)``
    :param reduction: ``"min"`` (clipped double Q-learning), ``"mean"`` (REDQ's and RLPD's actor), ``"pairs"`` (the mean
        over pairs of their minimum, Off2On's actor), ``"first"`` (TD3's actor) or ``"max"``
    :return: ``(...)``
    """
    if reduction == "first":
        return values[0]
    if reduction == "pairs":
        return pair_minima(values).mean(dim=0)
    if reduction == "max":
        return values.amax(dim=0)
    return values.amin(dim=0) if reduction == "min" else values.mean(dim=0)


def temperature_loss(log_ent_coef: th.Tensor, log_prob: th.Tensor, target_entropy: float) -> th.Tensor:
    """
    SAC's temperature loss ``-log(alpha) (log pi + H*)`` on the logarithm, as Stable-Baselines3 has it.

    :param log_ent_coef: log(alpha), ``(1,)``
    :param log_prob: ``(B,)``, not differentiated
    :param target_entropy: H*
    :return: scalar
    """
    return -(log_ent_coef * (log_prob + target_entropy).detach()).mean()


def conservative_gap(
    random_values: th.Tensor,
    policy_values: th.Tensor,
    data_values: th.Tensor,
    *,
    random_log_density: float | None,
    policy_log_prob: th.Tensor,
    temperature: float = 1.0,
) -> th.Tensor:
    """
    CQL's regulariser per sample: ``T logsumexp(Q(s, .) / T) - Q(s, a)`` (Kumar et al. 2020, eq. 4, CQL(H)).

    With importance sampling every value is corrected by the log-density of the distribution its action came
    from. Without, the data action joins the set and no count is subtracted (CORL's variant).

    :param random_values: Q at uniform actions, ``(N, B, K)``
    :param policy_values: Q at actions of pi(.|s) and pi(.|s'), evaluated at s, ``(N, B, L)``
    :param data_values: Q at the dataset's actions, ``(N, B)``
    :param random_log_density: log-density of the uniform actions, ``log(0.5^act)``; ``None`` turns importance
        sampling off
    :param policy_log_prob: log-density of the policy's actions, ``(B, L)``, not differentiated
    :param temperature: T
    :return: ``(N, B)``
    """
    if random_log_density is not None:
        candidates = th.cat([random_values - random_log_density, policy_values - policy_log_prob.detach()], dim=2)
    else:
        candidates = th.cat([random_values, policy_values, data_values.unsqueeze(2)], dim=2)
    return temperature * th.logsumexp(candidates / temperature, dim=2) - data_values


def calibrated_values(policy_values: th.Tensor, returns_to_go: th.Tensor) -> th.Tensor:
    """
    Cal-QL's bound: values of the policy's actions are pushed down no further than the return of the behaviour
    policy from the same state (Nakamoto et al. 2023, eq. 5.1). Where the bound holds the gradient stops.

    :param policy_values: Q at the policy's actions, ``(N, B, L)``
    :param returns_to_go: Monte-Carlo return of the data from s, ``(B,)``
    :return: as ``policy_values``
    """
    return th.maximum(policy_values, returns_to_go[:, None])


def lagrange_loss(log_multiplier: th.Tensor, gap: th.Tensor, target_gap: float, weight: float) -> th.Tensor:
    """
    Loss of CQL's Lagrange multiplier ``exp(x)``, clamped to [0, 1e6] as in CORL:
    ``-1/2 weight exp(x) sum_i (gap_i - target)``.

    :param log_multiplier: x, scalar
    :param gap: conservative gap of each critic averaged over the batch, ``(N,)``, not differentiated
    :param target_gap: the gap below which the multiplier falls
    :param weight: CQL's own weight
    :return: scalar
    """
    multiplier = log_multiplier.exp().clamp(0.0, 1e6)
    return -0.5 * weight * multiplier * (gap.detach() - target_gap).sum()


def diversity_penalty(gradients: th.Tensor) -> th.Tensor:
    """
    EDAC's ensemble similarity (An et al. 2021, eq. 6), as CORL computes it: the mean over states of
    ``1 / (N - 1) sum_{i != j} <g_i, g_j>`` with ``g_i`` the gradient of Q_i by the action, scaled to length 1. It is
    N where all critics slope the same way, 0 where any two are orthogonal.

    The sum over pairs is ``|sum_i g_i|^2 - sum_i |g_i|^2``, which needs no N x N matrix.

    :param gradients: of each critic at the data's actions, before the scaling, ``(N, B, act)``; differentiated
    :return: scalar in [-N / (N - 1), N]
    """
    directions = gradients / (gradients.norm(dim=2, keepdim=True) + 1e-10)
    pairs = directions.sum(dim=0).pow(2).sum(dim=1) - directions.pow(2).sum(dim=(0, 2))
    return pairs.mean() / (gradients.shape[0] - 1)


def uniform_log_density(action_dim: int) -> float:
    """
    :param action_dim: number of action dimensions
    :return: log-density of the uniform distribution on [-1, 1]^action_dim
    """
    return -action_dim * math.log(2.0)


def smoothed_actions(actions: th.Tensor, noise: th.Tensor, scale: float, clip: float) -> th.Tensor:
    """
    TD3's target policy smoothing: ``clip(a + clip(scale * noise, -c, c), -1, 1)`` (Fujimoto et al. 2018, eq. 14).

    :param actions: of the target actor, in [-1, 1], ``(..., act)``
    :param noise: standard normal draws, likewise
    :param scale: standard deviation of the smoothing noise, >= 0
    :param clip: largest magnitude of the noise, c, >= 0
    :return: in [-1, 1], as ``actions``
    """
    return (actions + (noise * scale).clamp(-clip, clip)).clamp(-1, 1)


def td3_bc_loss(
    values: th.Tensor, actions: th.Tensor, data_actions: th.Tensor, alpha: float
) -> tuple[th.Tensor, th.Tensor]:
    """
    TD3+BC's actor loss ``-lambda Q(s, pi(s)) + (pi(s) - a)^2`` with ``lambda = alpha / mean |Q|``, not differentiated
    (Fujimoto and Gu 2021, eq. 5 and 6).

    :param values: Q of the policy's actions, ``(B,)``
    :param actions: the policy's actions, ``(B, act)``
    :param data_actions: the dataset's actions, likewise
    :param alpha: weight of the values against imitation
    :return: loss per sample, the square averaged over dimensions, ``(B,)``; and lambda, scalar
    """
    weight = alpha / values.detach().abs().mean()
    return (actions - data_actions).pow(2).mean(dim=-1) - weight * values, weight


def sac_ml_loss(
    values: th.Tensor, entropy_costs: th.Tensor, log_likelihoods: th.Tensor, value_weight: float
) -> tuple[th.Tensor, th.Tensor]:
    """
    SAC+ML's actor loss ``lambda (alpha log pi(b|s) - Q(s, b)) - log pi(a|s)`` with ``lambda = k / mean |Q|``, not
    differentiated (Yu and Zhang 2023, as in its code).

    :param values: Q of the policy's actions b, ``(B,)``
    :param entropy_costs: ``alpha log pi(b|s)``, likewise
    :param log_likelihoods: of the dataset's actions a, likewise
    :param value_weight: k
    :return: loss per sample, ``(B,)``; and lambda, scalar
    """
    weight = value_weight / values.detach().abs().mean()
    return weight * (entropy_costs - values) - log_likelihoods, weight


def behaviour_distance(actions: th.Tensor, data_actions: th.Tensor) -> th.Tensor:
    """
    What ReBRAC takes off values and adds to losses: ``|a - a_data|^2``, summed over dimensions (Tarasov et al. 2023,
    as in its code).

    :param actions: of the policy, ``(B, act)``
    :param data_actions: of the dataset, ``(B, act)``; NaN where none is known
    :return: ``(B,)``; 0 where none is known
    """
    known = ~data_actions.isnan()
    return th.where(known, actions - th.where(known, data_actions, 0.0), 0.0).pow(2).sum(dim=-1)


def expectile_loss(difference: th.Tensor, expectile: float) -> th.Tensor:
    """
    IQL's asymmetric square ``|tau - 1[u < 0]| u^2`` (Kostrikov et al. 2021, eq. 5).

    :param difference: u, target minus value, ``(B,)``
    :param expectile: tau, in (0, 1); 0.5 is half the squared error
    :return: ``(B,)``
    """
    return th.where(difference < 0, 1 - expectile, expectile) * difference.pow(2)


def gumbel_loss(difference: th.Tensor, temperature: float, largest: float = 7.0) -> th.Tensor:
    """
    Extreme Q-learning's loss of V, ``exp(z) - z - 1`` with ``z = min(u / T, c)``: V becomes the soft maximum ``T log E
    exp(Q / T)`` (Garg et al. 2023; PROTO pre-trains so). Their codes also divide by ``exp(max z)`` of the batch: not
    copied, for it weighs batches against each other and leaves the minimum of each where it is.

    :param difference: u, target minus value, ``(B,)``
    :param temperature: T, > 0
    :param largest: c
    :return: ``(B,)``
    """
    exponent = (difference / temperature).clamp(max=largest)
    return exponent.exp() - exponent - 1


def advantage_weights(advantages: th.Tensor, beta: float, largest: float = 100.0) -> th.Tensor:
    """
    Weights of advantage-weighted regression, ``min(exp(beta A), w)`` (Kostrikov et al. 2021, eq. 7).

    :param advantages: A(s, a), not differentiated, ``(B,)``
    :param beta: inverse temperature, >= 0; 0 clones the data
    :param largest: w, the largest weight
    :return: ``(B,)``
    """
    return (beta * advantages.detach()).exp().clamp(max=largest)


def negative_elbo(
    reconstructions: th.Tensor, actions: th.Tensor, mean: th.Tensor, log_std: th.Tensor, beta: float
) -> th.Tensor:
    """
    What a conditional VAE of actions minimises, and SPOT's penalty: squared error of the reconstruction plus ``beta``
    times the divergence of the posterior from a standard normal, both averaged over dimensions (Wu et al.
    2022, scaled as in the official code; sums over dimensions would ask for other weights).

    :param reconstructions: of each latent sample, ``(B, K, act)``
    :param actions: ``(B, act)``
    :param mean: of the posterior, ``(B, latent)``
    :param log_std: likewise
    :param beta: weight of the divergence, > 0
    :return: ``(B,)``
    """
    error = (reconstructions - actions[:, None]).pow(2).mean(dim=(1, 2))
    divergence = 0.5 * (mean.pow(2) + (2 * log_std).exp() - 1 - 2 * log_std).mean(dim=1)
    return error + beta * divergence


def importance_weighted_bound(
    reconstructions: th.Tensor,
    actions: th.Tensor,
    mean: th.Tensor,
    log_std: th.Tensor,
    noise: th.Tensor,
    beta: float,
) -> th.Tensor:
    """
    The importance-weighted bound on minus the log-density of actions, ``-log 1/K sum_k p(a|z_k) p(z_k) / q(z_k|a)``
    (Wu et al. 2022). The decoder's standard deviation is ``sqrt(beta / 4)``: with twice as many latent as action
    dimensions, one sample and a fixed one it is :func:`negative_elbo` times a constant, plus another.

    :param reconstructions: of each latent sample ``z = mean + std * noise``, ``(B, K, act)``
    :param actions: ``(B, act)``
    :param mean: of the posterior, ``(B, latent)``
    :param log_std: likewise
    :param noise: standard normal draws, ``(B, K, latent)``
    :param beta: the VAE's weight of the divergence, > 0
    :return: ``(B,)``; a density over all dimensions, not their mean
    """
    std = math.sqrt(beta / 4)
    latents = mean[:, None] + log_std.exp()[:, None] * noise
    error = (actions[:, None] - reconstructions).pow(2).sum(dim=2) / (2 * std**2)
    likelihood = -error - actions.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))
    # the constants of prior and posterior cancel
    ratio = (0.5 * noise.pow(2) - 0.5 * latents.pow(2) + log_std[:, None]).sum(dim=2)
    return math.log(noise.shape[1]) - th.logsumexp(likelihood + ratio, dim=1)


def spot_loss(values: th.Tensor, negative_log_density: th.Tensor, weight: th.Tensor) -> th.Tensor:
    """
    SPOT's actor loss ``-Q(s, pi(s)) / mean |Q| + lambda (-log beta(pi(s)|s))``, the mean not differentiated (Wu et al.
    2022, normalised as in the official code).

    :param values: Q of the policy's actions, ``(B,)``
    :param negative_log_density: of the same actions under the behaviour policy, or a bound on it, ``(B,)``
    :param weight: lambda, scalar or ``(1,)``
    :return: ``(B,)``
    """
    return weight * negative_log_density - values / values.detach().abs().mean()
