"""Zip files of ours: JSON, with arrays and whatever needs trust in parts of their own."""

from __future__ import annotations

import stat
import zipfile
from typing import IO, Any

import numpy as np

_ARRAY, _CODE = "arrays/{}.npy", "code/{}.pkl"
#: compression that is believed; beyond it a small file could fill memory or disk
_LARGEST_RATIO, _SMALL = 60, 128 * 2**20
_MOST_ENTRIES = 200_000


def check_zip(archive: zipfile.ZipFile, name: object) -> None:
    """
    Refuse what no program of ours or of Stable-Baselines3 writes, before anything is unpacked.

    :param archive: an opened zip
    :param name: of the file, for errors
    :raises ValueError: for names that lead elsewhere or come twice, links, encryption, or a bomb
    """
    entries = archive.infolist()
    seen: set[str] = set()
    for entry in entries:
        path = entry.filename
        if path in seen:
            raise ValueError(f"{name} holds {path!r} twice: it was made up, and is not opened.")
        seen.add(path)
        if path.startswith("/") or ".." in path.replace("\\", "/").split("/") or "\\" in path or ":" in path:
            raise ValueError(f"{name} holds a file {path!r}, which leads out of it: it is not opened.")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(f"{name} holds a link, {path!r}: it is not opened.")
        if entry.flag_bits & 1:
            raise ValueError(f"{name} is encrypted.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is packed in a way that is not read here ({path!r}).")
    unpacked, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if unpacked > _SMALL + _LARGEST_RATIO * packed or len(entries) > _MOST_ENTRIES:
        raise ValueError(
            f"{name} would unpack from {packed:,} to {unpacked:,} bytes in {len(entries):,} files: it is not opened."
        )


class PartsWriter:
    """
    Adds arrays and code to a zip that is being written.

    :param archive: the zip
    """

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._n_arrays = self._n_codes = 0

    def add_array(self, array: np.ndarray) -> int:
        """
        :param array: without Python objects in it
        :return: its number
        """
        number, self._n_arrays = self._n_arrays, self._n_arrays + 1
        with self._archive.open(_ARRAY.format(number), "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
        return number

    def add_code(self, pickled: bytes) -> int:
        """
        :param pickled: what only trust opens
        :return: its number
        """
        number, self._n_codes = self._n_codes, self._n_codes + 1
        self._archive.writestr(_CODE.format(number), pickled)
        return number


class PartsReader:
    """
    Reads what :class:`PartsWriter` wrote.

    :param archive: the zip, checked by :func:`check_zip`
    """

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive

    def array(self, number: Any) -> np.ndarray:
        """
        :param number: of the array
        :return: a copy of one's own
        :raises ValueError: if there is none, or its header promises more than the file holds
        """
        if type(number) is not int:
            raise ValueError(f"there is no array {number!r}")
        try:
            entry = self._archive.getinfo(_ARRAY.format(number))
        except KeyError:
            raise ValueError(f"there is no array {number}") from None
        with self._archive.open(entry) as file:
            return read_npy(file, entry.file_size)

    def code(self, number: Any) -> bytes:
        """
        :param number: of the pickle
        :return: it
        """
        if type(number) is not int:
            raise ValueError(f"there is no code {number!r}")
        try:
            return self._archive.read(_CODE.format(number))
        except KeyError:
            raise ValueError(f"there is no code {number}") from None


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """
    :param file: of NumPy's format, at its beginning
    :return: shape, whether it is in Fortran's order, and dtype
    :raises ValueError: if it is in another version of the format, or none of it
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an array in version {version} of NumPy's format")
    return readers[version](file)


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """
    :param file: of NumPy's format, at its beginning
    :param size: bytes that it has
    :return: the array
    :raises ValueError: if it holds Python objects, or its header promises more than the file holds
    """
    shape, fortran, dtype = npy_header(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    count = 1
    for length in shape:
        count *= length
    if any(length < 0 for length in shape) or count * dtype.itemsize > size:
        raise ValueError(f"an array whose header promises {count:,} numbers, in {size:,} bytes")
    array = np.empty(count, dtype)
    if count and dtype.itemsize:
        view, done = memoryview(array.view(np.uint8).data), 0
        while done < len(view):
            read = file.read(min(len(view) - done, 2**24))
            if not read:
                raise ValueError("an array that is cut off")
            view[done : done + len(read)] = read
            done += len(read)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
