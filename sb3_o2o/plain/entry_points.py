"""Environments and wrappers that a file names: what is registered is made, a module is imported only with trust."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from sb3_o2o.plain.allowlist import UntrustedError, is_trusted, safe_global

#: packages whose wrappers may be named
_WRAPPERS = (
    *("gymnasium.wrappers.", "sb3_o2o.wrappers.", "sb3_contrib.common.wrappers."),
    *("stable_baselines3.common.atari_wrappers.", "stable_baselines3.common.monitor."),
    *(
        "sb3_o2o.ResidualActions",
        "sb3_o2o.algorithms.residual.ResidualActions",
    ),  # opens a saved model as untrusted ones are
)
#: which of these write files where they are told
_WRITING = ("RecordVideo", "Monitor")


def checked_environment_id(env_id: str, where: str, trust: bool = False) -> str:
    """
    :param env_id: as a file says it: an id, or ``module:id``, whose module Gymnasium would import
    :param where: the file
    :param trust: whether it may
    :return: the id to make
    :raises UntrustedError: if a module would have to be imported
    """
    module, colon, name = env_id.rpartition(":")
    if not colon or is_trusted(trust):
        return env_id
    if name in gym.registry:
        return name
    raise UntrustedError(f"the module {module} of the environment {env_id!r}", where)


def check_wrapper(name: str, where: str) -> None:
    """
    :param name: dotted name of a wrapper, as a file says it
    :param where: the file
    :raises UntrustedError: if it is none of Gymnasium's, Stable-Baselines3's or ours, nor vouched for
    """
    module, _, attribute = name.rpartition(".")
    if not module or is_trusted(False) or (name.startswith(_WRAPPERS) and attribute not in _WRITING):
        return
    try:
        safe_global(module, attribute)
    except UntrustedError:
        raise UntrustedError(f"the wrapper {name}", where) from None


def make_recorded(spec: EnvSpec, where: str, trust: bool = False) -> gym.Env[Any, Any]:
    """
    Make the environment that a dataset was recorded in.

    :param spec: what the dataset says: id, entry point, arguments, wrappers
    :param where: the dataset
    :param trust: whether its entry point may be imported; else the environment that is registered by its id is made
    :return: the environment
    :raises UntrustedError: if none is registered by the id, or a wrapper is of elsewhere
    """
    if is_trusted(trust):
        return gym.make(spec)
    for wrapper in spec.additional_wrappers:
        check_wrapper(wrapper.entry_point.replace(":", "."), where)
    name = checked_environment_id(spec.id, where)
    if name not in gym.registry and str(spec.entry_point).startswith("gymnasium_robotics."):
        import gymnasium_robotics

        gym.register_envs(gymnasium_robotics)
    if name not in gym.registry:
        raise UntrustedError(f"the entry point {spec.entry_point} of the environment {spec.id!r}", where)
    registered = copy.deepcopy(gym.spec(name))
    registered.kwargs.update(spec.kwargs)
    registered.max_episode_steps = spec.max_episode_steps
    registered.additional_wrappers = spec.additional_wrappers
    return gym.make(registered)


def check_recorded_spaces(folder: Path, trust: bool = False) -> None:
    """
    Minari makes the environment of a dataset that does not say its spaces.

    :param folder: ``data`` of a Minari dataset
    :param trust: whether its entry point may be imported
    :raises UntrustedError: if Minari would import it
    """
    try:
        metadata = json.loads((folder / "metadata.json").read_text())
        known = {"observation_space", "action_space"} <= metadata.keys()
        entry_point = None if known else json.loads(metadata["env_spec"])["entry_point"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # Minari says what is wrong
    if entry_point is not None and not is_trusted(trust):
        raise UntrustedError(f"the entry point {entry_point}, to know the spaces,", str(folder))
