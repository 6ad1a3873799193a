"""
Copies of the attributes of environments, in which whatever several of them hold is one object again. What an
environment consists of (itself, wrappers, spaces, a simulator) is not copied: a copy names it by its place.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from types import FunctionType, MethodType
from typing import Any

import cloudpickle
import numpy as np
from gymnasium.utils import EzPickle


class Live:
    """
    Stands, in a copy, for a part of an environment, which the environment that goes on has as well.

    :param place: of the part
    :param method: name of one of its methods, where that is meant
    """

    def __init__(self, place: str, method: str = ""):
        self.place, self.method = place, method


def copied(value: Any, places: dict[int, str]) -> tuple[Any, list[np.ndarray]]:
    """
    :param value: to be copied
    :param places: of the parts of the environment, by the ``id`` of each
    :return: the copy, and the arrays that were met in the original
    :raises Exception: if it cannot be pickled, or what would come back is not what it was
    """
    stream = io.BytesIO()
    pickler = _Copying(stream, places)
    pickler.dump(value)
    stream.seek(0)
    return _Naming(stream).load(), pickler.arrays


def resolved(copy: Any, live: dict[str, Any]) -> Any:
    """
    :param copy: of :func:`copied`
    :param live: parts of the environment that goes on, by their places
    :return: a copy of it, with these in their places
    :raises ValueError: if there is nothing in a place
    """
    stream = io.BytesIO()
    _Resolving(stream).dump(copy)
    stream.seek(0)
    return _Placing(stream, live).load()


def in_one_memory(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """
    :param arrays: any
    :return: those of which another one is a view, or that are views of the same: copies are apart
    """
    by_owner: dict[int, list[np.ndarray]] = {}
    for array in {id(each): each for each in arrays}.values():
        by_owner.setdefault(id(owner_of(array)), []).append(array)
    return [
        array
        for group in by_owner.values()
        for array in group
        if any(each is not array and np.may_share_memory(each, array) for each in group)
    ]


def owner_of(array: np.ndarray) -> Any:
    """
    :param array: any
    :return: the object that has its memory
    """
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner


def is_simulators(value: Any) -> bool:
    """
    :param value: anything
    :return: whether it is an array in the memory of a simulator in C
    """
    return isinstance(value, np.ndarray) and type(owner_of(value)).__name__ == "PyCapsule"


class _Copying(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, places: dict[int, str]):
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._places = places
        self.arrays: list[np.ndarray] = []

    def persistent_id(self, value: Any) -> Any:
        if id(value) in self._places:
            return self._places[id(value)], ""
        if type(value) is MethodType and id(value.__self__) in self._places:
            return self._places[id(value.__self__)], value.__name__
        return None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, EzPickle):
            raise pickle.PicklingError(f"Of a {type(value).__name__} a pickle keeps the constructor's arguments alone.")
        if is_simulators(value):
            raise pickle.PicklingError("An array in the memory of a simulator would be apart from it.")
        if isinstance(value, np.ndarray):
            self.arrays.append(value)
        return NotImplemented


class _Naming(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO):
        super().__init__(stream)
        self._names: dict[tuple[str, str], Live] = {}

    def persistent_load(self, which: tuple[str, str]) -> Live:
        return self._names.setdefault(which, Live(*which))


class _Resolving(cloudpickle.Pickler):  # type: ignore[misc]
    """Classes of a script that were read from a file are found nowhere by their names, which ``pickle`` asks for."""

    def persistent_id(self, value: Any) -> Any:
        return (value.place, value.method) if type(value) is Live else None


class _Placing(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, live: dict[str, Any]):
        super().__init__(stream)
        self._live = live

    def persistent_load(self, which: tuple[Any, Any]) -> Any:
        place, name = which
        part = self._live.get(place)
        if part is None:
            raise ValueError(
                f"The saved environments had a part {place!r}, these have not: make and wrap them in the same way."
            )
        if not name:
            return part
        method = getattr(type(part), name, None)  # of the class: nothing of the part is run
        if not isinstance(method, FunctionType):
            raise ValueError(f"The saved environments had a method {name} at {place}, these have not.")
        return MethodType(method, part)
