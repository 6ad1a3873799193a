"""How far policy and critic have moved, as pure functions of tensors."""

import torch as th


def gaussian_kl(mean: th.Tensor, log_std: th.Tensor, other_mean: th.Tensor, other_log_std: th.Tensor) -> th.Tensor:
    """
    ``KL(p || q)`` of diagonal Gaussians. Squashing both by the same tanh does not change it, so this is exact for SAC's
    policies (WSRL, Zhou et al. 2024, app. E: ``KL(pi_pre || pi)``).

    :param mean: of p, ``(B, act)``
    :param log_std: of p, ``(B, act)``
    :param other_mean: of q, likewise
    :param other_log_std: of q, likewise
    :return: ``(B,)``, >= 0
    """
    ratio = (2 * (log_std - other_log_std)).exp()
    distance = ((mean - other_mean) * (-other_log_std).exp()).pow(2)
    return (0.5 * (ratio + distance - 1) - (log_std - other_log_std)).sum(dim=-1)


def softmax_kl(values: th.Tensor, other_values: th.Tensor) -> th.Tensor:
    """
    ``KL(softmax(values) || softmax(other_values))`` over a state's candidate actions, at temperature 1 (WSRL, Zhou et
    al. 2024, app. E). It depends on the scale of the rewards: compare runs of one task only.

    :param values: Q of each candidate, ``(B, K)``
    :param other_values: likewise, by another critic
    :return: ``(B,)``, >= 0
    """
    log_p, log_q = values.log_softmax(dim=-1), other_values.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)
