"""Resume bundles: a folder from which an interrupted run goes on as if it had not been interrupted."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_o2o.errors import warn
from sb3_o2o.files import settled, whole_folder
from sb3_o2o.plain.documents import read_document, write_document
from sb3_o2o.plain.numeric import check_old_state, set_bits
from sb3_o2o.resume.manifest import MODEL, STATE, Manifest
from sb3_o2o.resume.rows import Known, put_together, taken_apart, write_rows
from sb3_o2o.updates import environment_state
from sb3_o2o.updates.call import Interruption

_BUFFER = "replay_buffer.zip"
_STATE_KEYS = (
    *("random", "offline_buffer", "rollout_buffer", "metrics", "callbacks", "callback_buffers", "environment"),
    *("normalizer", "normalize_returns"),
)
_BUFFER_KEYS = ("buffer", "arrays", "n_rows", "block")
#: what is known of the rows that buffers wrote last; as long as they live
_KNOWN: WeakKeyDictionary[Any, Known] = WeakKeyDictionary()


def save(
    model: Any,
    path: str | os.PathLike[str],
    before: str | os.PathLike[str] | None = None,
    compare_all: bool = True,
) -> None:
    """
    Write all that a run needs to go on bit for bit: the model, the online buffer, ``VecNormalize``, random
    generators, phase, callbacks and the environment's state.

    :param model: an algorithm at a point where nothing is half-done
    :param path: the folder; one that exists is replaced whole
    :param before: a bundle of the same run, of which rows of the replay buffer that have not changed are taken over;
        by default the one that is replaced
    :param compare_all: read all rows of the replay buffer; otherwise those that may have changed, see
        :mod:`~sb3_o2o.resume.rows`
    :raises OSError: if it cannot be written
    """
    target = settled(path)
    earlier = _earlier(target if before is None else Path(before))
    with whole_folder(target) as folder:
        manifest = Manifest.of(model)
        model.save(folder / MODEL)
        replay_buffer = getattr(model, "replay_buffer", None)
        if replay_buffer is not None:
            write_document(folder / _BUFFER, taken_apart(replay_buffer))
            known = _KNOWN.setdefault(replay_buffer, Known())
            write_rows(replay_buffer, folder, manifest, earlier, known, compare_all)
        write_document(folder / STATE, _state(model))
        for each in sorted(folder.iterdir()):
            if each.name not in manifest.files:
                manifest.add(folder, each.name)
        manifest.write(folder)


def _earlier(folder: Path) -> tuple[Path, Manifest] | None:
    try:
        return folder, Manifest.read(folder)
    except ValueError:  # there is none, or none of ours
        return None


def _state(model: Any) -> dict[str, Any]:
    """All that is in no file of its own."""
    normalizer = model.get_vec_normalize_env()
    return {
        "random": _random_states(model.action_space),
        "offline_buffer": model.offline_buffer,
        "rollout_buffer": _rollouts(model),
        "metrics": model.loop.metrics.sums,
        "callbacks": tuple(model.call.interruption(model.finetuning, getattr(model, "_logger", None))),
        # those of the constructor outlive calls, and may be given a dataset from memory before the next one
        "callback_buffers": [getattr(callback, "buffer", None) for callback in model.finetuning],
        "environment": None if model.env is None else environment_state.snapshot(model.env),
        # its settings and statistics, without the environment; and the discounted sums of rewards
        "normalizer": None if normalizer is None else normalizer.__getstate__(),
        "normalize_returns": getattr(normalizer, "returns", None),
    }


def load(algorithm: Any, folder: Path, manifest: Manifest, env: GymEnv, device: th.device | str, **kwargs: Any) -> Any:
    """
    Read what :func:`save` wrote.

    :param algorithm: class of the model
    :param folder: the bundle, found whole
    :param manifest: what it says of itself
    :param env: an environment of the same kind
    :param device: where the networks live
    :param kwargs: as for ``load``
    :return: the model
    :raises ValueError: if it is of another class; nothing has been opened then
    """
    manifest.refuse_others(folder, algorithm.__name__)
    trust = bool(kwargs.get("trust"))
    state = _with_keys(folder / STATE, _STATE_KEYS, trust)
    if state["normalizer"] is not None:
        env = _with_statistics(algorithm._wrap_env(env, verbose=0), state["normalizer"])
    model = algorithm.load(folder / MODEL, env=env, device=device, force_reset=False, **kwargs)
    _restore(model, folder, state, trust)
    return model


def _with_keys(path: Path, keys: tuple[str, ...], trust: bool) -> dict[str, Any]:
    """What a file of a bundle holds, if it holds what :func:`save` writes there."""
    state = read_document(path, trust)
    missing = keys if not isinstance(state, dict) else [key for key in keys if key not in state]
    if missing:
        raise ValueError(f"{path} is no part of a resume bundle: it has no {', '.join(missing)}.")
    return state  # type: ignore[no-any-return]


def _restore(model: Any, folder: Path, state: dict[str, Any], trust: bool) -> None:
    if (folder / _BUFFER).is_file():
        model.replay_buffer = put_together(_with_keys(folder / _BUFFER, _BUFFER_KEYS, trust), folder, model.device)
        if isinstance(model.replay_buffer, HerReplayBuffer):
            assert model.env is not None
            model.replay_buffer.set_env(model.env)  # it is not pickled with it
    if state["rollout_buffer"] is not None:
        vars(model.rollout_buffer).update(state["rollout_buffer"])
    model.offline_buffer = state["offline_buffer"]
    if model.offline_buffer is not None:
        model.offline_buffer.device = model.device
    model.loop.metrics.sums = state["metrics"]
    model.loop.metrics.to(model.device)
    model.call.interrupted = Interruption(*state["callbacks"])
    # other callbacks than those of the bundle, where the caller asked for some, open buffers of their own
    for callback, buffer in zip(model.finetuning, state["callback_buffers"], strict=False):
        if buffer is not None and hasattr(callback, "buffer"):
            callback.buffer = buffer
    _restore_environment(model, state)
    _set_random_states(state["random"], model.action_space)


def _restore_environment(model: Any, state: dict[str, Any]) -> None:
    if state["environment"] is None:
        model._last_obs = None
        warn(
            "The environments of this run were out of reach, in other processes: it goes on with new episodes.",
        )
    elif model.env is not None and model._last_obs is not None:
        environment_state.restore(model.env, state["environment"])
        for sentence in environment_state.not_going_on(state["environment"]):
            warn(sentence)
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


def _rollouts(model: Any) -> dict[str, Any] | None:
    """What the last rollout of an on-policy algorithm left."""
    buffer = getattr(model, "rollout_buffer", None)
    if buffer is None:
        return None
    kept = (np.ndarray, dict, bool, int, float)
    return {name: value for name, value in vars(buffer).items() if isinstance(value, kept)}


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
    check_old_state(states["numpy"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"])
    if states["cuda"] and th.cuda.is_available():
        th.cuda.set_rng_state_all(states["cuda"])
    set_bits(action_space.np_random.bit_generator, states["action_space"])
