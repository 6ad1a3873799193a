"""Pickles that would run code: each leaves a marker file where it is run. None of them may."""

import base64
import builtins
import functools
import io
import operator
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def touching(marker: Path) -> str:
    """Python that makes the marker."""
    return f"open({str(marker)!r}, 'w').close()"


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _call(module: str, name: str, argument: str) -> bytes:
    """In the oldest version, which a class does not stand in the way of."""
    return _global(module, name) + b"(V" + argument.encode() + b"\ntR"


def _chain(code: str) -> bytes:
    """``getattr(__import__("builtins"), "exec")(code)``, by attributes of what is already there."""
    get = _global("builtins", "getattr") + b"(" + _call("builtins", "__import__", "builtins") + b"Vexec\ntR"
    return get + b"(V" + code.encode() + b"\ntR."


def _with_state(kind: str, state: bytes) -> bytes:
    return _global(*kind.rsplit(".", 1)) + state + b"b."


def pickles(marker: Path) -> dict[str, bytes]:
    """By what they try."""
    code, shell = touching(marker), f"touch {marker}"
    made: dict[str, Callable[[], bytes]] = {
        "os.system": lambda: pickle.dumps(Calls(os.system, shell)),
        "posix.system": lambda: _call("posix", "system", shell) + b".",
        "eval": lambda: pickle.dumps(Calls(eval, code)),
        "exec": lambda: pickle.dumps(Calls(exec, code)),
        "an old exec": lambda: _call("__builtin__", "exec", code) + b".",
        "subprocess": lambda: b"csubprocess\nPopen\n((lVtouch\naV" + str(marker).encode() + b"\natR.",
        "a chain of getattr": lambda: _chain(code),
        "getattr of a listed class": lambda: (
            _global("builtins", "getattr")
            + b"("
            + _global("stable_baselines3.sac.policies", "SACPolicy")
            + b"Vload\ntR."
        ),
        "an attribute of a module": lambda: _global("sb3_o2o.networks.layers", "th.load") + b".",
        "what a module of ours imports": lambda: _call("sb3_o2o.networks.ratio", "create_mlp", "1") + b".",
        "partial": lambda: pickle.dumps(Calls(functools.partial(exec, code))),
        "a call of partial": lambda: pickle.dumps(Calls(functools.partial, exec, code)),
        "operator": lambda: pickle.dumps(Calls(operator.methodcaller("write_text", "x"), marker)),
        "map": lambda: pickle.dumps(Calls(list, Calls(map, exec, [code]))),
        "torch.load": lambda: pickle.dumps(Calls(th.load, str(marker))),
        "numpy.load": lambda: pickle.dumps(Calls(np.load, str(marker))),
        "open": lambda: pickle.dumps(Calls(builtins.open, str(marker), "w")),
        "a pickle in a pickle": lambda: pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(os.system, shell)))),
        "a pickle in an array": lambda: pickle.dumps(np.array([Calls(os.system, shell)], object)),
        "a pickle in a tensor's storage": lambda: (
            _global("torch.storage", "_load_from_bytes") + b"(" + _bytes(_saved_by_torch(shell)) + b"tR."
        ),
        "the constructor of a listed class": lambda: (
            _call("stable_baselines3.common.noise", "NormalActionNoise", "1") + b"."
        ),
        "the constructor by INST": lambda: b"(V" + shell.encode() + b"\nios\nsystem\n.",
        "the constructor by OBJ": lambda: b"(" + _global("os", "system") + b"V" + shell.encode() + b"\no.",
        "a state of a class": lambda: _with_state(
            "stable_baselines3.sac.policies.SACPolicy", b"(N}Vpredict\n" + _global("os", "system") + b"st"
        ),
        "a harmless state of a class": lambda: _with_state(
            "stable_baselines3.sac.policies.SACPolicy", b"(N}Vpredict\nI1\nst"
        ),
        "a state of a function": lambda: _with_state("numpy.dtype", b"}V__call__\nI1\ns"),
        "a class of a user": lambda: b"(cplain.hostile\nCalls\n)\x81.",
        "a persistent name": lambda: b"Pos.system\n.",
        "an extension": lambda: b"\x82\x01.",
        "a module that would be imported": lambda: _global("this_module_marks", "Thing") + b".",
        "a default that is called": lambda: pickle.dumps(Calls(__import__("collections").defaultdict, exec)),
        "code": lambda: __import__("cloudpickle").dumps(lambda: exec(code)),
    }
    return {name: make() for name, make in made.items()}


def _bytes(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def _saved_by_torch(shell: str) -> bytes:
    stream = io.BytesIO()
    th.save(Calls(os.system, shell), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def damaged_pickles() -> dict[str, bytes]:
    """No code, but no good either: lies about sizes, loops, depths and states."""
    array = pickle.dumps(np.arange(8, dtype=np.float64), protocol=4)
    generator = pickle.dumps(np.random.Generator(np.random.MT19937(1)), protocol=2)
    position = (624).to_bytes(2, "little")
    assert position in generator
    return {
        "nothing": b"",
        "an end": b".",
        "no end": pickle.dumps([1])[:-1],
        "no pickle": b"a text file\n",
        "bytes that are not there": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
        "a long integer that is not there": b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"1.",
        "a length as bytes": b"\x80\x03cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
        "a long range as a list": b"cbuiltins\nlist\n(cbuiltins\nrange\n(I9000000000\ntRtR.",
        "an array of other bytes": array.replace(np.arange(8.0).tobytes(), b"").replace(b"C@\x00", b"C\x00"),
        "a generator beyond its numbers": generator.replace(position, (60_000).to_bytes(2, "little")),
        "a stack that is empty": b"a.",
        "a memo that is not there": b"\x80\x04h\x07.",
        "a stack of marks": b"(" * 5000 + b".",
    }


def encoded(pickled: bytes) -> str:
    """As Stable-Baselines3's models hold pickles."""
    return base64.b64encode(pickled).decode()
