"""What pickles of NumPy and torch call to make arrays, tensors and random generators, with every argument checked."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch as th

from sb3_o2o.plain import numeric

# -- NumPy ---------------------------------------------------------------------------------------------------------


def dtype(text: Any, align: Any = False, copy: Any = True) -> np.dtype[Any]:
    """
    :param text: what ``numpy.dtype`` pickles as: a letter and a size
    :return: a dtype, which its state may replace
    """
    if not isinstance(text, str) or len(text) > 16:
        raise TypeError("a dtype that is no text")
    return np.dtype(text)


def dtype_with_state(made: np.dtype[Any], state: Any) -> np.dtype[Any]:
    """
    :param made: of :func:`dtype`
    :param state: byte order, fields ...
    :return: the dtype
    """
    _, order, subarray, names, fields, itemsize, *others = state
    if made.kind in "mM" and len(others) > 2:
        unit, number, *_ = others[2][1]
        return np.dtype(f"{order}{made.kind}8[{int(number)}{unit.decode()}]")
    if subarray is not None:
        base, shape = subarray
        return np.dtype((_is_dtype(base), tuple(int(each) for each in np.atleast_1d(shape))))
    if names is not None:
        described = {
            "names": list(names),
            "formats": [_is_dtype(fields[name][0]) for name in names],
            "offsets": [int(fields[name][1]) for name in names],
            "itemsize": int(itemsize),
        }
        found: np.dtype[Any] = np.dtype(described)  # type: ignore[call-overload]
        return found
    ordered = made if order in ("|", "=") else made.newbyteorder(order)
    return made if ordered == made else ordered


def _is_dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, np.dtype):
        raise TypeError("a field without dtype")
    return value


def empty_array(kind: Any, shape: Any, letter: Any) -> np.ndarray:
    """
    :param kind: ``numpy.ndarray``
    :return: an array to be given its state
    """
    if kind is not np.ndarray:
        raise TypeError("an array of another class")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def array_with_state(made: np.ndarray, state: Any) -> np.ndarray:
    """
    :param made: of :func:`empty_array`
    :param state: shape, dtype, order and bytes
    :return: the array
    :raises ValueError: if the bytes are not as many as shape and dtype say
    """
    version, shape, kind, fortran, raw = state if len(state) == 5 else (1, *state)
    count = _count(shape)
    if _is_dtype(kind).hasobject:
        if kind != np.dtype(object) or not isinstance(raw, list) or len(raw) != count:
            raise ValueError("an array of Python objects that are not as many as its shape says")
        flat = np.empty(count, object)
        for index, item in enumerate(raw):
            flat[index] = item
        filled = flat.reshape(shape)  # items are listed in C's order whatever the array's
        return np.asfortranarray(filled) if fortran else filled
    if isinstance(raw, str):  # of Python 2
        raw = raw.encode("latin1")
    if not isinstance(raw, bytes) or len(raw) != count * kind.itemsize:
        raise ValueError("an array whose bytes are not as many as its shape says")
    checked: Any = (int(version), tuple(shape), kind, bool(fortran), raw)
    made.__setstate__(checked)  # as pickle does it, without a copy
    return made


def _count(shape: Any) -> int:
    if type(shape) is not tuple or not all(type(each) is int and each >= 0 for each in shape):
        raise ValueError("an array whose shape is no row of whole numbers")
    return math.prod(shape)


def array_of_buffer(buffer: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """
    :param buffer: bytes
    :param kind: dtype
    :param shape: of the array
    :param order: of the bytes; K where ``axes`` are given
    :param axes: order of the axes, for others than C and Fortran's
    :return: the array
    """
    _count(shape)
    if not isinstance(buffer, bytes | bytearray) or _is_dtype(kind).hasobject:
        raise TypeError("an array of what are no bytes")
    if order == "K":  # of images whose channels were put first, the environment's own; ``shape`` is that of the bytes
        if type(axes) is not tuple or sorted(axes) != list(range(len(shape))):
            raise TypeError("an array whose order of axes names others than its own")
        return np.frombuffer(buffer, kind).reshape(shape).transpose(axes)
    if axes is not None or order not in ("C", "F", "A"):
        raise TypeError("an array in an order that is not read here")
    return np.frombuffer(buffer, kind).reshape(shape, order=order)


def scalar(kind: Any, raw: Any = b"") -> Any:
    """
    :param kind: dtype
    :param raw: its bytes
    :return: a NumPy scalar
    """
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    if _is_dtype(kind).hasobject or not isinstance(raw, bytes) or len(raw) != kind.itemsize:
        raise TypeError("a scalar that is not as large as its dtype says")
    # an empty text's dtype has no size, and NumPy finds nothing to read there
    return np.ndarray((), kind, raw)[()] if raw else kind.type()


def bit_generator(kind: Any = "MT19937") -> np.random.BitGenerator:
    """
    :param kind: the class, or its name
    :return: a bit generator, to be given its state
    """
    name = kind.__name__ if isinstance(kind, type) else kind
    return numeric.bit_generator_class(name)(0)


def generator(bits: Any = "MT19937", maker: Any = None) -> np.random.Generator:
    """
    :param bits: a bit generator, or its name
    :return: a generator on it
    """
    return np.random.Generator(bits if isinstance(bits, np.random.BitGenerator) else bit_generator(bits))


def random_state(bits: Any = "MT19937", maker: Any = None) -> np.random.RandomState:
    """
    :param bits: a bit generator, or its name
    :return: an old generator on it
    """
    return np.random.RandomState(bits if isinstance(bits, np.random.BitGenerator) else bit_generator(bits))  # type: ignore[arg-type]


def generator_with_state(made: Any, state: Any) -> Any:
    """
    :param made: a generator or bit generator
    :param state: what it pickles as
    :return: it with its state, or a new one on the same seeds
    """
    if isinstance(made, np.random.Generator):
        if isinstance(state, dict):
            numeric.set_bits(made.bit_generator, state)
        return made
    if isinstance(made, np.random.RandomState):
        numeric.set_old_state(made, state)
        return made
    seeds: Any = None
    if isinstance(state, tuple):
        state, seeds = state
    if isinstance(seeds, np.random.SeedSequence):
        made = type(made)(seeds)
    numeric.set_bits(made, state)
    return made


def seed_sequence(kind: Any, checksum: Any, state: Any) -> np.random.SeedSequence:
    """
    :param kind: ``numpy.random.bit_generator.SeedSequence``
    :param state: entropy, children, pool, size of the pool, key; None if it comes after
    :return: the seeds
    """
    made = np.random.SeedSequence(0)
    return made if state is None else seeds_with_state(made, state)


def seeds_with_state(made: np.random.SeedSequence, state: Any) -> np.random.SeedSequence:
    """
    :param made: of :func:`seed_sequence`
    :param state: see there
    :return: the seeds
    """
    entropy, spawned, _, pool_size, key, *_ = state
    return numeric.seed_sequence(entropy, key, pool_size, spawned)


# -- torch ---------------------------------------------------------------------------------------------------------


def storage(raw: Any) -> tuple[str, th.UntypedStorage]:
    """
    :param raw: what ``torch.save`` made of a storage
    :return: the dtype of its values, and it
    """
    if not isinstance(raw, bytes):
        raise TypeError("a storage of what are no bytes")
    loaded = th.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    if not isinstance(loaded, th.storage.TypedStorage):
        raise TypeError("a storage without dtype")
    return str(loaded.dtype).removeprefix("torch."), loaded._untyped_storage


def tensor(typed: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any, hooks: Any, *_: Any) -> th.Tensor:
    """
    :param typed: the storage, with the dtype of its values
    :return: the tensor
    """
    kind, found = typed
    node = {"dtype": kind, "shape": list(shape), "stride": list(stride), "offset": offset, "device": "cpu"}
    return numeric.tensor({**node, "requires_grad": bool(requires_grad), "parameter": False}, found)


def parameter(data: Any, requires_grad: Any, hooks: Any) -> th.nn.Parameter:
    """
    :param data: a tensor
    :return: a parameter of the same values
    """
    if not isinstance(data, th.Tensor):
        raise TypeError("a parameter that is no tensor")
    return th.nn.Parameter(data.detach(), requires_grad=bool(requires_grad))
