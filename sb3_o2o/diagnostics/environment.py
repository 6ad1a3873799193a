"""The environment in which diagnostics let the policy act."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_o2o.evaluation import preserved_random_state


def single_environment(env: gym.Env[Any, Any] | VecEnv | str, for_whom: str) -> VecEnv:
    """
    :param env: one environment, or its id
    :param for_whom: who lets the policy act in it, for the error message
    :return: the same, vectorised; without ``VecNormalize``, because observations and rewards are normalised with the
        training's present statistics
    :raises ValueError: for several environments
    """
    if isinstance(env, str):
        with preserved_random_state():  # making one draws numbers
            return make_vec_env(env)
    if not isinstance(env, VecEnv):
        return DummyVecEnv([lambda: env])
    if env.num_envs != 1:
        raise ValueError(f"{for_whom} follows one episode at a time: give one environment, not {env.num_envs}.")
    return env.venv if isinstance(env, VecNormalize) else env


def refuse_training_environment(env: VecEnv, model: Any, for_whom: str) -> None:
    """
    :param env: where the policy is going to act
    :param model: the model
    :param for_whom: see :func:`single_environment`
    :raises ValueError: if the model trains there
    """
    if _parts(env) & _parts(model.get_env()):
        raise ValueError(
            f"{for_whom}(env) is the environment that the model trains in: rolling out there would change the run. "
            "Make another one."
        )


def _parts(env: VecEnv | None) -> set[int]:
    """
    The innermost vectorised environment, and those behind it in this process: one in other processes shows only the
    first, and one that is wrapped anew only the others.
    """
    if env is None:
        return set()
    return {id(env.unwrapped), *(id(each.unwrapped) for each in getattr(env.unwrapped, "envs", []))}
