"""What callbacks know: taken out of those of a call, and given to those of the call that goes on with it."""

from __future__ import annotations

import io
import pickle
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_o2o.data import OfflineReplayBuffer, SumTree
from sb3_o2o.errors import warn
from sb3_o2o.networks.ratio import DensityRatio
from sb3_o2o.updates import environment_state

#: name of a callback's class, and its attributes
State = tuple[str, dict[str, Any]]


def states_of(callbacks: Iterable[BaseCallback]) -> list[State]:
    """
    :param callbacks: of a call
    :return: plain state of each; references to models, environments and open files stay behind
    """
    kept = [each for each in callbacks if not getattr(each, "keeps_no_state", False)]
    return [
        (type(callback).__name__, {**dict(_plain(vars(callback))), _ENVIRONMENTS: dict(_environments(callback))})
        for callback in kept
    ]


#: where the states of a callback's own environments are
_ENVIRONMENTS = "environments of its own"


def _environments(callback: BaseCallback) -> Iterator[tuple[str, Any]]:
    """Those that nobody seeds, such as the environments of Stable-Baselines3's evaluations."""
    if not getattr(callback, "keeps_environments", True):
        return
    model = vars(callback).get("model")
    for name, value in vars(callback).items():
        if isinstance(value, VecEnv | gym.Env) and value is not (None if model is None else model.get_env()):
            yield name, environment_state.snapshot(value)


_PLAIN = (bool, int, float, str, np.ndarray, np.generic, th.Tensor, list, tuple, dict, set, deque, type(None))
#: objects of callbacks that pickle all of their state and nothing else
_WHOLE = (SumTree, DensityRatio)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)


def _plain(attributes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in attributes.items():
        # paths are where this run writes, not what it knows: a run folder may have moved; a dataset may be large, and
        # comes with the callback again
        if name in ("locals", "globals", "callbacks", "dataset") or name.endswith("path"):
            continue
        if isinstance(
            value, (*_PLAIN, *_GENERATORS, *_WHOLE, nn.Module, OfflineReplayBuffer)
        ):  # the last without its data
            try:
                yield name, pickle.loads(_dumped(value))
            except Exception:  # a container of something live: the callback makes it anew
                continue


class _StateOnly(pickle.Pickler):
    """Refuses what is alive: a container may hold a model, an environment or another callback."""

    def reducer_override(self, value: Any) -> Any:
        """See ``pickle.Pickler``."""
        if isinstance(value, BaseAlgorithm | BaseCallback | VecEnv | gym.Env):
            raise pickle.PicklingError(f"{type(value).__name__} is no state of a callback.")
        return NotImplemented


def _dumped(value: Any) -> bytes:
    stream = io.BytesIO()
    _StateOnly(stream).dump(value)
    return stream.getvalue()


def restore(callbacks: list[BaseCallback], states: list[State]) -> None:
    """
    Give callbacks the states of those of an interrupted call, by their kinds and in their order.

    :param callbacks: of the call that goes on
    :param states: what :func:`states_of` returned
    """
    kinds, saved = Counter(type(callback).__name__ for callback in callbacks), Counter(name for name, _ in states)
    if kinds != saved:
        missing = sorted((saved - kinds).elements())
        if missing:
            warn(f"The interrupted run also had these callbacks: {', '.join(missing)}.")
    waiting = list(states)
    for callback in callbacks:
        for position, (name, state) in enumerate(waiting):
            if name == type(callback).__name__:
                _update(callback, state)
                del waiting[position]
                break


def _update(callback: BaseCallback, state: dict[str, Any]) -> None:
    for name, saved in state.get(_ENVIRONMENTS, {}).items():
        _go_on(callback, name, saved)
    for name, value in state.items():
        if name == _ENVIRONMENTS:
            continue
        own = vars(callback).get(name)
        if isinstance(value, OfflineReplayBuffer) and isinstance(own, OfflineReplayBuffer):
            own.rng = value.rng  # it may have been given its dataset
        else:
            vars(callback)[name] = value


def _go_on(callback: BaseCallback, name: str, saved: dict[str, Any] | None) -> None:
    """Let an environment of a callback's own go on where it was."""
    who, env = f"{type(callback).__name__}.{name}", vars(callback).get(name)
    if saved is None:
        warn(f"The environments of {who} were out of reach, in other processes: they start anew.")
    elif isinstance(env, VecEnv | gym.Env):
        try:
            environment_state.restore(env, saved)
        except (ValueError, AssertionError):
            warn(f"{who} has other environments than before: they start anew.")
            return
        for sentence in environment_state.not_going_on(saved):
            warn(f"{who}: {sentence}")
