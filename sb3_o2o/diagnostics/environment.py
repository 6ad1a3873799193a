"""The environments in which diagnostics let the policy act."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_o2o.evaluation.evaluate import Environments, preserved_random_state, side_by_side


def raw_environments(env: Environments, n_episodes: int, n_envs: int | None = None) -> VecEnv:
    """
    :param env: an environment, several, an id, or a function that makes one
    :param n_episodes: episodes that are to be played in them
    :param n_envs: environments to make, see :func:`~sb3_o2o.evaluation.evaluate.side_by_side`
    :return: the same, vectorised; without ``VecNormalize``, because observations and rewards are normalised with the
        training's present statistics
    :raises ValueError: ``n_envs`` of environments that are there already
    """
    with preserved_random_state():  # making one draws numbers
        made = side_by_side(env, n_episodes, n_envs)
    return made.venv if isinstance(made, VecNormalize) else made


def refuse_training_environment(env: VecEnv, model: Any, for_whom: str) -> None:
    """
    :param env: where the policy is going to act
    :param model: the model
    :param for_whom: who lets the policy act there, for the error message
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
