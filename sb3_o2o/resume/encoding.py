"""How the values of a resume bundle become bytes, and come back. All of it goes through these two functions."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


def write_state(path: str | os.PathLike[str], state: Any) -> None:
    """
    :param path: of the file, which is replaced
    :param state: what a run knows: numbers, arrays, tensors, random generators, buffers without their rows, modules of
        callbacks, in lists, tuples and dictionaries
    :raises OSError: if it cannot be written
    """
    with Path(path).open("wb") as file:
        pickle.dump(state, file, protocol=5)


def read_state(path: str | os.PathLike[str]) -> Any:
    """
    :param path: of a file that :func:`write_state` has written
    :return: what was written, of its own
    :raises ValueError: if it is damaged
    """
    try:
        return pickle.loads(Path(path).read_bytes())
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
