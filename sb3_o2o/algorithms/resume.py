"""Resume bundles: a folder from which an interrupted run goes on as if it had not been interrupted."""

from __future__ import annotations

import copy
import os
import pickle
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

from sb3_o2o.algorithms import env_state
from sb3_o2o.algorithms.hooks import walk
from sb3_o2o.version import __version__

if TYPE_CHECKING:
    from typing import Self

    from sb3_o2o.algorithms.common import OfflineToOnlineMixin as _Base
else:
    _Base = object

_STATE, _MODEL, _BUFFER, _NORMALIZE = "state.pkl", "model.zip", "replay_buffer.pkl", "vec_normalize.pkl"


class ResumeMixin(_Base):
    """``save_resume``, ``load_resume`` and a clean stop."""

    _stop_requested = False
    _collecting = False
    _pending_resume: str | None = None
    _callback_states: list[tuple[str, dict[str, Any]]] | None = None

    def request_stop(self) -> None:
        """
        End ``learn`` or ``pretrain`` at the next point where nothing is half-done: between two updates, and after
        the transitions of a rollout are stored. A callback that returns False stops earlier, and SB3 then drops
        the transition of that step.
        """
        self._stop_requested = True

    def save_resume(self, path: str | os.PathLike[str]) -> None:
        """
        Write all that a run needs to go on bit for bit: the model, the online buffer, ``VecNormalize``, random
        generators, phase, callbacks and the environment's state. A folder; one that exists is replaced whole.

        Called inside a rollout, as by a callback, it is written as soon as the rollout is complete.

        :param path: the folder
        :raises OSError: if it cannot be written
        """
        if self._collecting:
            self._pending_resume = os.fspath(path)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
            folder = Path(name) / "bundle"
            folder.mkdir()
            self.save(folder / _MODEL)
            if self.replay_buffer is not None:
                (folder / _BUFFER).write_bytes(pickle.dumps(_trimmed(self.replay_buffer), protocol=5))
            if self._vec_normalize_env is not None:
                self._vec_normalize_env.save(str(folder / _NORMALIZE))
            (folder / _STATE).write_bytes(pickle.dumps(self._resume_state(), protocol=5))
            if target.exists():
                shutil.rmtree(target)
            os.replace(folder, target)

    def _resume_state(self) -> dict[str, Any]:
        environment = None if self.env is None else env_state.snapshot(self.env)
        return {
            "version": __version__,
            "stable_baselines3": stable_baselines3.__version__,
            "torch": th.__version__,
            "random": _random_states(self.action_space),
            "offline_buffer": self.offline_buffer,
            "metrics": self._metric_sums,
            "callbacks": _callback_states(self._driven_callbacks),
            "callback_buffers": [getattr(callback, "buffer", None) for callback in self.finetuning],
            "environment": environment,
            "normalize_returns": getattr(self._vec_normalize_env, "returns", None),
        }

    @classmethod
    def load_resume(
        cls, path: str | os.PathLike[str], env: GymEnv, device: th.device | str = "auto", **kwargs: Any
    ) -> Self:
        """
        Read what :meth:`save_resume` wrote. Go on with ``learn(remaining, reset_num_timesteps=False)``, or
        ``pretrain(dataset, remaining, reset_gradient_steps=False)``, and callbacks of the same kinds in the same
        order: they get their state back when the call starts.

        :param path: the folder
        :param env: an environment of the same kind
        :param device: where the networks live
        :param kwargs: as for ``load``
        :return: the model
        :raises ValueError: if it is no resume bundle, or one of another version
        """
        folder = Path(path)
        state = _read_state(folder)
        if (folder / _NORMALIZE).is_file():
            inner = env if not isinstance(unwrap_vec_normalize(env), VecNormalize) else env.venv  # type: ignore[union-attr,arg-type]
            env = VecNormalize.load(str(folder / _NORMALIZE), cls._wrap_env(inner))
        model = cls.load(folder / _MODEL, env=env, device=device, force_reset=False, **kwargs)  # type: ignore[attr-defined]
        model._restore(folder, state)
        return model

    def _restore(self, folder: Path, state: dict[str, Any]) -> None:
        if (folder / _BUFFER).is_file():
            self.replay_buffer = _expanded(pickle.loads((folder / _BUFFER).read_bytes()), self.device)
        self.offline_buffer = state["offline_buffer"]
        self._metric_sums = state["metrics"]
        self._callback_states = state["callbacks"]
        for callback, buffer in zip(self.finetuning, state["callback_buffers"], strict=True):
            if buffer is not None:
                callback.buffer = buffer
        if state["environment"] is None:
            self._last_obs = None
            warnings.warn(
                "The environments of this run were out of reach, in other processes: it goes on with new episodes.",
                stacklevel=3,
            )
        elif self.env is not None and self._last_obs is not None:
            env_state.restore(self.env, state["environment"])
            if state["environment"]["missing"]:
                warnings.warn(
                    f"Not in the bundle, so not restored: {', '.join(state['environment']['missing'])}.", stacklevel=3
                )
        if self._vec_normalize_env is not None and state["normalize_returns"] is not None:
            self._vec_normalize_env.returns = state["normalize_returns"]
        _set_random_states(state["random"], self.action_space)

    # -- clean points ----------------------------------------------------------------------------------------------

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """SB3's, with a look at requests to stop before it begins."""
        if self._clean_point():
            return RolloutReturn(0, 0, continue_training=False)
        self._collecting = True
        try:
            return super().collect_rollouts(env, callback, *args, **kwargs)
        finally:
            self._collecting = False

    def _clean_point(self) -> bool:
        """Write a bundle that was asked for; whether to stop."""
        if self._pending_resume is not None:
            path, self._pending_resume = self._pending_resume, None
            self.save_resume(path)
        stop, self._stop_requested = self._stop_requested, False
        return stop

    def _take_callbacks(self, callback: BaseCallback) -> None:
        """Remember the callbacks of a call, and give them the state of an interrupted one."""
        self._driven_callbacks = list(walk(callback))
        states, self._callback_states = self._callback_states, None
        if states is not None:
            _restore_callbacks(self._driven_callbacks, states)

    def _excluded_save_params(self) -> list[str]:
        ours = ["_driven_callbacks", "_callback_states", "_stop_requested", "_collecting", "_pending_resume"]
        return [*super()._excluded_save_params(), *ours]


def _read_state(folder: Path) -> dict[str, Any]:
    if not (folder / _STATE).is_file() or not (folder / _MODEL).is_file():
        raise ValueError(f"{folder} is no resume bundle: it needs {_STATE} and {_MODEL}, written by save_resume.")
    try:
        state = pickle.loads((folder / _STATE).read_bytes())
    except Exception as error:
        raise ValueError(f"{folder / _STATE} cannot be read: {error}.") from error
    if state.get("version") != __version__:
        raise ValueError(
            f"{folder} was written by sb3_o2o {state.get('version')}, this is {__version__}: a run can only go on "
            f"bit for bit in the same version. {folder / _MODEL} can still be loaded with load()."
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


# -- callbacks -----------------------------------------------------------------------------------------------------


def _callback_states(callbacks: Iterable[BaseCallback]) -> list[tuple[str, dict[str, Any]]]:
    """Plain state of each callback; references to models, environments and open files stay behind."""
    return [(type(callback).__name__, dict(_plain(vars(callback)))) for callback in callbacks]


def _plain(attributes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in attributes.items():
        if isinstance(
            value, bool | int | float | str | np.ndarray | np.generic | th.Tensor | list | tuple | dict | None
        ):
            if name in ("locals", "globals", "callbacks"):
                continue
            try:
                yield name, pickle.loads(pickle.dumps(value))
            except Exception:
                continue


def _restore_callbacks(callbacks: list[BaseCallback], states: list[tuple[str, dict[str, Any]]]) -> None:
    kinds, saved = Counter(type(callback).__name__ for callback in callbacks), Counter(name for name, _ in states)
    if kinds != saved:
        missing = sorted((saved - kinds).elements())
        if missing:
            warnings.warn(f"The interrupted run also had these callbacks: {', '.join(missing)}.", stacklevel=4)
    waiting = list(states)
    for callback in callbacks:
        for position, (name, state) in enumerate(waiting):
            if name == type(callback).__name__:
                vars(callback).update(state)
                del waiting[position]
                break


# -- buffers -------------------------------------------------------------------------------------------------------


def _trimmed(buffer: ReplayBuffer) -> ReplayBuffer:
    """A copy without the rows that were never written: a new buffer for a million steps is mostly zeros."""
    shallow = copy.copy(buffer)
    if not buffer.full:
        for name, value in vars(buffer).items():
            setattr(shallow, name, _map_rows(value, buffer.buffer_size, lambda array: array[: buffer.pos]))
    return shallow


def _expanded(buffer: ReplayBuffer, device: th.device) -> ReplayBuffer:
    buffer.device = device
    if not buffer.full:
        rows = buffer.buffer_size
        for name, value in vars(buffer).items():
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
