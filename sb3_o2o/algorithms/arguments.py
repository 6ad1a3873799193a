"""Constructor arguments: which were given, and what a recipe adds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

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
    names of those that were given are kept in ``self.explicit_arguments``.

    :param init: the constructor
    :return: the constructor with the same signature
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        given = dict(bound.arguments)
        explicit = tuple(name for name in given if name not in ("self", "policy", "env"))
        self.recipe_pretrain_steps = 0
        if given.get("recipe") is not None:
            recipe = load_recipe(given["recipe"], environment_id(given.get("env")))
            for name, value in recipe.arguments_for(type(self).__name__, signature.parameters).items():
                given.setdefault(name, value)
            # what is saved: where the recipe can be found, and what of it is no constructor argument
            given["recipe"], self.recipe_pretrain_steps = recipe.reference, recipe.pretrain_steps
        self.explicit_arguments = explicit
        init(**own_containers(given))

    return wrapper  # type: ignore[return-value]
