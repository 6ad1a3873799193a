"""Constructor arguments over others: those of an objective belong to it, and go with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def replaced_objectives(algorithm: Any, base: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """
    :param algorithm: the class
    :param base: constructor arguments, as of a recipe, or as a saved model's file holds them
    :param given: those that hold instead
    :return: ``"objective"`` and ``"online_objective"``, where another one is named
    """
    return [
        name
        for name in ("objective", "online_objective")
        if name in given and _class_name(algorithm, name, base.get(name)) != _class_name(algorithm, name, given[name])
    ]


def left_behind(algorithm: Any, base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, None]:
    """
    The arguments of objectives that others take the place of: one may have an argument of the same name, with another
    meaning or default, and nobody has asked for the old one's.

    :param algorithm: the class
    :param base: constructor arguments, as of a recipe, or as a saved model's file holds them
    :param given: those that hold instead
    :return: ``objective_kwargs`` or ``online_objective_kwargs``, where they do not hold for the objective that is named
        instead, with None
    """
    kwargs = [f"{name}_kwargs" for name in replaced_objectives(algorithm, base, given)]
    return {name: None for name in kwargs if name not in given and base.get(name)}


def over(algorithm: Any, base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param algorithm: the class
    :param base: constructor arguments, as of a recipe or of a saved model
    :param given: those that hold instead
    :return: all of them together, see :func:`left_behind`
    """
    return {**base, **given, **left_behind(algorithm, base, given)}


def goes_on(algorithm: Any, arguments: Mapping[str, Any]) -> bool:
    """
    :param algorithm: the class
    :param arguments: of its constructor
    :return: whether fine-tuning goes on with the offline objective, its arguments and what it has learned (a Lagrange
        multiplier): the online one is the same, and has no arguments of its own, in whichever way, or the same
    """
    offline, online = (_class_name(algorithm, name, arguments.get(name)) for name in ("objective", "online_objective"))
    own = arguments.get("online_objective_kwargs") or None
    return bool(offline == online) and own in (None, arguments.get("objective_kwargs"))


def _class_name(algorithm: Any, argument: str, value: Any) -> Any:
    """Its dotted name. Nothing is imported to know it: a file may have named the class."""
    if value is None:  # left out; and what learn minimises by default
        is_online = argument == "online_objective"
        value = algorithm.default_online_objective if is_online else algorithm.constructor.defaults["objective"]
    if isinstance(value, str):
        value = algorithm.available_objectives.get(value, value)
    if isinstance(value, Mapping):  # a class, as files hold it
        return str(value.get("name")).replace(":", ".")
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else value
