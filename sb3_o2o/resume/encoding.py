"""How the values of a resume bundle become bytes, and come back. All of it goes through these two functions."""

from __future__ import annotations

import os
from typing import Any

from sb3_o2o.plain.documents import read_document, write_document


def write_state(path: str | os.PathLike[str], state: Any) -> None:
    """
    :param path: of the file, which is replaced
    :param state: what a run knows: numbers, arrays, tensors, random generators, buffers without their rows, modules of
        callbacks, in lists, tuples and dictionaries
    :raises OSError: if it cannot be written
    """
    write_document(path, state)


def read_state(path: str | os.PathLike[str], trust: bool = False) -> Any:
    """
    :param path: of a file that :func:`write_state` has written
    :param trust: whether it may run any code
    :return: what was written, of its own
    :raises UntrustedError: if it holds what is no plain data, such as objects of a user's environment, without trust
    :raises ValueError: if it is damaged
    """
    return read_document(path, trust)
