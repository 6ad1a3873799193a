"""Helpers of the tests that compare updates with the recorded ones of official code."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_o2o.networks.ensemble import EnsembleCritic, EnsembleLinear
from sb3_o2o.objectives import Batch, Draws

#: largest |x - y| / (1 + |x|); for the change of a weight (at most one Adam step an update) relative to the largest one
INTERMEDIATES, WEIGHTS, CHANGES = 2e-4, 2e-5, 2e-3
LIMITS = {
    "losses and targets": INTERMEDIATES,
    "gradients": INTERMEDIATES,
    "gradients, by largest entry": INTERMEDIATES,
    "weights": WEIGHTS,
    "changes, by largest entry": CHANGES,
}

Arrays = dict[str, np.ndarray]
Named = Iterator[tuple[str, th.Tensor]]


class Still(Draws):
    """
    No noise, as in the recorded runs.

    :param uniform: what is drawn uniformly instead
    """

    def __init__(self, uniform: th.Tensor | None = None):
        super().__init__(th.device("cpu"))
        self.recorded = uniform

    def normal(self, name: str, shape: tuple[int, ...]) -> th.Tensor:
        return th.zeros(shape)

    def uniform(self, name: str, shape: tuple[int, ...]) -> th.Tensor:
        assert self.recorded is not None
        return self.recorded.reshape(shape)


class Spaces(gym.Env[np.ndarray, np.ndarray]):
    """Nothing but the shapes of the recorded batches."""

    observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)


def read(name: str) -> Arrays:
    """The recorded arrays by path."""
    with np.load(Path(__file__).parent / "objectives" / "golden" / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def recorded(golden: Arrays, path: str) -> th.Tensor:
    return th.from_numpy(golden[path]).float()


def layers(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear | EnsembleLinear)]


def mlp_arrays(net: nn.Module, name: str, gradient: bool) -> Named:
    """Weights or gradients of a network with one head under the recorded names."""
    linears = layers(net)
    for index, layer in enumerate(linears):
        place = "out" if index == len(linears) - 1 else f"hidden.{index}"
        for kind in ("weight", "bias"):
            parameter = getattr(layer, kind)
            yield f"{name}/{place}.{kind}", parameter.grad if gradient else parameter.detach()


def critic_arrays(net: EnsembleCritic, name: str, gradient: bool) -> Named:
    linears = layers(net.ensemble)
    for index, linear in enumerate(linears):
        place = "out" if index == len(linears) - 1 else f"hidden.{index}"
        weight, bias = (each.grad if gradient else each.detach() for each in (linear.weight, linear.bias))
        for member in range(net.n_critics):
            yield f"{name}.{member}/{place}.weight", weight[member].T
            yield f"{name}.{member}/{place}.bias", bias[member, 0]


def put(golden: Arrays, arrays: Named, moment: str = "before") -> None:
    """Give a model the recorded weights."""
    with th.no_grad():
        for name, own in arrays:
            own.copy_(recorded(golden, f"{moment}/{name}"))


def batch_of(golden: Arrays, number: int, gamma: float) -> Batch:
    get = [recorded(golden, f"batch{number}/{name}") for name in ("obs", "actions", "next_obs", "rewards", "dones")]
    return Batch(*get, th.full_like(get[3], gamma))


def deviation(expected: np.ndarray, found: th.Tensor) -> float:
    """Largest |x - y| / (1 + |x|)."""
    return float((np.abs(expected - found.double().numpy()) / (1 + np.abs(expected))).max())


def relative(expected: np.ndarray, found: th.Tensor) -> float:
    """Largest |x - y| over the largest |x| of the array."""
    return float(np.abs(expected - found.double().numpy()).max() / np.abs(expected).max())


def compare(
    golden: Arrays, number: int, values: dict[str, th.Tensor], gradients: dict[str, th.Tensor], weights: Named
) -> dict[str, dict[str, float]]:
    """Deviations by group and array; groups as in ``LIMITS``."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in values.items():
        expected = golden[f"info{number}/{name}"]
        table["losses and targets"][name] = deviation(expected.reshape(value.shape), value.detach())
    for name, value in gradients.items():
        table["gradients"][name] = deviation(golden[f"grad{number}/{name}"], value)
        table["gradients, by largest entry"][name] = relative(golden[f"grad{number}/{name}"], value)
    for name, value in weights:
        after, before = golden[f"after{number}/{name}"], golden[f"before/{name}"]
        table["weights"][name] = deviation(after, value)
        if np.abs(after - before).max() > 0:
            change, found = after - before, value.double().numpy() - before
            # what float32 cannot hold is no error: a target network's first change is a few steps of its last digit
            error = np.maximum(np.abs(change - found) - np.abs(after) * np.finfo(np.float32).eps, 0)
            table["changes, by largest entry"][name] = float(error.max() / np.abs(change).max())
        else:
            assert deviation(before, value) == 0, f"{name} moved too early"
    return table


def assert_within(table: dict[str, dict[str, float]], number: int) -> None:
    """Print all deviations (``pytest -s``), and check each group against its limit."""
    for group, deviations in table.items():
        print(f"update {number}, {group}")
        for name, value in deviations.items():
            print(f"  {name:28} {value:.1e}")
        worst = max(deviations, key=deviations.__getitem__)
        assert deviations[worst] <= LIMITS[group], f"update {number}: {worst} ({group}) is off by {deviations[worst]}"
