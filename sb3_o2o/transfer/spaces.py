"""Whether a policy from elsewhere and an environment speak of the same observations and actions."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_o2o.evaluation.spaces_compared import differences, same_bounds
from sb3_o2o.transfer.archive import saved_spaces


def check_spaces(
    name: str,
    observations: spaces.Space | None,
    actions: spaces.Space | None,
    env_observations: spaces.Space,
    env_actions: spaces.Space,
) -> None:
    """
    :param name: of the source, for the message
    :param observations: space that the source acts on; None where it is not known
    :param actions: space that it acts in, likewise
    :param env_observations: the environment's observations
    :param env_actions: the environment's actions
    :raises ValueError: naming what differs, see :func:`~sb3_o2o.evaluation.spaces_compared.difference`
    """
    for what, problem, theirs, ours in differences((observations, actions), (env_observations, env_actions)):
        raise ValueError(
            f"{name} and the environment differ in their {what}: {problem}. So its networks can neither be copied "
            "nor asked for actions to clone: use the environment and wrappers that it was trained with, or pass "
            "a function from the environment's observations to its actions. "
            f"Source: {theirs}; environment: {ours}."
        )


def saved_model_fits(
    path: Any, family: str, env: VecEnv, custom_objects: dict[str, Any], trust: bool
) -> tuple[bool, dict[str, Any]]:
    """
    :param path: a saved model
    :param family: what it is
    :param env: the environment to go on in
    :param custom_objects: SB3's
    :param trust: whether the file may run code
    :return: whether its networks act there as they did, and ``custom_objects`` with the environment's spaces where the
        saved ones have other bounds or data types
    :raises ValueError: if the model cannot act there
    """
    theirs = saved_spaces(path, custom_objects, trust)
    check_spaces(f"The saved {family} model", *theirs, env.observation_space, env.action_space)
    here = {"observation_space": env.observation_space, "action_space": env.action_space}
    named = zip(theirs, here.items(), strict=True)
    others = {name: space for there, (name, space) in named if there is not None and there != space}
    fits = theirs[1] is None or same_bounds(theirs[1], env.action_space)
    return fits, {**custom_objects, **others} if fits else custom_objects


def bounds(space: spaces.Space) -> str:
    """
    :param space: actions
    :return: their bounds, as a person writes them
    """
    if not isinstance(space, spaces.Box):
        return str(space)
    low, high = ([f"{value:g}" for value in each.flat] for each in (space.low, space.high))
    if len({*low}) == len({*high}) == 1:
        return f"[{low[0]}, {high[0]}]"
    return f"[{', '.join(low)}] to [{', '.join(high)}]"
