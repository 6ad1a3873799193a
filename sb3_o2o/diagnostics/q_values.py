"""Estimated against true Q-values, as pure functions of NumPy arrays."""

import math
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, Fraction, Numbers, Positive, whole

Floats = NDArray[np.float64]


@checked
def kendall_tau(first: Numbers, second: Numbers) -> float:
    """
    Kendall's tau-b: concordant minus discordant pairs, over the geometric mean of the pairs that are not tied in the
    one and in the other. 1 for the same order, -1 for the opposite one, 0 for no relation. SciPy's ``kendalltau`` gives
    the same number; every pair is looked at here, which is quick for windows of tens of values.

    :param first: ``(n,)``
    :param second: ``(n,)``
    :return: in [-1, 1]; NaN for fewer than two values, or where all of one are equal
    :raises ValueError: for other shapes, or values that are not finite
    """
    one, other = _paired(first, second)
    upper = np.triu_indices(len(one), k=1)
    signs = [np.sign(values[:, None] - values[None, :])[upper] for values in (one, other)]
    untied = math.sqrt(float(np.abs(signs[0]).sum()) * float(np.abs(signs[1]).sum()))
    return float((signs[0] * signs[1]).sum()) / untied if untied > 0 else math.nan


@checked
def mean_window_tau(
    estimated: Numbers, true: Numbers, length: Annotated[int, whole(2)] = 50, count: Count = 10
) -> float:
    """
    Kendall's tau of estimated against true Q-values in windows of one episode, averaged (SO2, Zhang et al. 2024,
    "Kendall's tau coefficient over Q-value"): does the critic order nearby state-actions as their returns do? A whole
    episode would mostly measure that values change along it.

    The paper has ten windows an episode and leaves their length and stride open. Here they have 50 steps and start at
    equal distances; a shorter episode is one window.

    :param estimated: Q of consecutive steps of one episode, ``(n,)``
    :param true: discounted return from the same steps, ``(n,)``
    :param length: steps in a window, >= 2
    :param count: windows, >= 1; fewer where they would start at the same step
    :return: mean over the windows in which tau exists; NaN where it exists in none
    :raises ValueError: for a number out of range, or what :func:`kendall_tau` refuses
    """
    one, other = _paired(estimated, true)
    starts = np.unique(np.linspace(0, max(len(one) - length, 0), count).round().astype(int))
    return mean_or_nan([kendall_tau(one[start : start + length], other[start : start + length]) for start in starts])


def mean_or_nan(values: list[float]) -> float:
    """
    :param values: some of which may be NaN
    :return: mean of the others; NaN if there are none
    """
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


@checked
def normalized_difference(estimated: Numbers, true: Numbers, smallest: Positive = 1e-6) -> float:
    """
    Mean of ``(estimated - true) / |true|`` (SO2, Zhang et al. 2024, figure 2b; "percent difference" in Fujimoto and Gu
    2021). Positive is over-estimation. The papers divide by ``true``, which turns the sign where returns are negative.

    SO2 subtracts the same number of an online SAC agent: :func:`~sb3_o2o.diagnostics.q_difference_to_online`. Steps
    whose return is close to 0 dominate the mean: look at both means as well.

    :param estimated: Q-values, ``(n,)``
    :param true: discounted returns, ``(n,)``
    :param smallest: magnitude below which a return counts as this large, > 0
    :return: the mean; NaN for no values
    :raises ValueError: for other shapes, or values that are not finite
    """
    one, other = _paired(estimated, true)
    return float(np.mean((one - other) / np.maximum(np.abs(other), smallest))) if len(one) else math.nan


@checked
def true_q_values(
    rewards: Numbers, gamma: Fraction, *, bonuses: Numbers | None = None, last_value: float = 0.0
) -> Floats:
    """
    Discounted returns from each step of an episode: ``q_t = r_t + gamma (b_{t+1} + q_{t+1})``.

    :param rewards: ``(n,)``
    :param gamma: discount factor
    :param bonuses: what the policy earns at each step beside the reward, ``(n,)``: SAC's ``-alpha log pi(a|s)`` where
        the critic's values contain it; the first one is no part of the first Q
    :param last_value: value of the state after the last step (its bonus included): 0 after a termination
    :return: ``(n,)``
    """
    reward_array = np.asarray(rewards, dtype=np.float64)
    bonus_array = np.zeros_like(reward_array) if bonuses is None else np.asarray(bonuses, dtype=np.float64)
    values, following = np.empty_like(reward_array), float(last_value)
    for step in range(len(reward_array) - 1, -1, -1):
        values[step] = reward_array[step] + gamma * following
        following = values[step] + bonus_array[step]
    return values


def _paired(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"Both need one value for each step, got the shapes {one.shape} and {other.shape}.")
    for values in (one, other):
        if not np.isfinite(values).all():
            index = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"Values must be finite, found {values[index]} at index {index}.")
    return one, other
