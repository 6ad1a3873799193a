"""Arguments within arguments: of the policy, its optimiser, and the dataset."""

from __future__ import annotations

import inspect
from typing import Any

from sb3_o2o.checked import check_keyword_arguments
from sb3_o2o.data import OfflineDataset


def check_nested_arguments(model: Any, policy_kwargs: dict[str, Any]) -> None:
    """
    Refuse what neither the policy, nor its optimiser, nor a dataset takes.

    :param model: the algorithm, about to be set up
    :param policy_kwargs: all of the policy's arguments
    :raises ValueError: an unknown name (the nearest is named), a value of another type, or a policy that is none of
        this library's
    """
    own = ("observation_space", "action_space", "lr_schedule")
    policy_class = model.policy_class
    _check_policy_class(model, policy_class)
    check_keyword_arguments("policy argument", policy_class, policy_kwargs, skip=own)
    optimizer = policy_kwargs.get("optimizer_class") or _default_of(policy_class, "optimizer_class")
    if optimizer is not None:
        of_optimizer = policy_kwargs.get("optimizer_kwargs") or {}
        check_keyword_arguments("argument of the optimiser", optimizer, of_optimizer, skip=("params", "lr"))
    _check_layers(policy_kwargs.get("net_arch"))
    check_keyword_arguments(
        "dataset argument",
        OfflineDataset.load,
        model.dataset_kwargs or {},
        skip=("source", "observation_space", "action_space"),
    )


def _check_policy_class(model: Any, policy_class: type) -> None:
    """Before its arguments: those of ours would be unknown to it, though nobody has given them."""
    name, base = type(model).__name__, next(iter(model.stock_policies.values()))
    if not issubclass(policy_class, base):
        raise ValueError(
            f"{name} needs a policy that derives from {base.__name__}, which {policy_class.__name__} does not: derive "
            "it from there, or clone a trained one: load_offline(model.policy, env, dataset=…)."
        )


def _default_of(owner: type, name: str) -> Any:
    """What a class, or the first of its bases that says so, takes where nothing is given."""
    for constructor in (vars(each)["__init__"] for each in owner.__mro__[:-1] if "__init__" in vars(each)):
        parameters = inspect.signature(constructor).parameters
        if name in parameters:
            return parameters[name].default
    return None


def _check_layers(net_arch: Any) -> None:
    layers = net_arch.values() if isinstance(net_arch, dict) else [net_arch or []]
    for units in (units for each in layers if isinstance(each, list | tuple) for units in each):
        if isinstance(units, int) and units < 1:
            raise ValueError(f"Layers of policy_kwargs['net_arch'] need at least one unit, not {units}.")
