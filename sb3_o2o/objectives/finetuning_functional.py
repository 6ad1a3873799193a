"""
Formulas of fine-tuning as pure functions of tensors: what changes an update, and is in no offline objective.

Shapes as in :mod:`~sb3_o2o.objectives.functional`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch as th

__all__ = [
    "action_distance",
    "aligned_values",
    "asymmetric_slack",
    "auxiliary_advantage",
    "blended_advantages",
    "controlled_change",
    "density_ratio_loss",
    "divergence_estimate",
    "expansion_probability",
    "meta_adaptation_loss",
    "mixed_values",
    "multiplier_loss",
    "replay_priorities",
    "shrunk_values",
    "soft_floor",
]


def expansion_probability(offline_values: th.Tensor, online_values: th.Tensor, inverse_temperature: float) -> th.Tensor:
    """
    How likely policy expansion takes the offline policy's action: a softmax over the values of both policies' actions
    (Zhang et al. 2023).

    :param offline_values: Q of the offline policy's actions, ``(B,)``
    :param online_values: Q of the online policy's, ``(B,)``
    :param inverse_temperature: > 0
    :return: in [0, 1], ``(B,)``
    """
    return th.sigmoid(inverse_temperature * (offline_values - online_values))


def controlled_change(score: float, average: float, target: float, k_p: float, k_d: float) -> float:
    """
    What adaptive behaviour cloning adds to its weight for each step of an episode:
    ``-k_p (target - average) + k_d max(0, average - score)`` (Zhao et al. 2022, as in the official code).

    :param score: of the episode
    :param average: of those before it
    :param target: that is aimed at
    :param k_p: >= 0
    :param k_d: >= 0
    :return: below 0 the further the average is from the target, above 0 where the episode was much worse than it
    """
    return -k_p * (target - average) + k_d * max(0.0, average - score)


def mixed_values(first: th.Tensor, second: th.Tensor, kappa: th.Tensor) -> th.Tensor:
    """
    What OPT's policy maximises: ``(1 - kappa) Q_off + kappa Q_on`` (Shin et al. 2025, the fine-tuning objective).

    :param first: of the critics that were trained offline, ``(B,)``
    :param second: of the second critics, ``(B,)``
    :param kappa: weight of the second, in [0, 1], scalar
    :return: ``(B,)``
    """
    return (1 - kappa) * first + kappa * second


def meta_adaptation_loss(
    offline_loss: Callable[[dict[str, th.Tensor]], th.Tensor],
    online_loss: Callable[[dict[str, th.Tensor]], th.Tensor],
    parameters: dict[str, th.Tensor],
    *,
    rate: float,
    meta: str = "second_order",
    weighted: bool = True,
) -> tuple[th.Tensor, dict[str, th.Tensor]]:
    """
    OPT's online pre-training: ``L_off(psi) + w L_on(psi - a grad L_off(psi))`` with the weight
    ``w = min(L_off, L_on) / L_on``, not differentiated, in [0, 1] (Shin et al. 2025, the meta-adaptation objective;
    the weight is that of the code).

    :param offline_loss: L_off as a function of the parameters by name
    :param online_loss: L_on, likewise
    :param parameters: psi
    :param rate: a, the step size of the inner update, >= 0
    :param meta: ``"second_order"`` differentiates through the inner update, ``"first_order"`` takes its gradient for
        a constant, ``"none"`` leaves it out: the two losses at the same parameters
    :param weighted: use the weight; otherwise it is 1
    :return: the loss, and L_off, L_on and w, without gradient
    """
    offline = offline_loss(parameters)
    adapted = parameters
    if meta != "none":
        is_exact = meta == "second_order"
        gradients = th.autograd.grad(
            offline, list(parameters.values()), create_graph=is_exact, retain_graph=True, materialize_grads=True
        )
        pairs = zip(parameters.items(), gradients, strict=True)
        adapted = {name: value - rate * gradient for (name, value), gradient in pairs}
    online = online_loss(adapted)
    weight = th.ones_like(online)
    if weighted:
        losses = offline.detach(), online.detach()
        weight = th.minimum(*losses) / losses[1].clamp(min=th.finfo(online.dtype).tiny)
    metrics = {"offline_loss": offline.detach(), "online_loss": online.detach(), "gradient_weight": weight}
    return offline + weight * online, metrics


def aligned_values(
    anchor_values: th.Tensor,
    anchor_log_prob: th.Tensor,
    log_prob: th.Tensor,
    values: th.Tensor,
    ent_coef: th.Tensor | float,
) -> th.Tensor:
    """
    What a soft critic should say of an action, given its most likely one: the energy policy ``pi ~ exp(Q / alpha)``
    makes ``Q(s, a) = Q(s, a*) - alpha (log pi(a*|s) - log pi(a|s))``, and values below that stay as they are
    (Luo et al. 2024, eq. 12).

    :param anchor_values: Q of the offline policy's most likely action a*, ``(B,)``
    :param anchor_log_prob: its log-probability under the offline policy, ``(B,)``
    :param log_prob: log-probability of a under the offline policy, ``(B,)``
    :param values: Q of a, ``(B,)``
    :param ent_coef: temperature alpha, scalar or ``(1,)``
    :return: ``(B,)``
    """
    return th.minimum(anchor_values - ent_coef * (anchor_log_prob - log_prob), values)


def action_distance(actions: th.Tensor, anchors: th.Tensor, largest: float) -> th.Tensor:
    """
    Root mean square difference of two actions, at most ``largest`` (Luo et al. 2024, eq. 15 and appendix).

    :param actions: in [-1, 1], ``(B, act)``
    :param anchors: likewise
    :param largest: clamp, > 0
    :return: ``(B,)``
    """
    return ((actions - anchors).pow(2).mean(dim=-1)).sqrt().clamp(max=largest)


def shrunk_values(anchor_values: th.Tensor, distance: th.Tensor, weight: float) -> th.Tensor:
    """
    What a critic should say of an action near the deterministic policy's own: less, the further it is away;
    ``Q / (1 + beta D^2)``, and for negative values ``Q (1 + beta D^2)`` (Luo et al. 2024, eq. 15 and 43).

    :param anchor_values: Q of the offline policy's action, ``(B,)``
    :param distance: D, ``(B,)``
    :param weight: beta, >= 0
    :return: ``(B,)``
    """
    factor = 1 + weight * distance.pow(2)
    return th.where(anchor_values < 0, anchor_values * factor, anchor_values / factor)


def divergence_estimate(log_prob: th.Tensor, reference_log_prob: th.Tensor, floor: float) -> th.Tensor:
    """
    One sample's estimate of KL(pi | pi_ref), ``log pi(a|s) - max(log pi_ref(a|s), floor)``: an action near the bounds
    is almost impossible under any other policy, and a single one would swamp the mean (Luo et al. 2024, eq. 36).

    :param log_prob: of actions of pi under pi, ``(B,)``
    :param reference_log_prob: of the same under pi_ref, ``(B,)``
    :param floor: smallest log-probability that counts
    :return: ``(B,)``
    """
    return log_prob - reference_log_prob.clamp(min=floor)


def asymmetric_slack(slack: th.Tensor, expectile: float) -> th.Tensor:
    """
    Mean slack of a constraint in which violations weigh more, ``E[|tau - 1[u > 0]| u]`` (Luo et al. 2024, eq. 49).

    :param slack: u, threshold minus divergence, any shape
    :param expectile: tau, in (0, 1): weight of a violation; 1 - tau is that of a satisfied constraint
    :return: scalar
    """
    return (th.where(slack > 0, 1 - expectile, expectile) * slack).mean()


def multiplier_loss(log_multiplier: th.Tensor, slack: th.Tensor) -> th.Tensor:
    """
    Loss of a constraint's Lagrange multiplier, ``exp(x) u``: it rises where the constraint is violated.

    :param log_multiplier: x, scalar
    :param slack: mean slack of the constraint, scalar, not differentiated
    :return: scalar
    """
    return log_multiplier.exp() * slack.detach()


def density_ratio_loss(offline_ratios: th.Tensor, online_ratios: th.Tensor) -> th.Tensor:
    """
    Variational bound of the Jensen-Shannon divergence, which a network w(s, a) >= 0 attains at the density ratio of
    online to offline data: ``E_off[-log(2 / (w + 1))] - E_on[log(2 w / (w + 1))]`` (Lee et al. 2021, with the
    official code's 1e-10 inside the logarithms).

    :param offline_ratios: w of offline transitions, >= 0, ``(B,)``
    :param online_ratios: w of online transitions, likewise
    :return: scalar
    """
    offline = -(2 / (offline_ratios + 1) + 1e-10).log().mean()
    return offline - (2 * online_ratios / (online_ratios + 1) + 1e-10).log().mean()


def replay_priorities(
    ratios: th.Tensor, offline_ratios: th.Tensor, temperature: float, smallest: float = 1e-3, largest: float = 1e3
) -> th.Tensor:
    """
    Priorities of balanced replay, ``w^(1/T) / E_off[w^(1/T)]`` within bounds: the self-normalised density ratio (Lee et
    al. 2021).

    :param ratios: w of the transitions, >= 0, ``(B,)``
    :param offline_ratios: w of a uniform offline batch, ``(M,)``
    :param temperature: T, > 0; large values level the priorities
    :param smallest: lower bound
    :param largest: upper bound
    :return: ``(B,)``
    """
    # all of a batch may be 0, which a rectified output attains
    level = offline_ratios.pow(1 / temperature).mean().clamp(min=1e-10)
    return (ratios.pow(1 / temperature) / level).clamp(smallest, largest)


def auxiliary_advantage(
    log_prob: th.Tensor, entropy: th.Tensor, advantage_std: th.Tensor, per_dimension: bool = False
) -> th.Tensor:
    """
    O2PPO's auxiliary advantage: how likely an action is under a reliable reference policy, against that policy's
    entropy (OCR-CFT, eq. 17), bounded from below by a softplus and scaled to the advantages that it joins (eq. 51 and
    below). With ``x = log pi_ref(a|s) + H(pi_ref(.|s))``, of which the mean under the reference is 0, and at most 1/2
    in each dimension::

        2 std(A) [softplus(x + 4 |A|) - 4 |A|] / |A|            x summed over dimensions (released code)
        2 std(A) mean_d [softplus(x_d + 4) - 4]                 each dimension by itself (paper)

    Both are the same for one dimension, and lie in about ``(-8, 1] std(A)``.

    :param log_prob: log-density of the actions in each dimension, ``(B, act)``
    :param entropy: entropy of the reference policy in each dimension, likewise
    :param advantage_std: std(A), >= 0, scalar
    :param per_dimension: bound each dimension by itself
    :return: ``(B,)``
    """
    excess, offset = log_prob + entropy, 4.0
    if not per_dimension:
        n_dimensions = excess.shape[-1]
        excess, offset = excess.sum(dim=-1, keepdim=True), offset * n_dimensions
        bounded = (th.nn.functional.softplus(excess + offset) - offset) / n_dimensions
    else:
        bounded = th.nn.functional.softplus(excess + offset) - offset
    return 2.0 * advantage_std * bounded.mean(dim=-1)


def blended_advantages(advantages: th.Tensor, auxiliary: th.Tensor, weight: th.Tensor) -> th.Tensor:
    """
    ``(A + w A_ref) / (1 + w)`` (OCR-CFT, eq. 18).

    :param advantages: A, ``(B,)``
    :param auxiliary: A_ref, ``(B,)``
    :param weight: w, in [0, 1], scalar
    :return: ``(B,)``
    :raises ValueError: if the shapes differ: broadcast, the auxiliary advantage would carry no signal of a sample
    """
    if advantages.shape != auxiliary.shape:
        raise ValueError(
            f"Advantages of shape {tuple(advantages.shape)} cannot be blended with {tuple(auxiliary.shape)}."
        )
    return (advantages + weight * auxiliary) / (1 + weight)


def soft_floor(values: th.Tensor, floor: th.Tensor) -> th.Tensor:
    """
    ``softplus(x - c) + c``: x where it is far above c, c where it is far below (Yu and Zhang 2023, for log-densities).

    :param values: x, ``(B,)``
    :param floor: c, likewise
    :return: ``(B,)``, above ``floor``
    """
    return th.nn.functional.softplus(values - floor) + floor
