"""Constructor arguments: which were given, what a recipe adds, and which hold while pre-training alone."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sb3_o2o.data import OfflineDataset
from sb3_o2o.errors import check_keyword_arguments, parameters_of
from sb3_o2o.objectives.base import UNUSED
from sb3_o2o.recipes.counts import recipe_count
from sb3_o2o.recipes.reading import environment_id, load_recipe
from sb3_o2o.updates.containers import own_containers

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm as _Base
else:
    _Base = object

Init = TypeVar("Init", bound=Callable[..., None])


def fills_in_recipe(init: Init) -> Init:
    """
    Decorate a constructor that takes ``recipe``, a name, a path, or one that has been read: arguments that the caller
    left out come from the recipe for the environment, whose keys are checked against the constructor's parameters. The
    names of those that were given are kept in ``self.explicit_arguments``; they win over the recipe's
    ``pretrain_kwargs`` as well.

    :param init: the constructor
    :return: the constructor with the same signature
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        given = dict(bound.arguments)
        explicit = tuple(name for name in given if name not in ("self", "policy", "env"))
        self.recipe_pretrain_steps, self.recipe_count = 0, None
        if given.get("recipe") is not None:
            recipe = load_recipe(given["recipe"], environment_id(given.get("env")))
            from_recipe = recipe.arguments_for(type(self).__name__, parameters_of(init))
            for name in (*explicit, *(given.get("policy_kwargs") or {})):  # where stock names its number of critics
                (from_recipe.get("pretrain_kwargs") or {}).pop(name, None)
            for name, value in from_recipe.items():
                given.setdefault(name, value)
            # what is saved: where the recipe can be found, and what of it is no constructor argument
            given["recipe"], self.recipe_pretrain_steps = recipe.reference, recipe.pretrain_steps
            counted = type(self).counted_argument
            default = signature.parameters[counted].default
            self.recipe_count = recipe_count(recipe, counted, from_recipe, default, explicit)
        self.explicit_arguments = explicit
        init(**own_containers(given))

    return wrapper  # type: ignore[return-value]


def warn_of_overridden_arguments(model: Any) -> None:
    """
    Say which of the arguments that somebody has set, a user or a recipe, no objective of the model follows.

    :param model: with its objectives
    """
    names = {"objective": model.objective, "online_objective": getattr(model, "online_objective", None)}
    offline, online = model.offline_objective, model.finetuning_objective
    parameters = inspect.signature(type(model).__init__).parameters
    for name, decided in offline.overrides.items():
        if name not in parameters or name not in online.overrides:
            continue
        value, settled = getattr(model, name), (decided, online.overrides[name])
        is_set = value != parameters[name].default or (name in model.explicit_arguments and UNUSED not in settled)
        if not is_set or value in settled:
            continue
        who = " and ".join(f"{kind} {given!r}" for kind, given in names.items() if given is not None)
        instead = "Leave it out."
        if name in inspect.signature(type(offline).__init__).parameters:
            instead = f"Give it in objective_kwargs={{{name!r}: {value!r}}}, or leave it out."
        elif decided is not UNUSED:
            instead = f"It is {decided!r} there, whatever the algorithm is given: leave it out."
        warnings.warn(f"{name}={value!r} has no effect with {who}. {instead}", stacklevel=2)


def check_nested_arguments(model: Any, policy_kwargs: dict[str, Any]) -> None:
    """
    Refuse what neither the policy, nor its optimiser, nor a dataset takes.

    :param model: the algorithm, about to be set up
    :param policy_kwargs: all of the policy's arguments
    :raises ValueError: an unknown name (the nearest is named), or a value of another type
    """
    own = ("observation_space", "action_space", "lr_schedule")
    policy_class = model.policy_class
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
