"""All tensors that training changes: looked through for NaN, and set back to what they were."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_o2o.data.normalization import Normalizer
from sb3_o2o.errors import NonFiniteError

_PACKAGE = __name__.partition(".")[0]
_OPTIMIZER = th.optim.Optimizer


def trained_tensors(model: Any, callbacks: Iterable[BaseCallback] = ()) -> Iterator[tuple[str, th.Tensor]]:
    """
    :param model: an algorithm
    :param callbacks: of a call, beside those of the model
    :return: weights, running statistics and moments of optimisers, the callbacks' own among them, each once, with a
        name for people
    """
    tensors = ((name, each) for name, each in _trained(model, callbacks) if isinstance(each, th.Tensor))
    return ((name, each) for name, each in tensors if each.is_floating_point())


def _trained(model: Any, callbacks: Iterable[BaseCallback]) -> Iterator[tuple[str, th.Tensor | _OPTIMIZER]]:
    """The tensors, and before those of an optimiser itself."""
    seen: set[int] = set()
    for name, value in list(vars(model).items()):
        if isinstance(value, th.Tensor | nn.Module | _OPTIMIZER):
            yield from _inside(name, value, seen)
    for callback in (*(getattr(model, "finetuning", None) or ()), *callbacks):
        if isinstance(callback, BaseCallback):
            yield from _attributes(type(callback).__name__, callback, seen)


def _inside(name: str, value: Any, seen: set[int]) -> Iterator[tuple[str, th.Tensor | _OPTIMIZER]]:
    if value is None or isinstance(value, bool | int | float | str | BaseAlgorithm) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, th.Tensor):
        yield name, value
    elif isinstance(value, nn.Module):
        yield from _of_module(name, value, seen)
    elif isinstance(value, _OPTIMIZER):
        yield name, value
        yield from _of_optimizer(name, value, seen)
    elif isinstance(value, Mapping):
        for key, each in list(value.items()):
            yield from _inside(f"{name}.{key}", each, seen)
    elif isinstance(value, list | tuple | deque):
        for index, each in enumerate(value):
            yield from _inside(f"{name}.{index}", each, seen)
    elif _learns(type(value).__module__) and hasattr(value, "__dict__"):
        yield from _attributes(name, value, seen)


def _of_optimizer(name: str, optimizer: _OPTIMIZER, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for group in optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            yield from _inside(f"{name}: parameter {index}", parameter, seen)
    for index, state in enumerate(optimizer.state.values()):
        for own, moment in state.items():
            yield from _inside(f"{name}: {own} of parameter {index}", moment, seen)


def _of_module(name: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, th.Tensor | _OPTIMIZER]]:
    for own, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield from _inside(f"{name}.{own}", tensor, seen)
    for inner, owner in module.named_modules():
        for own, attribute in list(vars(owner).items()):
            if isinstance(attribute, _OPTIMIZER) or own == "optimizers":
                yield from _inside(".".join(filter(None, (name, inner, own))), attribute, seen)


def _attributes(name: str, owner: Any, seen: set[int]) -> Iterator[tuple[str, th.Tensor | _OPTIMIZER]]:
    for attribute, value in list(vars(owner).items()):
        if attribute not in ("model", "parent", "locals", "globals", "training_env", "_model"):
            yield from _inside(f"{name}.{attribute.lstrip('_')}", value, seen)


def _learns(module: str) -> bool:
    """Whether objects of a module of ours may hold weights: buffers and datasets do not."""
    return module.partition(".")[0] == _PACKAGE and ".data." not in module


@th.no_grad()
def first_not_finite(tensors: Iterable[tuple[str, th.Tensor]]) -> tuple[str, float] | None:
    """
    :param tensors: with their names
    :return: name and value of the first that holds NaN, or of the first weight that holds infinity; None for none
    """
    named = [(name, tensor) for name, tensor in tensors if tensor.numel()]
    by_device: dict[th.device, list[th.Tensor]] = {}
    for _, tensor in named:
        by_device.setdefault(tensor.device, []).append(tensor.detach())
    # one number for each device: NaN and infinity come through a sum of magnitudes
    totals = [th.stack([tensor.abs().amax().float() for tensor in each]).sum() for each in by_device.values()]
    if all(math.isfinite(total.item()) for total in totals):
        return None
    for name, tensor in named:
        # a mask of attention is minus infinity by choice, and so is no weight
        is_weight = isinstance(tensor, nn.Parameter) or tensor.requires_grad
        wrong = ~th.isfinite(tensor) if is_weight else th.isnan(tensor)
        if wrong.any():
            return name, tensor[wrong].flatten()[0].item()
    return None  # a sum of large numbers


def refuse_not_finite(model: Any, what: str, advice: str) -> None:
    """
    :param model: an algorithm
    :param what: is the matter, to begin the error with
    :param advice: what to do about it
    :raises NonFiniteError: if its weights, moments or statistics of ``VecNormalize`` hold NaN or infinity
    """
    found = first_not_finite(trained_tensors(model)) or _of_statistics(getattr(model, "saved_normalizer", None))
    if found is not None:
        raise NonFiniteError(f"{what}: {found[0]} holds {found[1]}.", advice)


def _of_statistics(normalizer: Normalizer | None) -> tuple[str, float] | None:
    for key, rms in ({} if normalizer is None else {**normalizer.by_key, "rewards": normalizer.ret_rms}).items():
        for name in ("mean", "var"):
            values = np.asarray(getattr(rms, name))
            if not np.isfinite(values).all():
                return f"VecNormalize's {name} of {key or 'observations'}", float(values[~np.isfinite(values)].flat[0])
    return None


class Snapshot:
    """
    What training changes, as it is now.

    :param model: an algorithm
    :param callbacks: of a call, beside those of the model
    """

    def __init__(self, model: Any, callbacks: Iterable[BaseCallback] = ()):
        self.n_updates = model._n_updates
        self._callbacks = list(callbacks)
        tensors = (each for _, each in _trained(model, self._callbacks) if isinstance(each, th.Tensor))
        self._saved = [(tensor, tensor.detach().clone()) for tensor in tensors]  # counters in whole numbers as well
        normalizer = model.get_vec_normalize_env()
        #: means and deviations of observations and rewards
        self._statistics = None if normalizer is None else _statistics(normalizer)

    @th.no_grad()
    def restore(self, model: Any) -> None:
        """
        Set everything back, in place: whoever holds a tensor goes on with it.

        :param model: the same algorithm
        """
        known = {id(tensor) for tensor, _ in self._saved}
        for _, optimizer in _trained(model, self._callbacks):
            if isinstance(optimizer, _OPTIMIZER):
                for parameter, state in list(optimizer.state.items()):
                    if any(isinstance(each, th.Tensor) and id(each) not in known for each in state.values()):
                        del optimizer.state[parameter]  # made since then
        for tensor, values in self._saved:
            tensor.detach().copy_(values)
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None and self._statistics is not None:
            vars(normalizer).update(copy.deepcopy(self._statistics))


def _statistics(normalizer: Any) -> dict[str, Any]:
    return {name: copy.deepcopy(vars(normalizer)[name]) for name in ("obs_rms", "ret_rms", "returns")}
