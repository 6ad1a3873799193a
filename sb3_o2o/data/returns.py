"""Monte-Carlo returns."""

import numpy as np

from sb3_o2o.data.rewards import is_reward


def checked_gamma(gamma: float, negative_reward: float | None = None) -> float:
    """
    :param gamma: discount factor
    :param negative_reward: the reward of a step that achieved nothing, or None
    :return: gamma
    :raises ValueError: if it is not in [0, 1], or is 1 although failing for ever has to have a finite return
    """
    if not 0.0 <= gamma <= 1.0 or (gamma == 1.0 and negative_reward is not None):
        limit = "[0, 1]" if negative_reward is None else "[0, 1) with a negative reward"
        raise ValueError(f"gamma is {gamma}: expected a number in {limit}.")
    return gamma


def checked_n_steps(n_steps: int) -> int:
    """
    :param n_steps: steps over which rewards are summed
    :return: the same
    :raises ValueError: if it is not a whole number of at least 1
    """
    if n_steps < 1 or n_steps != int(n_steps):
        raise ValueError(f"n_steps is {n_steps}: expected a whole number of at least 1.")
    return int(n_steps)


def sparse_negative_reward(rewards: np.ndarray) -> float | None:
    """
    Guess whether a task is sparse: with at most two distinct rewards, the smaller one means "not there yet".

    :param rewards: ``(N,)``
    :return: the smaller reward; None if there are more than two distinct ones, or if all are the same positive number
        (a bonus for staying alive, not a failure)
    """
    smallest, largest = rewards.min(), rewards.max()
    if not np.all(is_reward(rewards, smallest) | is_reward(rewards, largest)):
        return None
    is_bonus = smallest > 0 and bool(is_reward(largest, smallest))
    return None if is_bonus else float(smallest)


def returns_to_go(
    rewards: np.ndarray, episode_starts: np.ndarray, gamma: float, negative_reward: float | None = None
) -> np.ndarray:
    """
    Discounted sum of the rewards from each transition to the end of its episode. Nothing is added for what would have
    come after a truncation.

    Cal-QL's rule for sparse rewards (Nakamoto et al. 2023, https://arxiv.org/abs/2303.05479, official code
    ``nakamotoo/Cal-QL``): an episode in which every reward is the negative one would have gone on failing for ever, so
    each of its returns is ``negative_reward / (1 - gamma)``.

    :param rewards: ``(N,)``
    :param episode_starts: first transition of each episode, ``(E,)``, the first one 0
    :param gamma: discount factor, in [0, 1], below 1 if there is a negative reward
    :param negative_reward: the reward of a step that achieved nothing; None for dense rewards
    :return: ``(N,)`` float32
    :raises ValueError: if gamma is out of range
    """
    checked_gamma(gamma, negative_reward)
    ends = np.zeros(len(rewards), dtype=bool)
    ends[np.append(episode_starts[1:], len(rewards)) - 1] = True
    returns = _accumulated(rewards[::-1], ends[::-1], gamma)[::-1]
    if negative_reward is not None:
        failed = np.logical_and.reduceat(is_reward(rewards, negative_reward), episode_starts)
        lengths = np.diff(np.append(episode_starts, len(rewards)))
        returns[np.repeat(failed, lengths)] = negative_reward / (1.0 - gamma)
    return returns.astype(np.float32)


def discounted_sums(rewards: np.ndarray, episode_starts: np.ndarray, gamma: float) -> np.ndarray:
    """
    Discounted sum of the rewards from the beginning of an episode to each transition, ``R_t = gamma R_{t-1} + r_t``:
    the "returns" by whose deviation ``VecNormalize`` divides rewards.

    :param rewards: ``(N,)``
    :param episode_starts: first transition of each episode, ``(E,)``
    :param gamma: discount factor, in [0, 1]
    :return: ``(N,)`` float64
    """
    starts = np.zeros(len(rewards), dtype=bool)
    starts[episode_starts] = True
    return _accumulated(rewards, starts, gamma)


def _accumulated(rewards: np.ndarray, begins: np.ndarray, gamma: float) -> np.ndarray:
    """:return: each reward and gamma times what was accumulated before it, nothing where it begins, ``(N,)`` float64"""
    # float64, and plain numbers: ten times faster than indexing an array in a loop
    result, running = [0.0] * len(rewards), 0.0
    values, is_new = rewards.astype(np.float64).tolist(), begins.tolist()
    for index, value in enumerate(values):
        running = value + (0.0 if is_new[index] else gamma * running)
        result[index] = running
    return np.array(result)
