"""Python values from the JSON that :mod:`sb3_o2o.plain.encoder` made, whoever may have made it in truth."""

from __future__ import annotations

import base64
import enum
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_o2o.plain import numeric
from sb3_o2o.plain.allowlist import UntrustedError, is_trusted, safe_global, trusted_global
from sb3_o2o.plain.encoder import OPENERS
from sb3_o2o.plain.parts import PartsReader

#: deeper than anything that is saved
_DEEPEST = 150
#: more than a replay buffer has rows
_MOST_EMPTY = 200_000_000


class Decoder:
    """
    Makes values of JSON. Classes are looked up on the list; no constructor is called but those of the kinds below.

    :param parts: where arrays and code are
    :param trust: whether code may be run and any class be named
    """

    def __init__(self, parts: PartsReader, trust: bool = False):
        self._parts, self._trust = parts, is_trusted(trust)
        self._shared: dict[int, Any] = {}
        self._storages: dict[int, th.UntypedStorage] = {}
        self._depth = 0

    def decode(self, node: Any) -> Any:
        """
        :param node: JSON
        :return: the value
        :raises UntrustedError: if it needs trust and there is none
        :raises ValueError: if it is no node of ours
        """
        try:
            return self._value(node)
        except (UntrustedError, MemoryError):
            raise
        except Exception as error:  # of what was made up anything may go wrong
            raise ValueError(f"it is damaged, or was made up ({type(error).__name__}: {error})") from error

    def _value(self, node: Any) -> Any:
        if node is None or isinstance(node, bool | int | float | str):
            return node
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("nested too deeply")
        try:
            if isinstance(node, list):
                return self._values(node)
            kind = node.get("!")
            if kind is None:
                return {key: self._value(value) for key, value in node.items()}
            return _KINDS[kind](self, node)
        finally:
            self._depth -= 1

    def _values(self, nodes: Any) -> list[Any]:
        if not isinstance(nodes, list):
            raise TypeError("no list")
        return [self._value(each) for each in nodes]

    def _remember(self, node: dict[str, Any], value: Any) -> Any:
        if "#" in node:
            self._shared[node["#"]] = value
        return value

    # -- containers ------------------------------------------------------------------------------------------------

    def _again(self, node: dict[str, Any]) -> Any:
        return self._shared[node["#"]]

    def _list(self, node: dict[str, Any]) -> Any:
        made: list[Any] = self._remember(node, [])
        made.extend(self._values(node["items"]))
        return made

    def _set(self, node: dict[str, Any]) -> Any:
        made: set[Any] = self._remember(node, set())
        made.update(self._values(node["items"]))
        return made

    def _mapping(self, node: dict[str, Any]) -> Any:
        made: Any = {} if node["!"] == "dict" else OrderedDict()
        if node["!"] == "defaultdict":
            factory = self._value(node["factory"])
            if factory is not None and not isinstance(factory, type):
                raise TypeError("a factory that is no class")
            made = defaultdict(factory)
        self._remember(node, made)
        self._fill(made, node["pairs"])
        return made

    def _fill(self, made: dict[Any, Any], pairs: Any) -> None:
        for key, value in pairs:
            made[self._value(key)] = self._value(value)

    def _deque(self, node: dict[str, Any]) -> Any:
        made: deque[Any] = self._remember(node, deque(maxlen=node["maxlen"]))
        made.extend(self._values(node["items"]))
        return made

    def _bytes(self, node: dict[str, Any]) -> Any:
        data = self._parts.array(node["part"]).tobytes() if "part" in node else base64.b64decode(node["base64"])
        return self._remember(node, bytearray(data)) if node["!"] == "bytearray" else data

    # -- numbers ---------------------------------------------------------------------------------------------------

    def _array(self, node: dict[str, Any]) -> Any:
        return self._remember(node, self._parts.array(node["part"]))

    def _objects(self, node: dict[str, Any]) -> Any:
        nodes = node["items"] if "items" in node else [{}] * min(node["empty"], _MOST_EMPTY)
        made = np.empty(len(nodes), object)
        shaped = self._remember(node, made.reshape(node["shape"]))
        for index, item in enumerate(nodes):
            made[index] = self._value(item)
        return shaped

    def _scalar(self, node: dict[str, Any]) -> Any:
        made = self._parts.array(node["part"])[()] if "part" in node else numeric.scalar(node)
        return self._remember(node, made)

    def _dtype(self, node: dict[str, Any]) -> Any:
        if "part" in node:
            return self._remember(node, self._parts.array(node["part"]).dtype)
        text = node["text"]
        return self._remember(node, np.dtype(object) if text == "|O" else numeric.plain_dtype(text))

    def _tensor(self, node: dict[str, Any]) -> Any:
        number = node["storage"]
        if number not in self._storages:
            self._storages[number] = numeric.storage_of(self._parts.array(number))
        return self._remember(node, numeric.tensor(node, self._storages[number]))

    def _generator(self, node: dict[str, Any]) -> Any:
        return self._remember(node, numeric.generator(node, self._value))

    def _torch_generator(self, node: dict[str, Any]) -> Any:
        made = th.Generator(numeric.present_device(node["device"]))
        return self._remember(node, made.set_state(self._value(node["state"])))

    # -- names -----------------------------------------------------------------------------------------------------

    def _global(self, node: dict[str, Any]) -> Any:
        module, _, name = node["name"].partition(":")
        try:
            found = safe_global(module, name)
        except UntrustedError:
            if not self._trust:
                raise
            found = self._from_code(node) if "code" in node else trusted_global(module, name)
        if isinstance(found, type) != (node["!"] == "class"):
            raise TypeError(f"{module}.{name} is no {node['!']}")
        return self._remember(node, found)

    def _from_code(self, node: dict[str, Any]) -> Any:
        import pickle

        if not self._trust:
            raise UntrustedError(node["name"].replace(":", "."))
        return self._remember(node, pickle.loads(self._parts.code(node["code"])))

    def _class(self, node: Any) -> type:
        found = self._value(node)
        if not isinstance(found, type):
            raise TypeError("no class")
        return found

    def _enum(self, node: dict[str, Any]) -> Any:
        kind = self._class(node["class"])
        if not issubclass(kind, enum.Enum):
            raise TypeError(f"{kind.__name__} has no members")
        return self._remember(node, kind.__members__[node["name"]])

    def _path(self, node: dict[str, Any]) -> Any:
        return self._remember(node, Path(node["text"]))

    def _opened(self, node: dict[str, Any]) -> Any:
        module, _, name = node["by"].partition(":")
        if (module, name) not in OPENERS:
            raise UntrustedError(f"{module}.{name}")
        return self._remember(node, trusted_global(module, name)(*self._values(node["arguments"])))

    # -- objects ---------------------------------------------------------------------------------------------------

    def _named(self, node: dict[str, Any]) -> Any:
        kind = self._class(node["class"])
        if not issubclass(kind, tuple):
            raise TypeError(f"{kind.__name__} is no tuple")
        return self._remember(node, tuple.__new__(kind, self._values(node["items"])))

    def _object(self, node: dict[str, Any]) -> Any:
        made = self._remember(node, new_object(self._class(node["class"])))
        for item in self._values(node.get("items", [])):
            made.append(item)
        self._fill(made, node.get("pairs", []))
        if "state" in node:
            set_state(made, self._value(node["state"]))
        return made


def new_object(kind: type) -> Any:
    """
    :param kind: a class that is listed or trusted
    :return: an empty object, whose constructor was not called
    :raises TypeError: if its objects are not of this kind
    """
    if issubclass(kind, type | enum.Enum | tuple):
        raise TypeError(f"{kind.__name__} has no empty objects")
    return kind.__new__(kind)


def set_state(made: Any, state: Any) -> None:
    """
    Give an object its attributes, as ``pickle`` does.

    :param made: of :func:`new_object`
    :param state: what its ``__getstate__`` said
    """
    if isinstance(made, type):
        raise TypeError("a class has no state")
    setter = getattr(made, "__setstate__", None)
    if setter is not None:
        setter(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        vars(made).update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


def _items(make: Callable[[list[Any]], Any]) -> Callable[[Decoder, dict[str, Any]], Any]:
    return lambda decoder, node: make(decoder._values(node["items"]))


def _text(make: Callable[[Any], Any]) -> Callable[[Decoder, dict[str, Any]], Any]:
    return lambda decoder, node: make(node["text"])


_KINDS: dict[str, Callable[[Decoder, dict[str, Any]], Any]] = {
    "ref": Decoder._again,
    "int": lambda decoder, node: int(node["hex"], 16),
    "float": _text(lambda text: {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}[text]),
    "bytes": Decoder._bytes,
    "bytearray": Decoder._bytes,
    "tuple": _items(tuple),
    "frozenset": _items(frozenset),
    "complex": _items(lambda items: complex(*items)),
    "slice": _items(lambda items: slice(*items)),
    "range": _items(lambda items: range(*items)),
    "torch.Size": _items(th.Size),
    "torch.dtype": _text(numeric.torch_dtype),
    "torch.device": _text(th.device),
    "list": Decoder._list,
    "set": Decoder._set,
    "dict": Decoder._mapping,
    "OrderedDict": Decoder._mapping,
    "defaultdict": Decoder._mapping,
    "deque": Decoder._deque,
    "array": Decoder._array,
    "objects": Decoder._objects,
    "scalar": Decoder._scalar,
    "dtype": Decoder._dtype,
    "tensor": Decoder._tensor,
    "Generator": Decoder._generator,
    "BitGenerator": Decoder._generator,
    "RandomState": Decoder._generator,
    "Random": lambda decoder, node: decoder._remember(node, numeric.python_generator(decoder._value(node["state"]))),
    "torch.Generator": Decoder._torch_generator,
    "class": Decoder._global,
    "function": Decoder._global,
    "code": Decoder._from_code,
    "enum": Decoder._enum,
    "path": Decoder._path,
    "opened": Decoder._opened,
    "named": Decoder._named,
    "object": Decoder._object,
}
