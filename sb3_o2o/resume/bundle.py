"""Resume bundles: a folder from which an interrupted run goes on as if it had not been interrupted."""

from __future__ import annotations

import copy
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_o2o.files import settled, whole_folder
from sb3_o2o.resume import environment_state
from sb3_o2o.resume.encoding import read_state, write_state
from sb3_o2o.version import __version__

_STATE, _MODEL, _BUFFER = "state.pkl", "model.zip", "replay_buffer.pkl"


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """
    Write all that a run needs to go on bit for bit: the model, the online buffer, ``VecNormalize``, random
    generators, phase, callbacks and the environment's state.

    :param model: an algorithm at a point where nothing is half-done
    :param path: the folder; one that exists is replaced whole
    :raises OSError: if it cannot be written
    """
    with whole_folder(path) as folder:
        model.save(folder / _MODEL)
        replay_buffer = getattr(model, "replay_buffer", None)
        if replay_buffer is not None:
            write_state(folder / _BUFFER, _trimmed(replay_buffer))
        write_state(folder / _STATE, _state(model))


def _state(model: Any) -> dict[str, Any]:
    """All that is in no file of its own."""
    normalizer = model.get_vec_normalize_env()
    return {
        "version": __version__,
        "stable_baselines3": stable_baselines3.__version__,
        "torch": str(th.__version__),
        "random": _random_states(model.action_space),
        "offline_buffer": model.offline_buffer,
        "metrics": model.loop.metrics.sums,
        "callbacks": model.call.states(model.finetuning),
        # those of the constructor outlive calls, and may be given a dataset from memory before the next one
        "callback_buffers": [getattr(callback, "buffer", None) for callback in model.finetuning],
        "environment": None if model.env is None else environment_state.snapshot(model.env),
        # its settings and statistics, without the environment; and the discounted sums of rewards
        "normalizer": None if normalizer is None else normalizer.__getstate__(),
        "normalize_returns": getattr(normalizer, "returns", None),
    }


def load(algorithm: Any, path: str | os.PathLike[str], env: GymEnv, device: th.device | str, **kwargs: Any) -> Any:
    """
    Read what :func:`save` wrote.

    :param algorithm: class of the model
    :param path: the folder
    :param env: an environment of the same kind
    :param device: where the networks live
    :param kwargs: as for ``load``
    :return: the model
    :raises ValueError: if it is no resume bundle, or one of another version
    """
    folder = settled(path)
    state = _read_state(folder)
    if state["normalizer"] is not None:
        env = _with_statistics(algorithm._wrap_env(env, verbose=0), state["normalizer"])
    model = algorithm.load(folder / _MODEL, env=env, device=device, force_reset=False, **kwargs)
    _restore(model, folder, state)
    return model


def _restore(model: Any, folder: Path, state: dict[str, Any]) -> None:
    if (folder / _BUFFER).is_file():
        model.replay_buffer = _expanded(read_state(folder / _BUFFER), model.device)
        if isinstance(model.replay_buffer, HerReplayBuffer):
            assert model.env is not None
            model.replay_buffer.set_env(model.env)  # it is not pickled with it
    model.offline_buffer = state["offline_buffer"]
    if model.offline_buffer is not None:
        model.offline_buffer.device = model.device
    model.loop.metrics.sums = state["metrics"]
    model.loop.metrics.to(model.device)
    model.call.interrupted = state["callbacks"]
    # other callbacks than those of the bundle, where the caller asked for some, open buffers of their own
    for callback, buffer in zip(model.finetuning, state["callback_buffers"], strict=False):
        if buffer is not None and hasattr(callback, "buffer"):
            callback.buffer = buffer
    _restore_environment(model, state)
    _set_random_states(state["random"], model.action_space)


def _restore_environment(model: Any, state: dict[str, Any]) -> None:
    if state["environment"] is None:
        model._last_obs = None
        warnings.warn(
            "The environments of this run were out of reach, in other processes: it goes on with new episodes.",
            stacklevel=6,
        )
    elif model.env is not None and model._last_obs is not None:
        environment_state.restore(model.env, state["environment"])
        if state["environment"]["missing"]:
            warnings.warn(
                f"Not in the bundle, so not restored: {', '.join(state['environment']['missing'])}.", stacklevel=6
            )
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and state["normalize_returns"] is not None:
        normalizer.returns = state["normalize_returns"]


def _with_statistics(env: VecEnv, saved: dict[str, Any]) -> VecEnv:
    """The environment with the saved settings of ``VecNormalize``, wrapped in one if it was not."""
    own = unwrap_vec_normalize(env)
    if own is None:
        env = own = VecNormalize(env, norm_obs=False)  # what it normalises is saved
    vars(own).update(saved)
    return env


def _read_state(folder: Path) -> dict[str, Any]:
    if not (folder / _STATE).is_file() or not (folder / _MODEL).is_file():
        raise ValueError(f"{folder} is no resume bundle: it needs {_STATE} and {_MODEL}, written by save_resume.")
    state = read_state(folder / _STATE)
    version = state.get("version") if isinstance(state, dict) else None
    if version is None:
        raise ValueError(f"{folder} is no resume bundle: {_STATE} holds something else.")
    if version != __version__:
        raise ValueError(
            f"{folder} was written by sb3_o2o {version}, this is {__version__}: a run can only go on "
            f"bit for bit in the same version. {folder / _MODEL} can still be loaded with load()."
        )
    present = {"torch": str(th.__version__), "stable_baselines3": stable_baselines3.__version__}
    others = [f"{name} {state[name]} (this is {own})" for name, own in present.items() if state[name] != own]
    if others:
        warnings.warn(
            f"{folder} was written with {' and '.join(others)}: the run can go on, but it is not promised to go on "
            "bit for bit in another version.",
            stacklevel=4,
        )
    return state


def _random_states(action_space: Any) -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
        "action_space": action_space.np_random.bit_generator.state,
    }


def _set_random_states(states: dict[str, Any], action_space: Any) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"])
    if states["cuda"] and th.cuda.is_available():
        th.cuda.set_rng_state_all(states["cuda"])
    action_space.np_random.bit_generator.state = states["action_space"]


# -- buffers -------------------------------------------------------------------------------------------------------


def _trimmed(buffer: ReplayBuffer) -> ReplayBuffer:
    """A copy without the rows that were never written: a new buffer for a million steps is mostly zeros."""
    shallow = copy.copy(buffer)
    for name, value in vars(buffer).items():
        if isinstance(value, ReplayBuffer):
            setattr(shallow, name, _trimmed(value))
        elif not buffer.full:
            setattr(shallow, name, _map_rows(value, buffer.buffer_size, lambda array: array[: buffer.pos]))
    return shallow


def _expanded(buffer: ReplayBuffer, device: th.device) -> ReplayBuffer:
    buffer.device = device
    rows = buffer.buffer_size
    for name, value in vars(buffer).items():
        if isinstance(value, ReplayBuffer):
            setattr(buffer, name, _expanded(value, device))
        elif not buffer.full:
            setattr(buffer, name, _map_rows(value, buffer.pos, lambda array: _grown(array, rows)))
    return buffer


def _grown(array: np.ndarray, rows: int) -> np.ndarray:
    grown = np.zeros((rows, *array.shape[1:]), dtype=array.dtype)
    grown[: len(array)] = array
    return grown


def _map_rows(value: Any, rows: int, function: Any) -> Any:
    """Apply to arrays of shape ``(rows, n_envs, …)``, alone or in a dict."""
    if isinstance(value, np.ndarray) and value.ndim >= 2 and len(value) == rows:
        return function(value)
    if isinstance(value, dict):
        return {key: _map_rows(item, rows, function) for key, item in value.items()}
    return value
