"""Resume bundles: a folder from which an interrupted run goes on as if it had not been interrupted."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from torch import nn

from sb3_o2o.data import OfflineReplayBuffer, SumTree
from sb3_o2o.files import settled, whole_folder
from sb3_o2o.networks.ratio import DensityRatio
from sb3_o2o.resume import environment_state
from sb3_o2o.resume.copying import CopyMixin
from sb3_o2o.updates.hooks import walk
from sb3_o2o.version import __version__

if TYPE_CHECKING:
    from typing import Self

_STATE, _MODEL, _BUFFER, _NORMALIZE = "state.pkl", "model.zip", "replay_buffer.pkl", "vec_normalize.pkl"


class ResumeMixin(CopyMixin):
    """``save_resume``, ``load_resume`` and a clean stop."""

    _stop_requested = False
    #: inside ``learn`` or ``pretrain``, where a bundle has to wait for a point at which nothing is half-done
    _running = False
    _pending_resume: str | None = None
    #: of an interrupted call, until the next one of the same kind: whether it was offline, and each callback's
    _callback_states: tuple[bool, list[tuple[str, dict[str, Any]]]] | None = None
    _driven_offline = False
    #: states of the callbacks of the last call, those of the constructor apart
    _finished_callbacks: Sequence[tuple[str, dict[str, Any]]] = ()

    def request_stop(self) -> None:
        """
        End ``learn`` or ``pretrain`` at the next point where nothing is half-done: between two updates, and after
        the transitions of a rollout are stored. A stop asked for during the last step of a call ends the next call.
        A callback that returns False stops earlier, and SB3 then drops the transition of that step.
        """
        self._stop_requested = True

    def save_resume(self, path: str | os.PathLike[str]) -> None:
        """
        Write all that a run needs to go on bit for bit: the model, the online buffer, ``VecNormalize``, random
        generators, phase, callbacks and the environment's state. A folder; one that exists is replaced whole.

        Called inside ``learn`` or ``pretrain``, as by a callback, it is written at the next point where nothing is
        half-done: before the next rollout or update, or at the end of the call.

        :param path: the folder
        :raises OSError: if it cannot be written
        """
        if self._running:
            self._pending_resume = os.fspath(path)
        else:
            self._write_resume(Path(path))

    def _write_resume(self, target: Path) -> None:
        with whole_folder(target) as folder:
            self.save(folder / _MODEL)
            replay_buffer = getattr(self, "replay_buffer", None)
            if replay_buffer is not None:
                (folder / _BUFFER).write_bytes(pickle.dumps(_trimmed(replay_buffer), protocol=5))
            if self._vec_normalize_env is not None:
                self._vec_normalize_env.save(str(folder / _NORMALIZE))
            (folder / _STATE).write_bytes(pickle.dumps(self._resume_state(), protocol=5))

    def _resume_state(self) -> dict[str, Any]:
        environment = None if self.env is None else environment_state.snapshot(self.env)
        return {
            "version": __version__,
            "stable_baselines3": stable_baselines3.__version__,
            "torch": str(th.__version__),
            "random": _random_states(self.action_space),
            "offline_buffer": self.offline_buffer,
            "metrics": self._metric_sums,
            # a bundle that is written again before any call hands on what it was given
            "callbacks": self._callback_states or (self._driven_offline, self._states_of_callbacks()),
            # those of the constructor outlive calls, and may be given a dataset from memory before the next one
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
        folder = settled(path)
        state = _read_state(folder)
        if (folder / _NORMALIZE).is_file():
            env = _with_statistics(cls._wrap_env(env, verbose=0), folder / _NORMALIZE)
        model = cls.load(folder / _MODEL, env=env, device=device, force_reset=False, **kwargs)  # type: ignore[attr-defined]
        model._restore(folder, state)
        return model

    def _restore(self, folder: Path, state: dict[str, Any]) -> None:
        if (folder / _BUFFER).is_file():
            self.replay_buffer = _expanded(pickle.loads((folder / _BUFFER).read_bytes()), self.device)
            if isinstance(self.replay_buffer, HerReplayBuffer):
                assert self.env is not None
                self.replay_buffer.set_env(self.env)  # it is not pickled with it
        self.offline_buffer = state["offline_buffer"]
        if self.offline_buffer is not None:
            self.offline_buffer.device = self.device
        sums = state["metrics"].items()
        self._metric_sums = {name: (total.to(self.device), count) for name, (total, count) in sums}
        self._callback_states = state["callbacks"]
        # other callbacks than those of the bundle, where the caller asked for some, open buffers of their own
        for callback, buffer in zip(self.finetuning, state["callback_buffers"], strict=False):
            if buffer is not None and hasattr(callback, "buffer"):
                callback.buffer = buffer
        if state["environment"] is None:
            self._last_obs = None
            warnings.warn(
                "The environments of this run were out of reach, in other processes: it goes on with new episodes.",
                stacklevel=3,
            )
        elif self.env is not None and self._last_obs is not None:
            environment_state.restore(self.env, state["environment"])
            if state["environment"]["missing"]:
                warnings.warn(
                    f"Not in the bundle, so not restored: {', '.join(state['environment']['missing'])}.", stacklevel=3
                )
        if self._vec_normalize_env is not None and state["normalize_returns"] is not None:
            self._vec_normalize_env.returns = state["normalize_returns"]
        _set_random_states(state["random"], self.action_space)

    # -- clean points ----------------------------------------------------------------------------------------------

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        """SB3's ``learn``, with its arguments."""
        try:
            with self._at_clean_points():
                return super().learn(*args, **kwargs)  # type: ignore[safe-super]
        finally:
            self._let_go()

    def pretrain(self, *args: Any, **kwargs: Any) -> Self:
        """See :class:`~sb3_o2o.algorithms.common.OfflineToOnlineMixin`."""
        try:
            return super().pretrain(*args, **kwargs)  # type: ignore[no-any-return]
        finally:
            self._let_go()

    def _pretraining_loop(self, *args: Any) -> None:
        with self._at_clean_points():
            super()._pretraining_loop(*args)

    def _states_of_callbacks(self) -> list[tuple[str, dict[str, Any]]]:
        """Of this call, or of the last one."""
        if self._driven_callbacks:
            return _callback_states(self._driven_callbacks)
        return [*([] if self._driven_offline else _callback_states(self.finetuning)), *self._finished_callbacks]

    def _let_go(self) -> None:
        """
        The callbacks of a finished call are none of the model's, and hold environments and all of the call; a bundle
        that is asked for now still knows their states. Those of the constructor stay.
        """
        given = [each for each in self._driven_callbacks if not any(each is own for own in self.finetuning)]
        if self._driven_callbacks:
            self._finished_callbacks = _callback_states(given)
        self._driven_callbacks = []
        self.hooks.deliver_to(each for each in self.hooks.callbacks() if any(each is own for own in self.finetuning))
        for callback in self.finetuning:
            callback.parent, callback.locals, callback.globals = None, {}, {}

    @contextmanager
    def _at_clean_points(self) -> Iterator[None]:
        """Bundles asked for inside wait; one that is still waiting at the end is written then."""
        outer, self._running = self._running, True
        try:
            yield
        finally:
            self._running = outer
        if not outer:
            self._write_pending()

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> Any:
        """SB3's, with a look at requests to stop before it begins."""
        if self._clean_point():
            return self._no_rollout()
        return super().collect_rollouts(env, callback, *args, **kwargs)  # type: ignore[misc]

    def _clean_point(self) -> bool:
        """Write a bundle that was asked for; whether to stop."""
        self._write_pending()
        stop, self._stop_requested = self._stop_requested, False
        return stop

    def _write_pending(self) -> None:
        if self._pending_resume is not None:
            path, self._pending_resume = self._pending_resume, None
            self._write_resume(Path(path))

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        resumed, noise = self._callback_states is not None, copy.deepcopy(self.action_noise)
        result = super()._setup_learn(*args, **kwargs)
        if resumed and noise is not None:
            self.action_noise = noise  # SB3 has reset it, as if an episode had ended
        return result

    def _take_callbacks(self, callback: BaseCallback) -> None:
        """Remember the callbacks of a call, and give them the state of an interrupted one of the same kind."""
        self._driven_callbacks = list(walk(callback))
        self._driven_offline = self._online_steps is not None
        saved, self._callback_states = self._callback_states, None
        if saved is not None and saved[0] == self._driven_offline:
            _restore_callbacks(self._driven_callbacks, saved[1])

    def _excluded_save_params(self) -> list[str]:
        ours = ["_driven_callbacks", "_driven_offline", "_callback_states", "_stop_requested", "_running"]
        ours += ["_pending_resume", "_finished_callbacks"]
        return [*super()._excluded_save_params(), *ours]


def _with_statistics(env: VecEnv, path: Path) -> VecEnv:
    """The environment with the saved statistics of ``VecNormalize``, wrapped in one if it was not."""
    own = unwrap_vec_normalize(env)
    if own is None:
        return VecNormalize.load(str(path), env)
    saved = vars(pickle.loads(path.read_bytes()))
    vars(own).update({name: value for name, value in saved.items() if name != "venv"})
    return env


def _read_state(folder: Path) -> dict[str, Any]:
    if not (folder / _STATE).is_file() or not (folder / _MODEL).is_file():
        raise ValueError(f"{folder} is no resume bundle: it needs {_STATE} and {_MODEL}, written by save_resume.")
    try:
        state = pickle.loads((folder / _STATE).read_bytes())
    except Exception as error:
        raise ValueError(f"{folder / _STATE} cannot be read: {error}.") from error
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
            stacklevel=3,
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
                _update(callback, state)
                del waiting[position]
                break


def _update(callback: BaseCallback, state: dict[str, Any]) -> None:
    for name, value in state.items():
        own = vars(callback).get(name)
        if isinstance(value, OfflineReplayBuffer) and isinstance(own, OfflineReplayBuffer):
            own.rng = value.rng  # it may have been given its dataset
        else:
            vars(callback)[name] = value


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
