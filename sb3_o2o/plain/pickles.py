"""
Pickles of others, opened without running their code: Stable-Baselines3's models, replay buffers and ``VecNormalize``.
Every call that a pickle makes is one of the few below, with its arguments checked; no class is made by its constructor.
"""

from __future__ import annotations

import enum
import mmap
import pickle
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_o2o.plain import numeric, pickled_numbers
from sb3_o2o.plain.allowlist import UntrustedError, current_name, is_trusted, safe_global, trusted_global
from sb3_o2o.plain.decoder import new_object, set_state
from sb3_o2o.plain.encoder import OPENERS
from sb3_o2o.plain.pickle_machine import PickleMachine

_CONTAINERS = (list, tuple, set, frozenset, dict, deque)
_GENERATORS = (np.random.Generator, np.random.RandomState, np.random.BitGenerator)
_CODE = "a function or class that brings its code along"


def load_pickle(source: bytes | str | Path, trust: bool = False) -> Any:
    """
    :param source: a pickle, or the file of one
    :param trust: whether it may run any code
    :return: what it holds
    :raises UntrustedError: if it needs more than what is on the list, and there is no trust
    :raises ValueError: if it is damaged, or made by classes that are not installed
    :raises OSError: if there is no such file
    """
    where, trust = "" if isinstance(source, bytes) else str(source), is_trusted(trust)
    try:
        if isinstance(source, bytes):
            return pickle.loads(source) if trust else PickleMachine(_Careful()).run(source)
        with open(source, "rb") as file:
            if trust:
                return pickle.load(file)
            if not Path(source).stat().st_size:
                raise ValueError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return PickleMachine(_Careful()).run(mapped)
    except UntrustedError as error:
        raise error.within(where) from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises whatever it happens to run into
        raise ValueError(
            f"{where or 'It'} cannot be unpickled: {error}. It may be truncated, or from other versions."
        ) from error


def needs_trust(names: Iterable[tuple[str, str]]) -> list[str]:
    """
    :param names: globals of a pickle, by module and name
    :return: those that :func:`load_pickle` refuses, dotted
    """
    found = []
    for module, name in names:
        try:
            _Careful().named(module, name)
        except UntrustedError:
            found.append(f"{module}.{name}")
        except ValueError:  # listed, and not installed
            continue
    return found


class _Function:
    """A function that pickles call, and that is no value."""

    def __init__(self, call: Callable[..., Any]):
        self.call = call


class _Careful:
    """Makes what is listed and refuses the rest."""

    def named(self, module: str, name: str) -> Any:
        module, name = current_name(module, name)
        if (module, name) in _CALLS:
            return _CALLS[module, name]
        if (module, name) in OPENERS:
            return _Function(trusted_global(module, name))
        if module == "torch" and isinstance(getattr(th, name, None), th.dtype):
            return getattr(th, name)
        if module.startswith("cloudpickle"):
            raise UntrustedError(_CODE)
        return safe_global(module, name)

    def called(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        if isinstance(what, _Function):
            return what.call(*arguments)
        if isinstance(what, type) and issubclass(what, enum.Enum) and len(arguments) == 1:
            return what(arguments[0])
        if what in _CONSTRUCTORS:
            return _CONSTRUCTORS[what](*arguments)
        raise UntrustedError(_name(what, "a call of "))

    def made(self, what: Any, arguments: tuple[Any, ...]) -> Any:
        if what in _CONSTRUCTORS:
            return _CONSTRUCTORS[what](*arguments)
        if not isinstance(what, type):
            raise UntrustedError(_name(what, "an object of "))
        if issubclass(what, tuple) and what is not tuple:
            return tuple.__new__(what, arguments)
        if arguments:
            raise UntrustedError(_name(what, "a call of "))
        return new_object(what)

    def with_state(self, made: Any, state: Any) -> Any:
        if isinstance(made, np.dtype):
            return pickled_numbers.dtype_with_state(made, state)
        if type(made) is np.ndarray:
            return pickled_numbers.array_with_state(made, state)
        if isinstance(made, _GENERATORS):
            return pickled_numbers.generator_with_state(made, state)
        if isinstance(made, np.random.SeedSequence):
            return pickled_numbers.seeds_with_state(made, state)
        if isinstance(made, type | _Function) or not _is_object(made):
            raise UntrustedError(_name(made, "a change of "))
        set_state(made, state)
        return made

    def extended(self, made: Any, items: list[Any]) -> None:
        if isinstance(made, list):
            list.extend(made, items)
        elif isinstance(made, deque):
            deque.extend(made, items)
        elif isinstance(made, set):
            set.update(made, items)
        else:
            raise ValueError(f"it puts items into a {type(made).__name__}")

    def filled(self, made: Any, pairs: list[tuple[Any, Any]]) -> None:
        if not isinstance(made, dict):
            raise ValueError(f"it puts items into a {type(made).__name__}")
        for key, value in pairs:
            made[key] = value


def _is_object(made: Any) -> bool:
    """Whether its class is listed: nothing else has been made here, and nothing else is given a state."""
    kind = type(made)
    return safe_global(kind.__module__, kind.__qualname__) is kind


def _name(what: Any, text: str) -> str:
    kind = what if isinstance(what, type) else type(what)
    return f"{text}{kind.__module__}.{kind.__qualname__}"


# -- calls ---------------------------------------------------------------------------------------------------------


def _member(kind: Any, name: Any) -> Any:
    """Some versions of Python pickle members of enumerations as attributes, which is all that may be asked for."""
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum) and name in kind.__members__):
        raise UntrustedError("builtins.getattr")
    return kind.__members__[name]


def _reconstructed(kind: Any, base: Any, state: Any) -> Any:
    """Objects in the oldest versions of pickle."""
    if isinstance(kind, type) and issubclass(kind, tuple) and base is tuple and type(state) is tuple:
        return tuple.__new__(kind, state)
    if not isinstance(kind, type) or base is not object or state is not None:
        raise UntrustedError(_name(kind, "an object of "))
    return new_object(kind)


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes in the oldest versions of pickle."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UntrustedError("_codecs.encode")
    return text.encode("latin1")


def _container(make: Callable[[Any], Any]) -> Callable[..., Any]:
    def made(items: Any = ()) -> Any:
        if type(items) not in _CONTAINERS:
            raise UntrustedError(_name(items, "a container of "))
        return make(items)

    return made


def _deque(items: Any = (), maxlen: Any = None) -> deque[Any]:
    return deque(items if type(items) in _CONTAINERS else (), maxlen)


def _defaultdict(factory: Any = None, items: Any = ()) -> defaultdict[Any, Any]:
    if not (factory is None or isinstance(factory, type)):
        raise UntrustedError(_name(factory, "a default of "))
    return defaultdict(factory, dict(items) if type(items) in _CONTAINERS else {})


def _bytes(*arguments: Any) -> Any:
    if len(arguments) == 2:
        return _encoded(*arguments)
    if arguments and type(arguments[0]) not in (bytes, list):  # a number would be a length
        raise UntrustedError("builtins.bytes")
    return bytes(*arguments)


_CONSTRUCTORS: dict[Any, Callable[..., Any]] = {
    list: _container(list),
    tuple: _container(tuple),
    set: _container(set),
    frozenset: _container(frozenset),
    dict: _container(dict),
    OrderedDict: _container(OrderedDict),
    deque: _deque,
    defaultdict: _defaultdict,
    bytes: _bytes,
    complex: lambda real, imaginary=0.0: complex(float(real), float(imaginary)),
}

#: what pickles call, by where it is
_CALLS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _Function(_encoded),
    ("builtins", "bytearray"): _Function(lambda *arguments: bytearray(_bytes(*arguments))),
    ("builtins", "getattr"): _Function(_member),
    ("builtins", "object"): object,
    ("builtins", "slice"): _Function(slice),
    ("builtins", "range"): _Function(lambda *arguments: range(*map(int, arguments))),
    ("copyreg", "_reconstructor"): _Function(_reconstructed),
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _Function(pickled_numbers.dtype),
    ("numpy._core.multiarray", "_reconstruct"): _Function(pickled_numbers.empty_array),
    ("numpy._core.multiarray", "scalar"): _Function(pickled_numbers.scalar),
    ("numpy._core.numeric", "_frombuffer"): _Function(pickled_numbers.array_of_buffer),
    ("numpy.random._pickle", "__bit_generator_ctor"): _Function(pickled_numbers.bit_generator),
    ("numpy.random._pickle", "__generator_ctor"): _Function(pickled_numbers.generator),
    ("numpy.random._pickle", "__randomstate_ctor"): _Function(pickled_numbers.random_state),
    ("numpy.random.bit_generator", "SeedSequence"): np.random.SeedSequence,
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"): _Function(pickled_numbers.seed_sequence),
    ("torch", "device"): _Function(
        lambda kind, index=None: th.device(kind) if index is None else th.device(kind, index)
    ),
    ("torch", "Size"): _Function(_container(th.Size)),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(pickled_numbers.tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(pickled_numbers.parameter),
    ("torch.storage", "_load_from_bytes"): _Function(pickled_numbers.storage),
}
for _bits in numeric.BIT_GENERATORS.values():
    _CALLS[_bits.__module__, _bits.__qualname__] = _bits
