"""
Converted datasets on disk: a folder of ``.npy`` files that is mapped into memory, so that a dataset larger than memory
can be trained on, and the second start takes no time.

The folder is ``$SB3_O2O_CACHE``, else ``$XDG_CACHE_HOME/sb3_o2o``, else ``~/.cache/sb3_o2o``. Deleting it is safe.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sb3_o2o.data.transitions import Observations, Transitions, map_observations, named_observations

#: Part of each key: increase it whenever the conversion changes its result.
FORMAT = 1
_MANIFEST = "manifest.json"
_FIELDS = ("row_index", "actions", "rewards", "terminations", "truncations")


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

    def append(self, name: str, array: np.ndarray) -> None:
        if name not in self.files:
            self.files[name] = open(self.folder / f"{len(self.files)}.npy", "w+b")  # noqa: SIM115 (closed by close)
            self.headers[name] = (array.dtype, array.shape[1:], 0)
            self._write_header(name)
        dtype, shape, length = self.headers[name]
        self.files[name].write(np.ascontiguousarray(array, dtype=dtype).data)
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
            file.close()
            path = Path(file.name)
            manifest[name] = {"file": path.name, "bytes": path.stat().st_size}
        arrays = {name: _memory_map(self.folder / entry["file"]) for name, entry in manifest.items()}
        record = {"format": FORMAT, "arrays": manifest, "fingerprint": fingerprint(_transitions(arrays))}
        (self.folder / _MANIFEST).write_text(json.dumps(record, indent=1))
        return arrays

    def close(self) -> None:
        for file in self.files.values():
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
            warnings.warn(f"The cached dataset in {folder} is damaged ({error}): converting it again.", stacklevel=2)
            shutil.rmtree(folder, ignore_errors=True)
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".incomplete", dir=root))
    except OSError as error:
        warnings.warn(
            f"Cannot write to the cache {root} ({error}): converting in memory. "
            "Set SB3_O2O_CACHE to a writable folder, or pass cache=False.",
            stacklevel=2,
        )
        return _write(chunks(), _MemoryWriter())
    return _convert_into(folder, temporary, chunks)


def _convert_into(folder: Path, temporary: Path, chunks: Callable[[], Iterator[Transitions]]) -> Transitions:
    writer = _FolderWriter(temporary)
    try:
        _write(chunks(), writer)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process was faster: its result is as good as ours
            if not (folder / _MANIFEST).exists():
                raise
        return _open(folder)
    finally:
        writer.close()
        shutil.rmtree(temporary, ignore_errors=True)


def _open(folder: Path) -> Transitions:
    manifest = json.loads((folder / _MANIFEST).read_text())
    arrays = {}
    for name, entry in manifest["arrays"].items():
        path = folder / entry["file"]
        if path.stat().st_size != entry["bytes"]:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {entry['bytes']}")
        arrays[name] = _memory_map(path)
    transitions = _transitions(arrays)
    if fingerprint(transitions) != manifest["fingerprint"]:
        raise ValueError("its content has changed")
    return transitions
