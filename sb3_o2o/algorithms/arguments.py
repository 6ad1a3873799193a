"""Constructor arguments: which were given, what a recipe adds, and which hold while pre-training alone."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

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
            from_recipe = recipe.arguments_for(type(self).__name__, signature.parameters)
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
