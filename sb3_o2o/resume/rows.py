"""
The rows of a replay buffer, in files of a few megabytes. A bundle that follows another of the same run takes over, by a
hard link, each file whose rows have not changed, and so writes what is new. Which have changed is asked of their
contents: rows are overwritten when the buffer is full, and some buffers change old ones, as when an episode ends. A
checksum that is kept in memory asks that, four times as fast as the one in the manifest, which only new contents need.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.plain.numeric import plain_dtype
from sb3_o2o.resume.manifest import Manifest, sha256

#: bytes of a file, as far as whole rows allow
BLOCK_BYTES = 2**22
_PREFIX = "replay_buffer.rows"
#: of :func:`quick_checksum`: numbers of 64 bits that are taken at once, so many that NumPy is fast and they stay in the
#: processor's cache; an odd factor without structure; and half of their bits
_LANES, _FACTOR, _HALF = 8192, np.uint64(0x9E3779B97F4A7C15), np.uint64(32)

#: where an array is: names of attributes and keys of dictionaries, from the buffer inwards
Place = tuple[str, ...]
#: of a model's files of rows, in this process: name, and the quick checksum and the SHA-256 of what it held last
Known = dict[str, tuple[bytes, str]]


def taken_apart(buffer: ReplayBuffer) -> dict[str, Any]:
    """
    :param buffer: any replay buffer
    :return: all but its rows: the buffer without them, and of each of their arrays the place, shape and type. The rows
        that were never written are left out: a new buffer for a million steps is mostly zeros
    """
    hollow, arrays = _hollow(buffer, ())
    return {
        "buffer": hollow,
        "arrays": [(place, array.shape, array.dtype.str) for place, array in arrays],
        "n_rows": _n_used(buffer),
        "block": _rows_of_block([array for _, array in arrays]),
    }


def write_rows(
    buffer: ReplayBuffer, folder: Path, manifest: Manifest, before: tuple[Path, Manifest] | None, known: Known
) -> None:
    """
    :param buffer: any replay buffer
    :param folder: the new bundle
    :param manifest: of it, to which the files are added
    :param before: the bundle before, from which unchanged files are taken over, and its manifest
    :param known: checksums of before, brought up to date
    :raises OSError: if they cannot be written
    """
    arrays = [array for _, array in _hollow(buffer, ())[1]]
    for number, (first, last) in enumerate(_blocks(_n_used(buffer), _rows_of_block(arrays))):
        parts = [np.ascontiguousarray(array[first:last]) for array in arrays]
        name, size, quick = f"{_PREFIX}.{number:06}", sum(part.nbytes for part in parts), quick_checksum(*parts)
        if name not in known or known[name][0] != quick:
            known[name] = quick, sha256(*parts)
        checksum = known[name][1]
        if before is None or not _taken_over(before, name, (size, checksum), folder):
            with (folder / name).open("wb") as file:
                for part in parts:
                    file.write(part)  # type: ignore[arg-type]
        manifest.add(folder, name, checksum)


def quick_checksum(*parts: np.ndarray) -> bytes:
    """
    Tells what has changed since it was last asked, at the speed of memory. It is no match for somebody who wants to
    deceive it: what is on a disk is told by SHA-256.

    :param parts: C-contiguous arrays of numbers
    :return: a checksum of all of them in turn
    """
    found, mixed = np.zeros(_LANES, np.uint64), np.empty(_LANES, np.uint64)
    for part in parts:
        given = part.reshape(-1).view(np.uint8)
        whole = given.size - given.size % found.nbytes
        rest = np.zeros(-(-(given.size - whole) // 8), np.uint64)
        rest.view(np.uint8)[: given.size - whole] = given[whole:]
        for values in (*given[:whole].view(np.uint64).reshape(-1, _LANES), rest):
            lanes, halves = found[: len(values)], mixed[: len(values)]
            lanes ^= values
            lanes *= _FACTOR
            # a product has its low bits of low ones alone: without this two changed signs would make up for each other
            np.right_shift(lanes, _HALF, out=halves)
            lanes ^= halves
    return hashlib.sha256(found.tobytes()).digest()


def put_together(saved: dict[str, Any], folder: Path, device: th.device) -> ReplayBuffer:
    """
    :param saved: what :func:`taken_apart` gave
    :param folder: the bundle, with its rows
    :param device: of the samples
    :return: the buffer
    """
    arrays = [np.zeros(shape, dtype=plain_dtype(dtype)) for _, shape, dtype in saved["arrays"]]
    for number, (first, last) in enumerate(_blocks(saved["n_rows"], saved["block"])):
        with (folder / f"{_PREFIX}.{number:06}").open("rb") as file:
            for array in arrays:
                file.readinto(array[first:last])  # type: ignore[arg-type]
    buffer: ReplayBuffer = saved["buffer"]
    for (place, _, _), array in zip(saved["arrays"], arrays, strict=True):
        holder: Any = buffer
        for name in place[:-1]:
            holder = holder[name] if isinstance(holder, dict) else vars(holder)[name]
        (holder if isinstance(holder, dict) else vars(holder))[place[-1]] = array
    _finish(buffer, device)
    return buffer


def _hollow(buffer: ReplayBuffer, place: Place) -> tuple[ReplayBuffer, list[tuple[Place, np.ndarray]]]:
    """A copy without its rows, and these."""
    shallow, found = copy.copy(buffer), []
    for name, value in vars(buffer).items():
        here = (*place, name)
        if isinstance(value, OfflineReplayBuffer):
            continue
        if isinstance(value, ReplayBuffer):
            inner, arrays = _hollow(value, here)
            vars(shallow)[name] = inner
            found += arrays
        elif isinstance(value, dict):
            rows = {key: array for key, array in value.items() if _is_rows(array, buffer)}
            vars(shallow)[name] = {key: None if key in rows else item for key, item in value.items()}
            found += [((*here, key), array) for key, array in rows.items()]
        elif _is_rows(value, buffer):
            vars(shallow)[name] = None
            found.append((here, value))
        elif _is_long(value, buffer):
            vars(shallow)[name] = value[: _n_used(buffer)]
    return shallow, found


def _is_rows(value: Any, buffer: ReplayBuffer) -> bool:
    """Whether it has the shape ``(rows, n_envs, …)``; Python objects are no rows of bytes."""
    return _is_long(value, buffer) and value.dtype != object


def _is_long(value: Any, buffer: ReplayBuffer) -> bool:
    return isinstance(value, np.ndarray) and value.ndim >= 2 and len(value) == buffer.buffer_size


def _n_used(buffer: ReplayBuffer) -> int:
    # one more than are written: where memory is saved, the last observation is in the row that comes next
    return buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)


def _rows_of_block(arrays: list[np.ndarray]) -> int:
    return max(1, BLOCK_BYTES // max(1, sum(array[:1].nbytes for array in arrays)))


def _blocks(n_rows: int, block: int) -> Iterator[tuple[int, int]]:
    for first in range(0, n_rows, block):
        yield first, min(first + block, n_rows)


def _taken_over(before: tuple[Path, Manifest], name: str, content: tuple[int, str], folder: Path) -> bool:
    """:return: whether the bundle before has the same file, which is now in both"""
    earlier, manifest = before
    source = earlier / name
    if manifest.files.get(name) != content or not source.is_file() or source.stat().st_size != content[0]:
        return False
    try:
        os.link(source, folder / name)
    except OSError:  # a disk that knows no links
        shutil.copyfile(source, folder / name)
    return True


def _finish(buffer: ReplayBuffer, device: th.device) -> None:
    """What is left: the device, and room for the Python objects of rows to come."""
    buffer.device = device
    for name, value in vars(buffer).items():
        if isinstance(value, ReplayBuffer):
            _finish(value, device)
        elif isinstance(value, np.ndarray) and value.dtype == object and 0 < len(value) < buffer.buffer_size:
            grown = np.empty((buffer.buffer_size, *value.shape[1:]), dtype=object)
            grown[: len(value)] = value
            vars(buffer)[name] = grown
