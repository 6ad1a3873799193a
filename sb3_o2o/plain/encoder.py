"""
Python values as JSON. What JSON knows stays as it is, anything else becomes a node: a dictionary whose key ``"!"`` says
what it is. Arrays lie in parts of their own. What only code can make again, such as a lambda or a class of a script, is
pickled into a part that nothing reads without trust.
"""

from __future__ import annotations

import base64
import copyreg
import enum
import math
import random
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import cloudpickle
import numpy as np
import torch as th

from sb3_o2o.plain import numeric
from sb3_o2o.plain.allowlist import is_importable
from sb3_o2o.plain.parts import PartsWriter

#: version of the nodes, which every file of ours carries
FORMAT = 1
#: functions that objects name as what makes them again, by where they are; the decoder knows them too
OPENERS = {("sb3_o2o.data.dataset", "DatasetReference.open")}
_LONG_BYTES = 256
#: what lies deeper is pickled
_DEEPEST = 100


class _NotPlain(Exception):
    """Only code can make this again."""


class Together(dict[str, Any]):
    """
    What is plain as a whole or code as a whole. A part that is code is pickled by itself, and would come back with
    copies of what it shares with the rest. It is read as a dictionary.
    """


class Encoder:
    """
    Turns values into JSON. What is met twice is written once, so that it is one object again.

    :param parts: where arrays and code go
    """

    def __init__(self, parts: PartsWriter):
        self._parts = parts
        self._met: dict[int, tuple[dict[str, Any], Any]] = {}
        self._storages: dict[int, tuple[int, Any]] = {}
        self._n_shared = self._depth = 0
        self._is_together = False

    def encode(self, value: Any) -> Any:
        """
        :param value: anything
        :return: it as JSON
        :raises TypeError: if it cannot even be pickled
        :raises ValueError: if it is nested too deeply
        """
        try:
            return _simplified(self._node(value))
        except RecursionError:
            raise ValueError(f"A {type(value).__name__} is nested too deeply to be saved.") from None

    def _node(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < 2**63 else {"!": "int", "hex": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"!": "float", "text": repr(value)}
        if id(value) in self._met:
            return self._again(value)
        if kind is Together:
            return self._together(value)
        simple = _SIMPLE.get(kind)
        if simple is not None:
            return simple(self, value)
        node: dict[str, Any] = {}
        self._met[id(value)] = node, value  # kept alive: another object must not get its id
        self._depth += 1
        try:
            node.update(self._composed(value))
        except _NotPlain as reason:
            if self._is_together:
                raise _NotPlain(*(reason.args or (_name_of(kind),))) from None
            node.update(self._code(value, _name_of(kind)))
        finally:
            self._depth -= 1
        return node

    def _together(self, value: Together) -> dict[str, Any]:
        before, self._is_together = dict(self._met), True
        try:
            return self._node(dict(value))  # type: ignore[no-any-return]
        except _NotPlain as reason:
            self._met = before
            return self._code(dict(value), str(reason))
        finally:
            self._is_together = False

    def _again(self, value: Any) -> dict[str, Any]:
        node, _ = self._met[id(value)]
        if "#" not in node:
            node["#"], self._n_shared = self._n_shared, self._n_shared + 1
        return {"!": "ref", "#": node["#"]}

    def _nodes(self, values: Any) -> list[Any]:
        return [self._node(each) for each in values]

    def _pairs(self, mapping: Any) -> list[list[Any]]:
        return [[self._node(key), self._node(value)] for key, value in mapping.items()]

    # -- what has identity -----------------------------------------------------------------------------------------

    def _composed(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if self._depth > _DEEPEST:
            raise _NotPlain
        if kind in (list, set):
            return {"!": kind.__name__, "items": self._nodes(value)}
        if kind is dict or (kind is OrderedDict and not vars(value)):
            return {"!": kind.__name__, "pairs": self._pairs(value)}
        if kind is defaultdict:
            return {"!": "defaultdict", "factory": self._node(value.default_factory), "pairs": self._pairs(value)}
        if kind is deque:
            return {"!": "deque", "maxlen": value.maxlen, "items": self._nodes(value)}
        if kind is bytearray:
            return {"!": "bytearray", **self._bytes_of(bytes(value))}
        for family, compose in _FAMILIES:
            if isinstance(value, family):
                return compose(self, value)
        return self._object(value)

    def _array(self, array: np.ndarray) -> dict[str, Any]:
        if type(array) is not np.ndarray:
            raise _NotPlain
        if array.dtype.hasobject:
            if array.dtype != np.dtype(object):
                raise _NotPlain
            items, shape = array.ravel().tolist(), list(array.shape)
            if all(type(each) is dict and not each for each in items):  # hindsight's buffers hold a million of these
                return {"!": "objects", "shape": shape, "empty": len(items)}
            return {"!": "objects", "shape": shape, "items": self._nodes(items)}
        if not numeric.is_storable(array.dtype):
            raise _NotPlain
        return {"!": "array", "part": self._parts.add_array(array)}

    def _tensor(self, tensor: th.Tensor) -> dict[str, Any]:
        try:
            node = numeric.tensor_node(tensor)
        except TypeError:
            raise _NotPlain from None
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = self._parts.add_array(numeric.storage_bytes(tensor)), storage
        return {**node, "storage": self._storages[key][0]}

    def _generator(self, value: Any) -> dict[str, Any]:
        if isinstance(value, th.Generator):
            return {"!": "torch.Generator", "device": str(value.device), "state": self._node(value.get_state())}
        if isinstance(value, random.Random):
            if type(value) is not random.Random:
                raise _NotPlain
            return {"!": "Random", "state": self._node(value.getstate())}
        node = numeric.generator_node(value, self._node)
        if node is None:
            raise _NotPlain
        return node  # type: ignore[no-any-return]

    def _global(self, item: Any) -> dict[str, Any]:
        kind = "class" if isinstance(item, type) else "function"
        name = f"{getattr(item, '__module__', None)}:{getattr(item, '__qualname__', kind)}"
        if is_importable(item):
            return {"!": kind, "name": name}
        return {"!": kind, "name": name, "code": self._parts.add_code(cloudpickle.dumps(item))}

    def _number(self, value: Any) -> dict[str, Any]:
        dtype = value if isinstance(value, np.dtype) else value.dtype
        if dtype != np.dtype(object) and not numeric.is_storable(dtype):
            raise _NotPlain
        if value is not dtype:
            return numeric.scalar_node(value) if numeric.is_plain_dtype(dtype) else self._array_part("scalar", value)
        if dtype == np.dtype(object) or numeric.is_plain_dtype(dtype):
            return {"!": "dtype", "text": dtype.str}
        return self._array_part("dtype", np.empty(0, dtype))

    def _array_part(self, kind: str, value: Any) -> dict[str, Any]:
        return {"!": kind, "part": self._parts.add_array(np.asarray(value))}

    def _member(self, value: enum.Enum) -> dict[str, Any]:
        if value.name not in type(value).__members__:  # several flags at once
            raise _NotPlain
        return {"!": "enum", "class": self._node(type(value)), "name": value.name}

    def _named(self, value: tuple[Any, ...]) -> dict[str, Any]:
        if getattr(value, "__dict__", None) or not hasattr(value, "_fields"):
            raise _NotPlain
        return {"!": "named", "class": self._node(type(value)), "items": self._nodes(value)}

    def _object(self, value: Any) -> dict[str, Any]:
        """By the protocol of ``copy`` and ``pickle``, where it says no more than a class and a state."""
        kind = type(value)
        reduced = value.__reduce_ex__(2)
        if kind in copyreg.dispatch_table or isinstance(reduced, str):
            raise _NotPlain
        function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
        if name in OPENERS and state is None:
            return {"!": "opened", "by": ":".join(name), "arguments": self._nodes(arguments)}
        if function is not copyreg.__newobj__ or arguments != (kind,):  # type: ignore[attr-defined]
            raise _NotPlain
        node = {"!": "object", "class": self._node(kind)}
        if items is not None:
            node["items"] = self._nodes(items)
        if pairs is not None:
            node["pairs"] = self._pairs(dict(pairs))
        if state is not None:
            node["state"] = self._node(state)
        return node

    def _code(self, value: Any, name: str) -> dict[str, Any]:
        return {"!": "code", "name": name, "code": self._parts.add_code(cloudpickle.dumps(value))}

    # -- what has none ---------------------------------------------------------------------------------------------

    def _bytes_of(self, value: bytes) -> dict[str, Any]:
        if len(value) >= _LONG_BYTES:
            return {"part": self._parts.add_array(np.frombuffer(value, np.uint8))}
        return {"base64": base64.b64encode(value).decode()}


#: kinds whose values are what they are worth
_SIMPLE: dict[type, Callable[[Encoder, Any], dict[str, Any]]] = {
    bytes: lambda encoder, value: {"!": "bytes", **encoder._bytes_of(value)},
    tuple: lambda encoder, value: {"!": "tuple", "items": encoder._nodes(value)},
    frozenset: lambda encoder, value: {"!": "frozenset", "items": encoder._nodes(value)},
    complex: lambda encoder, value: {"!": "complex", "items": encoder._nodes((value.real, value.imag))},
    slice: lambda encoder, value: {"!": "slice", "items": encoder._nodes((value.start, value.stop, value.step))},
    range: lambda encoder, value: {"!": "range", "items": encoder._nodes((value.start, value.stop, value.step))},
    th.Size: lambda encoder, value: {"!": "torch.Size", "items": list(value)},
    th.dtype: lambda encoder, value: {"!": "torch.dtype", "text": str(value).removeprefix("torch.")},
    th.device: lambda encoder, value: {"!": "torch.device", "text": str(value)},
}


#: kinds with relatives, first come first served
_FAMILIES: tuple[tuple[Any, Callable[[Encoder, Any], dict[str, Any]]], ...] = (
    (np.ndarray, Encoder._array),
    (th.Tensor, Encoder._tensor),
    (np.random.Generator | np.random.RandomState | np.random.BitGenerator, Encoder._generator),
    (random.Random | th.Generator, Encoder._generator),
    (type | types.FunctionType | types.BuiltinFunctionType, Encoder._global),
    (enum.Enum, Encoder._member),
    (np.generic | np.dtype, Encoder._number),
    (PurePath, lambda encoder, value: {"!": "path", "text": str(value)}),
    (tuple, Encoder._named),
)


def _name_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _simplified(node: Any) -> Any:
    """Lists and dictionaries that nothing else names look like themselves."""
    if isinstance(node, list):
        return [_simplified(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("!") == "list" and "#" not in node:
        return _simplified(node["items"])
    if node.get("!") == "dict" and "#" not in node:
        keys = [key for key, _ in node["pairs"]]
        if all(isinstance(key, str) for key in keys) and "!" not in keys:
            return {key: _simplified(value) for key, value in node["pairs"]}
    return {key: _simplified(value) for key, value in node.items()}
