"""A function's annotations declare what its arguments may be, and :func:`checked` holds its callers to them.

``steps: Count`` is ``Annotated[int, whole(1)]``; a plain ``int`` is any whole number, a ``float`` any finite one, a
``bool`` True or False, a class its instances, and so on: :func:`kind_of`. ``Any`` is not checked.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import os
import sys
import types
import typing
from collections import ChainMap, abc
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from sb3_o2o.errors import unknown
from sb3_o2o.kinds import FLAG, FUNCTION, NOTHING, PATH, TEXT, Kind, kind, number, one_of, subclass, whole

Function = TypeVar("Function", bound=Callable[..., Any])
#: what YAML and command lines hold
_HELD_BY_YAML = (type(None), bool, int, float, str, list, dict)

_PLAIN: dict[Any, Kind] = {
    None: NOTHING,
    type(None): NOTHING,
    bool: FLAG,
    int: whole(),
    float: number(),
    str: TEXT,
    abc.Callable: FUNCTION,
}


def checked(function: Function) -> Function:
    """
    Check each argument by its annotation before a function is entered.

    :param function: a function, a method or a constructor; ``@classmethod`` stands above
    :return: the same, which raises ``ValueError`` for an argument that is not what it may be, with its name, whose it
        is, what was given and what is allowed
    """
    parameters = inspect.signature(function).parameters.values()
    by_position = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    the_rest = [each.name for each in parameters if each.kind is each.VAR_POSITIONAL]
    is_method = next(iter(by_position), "") in ("self", "cls")

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        kinds = _kinds_of(function)
        for name, value in (*zip(by_position + the_rest * len(args), args, strict=False), *kwargs.items()):
            if name in kinds and not kinds[name].accepts(value):
                whose = _named(function, args[0]) if is_method else function.__name__
                kinds[name].check(f"{name} of {whose}", value)
        return function(*args, **kwargs)  # Python says which argument is missing or unknown

    checking.is_checked = True  # type: ignore[attr-defined]
    return typing.cast(Function, checking)


def _named(function: Callable[..., Any], owner: Any) -> str:
    """:return: a method, as users know it: by the class that they used"""
    whose = (owner if isinstance(owner, type) else type(owner)).__name__
    return whose if function.__name__ == "__init__" else f"{whose}.{function.__name__}"


def check_fields(record: Any) -> None:
    """
    For a dataclass that users make: check what its fields were given by their annotations.

    :param record: just made
    :raises ValueError: for the first that is not what it may be
    """
    for name, allowed in kinds_of(type(record).__init__).items():
        allowed.check(f"{name} of {type(record).__name__}", getattr(record, name))


def is_checked(function: Callable[..., Any]) -> bool:
    """
    :param function: perhaps made by :func:`checked`
    :return: whether it is
    """
    return getattr(function, "is_checked", False)


def check_keyword_arguments(
    what: str, function: Callable[..., Any], given: Mapping[str, Any], skip: tuple[str, ...] = ()
) -> None:
    """
    Refuse keyword arguments that a function does not take, and values that are nothing for them. Where the function is
    not :func:`checked`, its annotations count for what YAML can hold: numbers, text, lists and so on.

    :param what: whose arguments they are, e.g. ``"argument of objective 'cql'"``
    :param function: a class or function
    :param given: the keyword arguments about to be passed
    :param skip: parameters of ``function`` that a user cannot pass
    :raises ValueError: at the first unknown name, naming the nearest, or the first wrong value
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"Give each {what} as {{name: value}}, not {given!r}.")
    functions = _entered(function)
    accepted: dict[str, tuple[Callable[..., Any], Kind | None]] = {}
    for each in functions:
        for name in _keywords(each):
            if name not in ("self", *skip):
                accepted.setdefault(name, (each, kinds_of(each).get(name)))
    for name, value in given.items():
        if name not in accepted:
            if all(_takes_the_rest(each) for each in functions):
                continue
            raise unknown(what, name, accepted)
        entered, allowed = accepted[name]
        if allowed is not None and (is_checked(entered) or type(value) in _HELD_BY_YAML):
            allowed.check(f"{name} ({what})", value)


def _entered(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """:return: the function; of a class its constructors, down to the first that hands nothing on"""
    if not inspect.isclass(function):
        return [function]
    entered = []
    for owner in function.__mro__[:-1]:
        if "__init__" in vars(owner):
            entered.append(vars(owner)["__init__"])
            if not _takes_the_rest(entered[-1]):
                break
    return entered


def _keywords(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _takes_the_rest(function: Callable[..., Any]) -> bool:
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values())


def kinds_of(function: Callable[..., Any]) -> Mapping[str, Kind]:
    """
    :param function: a function, checked or not
    :return: what each of its arguments may be, by name; those that may be anything are left out
    """
    return _kinds_of(inspect.unwrap(function))


@functools.cache
def _kinds_of(function: Callable[..., Any]) -> Mapping[str, Kind]:
    names = ChainMap(getattr(sys.modules.get(function.__module__), "__dict__", {}), vars(builtins))
    kinds = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.annotation is not parameter.empty:
            found = kind_of(_resolved(parameter.annotation, names))
            if found is not None:
                kinds[name] = found
    return kinds


class _Known(dict[str, Any]):
    """Names, and ``Any`` for those that are only imported for type checkers."""

    def __missing__(self, name: str) -> Any:
        return Any


def _resolved(annotation: Any, names: Mapping[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {}, _Known(names))  # the library's own annotations, which are code
    except (TypeError, AttributeError, SyntaxError):  # made of what is only imported for type checkers
        return Any


def kind_of(annotation: Any) -> Kind | None:
    """
    :param annotation: a type, perhaps ``Annotated`` with a kind, which then counts alone
    :return: the values that it stands for; None where that is anything, or nothing that could be told from a value
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return next((each for each in arguments[1:] if isinstance(each, Kind)), None) or kind_of(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _union([kind_of(each) for each in arguments])
    if origin is Literal:
        return one_of(*arguments)
    if annotation is Any:
        return None
    if (origin or annotation) in _PLAIN:
        return _PLAIN[origin or annotation]
    if origin is type:
        return subclass(arguments[0]) if isinstance(arguments[0], type) else None
    return _of_class(origin or annotation, arguments)


def _union(kinds: list[Kind | None]) -> Kind | None:
    known = [each for each in kinds if each is not None]
    if len(known) < len(kinds):
        return None
    texts = dict.fromkeys(text for each in known for text in each.texts)
    # None goes last in words
    words = sorted(texts, key=lambda text: text == "None")
    joined = functools.reduce(Kind.__or__, known)
    return Kind(tuple(words), joined.accepts, joined.words)


def _of_class(wanted: Any, arguments: tuple[Any, ...]) -> Kind | None:
    if not isinstance(wanted, type) or wanted is object or getattr(wanted, "_is_protocol", False):
        return None
    if issubclass(wanted, os.PathLike):
        return PATH
    if issubclass(wanted, abc.Mapping):
        value = kind_of(arguments[1]) if len(arguments) == 2 else None
        text = "a dictionary" if value is None else f"a dictionary, each value {value}"
        return kind(text, lambda given: _is_mapping(given, value))
    if wanted is tuple and arguments and arguments[-1] is not ...:
        return _of_tuple([kind_of(each) for each in arguments])
    if wanted in (list, tuple, set, abc.Sequence, abc.Iterable, abc.Collection):
        sorts = abc.Iterable if wanted in (abc.Iterable, abc.Collection) else list | tuple | set | abc.Sequence
        return _items(kind_of(arguments[0]) if arguments else None, sorts)
    article = "an" if wanted.__name__[0] in "AEIO" else "a"
    return kind(f"{article} {wanted.__name__}", lambda value: isinstance(value, wanted))


def _is_mapping(given: Any, value: Kind | None) -> bool:
    if not isinstance(given, abc.Mapping) or not all(isinstance(name, str) for name in given):
        return False
    return value is None or all(map(value.accepts, given.values()))


def _items(item: Kind | None, sorts: Any) -> Kind:
    def accepts(value: Any) -> bool:
        if not isinstance(value, sorts) or isinstance(value, str | bytes):
            return False
        # an iterator would be used up
        return item is None or not isinstance(value, abc.Collection) or all(map(item.accepts, value))

    return kind("a list" if item is None else f"a list, each {item}", accepts)


def _of_tuple(items: list[Kind | None]) -> Kind:
    def accepts(value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(items)
            and all(item is None or item.accepts(each) for item, each in zip(items, value, strict=True))
        )

    return kind(f"a list of {len(items)}: {', '.join(map(str, items))}", accepts)
