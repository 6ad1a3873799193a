"""Files of one value each, as plain data: JSON and arrays in a zip, which opens without running code."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from sb3_o2o.plain.allowlist import UntrustedError
from sb3_o2o.plain.decoder import Decoder
from sb3_o2o.plain.encoder import FORMAT, Encoder
from sb3_o2o.plain.parts import PartsReader, PartsWriter, check_zip

_VALUE = "value.json"


def write_document(path: str | os.PathLike[str], value: Any) -> None:
    """
    :param path: of the file, which is replaced
    :param value: anything that can be pickled
    :raises TypeError: if it cannot
    :raises OSError: if it cannot be written
    """
    with zipfile.ZipFile(path, "w") as archive:
        node = Encoder(PartsWriter(archive)).encode(value)
        text = json.dumps({"format": FORMAT, "value": node}, allow_nan=False)
        archive.writestr(_VALUE, text, zipfile.ZIP_DEFLATED)


def read_document(path: str | os.PathLike[str], trust: bool = False) -> Any:
    """
    :param path: of a file that :func:`write_document` wrote
    :param trust: whether it may run any code
    :return: what was written, of its own
    :raises UntrustedError: if it needs more than what is on the list, and there is no trust
    :raises ValueError: if it is damaged, of another format, or was made up
    """
    name = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, name)
            node = document(archive, name)
            return Decoder(PartsReader(archive), trust).decode(node)
    except UntrustedError as error:
        raise error.within(name) from None
    except (zipfile.BadZipFile, ValueError) as error:
        if name in str(error):
            raise
        raise ValueError(f"{name} cannot be read: {error}.") from error


def document(archive: zipfile.ZipFile, name: str) -> Any:
    """
    :param archive: a file that :func:`write_document` wrote
    :param name: of it, for errors
    :return: its value as JSON
    :raises ValueError: if it is something else, or of another format
    """
    try:
        written = json.loads(archive.read(_VALUE))
        version, node = written["format"], written["value"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} holds no value of ours ({type(error).__name__}: {error}).") from error
    if version != FORMAT:
        raise ValueError(f"{name} is in format {version!r}, this version of sb3_o2o reads format {FORMAT}.")
    return node


def is_document(path: str | os.PathLike[str]) -> bool:
    """
    :param path: of a file
    :return: whether it looks like one of :func:`write_document`
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(Path(path)) as archive:
        return _VALUE in archive.namelist()
