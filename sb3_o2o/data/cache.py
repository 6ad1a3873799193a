"""
Converted datasets on disk: a folder of ``.npy`` files that is mapped into memory, so that a dataset larger than memory
can be trained on, and the second start takes no time.

The folder is ``$SB3_O2O_CACHE``, else ``$XDG_CACHE_HOME/sb3_o2o``, else ``~/.cache/sb3_o2o``. Deleting it is safe.

A converted dataset is hashed as it is made, and all of it is read and compared once: a file ``verified.json`` says in
which state its files were found whole. One whose files have changed since is compared again.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout

from sb3_o2o.data.transitions import Observations, Transitions, map_observations, named_observations
from sb3_o2o.errors import warn
from sb3_o2o.files import write_whole

#: Part of each key: increase it whenever the conversion changes its result.
FORMAT = 2
_MANIFEST, _VERIFIED, _UNFINISHED = "manifest.json", "verified.json", ".incomplete"
#: there is no room: of a disk, of a user's share, of a file
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_FIELDS = ("row_index", "actions", "rewards", "terminations", "truncations")
#: rows that are looked at in one go
_PART = 65536


def cache_folder() -> Path:
    """
    :return: where converted datasets are kept
    """
    if os.environ.get("SB3_O2O_CACHE"):
        return Path(os.environ["SB3_O2O_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sb3_o2o"


class _Writer(Protocol):
    def append(self, name: str, array: np.ndarray) -> None: ...

    def finish(self) -> dict[str, np.ndarray]: ...


class _MemoryWriter:
    """Collects arrays and joins them at the end."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {}

    def append(self, name: str, array: np.ndarray) -> None:
        self.parts.setdefault(name, []).append(array)

    def finish(self) -> dict[str, np.ndarray]:
        # Popped one by one, so that no more than one array exists twice
        return {name: np.concatenate(self.parts.pop(name)) for name in list(self.parts)}


class _FolderWriter:
    """
    Appends to ``.npy`` files, so that the length need not be known in advance nor anything be kept in memory.

    :param folder: an existing folder
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Any] = {}
        self.headers: dict[str, tuple[np.dtype, tuple[int, ...], int]] = {}
        self.digests: dict[str, Any] = {}

    def append(self, name: str, array: np.ndarray) -> None:
        if name not in self.files:
            self.files[name] = open(self.folder / f"{len(self.files)}.npy", "w+b")  # noqa: SIM115 (closed by close)
            self.headers[name] = (array.dtype, array.shape[1:], 0)
            self.digests[name] = hashlib.blake2b(digest_size=16)
            self._write_header(name)
        dtype, shape, length = self.headers[name]
        values = np.ascontiguousarray(array, dtype=dtype)
        self.files[name].write(values.data)
        self.digests[name].update(values.data)
        self.headers[name] = (dtype, shape, length + len(array))

    def _write_header(self, name: str) -> None:
        dtype, shape, length = self.headers[name]
        # NumPy pads this header so that the first axis can grow in place
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length, *shape)}
        np.lib.format.write_array_header_1_0(self.files[name], header)

    def finish(self) -> dict[str, np.ndarray]:
        manifest: dict[str, Any] = {}
        for name, file in self.files.items():
            file.seek(0)
            self._write_header(name)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            path = Path(file.name)
            digest = self.digests[name].hexdigest()
            manifest[name] = {"file": path.name, "bytes": path.stat().st_size, "hash": digest}
        arrays = {name: _memory_map(self.folder / entry["file"]) for name, entry in manifest.items()}
        record = {"format": FORMAT, "arrays": manifest, "fingerprint": fingerprint(_transitions(arrays))}
        write_whole(self.folder / _MANIFEST, json.dumps(record, indent=1))
        return arrays

    def close(self) -> None:
        for file in self.files.values():
            with suppress(OSError):  # what was not written yet has no room either
                file.close()


def _memory_map(path: Path) -> np.ndarray:
    # As a plain array: indexing np.memmap itself is several times slower
    return np.asarray(np.load(path, mmap_mode="r"))


def _transitions(arrays: dict[str, np.ndarray]) -> Transitions:
    rows: Observations
    if "observations" in arrays:
        rows = arrays["observations"]
    else:
        prefix = "observations/"
        rows = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return Transitions(rows, *(arrays[name] for name in _FIELDS))


def _write(chunks: Iterable[Transitions], writer: _Writer) -> Transitions:
    n_rows = 0
    for chunk in chunks:
        observations = named_observations(chunk.rows)
        for name, array in observations.items():
            writer.append(name, array)
        writer.append("row_index", chunk.row_index + n_rows)
        for name in _FIELDS[1:]:
            writer.append(name, getattr(chunk, name))
        n_rows += len(next(iter(observations.values())))
    if n_rows == 0:
        raise ValueError("The source holds no transitions: expected at least one episode.")
    return _transitions(writer.finish())


def fingerprint(transitions: Transitions) -> str:
    """
    Hash of the content: of all rewards and flags, and of 1024 transitions spread over the rest.

    :param transitions: what to hash
    :return: 32 hexadecimal digits; the same data give the same ones, wherever they come from
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in (transitions.rewards, transitions.terminations, transitions.truncations):
        digest.update(np.ascontiguousarray(array).data)
    chosen = np.unique(np.linspace(0, len(transitions) - 1, 1024).astype(np.int64))
    rows = transitions.row_index[chosen]
    digest.update(np.ascontiguousarray(transitions.actions[chosen]).data)
    for offset in (0, 1):
        sampled = named_observations(map_observations(lambda array, at=rows + offset: array[at], transitions.rows))  # type: ignore[misc]
        for name in sorted(sampled):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(sampled[name]).data)
    return digest.hexdigest()


def convert(
    chunks: Callable[[], Iterator[Transitions]], key: dict[str, Any] | None, cache: bool | str | Path
) -> Transitions:
    """
    Read a source to the end, into memory or into the cache, or open what the cache holds of it.

    :param chunks: reads the source, a part at a time
    :param key: what decides the result, as plain types; None if the source cannot be cached (it is in memory already)
    :param cache: False to convert in memory; True for the default folder; or another folder
    :return: all transitions; memory-mapped if they come from the cache
    """
    if key is None or cache is False:
        return _write(chunks(), _MemoryWriter())
    root = cache_folder() if cache is True else Path(cache)
    name = hashlib.blake2b(json.dumps([FORMAT, key], sort_keys=True).encode(), digest_size=12).hexdigest()
    folder = root / name
    if folder.exists():
        try:
            return _open(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn(f"The cached dataset in {folder} is damaged ({error}): converting it again.")
            shutil.rmtree(folder, ignore_errors=True)
    try:
        return _convert_into(folder, chunks)
    except _CannotWrite as error:
        warn(
            f"Cannot write to the cache {root} ({error}): converting in memory. "
            "Set SB3_O2O_CACHE to a writable folder with room, or pass cache=False.",
        )
    return _write(chunks(), _MemoryWriter())


class _CannotWrite(Exception):
    """The cache cannot be written to."""


def _convert_into(folder: Path, chunks: Callable[[], Iterator[Transitions]]) -> Transitions:
    with _place_for(folder) as temporary:
        writer = _FolderWriter(temporary)
        try:
            _write(chunks(), writer)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _CannotWrite(str(error)) from error
        finally:
            writer.close()
        try:
            temporary.rename(folder)
        except OSError:
            # Another process was faster: its result is as good as ours
            if not (folder / _MANIFEST).exists():
                raise
        return _open(folder)


@contextmanager
def _place_for(folder: Path) -> Iterator[Path]:
    """
    An empty folder beside another one, deleted in the end. A lock beside it lasts as long as the process: a folder
    whose lock nobody holds was left by a writer that was killed, and is deleted too.
    """
    root = folder.parent
    temporary = root / f"{folder.name}.{uuid.uuid4().hex}{_UNFINISHED}"
    lock = FileLock(_lock_of(temporary), timeout=0)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        temporary.mkdir()
    except OSError as error:
        raise _CannotWrite(str(error)) from error
    try:
        _remove_leftovers(root)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.release()
        _lock_of(temporary).unlink(missing_ok=True)


def _lock_of(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def _remove_leftovers(root: Path) -> None:
    found = {path.with_name(path.name.removesuffix(".lock")) for path in root.glob(f"*{_UNFINISHED}*")}
    for each in sorted(found):
        try:
            with FileLock(_lock_of(each), timeout=0):
                shutil.rmtree(each, ignore_errors=True)
                _lock_of(each).unlink(missing_ok=True)
        except (Timeout, OSError):  # somebody is writing, perhaps this process
            continue


def _open(folder: Path) -> Transitions:
    manifest = json.loads((folder / _MANIFEST).read_text())
    arrays, states = {}, {}
    for name, entry in manifest["arrays"].items():
        path = folder / entry["file"]
        if path.stat().st_size != entry["bytes"]:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {entry['bytes']}")
        states[entry["file"]] = [path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.stat().st_ino]
        arrays[name] = _memory_map(path)
    _verify(folder, manifest, arrays, states)
    transitions = _transitions(arrays)
    if fingerprint(transitions) != manifest["fingerprint"]:
        raise ValueError("its content has changed")
    return transitions


def _verify(
    folder: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray], states: dict[str, list[int]]
) -> None:
    """:raises ValueError: if any row is another than was written; not asked again while the files stay as they are"""
    known = folder / _VERIFIED
    with suppress(OSError, ValueError):
        if json.loads(known.read_text()) == states:
            return
    for name, entry in manifest["arrays"].items():
        if _hash(arrays[name]) != entry["hash"]:
            raise ValueError(f"{entry['file']} ({name}) holds other values than were written")
    with suppress(OSError):  # a cache that others fill, and this user may only read
        write_whole(known, json.dumps(states))


def _hash(array: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(array), _PART):
        digest.update(np.ascontiguousarray(array[start : start + _PART]).data)
    return digest.hexdigest()
