"""Constructor arguments: which were given, and what a recipe adds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from sb3_o2o.recipes import recipe_arguments

Init = TypeVar("Init", bound=Callable[..., None])


def fills_in_recipe(init: Init) -> Init:
    """
    Decorate a constructor that takes ``recipe``: arguments that the caller left out come from the recipe for the
    environment, and the names of those that were given are kept in ``self.explicit_arguments``.

    :param init: the constructor
    :return: the constructor with the same signature
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        given = dict(bound.arguments)
        explicit = tuple(name for name in given if name not in ("self", "policy", "env"))
        if given.get("recipe") is not None:
            for name, value in recipe_arguments(given["recipe"], env_id(given.get("env")), type(self).__name__).items():
                given.setdefault(name, value)
        self.explicit_arguments = explicit
        init(**given)

    return wrapper  # type: ignore[return-value]


def env_id(env: Any) -> str | None:
    """
    :param env: an environment id, environment or vectorised environment
    :return: the Gymnasium id, if it has one
    """
    if env is None or isinstance(env, str):
        return env
    if hasattr(env, "get_attr"):
        specs = env.get_attr("spec")
        return specs[0].id if specs and specs[0] is not None else None
    spec = getattr(env, "spec", None)
    return None if spec is None else spec.id
