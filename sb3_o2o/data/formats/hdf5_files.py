"""Opens HDF5 files so that what is wrong with them is said by file and field."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


@contextmanager
def opened_hdf5(path: Path) -> Iterator[h5py.File]:
    """
    :param path: a file
    :return: it, open; every name at its top leads to an array or a group of this file
    :raises ValueError: if it is damaged, here or wherever it is read inside, naming the file and, at its top, the name
    """
    try:
        with h5py.File(path, "r") as file:
            for name in file:
                _check(path, file, name)
            yield file
    except (OSError, RuntimeError) as error:
        raise _damaged(path, error) from error
    except KeyError as error:
        if not str(error.args[0]).startswith("Unable to"):  # a name that is not there
            raise
        raise _damaged(path, error.args[0]) from error


def _damaged(path: Path, error: Any) -> ValueError:
    return ValueError(f"{path} cannot be read as HDF5: {error}. It may be truncated or damaged: download it again.")


def _check(path: Path, file: h5py.File, name: Any) -> None:
    if not isinstance(name, str):
        raise ValueError(f"{path}: the name {name!r} is no text. The file may be damaged: download it again.")
    try:
        value, link = file[name], file.get(name, getlink=True)
    except (KeyError, OSError, RuntimeError) as error:
        reason = error.args[0] if error.args else error
        raise ValueError(
            f"{path}: {name!r} cannot be read: {reason}. It is damaged, or a link that leads nowhere."
        ) from error
    is_array = isinstance(value, h5py.Dataset)
    if is_array and value.shape is None:
        raise ValueError(f"{path}: {name!r} is an array without a shape, which holds nothing.")
    if not is_array and not isinstance(value, h5py.Group):
        raise ValueError(f"{path}: {name!r} is a {type(value).__name__}, expected an array or a group of arrays.")
    elsewhere = isinstance(link, h5py.ExternalLink) or (is_array and (value.external is not None or value.is_virtual))
    if elsewhere:
        raise ValueError(f"{path}: {name!r} lies in another file: copy it into this one.")
