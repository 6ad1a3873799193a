"""Errors for people: the nearest name that exists, where one reads more, what to install, runs that are not finite."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

#: headings of the documentation's page on troubleshooting that errors lead to
Symptom = Literal["NaN", "It cannot be loaded", "Two callbacks decide the same", "A package is missing"]


#: packages whose lines are none of the user's, where they call us or are called by us
_INNER = frozenset({"sb3_o2o", "stable_baselines3", "contextlib", "functools", "torch"})


def warn(message: str) -> None:
    """
    Warn at the line of the user's that led here, however many functions lie between.

    :param message: what is wrong, and what to do
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _INNER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


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
        return " ".join(each for each in (self.what, self.advice, where) if each) + look_up("NaN")


def look_up(symptom: Symptom) -> str:
    """
    :param symptom: a heading of the page
    :return: a sentence that leads there, which follows others
    """
    return f" See docs/troubleshooting.md, {symptom!r}."


def missing_package(what: str, package: str, extra: str, cause: Exception | None = None) -> ImportError:
    """
    Build the error for a package that only some need, saying how to install it.

    :param what: what it is needed for, with its verb: ``"A Parquet file needs"``
    :param package: its name
    :param extra: ours that brings it
    :param cause: what importing it said
    :return: the error, to be raised by the caller
    """
    said = "" if cause is None else f" ({cause})"
    return ImportError(f"{what} {package}: pip install 'sb3_o2o[{extra}]'{said}.{look_up('A package is missing')}")


def unknown(kind: str, name: object, options: Iterable[str]) -> ValueError:
    """
    Build the error for a name that does not exist, naming the nearest one that does.

    :param kind: what the name stands for, e.g. ``"objective"``
    :param name: what was given
    :param options: the names that exist; private ones are not told
    :return: the error, to be raised by the caller
    """
    options = sorted(option for option in options if not option.startswith("_"))
    return ValueError(f"Unknown {kind} {name!r}.{nearest(name, options)} Available: {', '.join(options)}.")


def nearest(name: object, options: Iterable[str]) -> str:
    """
    :param name: what was given
    :param options: the names that exist
    :return: a question for the nearest of them, which follows a sentence; nothing if none is near
    """
    found = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.4)
    return f" Did you mean {found[0]!r}?" if found else ""
