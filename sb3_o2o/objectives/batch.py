"""What goes into a loss and what comes out of it: transitions, steps, penalties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs


class Batch(NamedTuple):
    """
    Transitions on the training device. Per-sample quantities are flat, ``(B,)``.

    ``observations`` and ``next_observations`` are ``(B, *obs)`` or dicts of them; ``actions`` are scaled to
    [-1, 1], ``(B, act)``; ``dones`` is 1 on a true terminal only; ``discounts`` is gamma, or gamma^k for k-step
    returns; ``returns_to_go`` and ``next_actions`` (the data's, ``(B, act)``, NaN where an episode ends) are there for
    objectives that ask for them. ``extras`` holds what fine-tuning callbacks add
    in their hook ``prepare``, such as random draws.
    """

    observations: PyTorchObs
    actions: th.Tensor
    next_observations: PyTorchObs
    rewards: th.Tensor
    dones: th.Tensor
    discounts: th.Tensor
    returns_to_go: th.Tensor | None = None
    extras: dict[str, th.Tensor] | None = None
    next_actions: th.Tensor | None = None

    def part(self, start: int, stop: int) -> Batch:
        """
        :param start: first row
        :param stop: one past the last row
        :return: a view of these rows
        """

        def cut(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: item[start:stop] for key, item in value.items()}
            return None if value is None else value[start:stop]

        return Batch(*map(cut, self))

    def with_extras(self, **tensors: th.Tensor) -> Batch:
        """
        :param tensors: by name, first axis the rows
        :return: the same transitions with these in ``extras`` as well
        """
        return Batch(**{**self._asdict(), "extras": {**(self.extras or {}), **tensors}})

    def with_actions(self, actions: th.Tensor) -> Batch:
        """
        :param actions: ``(B, act)``
        :return: the same transitions with these actions
        """
        return Batch(**{**self._asdict(), "actions": actions})

    def __len__(self) -> int:
        return len(self.actions)


#: scalar losses by the name of their optimiser, and detached metrics to log
LossesAndMetrics = tuple[dict[str, th.Tensor], dict[str, th.Tensor]]


def joined(losses: dict[str, th.Tensor], others: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
    """
    :param losses: scalars by the name of their optimiser
    :param others: likewise
    :return: all of them
    :raises ValueError: if two have the same name, so that one would take the other's place
    """
    for name in others:
        if name in losses:
            raise ValueError(
                f"Two losses of one step are called {name!r}, and an optimiser steps on one: give those that callbacks "
                "add, and their optimisers, other names."
            )
    return losses | others


def reported(metrics: dict[str, th.Tensor], others: dict[str, th.Tensor], whose: str) -> dict[str, th.Tensor]:
    """
    :param metrics: by the names under which they are logged
    :param others: likewise
    :param whose: the others are, for the error
    :return: all of them
    :raises ValueError: if two have the same name, so that one would hide the other
    """
    for name in others:
        if name in metrics:
            raise ValueError(
                f"{whose} reports {name!r}, which is reported in this update already: give it another name."
            )
    return metrics | others


class Step(NamedTuple):
    """
    What one or several optimisers minimise, from the same parameters: losses that are formed together belong into
    one step, losses that see each other's updates into several.

    ``function`` is a pure function of networks and ``arguments``: random numbers and temperatures are passed in, so
    that it can be compiled. It returns scalar losses by the name of their optimiser, in the order in which these step,
    and metrics to log, without gradient. ``eager`` is for what no compiler takes, such as a gradient of a gradient.
    """

    function: Callable[..., LossesAndMetrics]
    arguments: tuple[Any, ...]
    #: never compile it
    eager: bool = False


class Penalty(NamedTuple):
    """
    What a fine-tuning callback adds to the actor's loss, where it trains parameters of its own in the same step, such
    as a Lagrange multiplier.

    ``values`` is the penalty per sample, ``(B,)``; ``losses`` are scalars by the name of the callback's optimiser, and
    ``metrics`` are logged.
    """

    values: th.Tensor
    losses: dict[str, th.Tensor]
    metrics: dict[str, th.Tensor]


class Optimizers(dict[str, th.optim.Optimizer]):
    """Optimisers by name; as attributes too, since Stable-Baselines3 saves what a dotted name leads to."""

    def __getattr__(self, name: str) -> th.optim.Optimizer:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None
