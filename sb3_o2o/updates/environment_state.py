"""The state of an environment in the middle of an episode, so that a resumed run goes on in the same place."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_o2o.plain.encoder import Together
from sb3_o2o.updates.shared_objects import copied, in_one_memory, is_simulators, resolved

#: attributes that a new environment of the same kind has already, or that only draw pictures
_SKIPPED = {"spec", "_cached_spec", "mujoco_renderer", "class_attributes"}
#: of the innermost vectorised environment: what it consists of, and what each step gives it anew
_SKIPPED_OF_BASE = {"envs", "actions"}


def snapshot(env: VecEnv | gym.Env) -> dict[str, Any] | None:
    """
    :param env: an environment, or several
    :return: its state, or None where environments run in other processes, out of reach
    :raises TypeError: never; what cannot be pickled is listed under ``"missing"``, and arrays that share memory, which
        those of a resumed run do not, under ``"apart"``
    """
    layers, base = _layers(env)
    if not isinstance(base, DummyVecEnv | gym.Env):
        return None
    taken = _Taken(_live(layers, base))
    state = {
        "layers": [taken.attributes(layer) for layer in layers],
        "base": taken.attributes(base) if isinstance(base, VecEnv) else {},
        "envs": [taken.env(single, place) for place, single in _envs(base)],
        # environments draw from their spaces too
        "spaces": {
            place: part._np_random
            for place, part in taken.live.items()
            if isinstance(part, gym.Space) and part._np_random is not None
        },
    }
    return Together({**taken.copy(state), "missing": sorted(set(taken.missing)), "apart": sorted(set(taken.apart))})


def restore(env: VecEnv | gym.Env, state: dict[str, Any]) -> None:
    """
    :param env: a new environment of the same kind
    :param state: what :func:`snapshot` returned
    :raises ValueError: if there are more environments or fewer than there were, or otherwise wrapped; none has changed
    """
    layers, base = _layers(env)
    _check_same(layers, base, state)
    env.reset()  # wrappers refuse to step before
    live = _live(layers, base)
    state = resolved(dict(state), live)
    for layer, attributes in zip(layers, state["layers"], strict=True):
        vars(layer).update(attributes)
    if isinstance(base, VecEnv):
        vars(base).update(state["base"])
    for (_, single), saved in zip(_envs(base), state["envs"], strict=True):
        _restore_env(single, saved)
    for place, generator in state.get("spaces", {}).items():
        if isinstance(live.get(place), gym.Space):
            live[place]._np_random = generator


def not_going_on(state: dict[str, Any]) -> list[str]:
    """
    :param state: what :func:`snapshot` returned
    :return: sentences on what does not go on as it was, for a warning
    """
    said = []
    if state["missing"]:
        said.append(f"Not in the bundle, so not restored: {', '.join(state['missing'])}.")
    if state.get("apart"):
        said.append(
            f"Arrays that shared memory are apart now, and what is written into one does not show in the other: "
            f"{', '.join(state['apart'])}."
        )
    return said


def _layers(env: VecEnv | gym.Env) -> tuple[list[VecEnvWrapper], VecEnv | gym.Env]:
    layers: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper):
        layers.append(env)
        env = env.venv
    return layers, env


def _envs(base: VecEnv | gym.Env) -> list[tuple[str, gym.Env]]:
    """Single environments and their places."""
    singles = [base] if isinstance(base, gym.Env) else base.envs  # type: ignore[attr-defined]
    return [(f"envs/{number}", single) for number, single in enumerate(singles)]


def _check_same(layers: list[VecEnvWrapper], base: VecEnv | gym.Env, state: dict[str, Any]) -> None:
    """:raises ValueError: if environments are others than those that were saved"""
    if not isinstance(base, DummyVecEnv | gym.Env):
        raise ValueError(
            f"The saved environments ran in their process (DummyVecEnv), and these are in a {type(base).__name__}, out "
            "of reach: give a DummyVecEnv."
        )
    n_envs = len(_envs(base))
    if n_envs != len(state["envs"]):
        raise ValueError(f"The saved run had {len(state['envs'])} side by side (n_envs), these are {n_envs}.")
    if len(layers) != len(state["layers"]):
        names = ", ".join(type(each).__name__ for each in layers) or "none"
        raise ValueError(
            f"The saved environments had {len(state['layers'])} wrappers of vectorised environments around them, these "
            f"have {len(layers)} ({names}): wrap them in the same way."
        )


# -- what an environment consists of -----------------------------------------------------------------------------------


def _live(layers: list[VecEnvWrapper], base: VecEnv | gym.Env) -> dict[str, Any]:
    """The parts of an environment by their places, each once: no copy is made of them."""
    found: dict[str, Any] = {}
    roots: list[tuple[str, Any]] = [(f"layers/{number}", layer) for number, layer in enumerate(layers)]
    met: set[int] = set()
    roots += [("base", base)] if isinstance(base, VecEnv) else []
    for place, root in (*roots, *_envs(base)):
        found.update(_parts(place, root, met))
    return found


def _parts(place: str, thing: Any, met: set[int]) -> Iterator[tuple[str, Any]]:
    if id(thing) in met:
        return
    met.add(id(thing))
    yield place, thing
    inside = dict(vars(thing)) if hasattr(thing, "__dict__") else {}
    if isinstance(thing, gym.spaces.Dict | gym.spaces.Tuple):
        spaces = thing.spaces
        inside = dict(spaces.items() if isinstance(spaces, dict) else enumerate(spaces))
    for name, value in inside.items():
        if isinstance(value, gym.Env | gym.Space) or _is(value, "MjData") or _is(value, "MjModel"):
            yield from _parts(f"{place}/{name}", value, met)


class _Taken:
    """
    What is taken of an environment.

    :param live: its parts
    """

    def __init__(self, live: dict[str, Any]):
        self.live = live
        self.missing: list[str] = []
        self.apart: list[str] = []
        self._places = {id(part): place for place, part in live.items()}
        self._owned: list[tuple[str, dict[str, Any]]] = []

    def env(self, env: gym.Env, place: str) -> dict[str, Any]:
        """The state of an environment and of those inside it, not copied yet."""
        state: dict[str, Any] = {"attributes": self.attributes(env), "children": {}}
        if _is_mujoco(env):
            state["physics"] = _physics(env.data)  # type: ignore[attr-defined]
        for name, value in vars(env).items():
            # one that refers to another one is inside it once
            if isinstance(value, gym.Env) and self._places[id(value)] == f"{place}/{name}":
                state["children"][name] = self.env(value, f"{place}/{name}")
        return state

    def attributes(self, thing: Any) -> dict[str, Any]:
        """Those that are state, not copied yet; without those that its class names in ``not_in_bundles``."""
        skipped = _SKIPPED.union(getattr(type(thing), "not_in_bundles", ()))
        if isinstance(thing, DummyVecEnv):
            skipped |= _SKIPPED_OF_BASE
        kept = {
            name: value for name, value in vars(thing).items() if name not in skipped and not self._is_of_new_one(value)
        }
        owner = type(thing).__name__
        for name in [name for name, value in kept.items() if _is_compiled_method(value)]:
            self.missing.append(f"{owner}.{name}")  # only code makes it again: for its sake all would need trust
            del kept[name]
        self._owned.append((owner, kept))
        return kept

    def _is_of_new_one(self, value: Any) -> bool:
        """Whether it is no state, so that a new environment has what stands for it."""
        if id(value) in self._places or isinstance(value, ModuleType) or is_simulators(value):
            return True
        # a method of an object that is restored must be of the restored one
        is_bound = isinstance(value, MethodType | BuiltinMethodType)
        owner = value.__self__ if is_bound else None
        if owner is not None and not isinstance(owner, type | ModuleType):
            return id(owner) in self._places
        return inspect.isroutine(value)

    def copy(self, state: dict[str, Any]) -> dict[str, Any]:
        """All of it at once, so that what several hold stays one; what cannot be copied is left out, and named."""
        try:
            copy, arrays = copied(state, self._places)
        except Exception:
            self._leave_out()
            copy, arrays = copied(state, self._places)
        shared = {id(each) for each in in_one_memory(arrays)}
        if shared:
            self._name_apart(shared)
        return copy  # type: ignore[no-any-return]

    def _leave_out(self) -> None:
        for owner, attributes in self._owned:
            for name, value in list(attributes.items()):
                try:
                    copied(value, self._places)
                except Exception:
                    self.missing.append(f"{owner}.{name}")
                    del attributes[name]

    def _name_apart(self, shared: set[int]) -> None:
        for owner, attributes in self._owned:
            for name, value in attributes.items():
                if any(id(array) in shared for array in copied(value, self._places)[1]):
                    self.apart.append(f"{owner}.{name}")


def _restore_env(env: gym.Env, state: dict[str, Any]) -> None:
    vars(env).update(state["attributes"])
    if "physics" in state:
        _set_physics(env, state["physics"])
    for name, child in state["children"].items():
        _restore_env(getattr(env, name), child)


# -- MuJoCo ------------------------------------------------------------------------------------------------------------


def _is_compiled_method(value: Any) -> bool:
    """Such as one of a random generator; those of Python are of classes that need trust themselves."""
    is_pythons = isinstance(value, MethodType) and isinstance(value.__func__, FunctionType)
    return isinstance(value, MethodType | BuiltinMethodType) and not is_pythons


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
