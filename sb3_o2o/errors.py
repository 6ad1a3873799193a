"""Errors for people: what was wrong, which name was probably meant, and what kind of value belongs there."""

from __future__ import annotations

import builtins
import difflib
import inspect
import sys
import types
import typing
from collections import ChainMap, abc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: What YAML and command lines hold. Values of other types come from Python, and are the called function's matter.
_PLAIN = (type(None), bool, int, float, str, list, dict)
_WORDS = {
    type(None): "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "names with values",
}


class NonFiniteError(FloatingPointError):
    """
    NaN or infinity appeared in a run, which ended before it could spread, or in the weights of a model that is about to
    be saved or was loaded.

    :param what: what was first not finite, where and when, a sentence
    :param advice: what to do about it, further sentences
    :param arrays: the values among which it is, by name: a batch, or what an environment gave
    """

    def __init__(self, what: str, advice: str = "", arrays: Mapping[str, Any] | None = None):
        super().__init__(what)
        self.what = what
        self.advice = advice
        #: the values among which it is, as NumPy arrays by name; observations of a dictionary as ``observations/key``
        self.arrays = dict(arrays or {})
        #: the file that they were written to (``nonfinite.npz``); None where the run has no folder
        self.path: str | None = None

    def __str__(self) -> str:
        where = ""
        if self.path is not None:
            where = f"The values are kept in {self.path}."
        elif self.arrays:
            where = "The values are kept in the error's attribute arrays."
        return " ".join(each for each in (self.what, self.advice, where) if each)


def unknown(kind: str, name: object, options: Iterable[str]) -> ValueError:
    """
    Build the error for a name that does not exist, naming the nearest one that does.

    :param kind: what the name stands for, e.g. ``"objective"``
    :param name: what was given
    :param options: the names that exist
    :return: the error, to be raised by the caller
    """
    options = sorted(options)
    nearest = difflib.get_close_matches(str(name), options, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"Unknown {kind} {name!r}.{hint} Available: {', '.join(options)}.")


def check_keyword_arguments(
    kind: str, function: Callable[..., Any], given: Mapping[str, Any], skip: tuple[str, ...] = ()
) -> None:
    """
    Refuse keyword arguments that ``function`` does not take, and plain values (numbers, text, lists ...) of another
    type than it is annotated with.

    :param kind: whose arguments they are, e.g. ``"argument of objective 'cql'"``
    :param function: a class or function
    :param given: the keyword arguments about to be passed
    :param skip: parameters of ``function`` that a user cannot pass
    :raises ValueError: at the first unknown name, naming the nearest, or the first value of a wrong type
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"Give each {kind} as {{name: value}}, not {given!r}.")
    accepted, complete = _parameters_of(function)
    for name in skip:
        accepted.pop(name, None)
    for name, value in given.items():
        if complete and name not in accepted:
            raise unknown(kind, name, accepted)
        check_type(name, value, accepted.get(name, Any), kind)


def _parameters_of(function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """:return: keyword parameters and their annotations, and whether these are all"""
    found: dict[str, Any] = {}
    if not inspect.isclass(function):
        return found, _collect(function, found)
    constructors = [vars(owner)["__init__"] for owner in function.__mro__[:-1] if "__init__" in vars(owner)]
    return found, any(_collect(each, found) for each in constructors)


def _collect(function: Callable[..., Any], found: dict[str, Any]) -> bool:
    """:return: whether these are all: there are no ``**kwargs``"""
    complete = True
    plain = inspect.unwrap(function)
    names = ChainMap(dict(getattr(sys.modules.get(plain.__module__), "__dict__", {})), vars(builtins))
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            complete = False
        elif parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD) and parameter.name != "self":
            found.setdefault(parameter.name, _resolved(parameter.annotation, names))
    return complete


def _resolved(annotation: Any, names: Mapping[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {}, _Known(names))  # the library's own annotations, which are code
    except (TypeError, AttributeError, SyntaxError):  # made of what is only imported for type checkers
        return Any


class _Known(dict[str, Any]):
    """Names, and ``Any`` for those that are only imported for type checkers."""

    def __missing__(self, name: str) -> Any:
        return Any


def check_type(what: str, value: Any, annotation: Any, kind: str = "") -> None:
    """
    Refuse a plain value of another type than is asked for.

    :param what: whose value it is, for the error
    :param value: the value; one that is not plain passes
    :param annotation: the type
    :param kind: what sort of argument it is, for the error
    :raises ValueError: saying what may stand there
    """
    if type(value) not in _PLAIN or _fits(value, annotation):
        return
    raise ValueError(f"{what} must be {_in_words(annotation)}, not {value!r}{f' ({kind})' if kind else ''}.")


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or isinstance(annotation, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is typing.Literal:
        return value in arguments
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is None or annotation is type(None):
        return value is None
    kind = origin or annotation
    if not isinstance(kind, type):
        return True  # nothing that could be compared with
    if issubclass(kind, abc.Mapping):
        return isinstance(value, dict) and all(_fits(each, arguments[-1]) for each in value.values() if arguments)
    if kind is tuple and arguments and arguments[-1] is not ...:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if kind in (list, tuple, abc.Sequence, abc.Iterable, abc.Collection):
        return isinstance(value, list) and all(_fits(each, arguments[0]) for each in value if arguments)
    return isinstance(value, kind)


def _in_words(annotation: Any) -> str:
    """What of an annotation YAML and command lines can hold, in words."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        arguments = (annotation,)
    words = dict.fromkeys(word for each in arguments if (word := _word(each)))
    if not words or list(words) == [_WORDS[type(None)]]:
        words["an object made in Python"] = None
    return " or ".join(words)


def _word(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    kind = type(None) if annotation is None else origin or annotation
    if not isinstance(kind, type):
        return ""
    if issubclass(kind, abc.Mapping):
        return _WORDS[dict]
    if kind in (list, tuple, abc.Sequence, abc.Iterable, abc.Collection):
        plural = {(int,): " of whole numbers", (float,): " of numbers"}.get(arguments, "")
        return _WORDS[list] + plural
    return _WORDS.get(kind, "")
