"""Every public callable of the package with its arguments, and values that none of them should take silently."""

import collections.abc
import importlib
import inspect
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
from numpy.typing import ArrayLike

#: what users import: packages by their ``__all__``, and modules that the documentation names, as a whole
PACKAGES = ("", ".algorithms", ".data", ".diagnostics", ".evaluation", ".finetuning", ".objectives", ".recipes")
PACKAGES += (".networks", ".objectives.functional", ".resume", ".advice")
PACKAGES += (".tuning", ".experiments", ".reporting", ".plain")
MODULES = (".wrappers", ".recipes.building")


@dataclass(frozen=True)
class Public:
    """
    A function, constructor or method that users can call.

    :param name: ``"evaluate"``, ``"Warmup"``, ``"O2OSAC.pretrain"``
    :param function: itself, without ``self``'s being bound
    :param owner: the class of a constructor or method
    :param is_class_method: whether it is called on the class
    """

    name: str
    function: Callable[..., Any]
    owner: type | None = None
    is_class_method: bool = False

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        every = inspect.signature(self.function).parameters.items()
        skip = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return {name: each for name, each in every if name not in ("self", "cls") and each.kind not in skip}


def is_ours(thing: Any) -> bool:
    return getattr(thing, "__module__", "").partition(".")[0] == "sb3_o2o"


def exported() -> Iterator[Any]:
    for name in PACKAGES:
        module = importlib.import_module(f"sb3_o2o{name}")
        yield from (getattr(module, each) for each in module.__all__)
    yield importlib.import_module("sb3_o2o.evaluation.plotting").plot_learning_curve
    for name in MODULES:
        module = importlib.import_module(f"sb3_o2o{name}")
        for key, thing in vars(module).items():
            if not key.startswith("_") and getattr(thing, "__module__", "") == module.__name__:
                yield thing


#: records that users make, and that check what they are given
MADE_BY_USERS = ("TuningConfig",)


def is_record(thing: Any) -> bool:
    """Holds what it is given, and is made by the library."""
    if thing.__name__ in MADE_BY_USERS:
        return False
    return is_dataclass(thing) or hasattr(thing, "_fields") or getattr(thing, "_is_protocol", False)


def public() -> list[Public]:
    """Each once: a method counts for the class that defines it, and is called on the first class that has it."""
    found: dict[str, Public] = {}
    for thing in exported():
        if inspect.isfunction(thing) and is_ours(thing):
            found.setdefault(thing.__name__, Public(thing.__name__, thing))
        elif inspect.isclass(thing) and is_ours(thing) and not issubclass(thing, BaseException):
            for each in _of_class(thing):
                found.setdefault(each.name, each)
    return list(found.values())


def _of_class(owner: type) -> Iterator[Public]:
    if not is_record(owner) and is_ours(owner.__init__):
        yield Public(owner.__name__, owner.__init__, owner)
    for definer in owner.__mro__:
        for name, member in vars(definer).items():
            if name.startswith("_") or not is_ours(definer):
                continue
            plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if inspect.isfunction(plain) and len(inspect.signature(plain).parameters) > 0:
                yield Public(f"{definer.__name__}.{name}", plain, owner, isinstance(member, classmethod))


# -- what an annotation allows, told without the package's own kinds -------------------------------------------------


class Thing:
    """Of no use to any argument."""

    def __repr__(self) -> str:
        return "Thing()"


#: tried on every argument
WRONG: tuple[Any, ...] = (
    *(
        math.nan,
        math.inf,
        -math.inf,
        -1,
        0.5,
        -2.5,
        2.5,
        3,
        True,
        np.True_,
        np.float32("nan"),
        "false",
        "2",
        "no such name",
    ),
    *(b"1", 1j, None, Thing(), Thing, [Thing()], ["a"], {"a": 1}, {1: 2}, (), lambda: None),
)


def resolved(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """A parameter's annotation; ``Any`` where its names are only known to type checkers."""
    if not isinstance(parameter.annotation, str):
        return Any if parameter.annotation is parameter.empty else parameter.annotation
    names = vars(sys.modules[inspect.unwrap(function).__module__])
    try:
        return eval(parameter.annotation, dict(names))
    except (NameError, TypeError, AttributeError):
        return Any


def may_be(annotation: Any, value: Any) -> bool:
    """Whether a value has the type: True is no number, NaN, infinity and what is below 0 are none either."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return may_be(arguments[0], value)
    if annotation == ArrayLike:
        return (
            isinstance(value, int | float | np.number | list | tuple)
            and not isinstance(value, bool)
            and _is_numeric(value)
        )
    if origin in (typing.Union, types.UnionType):
        return any(may_be(each, value) for each in arguments)
    if origin is Literal:
        return value in arguments
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool | np.bool_)
    if annotation is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0
    if annotation is float:
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        return number and 0 <= value < math.inf
    return _may_be_object(annotation, origin, arguments, value)


def _is_numeric(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number | list | tuple):
        return False
    return np.asarray(value, dtype=object).size == 0 or np.asarray(value).dtype.kind in "iuf"


def _may_be_object(annotation: Any, origin: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    if annotation is Any:
        return not isinstance(value, Thing | complex | bytes | float | np.floating | bool | np.bool_)
    kind = origin or annotation
    if kind is collections.abc.Callable:
        return callable(value)
    if kind is type:
        return isinstance(value, type) and value is not Thing
    if not isinstance(kind, type):
        return True
    if issubclass(kind, os.PathLike):
        return isinstance(value, str | os.PathLike)
    if kind is np.ndarray:
        return isinstance(value, np.ndarray) or (isinstance(value, list) and _is_numeric(value))
    if issubclass(kind, collections.abc.Mapping):
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if kind in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        items = [each for each in arguments if each is not ...]
        sorts = list | tuple | dict if kind is collections.abc.Iterable else list | tuple
        fits = isinstance(value, sorts) and (kind is not tuple or len(items) < 2 or len(items) == len(value))
        return fits and (not items or all(may_be(items[0], each) for each in value))
    if getattr(kind, "_is_protocol", False):
        return not isinstance(value, Thing | complex | bytes | float | bool | str)
    return isinstance(value, kind)
