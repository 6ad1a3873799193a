"""Which transitions a part of a dataset consists of."""

from typing import Any

import numpy as np

from sb3_o2o.data.rewards import is_reward


def first_episodes(lengths: np.ndarray, fraction: float, order: np.ndarray | None = None) -> np.ndarray:
    """
    Whole episodes, until a fraction of the transitions is reached.

    :param lengths: transitions in each episode, ``(E,)``
    :param fraction: of the transitions, in (0, 1]
    :param order: episodes in the order in which they are taken, ``(E,)``; None for as recorded
    :return: indices of the transitions, in recorded order
    :raises ValueError: if the fraction is out of range
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"The fraction of a dataset is {fraction}: expected a number in (0, 1].")
    order = np.arange(len(lengths)) if order is None else order
    reached = np.cumsum(lengths[order])
    # A little less, so that 0.3 of 10 transitions are 3 in spite of rounding
    count = int(np.searchsorted(reached, fraction * reached[-1] - 1e-6)) + 1
    chosen = np.zeros(len(lengths), dtype=bool)
    chosen[order[:count]] = True
    return np.flatnonzero(np.repeat(chosen, lengths))


def check_binary(rewards: np.ndarray, source: str) -> None:
    """
    :param rewards: ``(N,)``
    :param source: where they come from, for the error
    :raises ValueError: if they have more than two values, or two of which none is positive: the first positive one
        then does not say that the task was solved
    """
    low, high = rewards.min(), rewards.max()
    between = ~(is_reward(rewards, low) | is_reward(rewards, high))
    advice = (
        "Give cut_at_success the reward of a success (an episode ends at the first one of at least that), or False to "
        "keep whole episodes."
    )
    if between.any():
        first = int(np.argmax(between))
        raise ValueError(
            f"cut_at_success=True is for rewards of two values, failure and success. Those of {source!r} lie between "
            f"{low:g} and {high:g} (rewards[{first}] is {rewards[first]:g}): a positive one is no success. {advice}"
        )
    if low < high <= 0.0:
        raise ValueError(
            f"cut_at_success=True ends episodes at the first positive reward. Those of {source!r} are {low:g} and "
            f"{high:g}. {advice}"
        )


def until_success(success: np.ndarray, episode_starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """
    :param success: ``(N,)`` bool
    :param episode_starts: first transition of each episode, ``(E,)``
    :param lengths: transitions in each episode, ``(E,)``
    :return: indices of the transitions before which no other of the same episode was a success
    """
    before = np.cumsum(success, dtype=np.int64) - success
    return np.flatnonzero(before == np.repeat(before[episode_starts], lengths))


def checked_indices(indices: Any, length: int) -> np.ndarray:
    """
    :param indices: integers in [0, length), each once, or a mask ``(length,)``
    :param length: number of transitions
    :return: the indices in recorded order
    :raises ValueError: if they are something else
    """
    array = np.asarray(indices)
    if array.dtype == bool and array.shape == (length,):
        array = np.flatnonzero(array)
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) == 0:
        raise ValueError(f"indices: expected integers, or a mask of {length} booleans, and at least one transition.")
    wrong = (array < 0) | (array >= length)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(f"indices[{first}] is {array[first]}: expected a number in [0, {length}).")
    ordered, counts = np.unique(array, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"indices: transition {ordered[np.argmax(counts)]} is given {counts.max()} times.")
    return ordered
