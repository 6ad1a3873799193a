"""Policies of other kinds, seen from ``load_offline``."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.formats.minari import recorded_environment
from sb3_o2o.evaluation.evaluate import preserved_random_state
from sb3_o2o.plain import UntrustedError
from sb3_o2o.plain.entry_points import checked_environment_id, make_recorded
from sb3_o2o.transfer.architecture import Kept, hidden_layers, mixed_policy_kwargs
from sb3_o2o.transfer.archive import ALGORITHMS_BY_FAMILY, OFF_POLICY_ACTING, ON_POLICY_ACTING, opens_as_ours
from sb3_o2o.transfer.model_file import for_stock_load, read_attributes

#: the scale of the values that trained critics hold
VALUE_ARGUMENTS = ("reward_scale", "reward_shift", "gamma")


def recover_environment(source: Any, trust: bool = False) -> Any:
    """
    :param source: a Minari id
    :param trust: whether the entry point that it names may be imported, where none is registered by its id
    :return: the environment that the dataset was collected in
    :raises UntrustedError: if it would have to be imported, and there is no trust
    :raises ValueError: if the source does not name one
    """
    import gymnasium as gym

    if isinstance(source, OfflineDataset) and source.env_id is not None:
        return gym.make(checked_environment_id(source.env_id, str(source), trust))
    try:
        spec = recorded_environment(str(source), trust)
        if spec is None:
            raise ValueError("it names none")
        return make_recorded(spec, str(source), trust)
    except UntrustedError:
        raise
    except Exception as error:
        raise ValueError(
            f"load_offline needs env=…: {source!r} does not say which environment it came from ({error})."
        ) from error


def to_memory(model: BaseAlgorithm) -> io.BytesIO:
    stream = io.BytesIO()
    # what is kept of it is looked at in the end; only ours ask
    kwargs: dict[str, Any] = {"allow_nonfinite": True} if hasattr(model, "on_nonfinite") else {}
    model.save(stream, **kwargs)
    stream.seek(0)
    return stream


def open_saved(
    family: str, path: str | Path | io.BytesIO, custom_objects: dict[str, Any] | None = None, trust: bool = False
) -> BaseAlgorithm | None:
    """
    Open a saved model by the class that can: ours where possible, which opens stock models as well. The process's
    random streams are left as they were.

    :param family: see :func:`~sb3_o2o.transfer.archive.saved_family`
    :param path: the zip
    :param custom_objects: as SB3's ``load`` takes them
    :param trust: whether the file may run code
    :return: a model that only acts; None if no class of ours, of Stable-Baselines3 or of sb3-contrib opens it
    :raises UntrustedError: if it needs trust, and there is none
    """
    import sb3_contrib
    import stable_baselines3

    custom_objects = _with_stand_ins(path, custom_objects or {}, trust)
    if family in ALGORITHMS_BY_FAMILY and opens_as_ours(path):
        ours = ALGORITHMS_BY_FAMILY[family]
        opening = {"custom_objects": custom_objects, "trust": trust, "allow_nonfinite": True}
        with preserved_random_state():  # weights that are replaced at once are drawn aside
            return ours.load(path, **opening, **ours.acting_arguments)
    algorithm = getattr(stable_baselines3, family, None) or getattr(sb3_contrib, family, None)
    if algorithm is None:
        return None
    acting = OFF_POLICY_ACTING if issubclass(algorithm, OffPolicyAlgorithm) else ON_POLICY_ACTING
    plain, attributes = for_stock_load(path, {**custom_objects, **acting}, trust)
    with preserved_random_state():
        return algorithm.load(plain, custom_objects=attributes, **acting)


#: what only training asks for, and what stands for it in a model that only acts
_STAND_INS = {"learning_rate": 0.0, "clip_range": 0.2, "clip_range_vf": None, "action_noise": None}


def _with_stand_ins(path: Any, custom_objects: dict[str, Any], trust: bool) -> dict[str, Any]:
    """Who only acts needs no trust in schedules."""
    found = dict(custom_objects)
    for name, value in _STAND_INS.items():
        try:
            read_attributes(path, (name,), custom_objects, trust)
        except UntrustedError:
            found[name] = value
    return found


def unknown_family(path: Any) -> ValueError:
    """
    :param path: of a saved model that nobody here opens
    :return: what to raise
    """
    return ValueError(
        f"{path} holds a model that is not SAC, TQC, CrossQ, TD3, DDPG or PPO: pass the live model or its policy "
        "instead."
    )


def as_ours(source: Any) -> Any:
    """
    :param source: a policy or model of any kind
    :return: the class of ours with the same networks, where a live stock model has one; else the source itself
    """
    for algorithm in ALGORITHMS_BY_FAMILY.values():
        if isinstance(source, algorithm):
            return source
        is_stock = isinstance(source, algorithm.stock_class) and type(source.policy) in algorithm.stock_policies
        if is_stock and algorithm.weights.takes_over(source):
            opening = {"device": source.device, "trust": True, "allow_nonfinite": True}
            with preserved_random_state():
                return algorithm.load(to_memory(source), **opening, **algorithm.acting_arguments)
    return source


def copy_parameters(source: th.nn.Module, target: th.nn.Module) -> None:
    """What is learned, and not the buffers: statistics of the data stay."""
    with th.no_grad():
        for own, fresh in zip(target.parameters(), source.parameters(), strict=True):
            own.copy_(fresh)


def network_arguments(
    source: Any, target: Any, from_recipe: dict[str, Any], given: dict[str, Any], kept: Kept
) -> dict[str, Any]:
    """
    :param source: a model of ours, or TQC, whose actor has SAC's layers
    :param target: the class to build
    :param from_recipe: arguments of a recipe, for what is made anew
    :param given: arguments of the user
    :param kept: networks to be kept; with critics come the number and the scale of their values
    :return: constructor arguments for networks of the same shapes where they are kept
    """
    accepted = inspect.signature(next(iter(target.stock_policies)).__init__).parameters
    own = {name: value for name, value in source.policy_kwargs.items() if name in accepted and name != "n_critics"}
    layers = source.policy.net_arch
    own["net_arch"] = layers
    if not kept.both:
        own = mixed_policy_kwargs(own, layers, "qf", from_recipe.get("policy_kwargs") or {}, kept)
    arguments = {
        "policy_kwargs": _with_users(own, given.get("policy_kwargs") or {}),
        "normalize_observations": getattr(source, "normalize_observations", False),
    }
    if kept.actor:
        arguments["actor_layer_norm"] = getattr(source, "actor_layer_norm", False)
        if source.use_sde and "use_sde" in inspect.signature(target.__init__).parameters:
            arguments["use_sde"] = True
    if kept.critic and hasattr(source, "critic_layer_norm"):
        names = ("n_critics", "critic_layer_norm", *VALUE_ARGUMENTS)
        arguments.update({name: getattr(source, name) for name in names})
    return {**arguments, **{name: value for name, value in given.items() if name != "policy_kwargs"}}


def _with_users(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A user who names the layers of all networks describes them whole; what does not fit is then not copied."""
    layers = given.get("net_arch", {})
    if not isinstance(layers, Mapping) or {"pi", "qf"} <= layers.keys():
        return given
    if layers:
        layers = {name: layers.get(name, hidden_layers(own["net_arch"], name)) for name in ("pi", "qf")}
    return {**own, **given, "net_arch": layers or own["net_arch"]}


def same_shapes(one: th.nn.Module, other: th.nn.Module) -> bool:
    shapes = [{name: value.shape for name, value in module.state_dict().items()} for module in (one, other)]
    return shapes[0] == shapes[1]
