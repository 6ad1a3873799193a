"""Copies of a model, by ``copy.deepcopy`` or ``pickle``, that train on by themselves."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_o2o.data import MixedReplayBuffer, OfflineReplayBuffer
from sb3_o2o.updates.gradients import GradientFunctions
from sb3_o2o.updates.hooks import Hooks

if TYPE_CHECKING:
    from typing import Self

    from sb3_o2o.updates.gradient_phases import UpdatePhases as _Base
else:
    _Base = object

#: what belongs to a call of ``learn`` or ``pretrain``, or is made again from the rest
_LEFT_OUT = (
    *("hooks", "_driven_callbacks", "_finished_callbacks", "_gradient_functions", "_target_parameters"),
    *("_phase_in_progress", "_running", "_stop_requested", "_pending_resume", "_logger", "_custom_logger"),
)


class CopyMixin(_Base):
    """
    What ``copy.deepcopy`` and ``pickle`` take: all that the model needs to train on with the same numbers, given the
    same state of the global random generators. The callbacks of a call are not the model's, those of the constructor
    are. Files of a dataset are named, data from memory go along (``copy.deepcopy`` shares them: they never change). A
    copy logs nowhere until its own ``learn`` or ``set_logger`` says where.
    """

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in _LEFT_OUT}
        listening = self.hooks.callbacks()
        return {
            **state,
            "finetuning": [_Whole(each, any(each is other for other in listening)) for each in self.finetuning or ()],
            # what pickles of these leave out
            "_data": [_data_in_memory(buffer) for buffer in self._offline_buffers()],
            "_normalized": [
                (each, each.venv, each.returns) for each in _wrappers(self.env) if isinstance(each, VecNormalize)
            ],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        whole, data, normalized = (state.pop(name) for name in ("finetuning", "_data", "_normalized"))
        self.__dict__.update(state)
        self.finetuning = [each.callback if isinstance(each, _Whole) else each for each in whole]
        self._phase_in_progress, self._driven_callbacks = None, []
        self._logger, self._custom_logger = Logger(None, []), False
        self.hooks = Hooks()
        self._gradient_functions = GradientFunctions(self.compile, self.verbose)
        self.hooks.deliver_to(each.callback for each in whole if isinstance(each, _Whole) and each.listens)
        for callback in self.finetuning:
            if isinstance(callback, BaseCallback):
                callback.model = self
        for buffer, dataset in zip(self._offline_buffers(), data, strict=True):
            if dataset is not None and buffer._dataset is None:
                buffer.dataset = dataset
        for normalizer, venv, returns in normalized:
            normalizer.set_venv(venv)
            normalizer.returns = returns
        replay_buffer: Any = getattr(self, "replay_buffer", None)
        if isinstance(replay_buffer, HerReplayBuffer) and self.env is not None:
            replay_buffer.set_env(self.env)
        self._leave_pretraining()  # of a copy from the middle of it

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        # given data are read, never written
        for owner in (self, *(self.finetuning or ())):
            for given in (getattr(owner, "dataset", None), getattr(owner, "_pretrained_on", None)):
                memo[id(given)] = given
        for tensor in _last_samples(self.__dict__.get("policy")):
            memo[id(tensor)] = tensor.detach().clone()  # torch copies no tensor that hangs on a graph
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def _offline_buffers(self) -> list[OfflineReplayBuffer]:
        """Every buffer on a dataset that this model holds."""
        online = getattr(self, "replay_buffer", None)
        held = [self.offline_buffer, online.offline if isinstance(online, MixedReplayBuffer) else None]
        for callback in self.finetuning or ():
            held += vars(callback).values() if isinstance(callback, BaseCallback) else ()
        return [each for each in held if isinstance(each, OfflineReplayBuffer)]


class _Whole:
    """
    A callback with all of its state, of which a saved model keeps a part. One from elsewhere that says itself what is
    kept (``__getstate__``) is taken at its word.

    :param callback: of a model, of which the copy will have its own
    :param listens: whether it answers hooks
    """

    def __init__(self, callback: Any, listens: bool):
        self.callback, self.listens = callback, listens

    def __getstate__(self) -> tuple[Any, ...]:
        callback = self.callback
        says_itself = not type(callback).__getstate__.__module__.startswith("sb3_o2o.")
        if not isinstance(callback, BaseCallback) or says_itself:
            return callback, None, self.listens
        references = ("model", "parent", "locals", "globals")
        state = {name: value for name, value in vars(callback).items() if name not in references}
        return type(callback), state, self.listens

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        what, attributes, self.listens = state
        if attributes is None:
            self.callback = what
            return
        self.callback = what.__new__(what)
        self.callback.__dict__.update(attributes, parent=None, locals={}, globals={})


def _data_in_memory(buffer: OfflineReplayBuffer) -> Any:
    """The data of a buffer that no file has."""
    dataset = buffer._dataset
    return None if dataset is None or dataset.reopenable else dataset


def _wrappers(env: VecEnv | None) -> Iterator[VecEnvWrapper]:
    """From the innermost outwards."""
    if isinstance(env, VecEnvWrapper):
        yield from _wrappers(env.venv)
        yield env


def _last_samples(policy: Any) -> Iterator[th.Tensor]:
    """What the distributions of a policy keep of their last use, where it hangs on a graph."""
    for module in policy.modules() if isinstance(policy, th.nn.Module) else ():
        kept = getattr(module, "action_dist", None)
        for values in (kept, *vars(kept).values()) if kept is not None else ():
            inside = vars(values).values() if hasattr(values, "__dict__") else ()
            yield from (each for each in (values, *inside) if isinstance(each, th.Tensor) and not each.is_leaf)
