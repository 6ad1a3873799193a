"""Exact conversion between stock SB3 critics (one module each) and batched ensembles, Adam moments included."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.td3.policies import Actor as DeterministicActor

from sb3_o2o.networks.ensemble import EnsembleCritic, EnsembleLayerNorm, EnsembleLinear

StateDict = dict[str, Any]
_STOCK_KEY = re.compile(r"^(critic(?:_target)?\.)qf(\d+)\.(\d+)\.(weight|bias)$")


def is_stock_policy(state: StateDict) -> bool:
    """
    :param state: state dictionary of a policy
    :return: whether its critics are stored one by one, as stock Stable-Baselines3 does
    """
    return any(_STOCK_KEY.match(key) for key in state)


def count_stock_critics(state: StateDict) -> int:
    """
    :param state: state dictionary of a stock policy
    :return: number of critics in it
    """
    return len({match.group(2) for key in state if (match := _STOCK_KEY.match(key))})


def _to_batched(layer: int, name: str, members: list[th.Tensor], critic: EnsembleCritic) -> th.Tensor:
    module = critic.ensemble.layers[layer]
    if isinstance(module, EnsembleLinear) and name == "weight":
        return th.stack([member.T for member in members]).contiguous()
    return th.stack(members).unsqueeze(1)


def _to_members(layer: int, name: str, value: th.Tensor, critic: EnsembleCritic) -> list[th.Tensor]:
    module = critic.ensemble.layers[layer]
    if isinstance(module, EnsembleLinear) and name == "weight":
        return [member.T.contiguous() for member in value]
    return [member.squeeze(0).clone() for member in value]


def policy_from_stock(state: StateDict, critic: EnsembleCritic) -> StateDict:
    """
    Stack the critics of a stock policy.

    :param state: state dictionary of a stock policy
    :param critic: a batched critic of the target's shape
    :return: state dictionary of the policy with batched critics
    :raises ValueError: if the number of critics differs
    """
    n_stored = count_stock_critics(state)
    if n_stored != critic.n_critics:
        raise ValueError(
            f"The saved policy has {n_stored} critics, this model has {critic.n_critics}: set n_critics={n_stored}."
        )
    converted: StateDict = {}
    members: dict[tuple[str, int, str], list[th.Tensor]] = {}
    for key, value in state.items():
        match = _STOCK_KEY.match(key)
        if match is None:
            converted[key] = value
        else:  # keys come in the order qf0, qf1, …
            members.setdefault((match.group(1), int(match.group(3)), match.group(4)), []).append(value)
    for (prefix, layer, name), tensors in members.items():
        converted[f"{prefix}ensemble.layers.{layer}.{name}"] = _to_batched(layer, name, tensors, critic)
    return converted


def policy_to_stock(state: StateDict, critic: EnsembleCritic) -> StateDict:
    """
    Split batched critics into the members that a stock policy stores. Inverse of :func:`policy_from_stock`.

    :param state: state dictionary of a policy with batched critics
    :param critic: its critic
    :return: state dictionary of a stock policy
    """
    converted: StateDict = {}
    pattern = re.compile(r"^(critic(?:_target)?\.)ensemble\.layers\.(\d+)\.(weight|bias)$")
    for key, value in state.items():
        match = pattern.match(key)
        if match is None:
            converted[key] = value
            continue
        prefix, layer, name = match.group(1), int(match.group(2)), match.group(3)
        for index, member in enumerate(_to_members(layer, name, value, critic)):
            converted[f"{prefix}qf{index}.{layer}.{name}"] = member
    return converted


def _parameter_places(critic: EnsembleCritic) -> list[tuple[int, str]]:
    """(layer, name) of every ensemble parameter, in the order in which the optimiser lists them."""
    places = []
    for index, layer in enumerate(critic.ensemble.layers):
        if isinstance(layer, EnsembleLinear | EnsembleLayerNorm):
            places += [(index, "weight"), (index, "bias")]
    return places


def _with_flags(group: dict[str, Any], current: StateDict) -> dict[str, Any]:
    # implementation flags (fused, foreach, …) belong to the optimiser that runs, not to the file
    flags = ("fused", "foreach", "capturable", "differentiable")
    return {**group, **{flag: current["param_groups"][0].get(flag) for flag in flags}}


def _convert_groups(state: StateDict, n_parameters: int, current: StateDict) -> list[dict[str, Any]]:
    return [_with_flags({**state["param_groups"][0], "params": list(range(n_parameters))}, current)]


def optimizer_from_stock(state: StateDict, critic: EnsembleCritic, n_shared: int, current: StateDict) -> StateDict:
    """
    Stack the Adam moments of a stock critic optimiser.

    :param state: state dictionary of a stock critic optimiser
    :param critic: the batched critic
    :param n_shared: number of parameters before the Q-networks' (the features extractor's)
    :param current: state dictionary of the batched critic's optimiser, whose implementation flags are kept
    :return: state dictionary for the batched critic's optimiser
    """
    places, moments = _parameter_places(critic), state["state"]
    converted: dict[int, Any] = {index: moments[index] for index in range(n_shared) if index in moments}
    n_places = len(places)
    for position, (layer, name) in enumerate(places):
        indices = [n_shared + member * n_places + position for member in range(critic.n_critics)]
        if indices[0] not in moments:
            continue  # the optimiser has not stepped yet
        converted[n_shared + position] = _map_moments(
            [moments[index] for index in indices], partial(_to_batched, layer, name, critic=critic)
        )
    return {"state": converted, "param_groups": _convert_groups(state, n_shared + n_places, current)}


def _map_moments(members: list[dict[str, Any]], stack: Callable[[list[th.Tensor]], th.Tensor]) -> dict[str, Any]:
    return {
        name: value if name == "step" else stack([member[name] for member in members])
        for name, value in members[0].items()
    }


def optimizer_to_stock(state: StateDict, critic: EnsembleCritic, n_shared: int, current: StateDict) -> StateDict:
    """
    Split the Adam moments of a batched critic. Inverse of :func:`optimizer_from_stock`.

    :param state: state dictionary of the batched critic's optimiser
    :param critic: the batched critic
    :param n_shared: number of parameters before the Q-networks'
    :param current: state dictionary of the stock optimiser, whose implementation flags are kept
    :return: state dictionary for a stock critic optimiser
    """
    places, moments = _parameter_places(critic), state["state"]
    converted: dict[int, Any] = {index: moments[index] for index in range(n_shared) if index in moments}
    n_places = len(places)
    for position, (layer, name) in enumerate(places):
        if n_shared + position not in moments:
            continue
        batched = moments[n_shared + position]
        for member in range(critic.n_critics):
            converted[n_shared + member * n_places + position] = {
                key: value.clone() if key == "step" else _to_members(layer, name, value, critic)[member]
                for key, value in batched.items()
            }
    total = n_shared + n_places * critic.n_critics
    return {"state": dict(sorted(converted.items())), "param_groups": _convert_groups(state, total, current)}


def keep_flags(state: StateDict, current: StateDict) -> StateDict:
    """
    :param state: state dictionary of an optimiser
    :param current: state dictionary of the optimiser that will load it, whose implementation flags are kept
    :return: ``state`` with those flags
    """
    return {**state, "param_groups": [_with_flags(group, current) for group in state["param_groups"]]}


def _mean_layers(actor: th.nn.Module) -> tuple[str, str]:
    """:return: where an actor keeps the hidden layers of its mean, and the last one"""
    network: Any = actor.mu
    if isinstance(actor, DeterministicActor):
        return "mu.", f"mu.{max(index for index, layer in enumerate(network) if isinstance(layer, th.nn.Linear))}."
    return "latent_pi.", "mu.0." if isinstance(network, th.nn.Sequential) else "mu."  # gSDE clips the mean


def actor_state(source: th.nn.Module, target: th.nn.Module) -> StateDict:
    """
    The same mean in another actor: SAC's (and TQC's) ``latent_pi`` and ``mu`` are the hidden layers and the output
    layer of TD3's ``mu``, and both squash with tanh. With gSDE, the output layer is clipped in between.

    :param source: an actor of SAC, TQC or TD3, stock or ours
    :param target: another one
    :return: state dictionary of the source with the target's names; a standard deviation stays where there is one
    """
    theirs, ours = _mean_layers(source), _mean_layers(target)
    converted: StateDict = {}
    for key, value in source.state_dict().items():
        for old, new in ((theirs[1], ours[1]), (theirs[0], ours[0])):  # the last layer may lie among the hidden ones
            if key.startswith(old):
                key = new + key.removeprefix(old)
                break
        converted[key] = value
    return converted
