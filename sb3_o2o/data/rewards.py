"""The scale of training rewards, and when two rewards are the same."""

from typing import Any

import numpy as np


def scaled_rewards(rewards: Any, scale: float, shift: float) -> np.ndarray:
    """
    Put rewards on the scale of training. Datasets and environments go through here, so that the same reward is the
    same number offline and online: the formula in single precision ends on another one for every third scale.

    :param rewards: the environment's, any shape
    :param scale: multiplies them
    :param shift: is added after that
    :return: ``scale * rewards + shift``, computed in double precision and rounded once, float32
    """
    return (np.asarray(rewards, dtype=np.float64) * scale + shift).astype(np.float32)


def unscaled_rewards(rewards: Any, scale: float, shift: float) -> np.ndarray:
    """
    The environment's rewards again, up to a rounding to 24 bits of the numbers that entered.

    :param rewards: on the scale of training, any shape
    :param scale: that multiplied them, not 0
    :param shift: that was added after that
    :return: ``(rewards - shift) / scale``, computed in double precision and rounded once, float32
    """
    return ((np.asarray(rewards, dtype=np.float64) - shift) / scale).astype(np.float32)


def reward_scale_of(buffer: Any) -> tuple[float, float]:
    """
    :param buffer: a replay buffer
    :return: scale and shift of the rewards that it holds. A model of this library tells its buffer; others hold the
        environment's own
    """
    return getattr(buffer, "reward_scale", 1.0), getattr(buffer, "reward_shift", 0.0)


def is_reward(rewards: Any, value: float) -> np.ndarray:
    """
    Whether rewards are a certain one. Rewards that were scaled elsewhere, by a wrapper of the environment or before
    they were recorded, differ from it by a few roundings to 24 bits, each 6e-8 of the numbers that entered. The
    tolerance is 1e-5 of the largest magnitude: a hundred roundings, as where scale and shift cancel in part. Rewards
    that are meant to differ do so by far more.

    :param rewards: any shape, on one scale
    :param value: the reward that is looked for
    :return: bool, as ``rewards``
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    largest = max(np.abs(rewards).max(initial=0.0), abs(float(value)))
    return np.abs(rewards - float(value)) <= 1e-5 * largest
