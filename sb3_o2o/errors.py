"""Errors for people: what was wrong and which name was probably meant."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any


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
    kind: str, function: Callable[..., Any], given: dict[str, Any], skip: tuple[str, ...] = ()
) -> None:
    """
    Refuse keyword arguments that ``function`` does not take.

    :param kind: whose arguments they are, e.g. ``"argument of objective 'cql'"``
    :param function: a class or function
    :param given: the keyword arguments about to be passed
    :param skip: parameters of ``function`` that a user cannot pass
    :raises ValueError: at the first unknown name, naming the nearest
    """
    accepted = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("self", *skip)
    ]
    for name in given:
        if name not in accepted:
            raise unknown(kind, name, accepted)
