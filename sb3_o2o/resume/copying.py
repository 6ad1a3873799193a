"""Copies of a model, by ``copy.deepcopy`` or ``pickle``, that train on by themselves."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_o2o.data import MixedReplayBuffer, OfflineReplayBuffer
from sb3_o2o.updates import pretraining
from sb3_o2o.updates.call import Call, Interruption
from sb3_o2o.updates.hooks import Hooks
from sb3_o2o.updates.loop import UpdateLoop

#: what belongs to a call of ``learn`` or ``pretrain``, or is made again from the rest
_LEFT_OUT = {"hooks", "call", "loop", "phase_in_progress", "_target_parameters", "_logger", "_custom_logger"}


def state_of(model: Any) -> dict[str, Any]:
    """
    What ``copy.deepcopy`` and ``pickle`` take of a model: all that it needs to train on with the same numbers, given
    the same state of the global random generators. The callbacks of a call are not the model's, those of the
    constructor are. Files of a dataset are named, data from memory go along (``copy.deepcopy`` shares them: they never
    change). A copy logs nowhere until its own ``learn`` or ``set_logger`` says where.

    :param model: an algorithm
    :return: for :func:`set_state`
    """
    state = {name: value for name, value in vars(model).items() if name not in _LEFT_OUT}
    listening = model.hooks.callbacks()
    return {
        **state,
        "finetuning": [_Whole(each, any(each is other for other in listening)) for each in model.finetuning or ()],
        "_metrics": model.loop.metrics.sums,
        "_call": (model.call.offline, model.call.finished, model.call.interrupted),
        # what pickles of these leave out
        "_data": [_data_in_memory(buffer) for buffer in offline_buffers(model)],
        "_normalized": [
            (each, each.venv, each.returns) for each in _wrappers(model.env) if isinstance(each, VecNormalize)
        ],
    }


def set_state(model: Any, state: dict[str, Any]) -> None:
    """
    :param model: an empty one
    :param state: what :func:`state_of` returned
    """
    whole, metrics, call, data, normalized = (
        state.pop(name) for name in ("finetuning", "_metrics", "_call", "_data", "_normalized")
    )
    vars(model).update(state)
    model.finetuning = [each.callback if isinstance(each, _Whole) else each for each in whole]
    model._logger, model._custom_logger = Logger(None, []), False
    model.phase_in_progress, model.hooks, model.call = None, Hooks(), Call()
    model.call.offline, model.call.finished, interrupted = call
    model.call.interrupted = None if interrupted is None else Interruption(*interrupted)
    model.loop = UpdateLoop(model)
    model.loop.metrics.sums = metrics
    model.hooks.deliver_to(each.callback for each in whole if isinstance(each, _Whole) and each.listens)
    for callback in model.finetuning:
        if isinstance(callback, BaseCallback):
            callback.model = model
    for buffer, dataset in zip(offline_buffers(model), data, strict=True):
        if dataset is not None and buffer._dataset is None:
            buffer.dataset = dataset
    for normalizer, venv, returns in normalized:
        normalizer.set_venv(venv)
        normalizer.returns = returns
    replay_buffer: Any = getattr(model, "replay_buffer", None)
    if isinstance(replay_buffer, HerReplayBuffer) and model.env is not None:
        replay_buffer.set_env(model.env)
    pretraining.leave(model)  # of a copy from the middle of it


def deep_copy(model: Any, memo: dict[int, Any]) -> Any:
    """
    :param model: an algorithm
    :param memo: of ``copy.deepcopy``
    :return: a copy that trains on by itself
    """
    kind: Any = type(model)
    copied = kind.__new__(kind)
    memo[id(model)] = copied
    # given data are read, never written
    for owner in (model, *(model.finetuning or ())):
        for given in (getattr(owner, "dataset", None), getattr(owner, "pretrained_on", None)):
            memo[id(given)] = given
    for tensor in _last_samples(vars(model).get("policy")):
        memo[id(tensor)] = tensor.detach().clone()  # torch copies no tensor that hangs on a graph
    set_state(copied, copy.deepcopy(state_of(model), memo))
    return copied


def offline_buffers(model: Any) -> list[OfflineReplayBuffer]:
    """
    :param model: an algorithm
    :return: every buffer on a dataset that it holds
    """
    online = getattr(model, "replay_buffer", None)
    held = [model.offline_buffer, online.offline if isinstance(online, MixedReplayBuffer) else None]
    for callback in model.finetuning or ():
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
