"""What an argument may be: kinds of values, each with the words that documentation and errors say it in."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch as th
from numpy.typing import ArrayLike
from stable_baselines3.common.type_aliases import GymEnv

from sb3_o2o.errors import nearest

#: characters of a value that an error shows
_LONGEST = 100


@dataclass(frozen=True)
class Kind:
    """
    What values an argument may have. Kinds are joined with ``|``.

    :param texts: what is allowed, one text for each alternative, to follow "must be"
    :param accepts: whether a value is of this kind
    :param words: those of a list, of which an error names the nearest
    """

    texts: tuple[str, ...]
    accepts: Callable[[Any], bool] = field(repr=False)
    words: tuple[str, ...] = field(default=(), repr=False)

    def __or__(self, other: Kind) -> Kind:
        return Kind(
            self.texts + other.texts,
            lambda value: self.accepts(value) or other.accepts(value),
            self.words + other.words,
        )

    def __str__(self) -> str:
        return _either(self.texts)

    def check(self, name: str, value: Any) -> None:
        """
        :param name: of the argument, with where it stands
        :param value: what was given
        :raises ValueError: if it is nothing of this kind, naming argument, value and what is allowed
        """
        if not self.accepts(value):
            meant = nearest(value, self.words) if isinstance(value, str) else ""
            raise ValueError(f"{name} must be {self}, not {shown(value)}.{meant}")


def kind(text: str, accepts: Callable[[Any], bool]) -> Kind:
    """
    :param text: what is allowed, to follow "must be"
    :param accepts: whether a value is
    :return: the kind
    """
    return Kind((text,), accepts)


def shown(value: Any) -> str:
    """
    :param value: what was given
    :return: it as code writes it, cut where it is long
    """
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _either(texts: tuple[str, ...]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


# -- numbers -------------------------------------------------------------------------------------------------------


def is_whole(value: Any) -> bool:
    """
    :param value: anything
    :return: whether it is an integer of Python or NumPy; ``True`` is none
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """
    :param value: anything
    :return: whether it is a number of Python or NumPy other than NaN; ``True`` is none
    """
    return is_whole(value) or (isinstance(value, float | np.floating) and not math.isnan(value))


def whole(least: int | None = None, most: int | None = None, *, or_float: bool = False) -> Kind:
    """
    :param least: the smallest that is allowed
    :param most: the largest
    :param or_float: whether ``5e5`` is one
    :return: integers
    """
    limits = ""
    if least is not None:
        limits = f" of at least {least}" if most is None else f" from {least} to {most}"

    def accepts(value: Any) -> bool:
        written = or_float and isinstance(value, float) and value.is_integer()
        return (is_whole(value) or written) and (least is None or value >= least) and (most is None or value <= most)

    return kind(f"a whole number{limits}", accepts)


def number(
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> Kind:
    """
    :param least: the smallest that is allowed
    :param most: the largest
    :param above: allowed is what is larger
    :param below: allowed is what is smaller
    :param finite: whether it must not be infinite; never is it NaN
    :return: integers and floating-point numbers
    """
    limits = f"a {'finite ' if finite else ''}number"
    low, high = (least, above), (most, below)
    if low != (None, None) and high != (None, None):
        left, right = "[" if above is None else "(", "]" if below is None else ")"
        limits = f"a number in {left}{_first(low)}, {_first(high)}{right}"
    elif low != (None, None):
        limits += f" of at least {least}" if above is None else f" above {above}"
    elif high != (None, None):
        limits += f" of at most {most}" if below is None else f" below {below}"

    def accepts(value: Any) -> bool:
        return (
            is_number(value)
            and not (finite and math.isinf(value))
            and (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    return kind(limits, accepts)


def _first(values: tuple[float | None, ...]) -> float | None:
    return next(value for value in values if value is not None)


# -- other values --------------------------------------------------------------------------------------------------


def one_of(*options: str) -> Kind:
    """
    :param options: words
    :return: one of these
    """
    return Kind(tuple(map(repr, options)), lambda value: isinstance(value, str) and value in options, options)


def instance(text: str, *types: type) -> Kind:
    """
    :param text: what is allowed
    :param types: classes
    :return: objects of one of these
    """
    return kind(text, lambda value: isinstance(value, types))


def subclass(base: type) -> Kind:
    """
    :param base: a class
    :return: classes that derive from it
    """
    return kind(
        f"a class derived from {base.__name__}", lambda value: isinstance(value, type) and issubclass(value, base)
    )


def keyword_arguments(value: Any) -> bool:
    """
    :param value: anything
    :return: whether it can be passed on as keyword arguments
    """
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


NOTHING = kind("None", lambda value: value is None)
FLAG = instance("True or False", bool, np.bool_)
TEXT = instance("a text", str)
PATH = instance("a path", str, os.PathLike)
READABLE = PATH | kind("a binary file", lambda value: hasattr(value, "read"))
WRITABLE = PATH | kind("a binary file", lambda value: hasattr(value, "write"))
#: a function of the remaining progress, from 1 to 0, as Stable-Baselines3 has it
SCHEDULE = kind("a schedule", lambda value: callable(value) and not isinstance(value, type))
ARGUMENTS = kind("a dictionary {argument: value}", lambda value: isinstance(value, dict) and keyword_arguments(value))


def _is_device(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | th.device):
        return False
    try:
        th.device("cpu" if value == "auto" else value)
    except RuntimeError:
        return False
    return True


DEVICE = kind("'auto', or a device of torch such as 'cpu' or 'cuda:0'", _is_device)
ENVIRONMENT = kind(
    "an environment",
    lambda value: hasattr(value, "reset") and hasattr(value, "step") and not isinstance(value, type),
)
ENVIRONMENT_OR_ID = ENVIRONMENT | instance("its id", str)
#: a function, a module or an object that can be called
FUNCTION = kind("a function", lambda value: callable(value) and not isinstance(value, type))


def _is_array(value: Any, kinds: str) -> bool:
    """Whether it holds numbers of these of NumPy's kinds, in any shape; it is not copied."""
    if isinstance(value, th.Tensor):
        return not value.is_complex() and ("f" in kinds or not value.is_floating_point())
    if isinstance(value, str | bytes | bool | np.bool_) or value is None:
        return False
    try:
        return np.asarray(value).dtype.kind in kinds
    except (ValueError, TypeError):
        return False


#: of any shape; whether they are finite is the function's matter, which can say where
NUMBERS = kind("numbers", lambda value: _is_array(value, "biuf"))
#: of which each is checked later, with its index
ARRAY = kind("an array of numbers", lambda value: _is_array(value, "biuf") and np.ndim(value) >= 1)
ROWS = kind(
    "an array of whole numbers, or a mask",
    lambda value: _is_array(value, "biuf") and np.ndim(value) >= 1 and (_is_array(value, "biu") or len(value) == 0),
)
NOT_ZERO = kind("a finite number other than 0", lambda value: number().accepts(value) and value != 0)

# -- types of arguments, for annotations ---------------------------------------------------------------------------

Count = Annotated[int, whole(1)]
CountFromZero = Annotated[int, whole(0)]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Positive = Annotated[float, number(above=0)]
NotNegative = Annotated[float, number(0)]
#: in [0, 1]
Fraction = Annotated[float, number(0, 1)]
#: in (0, 1)
InnerFraction = Annotated[float, number(above=0, below=1)]
#: in (0, 1]
Share = Annotated[float, number(above=0, most=1)]
NotZero = Annotated[float, NOT_ZERO]
Numbers = Annotated[ArrayLike, NUMBERS]
Rows = Annotated[np.ndarray, ROWS]
Environment = Annotated[GymEnv | str, ENVIRONMENT_OR_ID]
Device = Annotated[th.device | str, DEVICE]
