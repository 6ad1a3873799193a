"""What a hyper-parameter is tuned in: declared beside the arguments of objectives, callbacks and constructors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """
    Numbers between two bounds, both included; whole ones where both bounds are.

    :param low: the lower bound
    :param high: the upper bound, above it
    :param log: search the logarithm, for what matters by factors
    :raises ValueError: bounds that are none
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not all(_is_number(bound) and math.isfinite(bound) for bound in (self.low, self.high)):
            raise ValueError(f"A range lies between two finite numbers, not {self.low!r} and {self.high!r}.")
        if not self.low < self.high:
            raise ValueError(f"A range needs low < high, got {self.low} and {self.high}.")
        if self.log and self.low <= 0:
            raise ValueError(f"A range on a logarithmic scale needs low > 0, got {self.low}.")

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are searched."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """
    One of several values, in no order.

    :param options: plain types, at least two
    :raises ValueError: fewer, or the same twice
    """

    options: Sequence[Any]

    def __post_init__(self) -> None:
        texts = {json.dumps(option, sort_keys=True) for option in self.options}
        if len(texts) < 2 or len(texts) < len(self.options):
            raise ValueError(f"A choice needs at least two different options, got {list(self.options)!r}.")

    def __str__(self) -> str:
        return " | ".join(map(str, self.options))


#: by the argument's name, or by its dotted name in a recipe
SearchSpace = Mapping[str, Range | Choice]


def read_search(name: str, value: Any) -> Range | Choice:
    """
    :param name: of the hyper-parameter, for errors
    :param value: as YAML holds it: a list of options, or ``{low: …, high: …, log: true}``
    :return: what to search it in
    :raises ValueError: another spelling
    """
    try:
        if isinstance(value, list):
            return Choice(tuple(value))
        if isinstance(value, Mapping) and {"low", "high"} <= set(value) <= {"low", "high", "log"}:
            return Range(**value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"Search space of {name}: {error}") from error
    raise ValueError(
        f"Search space of {name}: write a list of options, such as [2, 5, 10], or {{low: 1e-5, high: 1e-3, log: true}}"
        f", not {value!r}."
    )


def write_search(space: SearchSpace) -> dict[str, Any]:
    """
    :param space: hyper-parameters by name
    :return: the same in plain types, as :func:`read_search` reads it
    """
    return {
        name: list(each.options)
        if isinstance(each, Choice)
        else {"low": each.low, "high": each.high, **({"log": True} if each.log else {})}
        for name, each in space.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
