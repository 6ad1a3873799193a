"""The state of an environment in the middle of an episode, so that a resumed run goes on in the same place."""

from __future__ import annotations

import inspect
import pickle
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

#: attributes that a new environment of the same kind has already, or that only draw pictures
_SKIPPED = {"env", "spec", "_cached_spec", "mujoco_renderer", "observation_space", "action_space", "venv", "envs"}


def snapshot(env: VecEnv | gym.Env) -> dict[str, Any] | None:
    """
    :param env: an environment, or several
    :return: its state, or None where environments run in other processes, out of reach
    :raises TypeError: never; what cannot be pickled is listed under ``"missing"``
    """
    if isinstance(env, gym.Env):
        unkept: list[str] = []
        return {"layers": [], "base": {}, "envs": [_snapshot_env(env, unkept)], "missing": sorted(set(unkept))}
    layers: list[dict[str, Any]] = []
    while isinstance(env, VecEnvWrapper):
        layers.append(_attributes(env, []))
        env = env.venv
    if not isinstance(env, DummyVecEnv):
        return None
    missing: list[str] = []
    inner = [_snapshot_env(single, missing) for single in env.envs]
    return {"layers": layers, "base": _attributes(env, []), "envs": inner, "missing": sorted(set(missing))}


def restore(env: VecEnv | gym.Env, state: dict[str, Any]) -> None:
    """
    :param env: a new environment of the same kind
    :param state: what :func:`snapshot` returned
    :raises ValueError: if there are more environments or fewer than there were, or otherwise wrapped; none has changed
    """
    if isinstance(env, gym.Env):
        env.reset()  # wrappers refuse to step before
        _restore_env(env, *state["envs"])
        return
    layers, base = _layers(env)
    _check_same(layers, base, state)
    env.reset()
    for layer, attributes in zip(layers, state["layers"], strict=True):
        vars(layer).update(attributes)
    vars(base).update(state["base"])
    for single, saved in zip(base.envs, state["envs"], strict=True):  # type: ignore[attr-defined]
        _restore_env(single, saved)


def _layers(env: VecEnv) -> tuple[list[VecEnvWrapper], VecEnv]:
    layers: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper):
        layers.append(env)
        env = env.venv
    return layers, env


def _check_same(layers: list[VecEnvWrapper], base: VecEnv, state: dict[str, Any]) -> None:
    """:raises ValueError: if environments are others than those that were saved"""
    if not isinstance(base, DummyVecEnv):
        raise ValueError(
            f"The saved environments ran in their process (DummyVecEnv), and these are in a {type(base).__name__}, out "
            "of reach: give a DummyVecEnv."
        )
    if len(base.envs) != len(state["envs"]):
        raise ValueError(f"The saved run had {len(state['envs'])} side by side (n_envs), these are {len(base.envs)}.")
    if len(layers) != len(state["layers"]):
        names = ", ".join(type(each).__name__ for each in layers) or "none"
        raise ValueError(
            f"The saved environments had {len(state['layers'])} wrappers of vectorised environments around them, these "
            f"have {len(layers)} ({names}): wrap them in the same way."
        )


def _attributes(thing: Any, missing: list[str]) -> dict[str, Any]:
    """The attributes that can be pickled, each as a copy."""
    kept: dict[str, Any] = {}
    for name, value in vars(thing).items():
        # physics has a form of its own; modules and functions are no state
        if name in _SKIPPED or _is(value, "MjData") or _is(value, "MjModel") or inspect.isroutine(value):
            continue
        if isinstance(value, gym.Env | gym.Space | VecEnv | ModuleType):
            continue
        try:
            kept[name] = pickle.loads(pickle.dumps(value))
        except Exception:
            missing.append(f"{type(thing).__name__}.{name}")
    return kept


def _snapshot_env(env: gym.Env, missing: list[str]) -> dict[str, Any]:
    state: dict[str, Any] = {"attributes": _attributes(env, missing), "children": {}}
    if _is_mujoco(env):
        state["physics"] = _physics(env.data)  # type: ignore[attr-defined]
    for name, value in vars(env).items():
        if isinstance(value, gym.Env):
            state["children"][name] = _snapshot_env(value, missing)
    return state


def _restore_env(env: gym.Env, state: dict[str, Any]) -> None:
    vars(env).update(state["attributes"])
    if "physics" in state:
        _set_physics(env, state["physics"])
    for name, child in state["children"].items():
        _restore_env(getattr(env, name), child)


def _is(value: Any, class_name: str) -> bool:
    return type(value).__name__ == class_name


def _is_mujoco(env: Any) -> bool:
    own = vars(env)
    return _is(own.get("data"), "MjData") and _is(own.get("model"), "MjModel")


def _physics(data: Any) -> dict[str, Any]:
    """
    All that MuJoCo holds in floating-point numbers, and which constraints are on: observations read what the last step
    derived from the state, contact forces included. The rest are places and counts, which the next step makes anew.
    """
    fields = {name: getattr(data, name) for name in dir(type(data)) if not name.startswith("_")}
    arrays = {
        name: value.copy()
        for name, value in fields.items()
        if isinstance(value, np.ndarray) and _is_number(name, value)
    }
    return {"time": float(data.time), "arrays": arrays}


def _is_number(name: str, array: np.ndarray) -> bool:
    """Whether any values are harmless: whole numbers are places in memory to MuJoCo."""
    return array.dtype.kind == "f" or name == "eq_active"


def _set_physics(env: Any, physics: dict[str, Any]) -> None:
    data = env.data
    for name in ("qpos", "qvel"):
        saved, own = physics["arrays"][name].shape, getattr(data, name).shape
        if saved != own:
            raise ValueError(f"The saved physics has a {name} of shape {saved}, this environment's is {own}.")
    for name, saved in physics["arrays"].items():
        own = getattr(data, name, None)
        # arrays of the solver are as long as there were contacts, and made anew by the next step
        if isinstance(own, np.ndarray) and _is_number(name, own) and own.shape == saved.shape:
            own[...] = saved
    data.time = float(physics["time"])
