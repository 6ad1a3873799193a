"""Arrays, tensors and random generators as plain data: how each is taken apart and made again."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

#: random bit generators by name
BIT_GENERATORS: dict[str, Any] = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}
#: devices whose tensors are bytes with shape and strides
_DEVICES = ("cpu", "cuda", "mps")

#: what turns values into nodes, or nodes into values
Coder = Callable[[Any], Any]


# -- NumPy ---------------------------------------------------------------------------------------------------------


def is_plain_dtype(dtype: np.dtype[Any]) -> bool:
    """
    :param dtype: any
    :return: whether its values are bytes of one kind: no fields, no Python objects
    """
    return not dtype.hasobject and dtype.names is None and dtype.subdtype is None and dtype.isbuiltin in (0, 1)


def is_storable(dtype: np.dtype[Any]) -> bool:
    """
    :param dtype: any
    :return: whether a file of NumPy's says what it is, in the versions of the format that are read here
    """
    if dtype.names is None:
        return not dtype.hasobject
    described = np.lib.format.dtype_to_descr(dtype)
    is_latin = str(described).encode("latin1", "replace").decode("latin1") == str(described)
    return not dtype.hasobject and is_latin and np.lib.format.descr_to_dtype(described) == dtype


def plain_dtype(text: str) -> np.dtype[Any]:
    """
    :param text: ``dtype.str``
    :return: the dtype
    :raises ValueError: for one of fields or Python objects
    """
    dtype = np.dtype(text) if isinstance(text, str) else np.dtype(object)
    if not is_plain_dtype(dtype):
        raise ValueError(f"{text!r} is no dtype of plain values")
    return dtype


def scalar_node(value: np.generic) -> dict[str, Any]:
    """
    :param value: a NumPy scalar of a plain dtype
    :return: its node
    """
    return {"!": "scalar", "dtype": value.dtype.str, "base64": base64.b64encode(value.tobytes()).decode()}


def scalar(node: dict[str, Any]) -> np.generic:
    """
    :param node: of :func:`scalar_node`
    :return: the scalar
    """
    dtype, data = plain_dtype(node["dtype"]), base64.b64decode(node["base64"], validate=True)
    if dtype.itemsize and len(data) != dtype.itemsize:
        raise ValueError("a scalar of another size than its dtype has")
    made: Any = np.ndarray((), dtype, data)[()] if dtype.itemsize else dtype.type()
    return made  # type: ignore[no-any-return]


def generator_node(value: np.random.Generator | np.random.RandomState | np.random.BitGenerator, encode: Coder) -> Any:
    """
    :param value: a random generator of NumPy
    :param encode: for what is in it
    :return: its node; None for one on a bit generator that is not NumPy's
    """
    if isinstance(value, np.random.RandomState):
        return {"!": "RandomState", "state": encode(value.get_state(legacy=False))}
    bits: Any = value.bit_generator if isinstance(value, np.random.Generator) else value
    if BIT_GENERATORS.get(type(bits).__name__) is not type(bits):
        return None
    kind = "Generator" if isinstance(value, np.random.Generator) else "BitGenerator"
    node = {"!": kind, "bits": type(bits).__name__, "state": encode(bits.state)}
    seeds = bits.seed_seq
    if type(seeds) is np.random.SeedSequence:
        node["seeds"] = encode([seeds.entropy, seeds.spawn_key, seeds.pool_size, seeds.n_children_spawned])
    return node


def generator(node: dict[str, Any], decode: Coder) -> Any:
    """
    :param node: of :func:`generator_node`
    :param decode: for what is in it
    :return: the generator
    """
    if node["!"] == "RandomState":
        made = np.random.RandomState(0)
        set_old_state(made, decode(node["state"]))
        return made
    seeds = seed_sequence(*decode(node["seeds"])) if "seeds" in node else 0
    bits = bit_generator_class(node["bits"])(seeds)
    set_bits(bits, decode(node["state"]))
    return np.random.Generator(bits) if node["!"] == "Generator" else bits


def bit_generator_class(name: Any) -> Any:
    """
    :param name: of one of NumPy's
    :return: the class
    """
    if name not in BIT_GENERATORS:
        raise ValueError(f"{name!r} is no bit generator of NumPy")
    return BIT_GENERATORS[name]


def set_bits(bits: np.random.BitGenerator, state: Any) -> None:
    """
    :param bits: a bit generator
    :param state: its ``state``; NumPy does not check where in its numbers it stands, and would read beyond them
    """
    inner = state.get("state", {})
    places = inner.get("pos", 0) if isinstance(inner, dict) else 0, state.get("buffer_pos", 0)
    if not (0 <= int(places[0]) <= 624 and 0 <= int(places[1]) <= 4):
        raise ValueError("a random generator that stands beyond its numbers")
    bits.state = state


def set_old_state(made: np.random.RandomState, state: Any) -> None:
    """
    :param made: an old generator
    :param state: of ``get_state``, in either form
    """
    check_old_state(state)
    made.set_state(state)


def check_old_state(state: Any) -> None:
    """
    :param state: of ``RandomState.get_state``, in either form
    :raises ValueError: if it stands beyond its numbers, see :func:`set_bits`
    """
    position = state[2] if isinstance(state, tuple) else state["state"]["pos"]
    if not 0 <= int(position) <= 624:
        raise ValueError("a random generator that stands beyond its numbers")


def seed_sequence(entropy: Any, key: Any, pool_size: Any, spawned: Any) -> np.random.SeedSequence:
    """
    :param entropy: whole numbers, or None
    :param key: which child of its parent it is
    :param pool_size: of its numbers
    :param spawned: children it has
    :return: the seeds
    """
    if int(pool_size) > 1024:
        raise ValueError("seeds of a larger pool than anybody uses")
    return np.random.SeedSequence(entropy, spawn_key=key, pool_size=pool_size, n_children_spawned=spawned)


def python_generator(state: Any) -> random.Random:
    """
    :param state: of ``random.Random.getstate``
    :return: the generator
    """
    made = random.Random(0)
    made.setstate(state)
    return made


# -- torch ---------------------------------------------------------------------------------------------------------


def tensor_node(tensor: th.Tensor) -> dict[str, Any]:
    """
    :param tensor: one or a parameter
    :return: its node, without its storage
    :raises TypeError: for a tensor that is not bytes with shape and strides
    """
    is_strided = tensor.layout == th.strided and not tensor.is_quantized and tensor.device.type in _DEVICES
    if not is_strided or tensor.is_conj() or tensor.is_neg() or type(tensor) not in (th.Tensor, th.nn.Parameter):
        raise TypeError(f"a {tensor.layout} tensor on {tensor.device} of type {type(tensor).__name__}")
    if vars(tensor):
        raise TypeError(f"a tensor with attributes of its own: {', '.join(vars(tensor))}")
    return {
        "!": "tensor",
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "offset": tensor.storage_offset(),
        "device": str(tensor.device),
        "requires_grad": tensor.requires_grad,
        "parameter": type(tensor) is th.nn.Parameter,
    }


def storage_bytes(tensor: th.Tensor) -> np.ndarray:
    """
    :param tensor: any strided one
    :return: all bytes that it lies in, which other tensors may lie in as well
    """
    storage = tensor.detach().untyped_storage().cpu()
    return th.empty(0, dtype=th.uint8).set_(storage).numpy()  # type: ignore[call-overload,no-any-return]


def storage_of(data: np.ndarray) -> th.UntypedStorage:
    """
    :param data: bytes, which are not copied
    :return: a storage of them
    """
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError("a storage that is no row of bytes")
    return th.from_numpy(data).untyped_storage()


def tensor(node: dict[str, Any], storage: th.UntypedStorage) -> th.Tensor:
    """
    :param node: of :func:`tensor_node`
    :param storage: its bytes
    :return: the tensor, where it was, or on the CPU if this machine has no such device
    :raises ValueError: if it would reach out of its bytes
    """
    dtype = torch_dtype(node["dtype"])
    shape, stride, offset = node["shape"], node["stride"], node["offset"]
    whole = all(type(each) is int and 0 <= each < 2**62 for each in (*shape, *stride, offset))
    if not whole or len(shape) != len(stride):
        raise ValueError("a tensor whose shape and strides are no whole numbers")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if 0 not in shape and (last + 1) * dtype.itemsize > storage.nbytes():
        raise ValueError("a tensor that reaches out of its storage")
    made = th.empty(0, dtype=dtype)
    if 0 in shape:
        made = th.empty_strided(shape, stride, dtype=dtype)
    else:
        made.set_(storage, offset, tuple(shape), tuple(stride))  # type: ignore[call-overload]
    made = made.to(present_device(node["device"]))
    if node["parameter"]:
        return th.nn.Parameter(made, requires_grad=bool(node["requires_grad"]))
    return made.requires_grad_(True) if node["requires_grad"] else made


def torch_dtype(name: Any) -> th.dtype:
    """
    :param name: without ``torch.``
    :return: the dtype
    """
    dtype = getattr(th, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, th.dtype):
        raise ValueError(f"{name!r} is no dtype of torch")
    return dtype


def present_device(name: Any) -> th.device:
    """
    :param name: of a device, on the machine that wrote it
    :return: the same here, or the CPU
    """
    device = th.device(name)
    if device.type == "cuda" and th.cuda.is_available() and (device.index or 0) < th.cuda.device_count():
        return device
    if device.type == "mps" and th.backends.mps.is_available():
        return device
    return th.device("cpu")
