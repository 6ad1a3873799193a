"""Whether a policy and an environment speak of the same observations and actions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage


def difference(theirs: spaces.Space, ours: spaces.Space) -> str:
    """
    Bounds and data types may differ, as they do between wrappers, and so may the place of an image's channels, which
    Stable-Baselines3's models put in order themselves.

    :param theirs: a space of a policy
    :param ours: the environment's
    :return: what differs beside these; nothing if they fit
    """
    if isinstance(theirs, spaces.Dict) and isinstance(ours, spaces.Dict):
        if set(theirs.spaces) != set(ours.spaces):
            return f"the keys are {sorted(theirs.spaces)} and {sorted(ours.spaces)}"
        found = {key: difference(subspace, ours.spaces[key]) for key, subspace in theirs.spaces.items()}
        return ", ".join(f"of {key!r} {problem}" for key, problem in found.items() if problem)
    if type(theirs) is not type(ours):
        return f"one is a {type(theirs).__name__}, the other a {type(ours).__name__}"
    if _channels_first(theirs).shape != _channels_first(ours).shape:
        return f"the shapes are {theirs.shape} and {ours.shape}"
    if not isinstance(theirs, spaces.Box):
        return "" if theirs == ours else "the numbers of choices are not the same"
    if is_image_space(theirs) != is_image_space(ours):  # SB3 divides images by 255
        return "one is an image of 0 to 255, the other is not"
    return ""


def _channels_first(space: spaces.Space) -> spaces.Space:
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def same_bounds(theirs: spaces.Space, ours: spaces.Space) -> bool:
    """
    :param theirs: actions of a policy, or of data
    :param ours: the environment's actions
    :return: whether what is scaled to [-1, 1] means the same action in both
    """
    if not isinstance(theirs, spaces.Box) or not isinstance(ours, spaces.Box):
        return theirs == ours
    return bool(np.allclose(theirs.low, ours.low) and np.allclose(theirs.high, ours.high))


def differences(
    theirs: Iterable[spaces.Space | None], ours: Iterable[spaces.Space]
) -> list[tuple[str, str, spaces.Space, spaces.Space]]:
    """
    :param theirs: observations and actions of a policy; None where they are not known
    :param ours: observations and actions of an environment
    :return: of each of the two that does not fit: what it is, what differs, the policy's space and the environment's
    """
    named = zip(("observations", "actions"), theirs, ours, strict=True)
    found = [(what, difference(their, our), their, our) for what, their, our in named if their is not None]
    return [each for each in found if each[1]]


def check_acts_in(name: str, policy: Any, env: Any, where: str) -> None:
    """
    :param name: of the policy, for the message
    :param policy: anything; what does not say its spaces, as Stable-Baselines3's models do, is taken to fit
    :param env: where it is to act
    :param where: the environment, for the message
    :raises ValueError: the policy was trained with other keys, shapes or kinds of observations or actions
    """
    of_policy = [getattr(policy, which, None) for which in ("observation_space", "action_space")]
    for what, problem, theirs, ours in differences(of_policy, (env.observation_space, env.action_space)):
        raise ValueError(
            f"{name} was trained with other {what} than {where} has: {problem}. Trained with {theirs}, here {ours}."
        )
