"""Evaluation: raw returns, lengths, successes and, where references exist, normalised scores."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    sync_envs_normalization,
    unwrap_vec_normalize,
)

from sb3_o2o.checked import checked
from sb3_o2o.evaluation.rollouts import Episode, n_side_by_side, play
from sb3_o2o.evaluation.scores import ReferenceScore, reference_score
from sb3_o2o.kinds import ENVIRONMENT_OR_ID, FUNCTION, Count, Seed, kind

#: what an evaluation can be made in
Environments = gym.Env[Any, Any] | VecEnv | str | Callable[[], gym.Env[Any, Any]]
_CLASS = kind("a class of environments", lambda value: isinstance(value, type) and issubclass(value, gym.Env))
AnyEnvironments = Annotated[Environments, ENVIRONMENT_OR_ID | FUNCTION | _CLASS]
PREDICTS = kind(
    "a model, or another object with predict",
    lambda value: hasattr(value, "predict") and not isinstance(value, type),
)


@dataclass(frozen=True)
class Evaluation:
    """
    What some episodes of a policy came to.

    :param returns: undiscounted, unscaled return of each episode, shape (episodes,)
    :param lengths: environment steps of each episode, shape (episodes,)
    :param successes: whether each episode reported success at any step, shape (episodes,); None where the environment
        reports none
    :param normalized: normalised score of each episode (0 random, 100 expert), shape (episodes,), or None
    :param note: where the references come from, or why there is no normalised score
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    successes: NDArray[np.bool_] | None
    normalized: NDArray[np.float64] | None
    note: str

    def __str__(self) -> str:
        parts = [f"return {self.returns.mean():.1f} ± {self.returns.std():.1f}"]
        if self.normalized is not None:
            parts.append(f"normalised score {self.normalized.mean():.1f} ± {self.normalized.std():.1f}")
        if self.successes is not None:
            parts.append(f"success {100 * self.successes.mean():.0f} %")
        return f"{', '.join(parts)} ({len(self.returns)} episodes)"

    @property
    def score(self) -> float:
        """Mean normalised score, or the mean return where no references are known."""
        return float(self.returns.mean() if self.normalized is None else self.normalized.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over episodes, in the unit of :attr:`score`."""
        return float(self.returns.std() if self.normalized is None else self.normalized.std())


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Gives Python's, NumPy's and torch's global random streams back as they were: looking must not change a run."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with th.random.fork_rng(devices=list(range(th.cuda.device_count()))):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@checked
def evaluate(
    model: Annotated[PolicyPredictor, PREDICTS],
    env: AnyEnvironments,
    n_episodes: Count = 10,
    *,
    deterministic: bool = True,
    reference: ReferenceScore | None = None,
    seed: Seed | None = None,
    n_envs: Count | None = None,
) -> Evaluation:
    """
    Run whole episodes of a policy, side by side where there are several environments (see
    :func:`~sb3_o2o.evaluation.rollouts.play`). The training's random streams are left as they were.

    :param model: anything with Stable-Baselines3's ``predict``
    :param env: environment that pays raw rewards, or several, its id, or a function that makes one; it is reset first.
        Where it has no ``VecNormalize``, a model that was trained behind one sees observations by its own
    :param n_episodes: number of episodes
    :param deterministic: act by the mode of the policy (the convention of published scores) or by sampling
    :param reference: references of the normalised score; default: the table's, by the environment's id
    :param seed: seed of the episodes, each of which has its own; None leaves them unseeded
    :param n_envs: environments to make, where an id or a function says how; default: one for each episode, up to 16
    :return: the episodes' results
    :raises ValueError: no episode was asked for, or ``n_envs`` of environments that are there already
    """
    # Making an environment draws numbers as well.
    with preserved_random_state():
        vec_env = side_by_side(env, n_episodes, n_envs)
        env_id = spec_id(vec_env)
        try:
            episodes = play(acting_in(model, vec_env), vec_env, n_episodes, deterministic, seed)
        finally:
            if vec_env is not env and not isinstance(env, gym.Env):
                vec_env.close()
    return _result(episodes, reference or reference_score(env_id), env_id)


def side_by_side(env: Environments, n_episodes: int, n_envs: int | None = None) -> VecEnv:
    """
    :param env: an environment, several, an id, or a function that makes one
    :param n_episodes: episodes that are to be played in them
    :param n_envs: environments to make, where an id or a function says how; default: one for each episode, up to 16
    :return: environments in this process: what was given, or new ones
    :raises ValueError: ``n_envs`` of environments that are there already, or below 1
    """
    if n_envs is not None and n_envs < 1:
        raise ValueError(f"n_envs must be at least 1, not {n_envs}.")
    if isinstance(env, VecEnv | gym.Env):
        there = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
        if n_envs not in (None, there.num_envs):
            raise ValueError(
                f"n_envs={n_envs} asks for copies of an environment that is there already, which is not safe: "
                "give its id, a function that makes one, or make_vec_env(..., n_envs)."
            )
        return there
    return make_vec_env(env, n_side_by_side(n_episodes) if n_envs is None else min(n_envs, n_episodes))


class _BehindNormalizer:
    """
    A policy that sees observations by statistics of its own.

    :param model: the policy
    :param normalizer: has ``VecNormalize``'s ``normalize_obs``
    """

    def __init__(self, model: PolicyPredictor, normalizer: Any):
        self.model, self.normalizer = model, normalizer

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """As the model does, on an observation as the environment gives it."""
        return self.model.predict(self.normalizer.normalize_obs(observation), *args, **kwargs)


def acting_in(model: PolicyPredictor, env: VecEnv) -> PolicyPredictor:
    """
    :param model: anything with Stable-Baselines3's ``predict``
    :param env: where it is to act
    :return: the same; behind its own statistics where it was trained behind ``VecNormalize`` and the environment has
        none
    """
    if unwrap_vec_normalize(env) is not None or not isinstance(model, BaseAlgorithm):
        return model
    # a model that was loaded to act has no environment, but what it was saved with
    normalizer = model.get_vec_normalize_env()
    if model.get_env() is None:
        normalizer = getattr(model, "saved_normalizer", None)
    return model if normalizer is None else _BehindNormalizer(model, normalizer)


def synchronise_normalizer(training_env: VecEnv, env: VecEnv) -> None:
    """
    Give an evaluation's ``VecNormalize`` the training's present statistics, where both have one.

    :param training_env: the training's environment
    :param env: the evaluation's
    """
    if unwrap_vec_normalize(training_env) is not None and unwrap_vec_normalize(env) is not None:
        sync_envs_normalization(training_env, env)


def spec_id(env: VecEnv) -> str | None:
    """
    The Gymnasium id of a vectorised environment.

    :param env: the environment
    :return: the id, or None where it was not made by ``gymnasium.make``
    """
    spec = env.get_attr("spec")[0]
    return None if spec is None else spec.id


def _result(episodes: list[Episode], reference: ReferenceScore | None, env_id: str | None) -> Evaluation:
    if reference is None:
        note = f"No reference returns are known for {env_id or 'this environment'}: raw returns."
    else:
        note = f"Normalised between {reference.minimum:g} and {reference.maximum:g} ({reference.provenance})."
    returns = np.array([each.total for each in episodes], dtype=np.float64)
    successes = [each.success for each in episodes]
    return Evaluation(
        returns=returns,
        lengths=np.array([each.length for each in episodes], dtype=np.int64),
        successes=None if None in successes else np.array(successes, dtype=np.bool_),
        normalized=None if reference is None else reference.normalize(returns),
        note=note,
    )
