"""Environments from what a dataset or a recipe says about them."""

import difflib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_o2o.data.formats.minari import recorded_environment
from sb3_o2o.data.formats.reading import READING_OPTIONS, Reading
from sb3_o2o.data.sources import naming, open_source
from sb3_o2o.errors import missing_package, unknown
from sb3_o2o.plain import UntrustedError
from sb3_o2o.plain.entry_points import check_wrapper, checked_environment_id

#: Longer episodes than this are a dataset's way to say "never reset" (Minari's point mazes: a million steps).
LONGEST_EPISODE = 100_000

_ROBOTICS_PREFIXES = ("AntMaze", "PointMaze", "AdroitHand", "FrankaKitchen", "Fetch", "HandManipulate", "HandReach")


@dataclass(frozen=True)
class Environment:
    """
    How to make an environment, in plain types.

    :param id: Gymnasium id
    :param kwargs: keyword arguments of the environment
    :param max_episode_steps: time limit in environment steps; None for the registered one
    :param wrappers: wrappers from the inside out, as RL Zoo spells them: a dotted name, or a one-entry dictionary with
        keyword arguments
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    wrappers: Sequence[str | Mapping[str, Any]] = ()

    def is_called(self, env_id: str) -> bool:
        """
        :param env_id: as somebody wrote it, with the module that registers it (``module:id``) or without
        :return: whether this environment is meant
        """
        return self.id.rpartition(":")[2] == env_id.rpartition(":")[2]

    def make(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """
        One environment.

        :param render_mode: Gymnasium's; None for the environment's own
        :raises UntrustedError: if the id or a wrapper asks for a module to be imported, without trust
        :raises ValueError: unknown id (the nearest is named), or arguments that the environment does not take
        """
        env_id = checked_environment_id(self.id, "The run's environment")
        check_registered(env_id)
        kwargs = {**self.kwargs, **({} if render_mode is None else {"render_mode": render_mode})}
        try:
            env = gym.make(env_id, max_episode_steps=self.max_episode_steps, **kwargs)
        except TypeError as error:
            raise ValueError(f"Environment {self.id!r} refuses its arguments {kwargs}: {error}.") from error
        except gym.error.Error as error:
            raise ValueError(f"Environment {self.id!r} cannot be made: {error}.") from error
        for wrapper in self.wrappers:
            check_wrapper(wrapper if isinstance(wrapper, str) else next(iter(wrapper)), "The recipe")
            env = _wrapper(wrapper)(env)
        return env

    def make_vectorised(self, n_envs: int = 1, seed: int | None = None) -> VecEnv:
        """
        The environments of a run, each with Stable-Baselines3's monitor.

        :param n_envs: number of copies, in one process
        :param seed: seed of the first copy, the others count on from it
        """
        return make_vec_env(self.make, n_envs=n_envs, seed=seed)


def register_environments() -> None:
    """Makes Gymnasium-Robotics' environments known, where that package is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about environments that nobody asked for
        try:
            import gymnasium_robotics
        except ImportError:
            return
        gym.register_envs(gymnasium_robotics)


def import_named(env_id: str) -> None:
    """
    Import the module of ``module:id``, which a user has named: what files name so is not imported without trust.

    :param env_id: as the user wrote it
    :raises ValueError: if there is no such module
    """
    module, colon, _ = env_id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"There is no module {module!r}, which registers {env_id!r}: {error}.") from error


def check_registered(env_id: str) -> None:
    """
    Refuse an id that Gymnasium does not know.

    :param env_id: Gymnasium id with its version
    :raises ValueError: naming the nearest id, or the package that is missing
    """
    if env_id in gym.registry or ":" in env_id:
        return
    register_environments()
    if env_id in gym.registry:
        return
    if env_id.startswith(_ROBOTICS_PREFIXES) and importlib.util.find_spec("gymnasium_robotics") is None:
        raise ValueError(str(missing_package(f"Environment {env_id!r} needs", "Gymnasium-Robotics", "robotics")))
    candidates = {
        name for name in gym.registry if name.split("-")[0].split("_")[0] == env_id.split("-")[0].split("_")[0]
    }
    raise unknown("environment", env_id, candidates or _nearby(env_id))


def _nearby(env_id: str) -> list[str]:
    """A handful of ids instead of Gymnasium's hundreds."""
    return difflib.get_close_matches(env_id, list(gym.registry), n=5, cutoff=0.3) or ["HalfCheetah-v5", "Hopper-v5"]


def environment_of(dataset: str, dataset_kwargs: Mapping[str, Any] | None = None) -> Environment | None:
    """
    The environment that a dataset was recorded in.

    Episodes that would practically never end become the registered ones: Minari's D4RL point mazes record with a limit
    of a million steps and a goal that jumps, so that an evaluation would not come back.

    :param dataset: Minari id, or path of a file or folder
    :param dataset_kwargs: arguments of ``OfflineDataset.load``, of which only those about reading matter
    :return: how to make it; None if the dataset is not on this machine or names no environment
    :raises ValueError: the file is not a dataset
    """
    if Path(dataset).is_file():
        reading = {name: value for name, value in (dataset_kwargs or {}).items() if name in READING_OPTIONS}
        with warnings.catch_warnings(), naming(dataset):
            warnings.simplefilter("ignore")  # they come again when the data are read
            env_id = open_source(dataset, Reading(**reading)).env_id
        return None if env_id is None else Environment(env_id)
    try:
        spec = recorded_environment(dataset)
    except UntrustedError:
        raise
    except (FileNotFoundError, ValueError, TypeError, KeyError, OSError):
        return None
    return None if spec is None else _from_spec(spec)


def named_environment(env_id: str, recorded: Environment | None) -> Environment:
    """
    :param env_id: as the user wrote it
    :param recorded: what a dataset was recorded in, None if it does not say
    :return: what the user named, as the dataset describes it where it is the same one
    """
    if recorded is not None and recorded.is_called(env_id):
        return replace(recorded, id=env_id)
    return Environment(env_id)


def _from_spec(spec: EnvSpec) -> Environment:
    kwargs, limit = dict(spec.kwargs), spec.max_episode_steps
    if limit is not None and limit > LONGEST_EPISODE:
        limit = None
        kwargs = {**kwargs, "continuing_task": False} if "continuing_task" in kwargs else kwargs
        kwargs.pop("reset_target", None)
    return Environment(spec.id, kwargs, limit)


def with_recipe(
    environment: Environment, env_kwargs: Mapping[str, Any], wrappers: Sequence[str | Mapping[str, Any]]
) -> Environment:
    """
    An environment as a recipe wants it.

    :param environment: what the dataset or the user named
    :param env_kwargs: the recipe's arguments for it, which win
    :param wrappers: the recipe's wrappers, outside the environment's own
    """
    return replace(
        environment, kwargs={**environment.kwargs, **env_kwargs}, wrappers=[*environment.wrappers, *wrappers]
    )


def _wrapper(spec: str | Mapping[str, Any]) -> Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]:
    name, kwargs = (spec, {}) if isinstance(spec, str) else next(iter(spec.items()))
    module_name, _, class_name = name.rpartition(".")
    try:
        wrapper_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"There is no environment wrapper {name!r}: give module.ClassName ({error}).") from error
    return lambda env: wrapper_class(env, **kwargs)
