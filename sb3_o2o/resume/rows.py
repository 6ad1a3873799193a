"""
The rows of a replay buffer, in files of a few megabytes. A bundle that follows another of the same run takes over, by a
hard link, each file whose rows have not changed, and so reads and writes what is new.

Which are new the buffer says: it adds at a place that moves on. What may be changed in rows of before are the numbers
of a few bytes: rewards that are computed anew, ends and returns of episodes. Those are compared in all rows, by a
checksum that is kept in memory. Observations are written once by every buffer that we know. Of theirs a part of the
files is compared each time, another one the next time, and all of them where one is not as it was, where a call ends or
is stopped, and in buffers of other classes.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.plain.numeric import is_plain_dtype, plain_dtype
from sb3_o2o.resume.manifest import Manifest, sha256

#: bytes of a file, as far as whole rows allow
BLOCK_BYTES = 2**22
_PREFIX = "replay_buffer.rows"
#: of :func:`quick_checksum`: numbers of 64 bits that are taken at once, so many that NumPy is fast and they stay in the
#: processor's cache; an odd factor without structure; and half of their bits
_LANES, _FACTOR, _HALF = 4096, np.uint64(0x9E3779B97F4A7C15), np.uint64(32)

#: where an array is: names of attributes and keys of dictionaries, from the buffer inwards
Place = tuple[str, ...]
#: bytes that an array has for a transition, up to which all of it is compared each time
SMALL_BYTES = 32
#: one of so many files is compared in all of its rows each time
ONE_OF = 16
#: who has written the classes of buffers that change no observation of before
_KNOWN_MAKERS = ("stable_baselines3", "sb3_contrib", "sb3_o2o")


class Block(NamedTuple):
    """
    What a file of rows held last.

    :param small: quick checksum of its small arrays
    :param large: of the others
    :param checksum: SHA-256 of all
    """

    small: bytes
    large: bytes
    checksum: str


@dataclass
class Known:
    """
    What is known, in this process, of the rows that a buffer wrote last.

    :param pos: where it was to add the next; None before the first bundle
    :param full: whether it had begun again
    :param turn: bundles so far
    :param blocks: by the names of their files
    """

    pos: int | None = None
    full: bool = False
    turn: int = 0
    blocks: dict[str, Block] = field(default_factory=dict)


def taken_apart(buffer: ReplayBuffer) -> dict[str, Any]:
    """
    :param buffer: any replay buffer
    :return: all but its rows: the buffer without them, and of each of their arrays the place, shape and type. The rows
        that were never written are left out: a new buffer for a million steps is mostly zeros. Of classes of others,
        which may begin with other values, what stands there is said
    """
    hollow, arrays = _hollow(buffer, ())
    n_used, is_known = _n_used(buffer), _is_known(buffer)
    return {
        "buffer": hollow,
        "arrays": [(place, array.shape, array.dtype.str) for place, array in arrays],
        "n_rows": n_used,
        "block": _rows_of_block([array for _, array in arrays]),
        "unused": [None if is_known else _unused(array[n_used:]) for _, array in arrays],
    }


def write_rows(
    buffer: ReplayBuffer,
    folder: Path,
    manifest: Manifest,
    before: tuple[Path, Manifest] | None,
    known: Known,
    compare_all: bool = True,
) -> None:
    """
    :param buffer: any replay buffer
    :param folder: the new bundle
    :param manifest: of it, to which the files are added
    :param before: the bundle before, from which unchanged files are taken over, and its manifest
    :param known: of the bundle before, brought up to date
    :param compare_all: read all rows, and not only those that may have changed
    :raises OSError: if they cannot be written
    """
    rows = _Rows(buffer)
    for number, new in enumerate(rows.compared(known, compare_all)):
        name = _name(number)
        if new is not None:
            known.blocks[name] = new
        checksum = known.blocks[name].checksum
        if before is None or not _taken_over(before, name, (rows.n_bytes(number), checksum), folder):
            with (folder / name).open("wb") as file:
                for part in rows.parts(number):
                    file.write(part)  # type: ignore[arg-type]
        manifest.add(folder, name, checksum)
    known.pos, known.full, known.turn = buffer.pos, buffer.full, known.turn + 1


class _Rows:
    """
    All rows of a buffer that have been written, in blocks.

    :param buffer: any replay buffer
    """

    def __init__(self, buffer: ReplayBuffer):
        self.buffer = buffer
        hollow, found = _hollow(buffer, ())
        self.arrays = [array for _, array in found]
        self.block = _rows_of_block(self.arrays)
        self.blocks = list(_blocks(_n_used(buffer), self.block))
        #: whether nothing but ``add`` writes observations, and the place of the buffer says where
        self.adds_only = _is_known(buffer) and not any(
            isinstance(value, ReplayBuffer) for value in vars(hollow).values()
        )

    def parts(self, number: int, which: Callable[[np.ndarray], bool] = lambda _: True) -> list[np.ndarray]:
        """The rows of a block, of some of the arrays."""
        first, last = self.blocks[number]
        return [np.ascontiguousarray(array[first:last]) for array in self.arrays if which(array)]

    def n_bytes(self, number: int) -> int:
        first, last = self.blocks[number]
        return sum(array[first:last].nbytes for array in self.arrays)

    def compared(self, known: Known, compare_all: bool) -> list[Block | None]:
        """
        :param known: what each block held last
        :param compare_all: read all rows
        :return: what each block holds now; None where it is the same
        """
        written = self._written(known) if self.adds_only and not compare_all else None
        if written is not None:
            one_of = min(ONE_OF, len(self.blocks))
            looked_at = {number for number in range(len(self.blocks)) if number % one_of == known.turn % one_of}
            if looked_at <= written:  # where the place went all the way round, one that it does not name tells
                looked_at |= set(sorted(set(range(len(self.blocks))) - written)[:1])
            found = [self._compared(number, known, number in looked_at | written) for number in range(len(self.blocks))]
            if not any(found[number] and self._is_large_new(number, found, known) for number in looked_at - written):
                return found
        return [self._compared(number, known, True) for number in range(len(self.blocks))]

    def _is_large_new(self, number: int, found: Sequence[Block | None], known: Known) -> bool:
        new, last = found[number], known.blocks[_name(number)]
        return new is not None and new.large != last.large

    def _compared(self, number: int, known: Known, wholly: bool) -> Block | None:
        last = known.blocks.get(_name(number))
        small = quick_checksum(*self.parts(number, _is_small))
        if last is not None and not wholly and small == last.small:
            return None
        large = quick_checksum(*self.parts(number, lambda array: not _is_small(array)))
        if last is not None and (small, large) == (last.small, last.large):
            return None
        return Block(small, large, sha256(*self.parts(number)))

    def _written(self, known: Known) -> set[int] | None:
        """The blocks that were added to since; None if it may be any."""
        buffer, last = self.buffer, known.pos
        pos, size = buffer.pos, buffer.buffer_size
        if last is None or known.full > buffer.full or (not buffer.full and pos < last):
            return None  # nothing is known, or the buffer was emptied
        if buffer.full > known.full and pos >= last:
            return None  # all the way round
        ranges = [(last, pos)] if pos >= last else [(last, size - 1), (0, pos)]
        return {number for first, end in ranges for number in range(first // self.block, end // self.block + 1)}


def _is_small(array: np.ndarray) -> bool:
    return array[:1].nbytes <= SMALL_BYTES * array.shape[1]


def _name(number: int) -> str:
    return f"{_PREFIX}.{number:06}"


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
        with (folder / _name(number)).open("rb") as file:
            for array in arrays:
                file.readinto(array[first:last])  # type: ignore[arg-type]
    for array, unused in zip(arrays, saved.get("unused", ()), strict=False):
        if unused is not None:
            array[saved["n_rows"] :] = unused
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
        elif _is_objects(value, buffer) and (_is_known(buffer) or _is_empty(value[_n_used(buffer) :])):
            vars(shallow)[name] = value[: _n_used(buffer)]
    return shallow, found


def _is_known(buffer: ReplayBuffer) -> bool:
    """Whether those who wrote its class, and those of the buffers in it, are known."""
    inner = [value for value in vars(buffer).values() if isinstance(value, ReplayBuffer)]
    return type(buffer).__module__.partition(".")[0] in _KNOWN_MAKERS and all(_is_known(each) for each in inner)


def _is_empty(objects: np.ndarray) -> bool:
    """Whether nothing is said by rows of Python objects that were never written."""
    return all(each is None or (type(each) is dict and not each) for each in objects.flat)


def _unused(rows: np.ndarray) -> np.ndarray | None:
    """What stands in rows that were never written: None for zeros, one row where all are the same, or all of them."""
    if not len(rows) or not rows[:1].nbytes:
        return None
    first, step = rows[:1].tobytes(), _rows_of_block([rows])
    # by their bytes: NaN is the same as NaN
    same = all(
        (_as_bytes(rows[start : start + step]) == np.frombuffer(first, np.uint8)).all()
        for start in range(0, len(rows), step)
    )
    if not same:
        return rows
    return rows[:1] if any(first) else None


def _as_bytes(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)


def _is_rows(value: Any, buffer: ReplayBuffer) -> bool:
    """Whether it has the shape ``(rows, n_envs, …)``; Python objects are no rows of bytes, and fields have names."""
    return _is_long(value, buffer) and is_plain_dtype(value.dtype)


def _is_long(value: Any, buffer: ReplayBuffer) -> bool:
    return isinstance(value, np.ndarray) and value.ndim >= 2 and len(value) == buffer.buffer_size


def _is_objects(value: Any, buffer: ReplayBuffer) -> bool:
    return _is_long(value, buffer) and value.dtype == object


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
