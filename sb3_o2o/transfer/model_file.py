"""
The files of models. Ours hold plain data, Stable-Baselines3's hold pickles beside their weights; both are opened
without running code, and what cannot be opened so says that it needs trust.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import stable_baselines3
import torch as th
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.utils import get_system_info

from sb3_o2o.plain import UntrustedError
from sb3_o2o.plain.decoder import Decoder
from sb3_o2o.plain.encoder import FORMAT, Encoder
from sb3_o2o.plain.parts import PartsReader, PartsWriter, check_zip
from sb3_o2o.plain.pickles import load_pickle
from sb3_o2o.transfer.schedules import known_schedule
from sb3_o2o.version import __version__

#: a model's file, or an open one
Path = str | os.PathLike[str] | io.BufferedIOBase
#: which format a file of ours is in, and who wrote it
HEADER = "sb3_o2o.json"
#: tensors that are no network's, such as the temperature
VARIABLES = "pytorch_variables.pth"
_PICKLED = ":serialized:"
#: made anew from the learning rates when a model is set up
_DERIVED = ("lr_schedule", "qf_lr_schedule", "value_lr_schedule", "ent_coef_lr_schedule")
#: an environment comes from the caller: a name in a file could be that of a module to import
_LEFT_OUT = (*_DERIVED, "env")


# -- writing -------------------------------------------------------------------------------------------------------


def write_model(file: IO[bytes], model: Any, exclude: Iterable[str] | None, include: Iterable[str] | None) -> None:
    """
    Write a model of ours: what Stable-Baselines3's ``save`` writes, as plain data.

    :param file: to write to
    :param model: an algorithm
    :param exclude: attributes to leave out as well
    :param include: attributes to save although they are left out otherwise
    :raises TypeError: if an attribute cannot even be pickled
    """
    state_dicts, variables = model._get_torch_save_params()
    own = {name.split(".")[0] for name in (*state_dicts, *variables)}
    left_out = ({*(exclude or ()), *model._excluded_save_params()} - {*(include or ())}) | own | {*_LEFT_OUT}
    with zipfile.ZipFile(file, "w") as archive:
        parts, attributes = PartsWriter(archive), {}
        for name, value in vars(model).items():
            if name not in left_out:
                attributes[name] = Encoder(parts).encode(value)
        archive.writestr("data", json.dumps(attributes, indent=1, allow_nan=False), zipfile.ZIP_DEFLATED)
        tensors = {"pytorch_variables": {name: recursive_getattr(model, name) for name in variables}}
        for name, values in {**tensors, **model.get_parameters()}.items():
            with archive.open(f"{name}.pth", "w", force_zip64=True) as part:
                th.save(values, part)
        archive.writestr(HEADER, json.dumps(_header(model), indent=1))
        archive.writestr("_stable_baselines3_version", stable_baselines3.__version__)
        archive.writestr("system_info.txt", get_system_info(print_info=False)[1])


def _header(model: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "algorithm": type(model).__name__,
        "sb3_o2o": __version__,
        "stable_baselines3": stable_baselines3.__version__,
        "torch": str(th.__version__),
    }


# -- reading -------------------------------------------------------------------------------------------------------


def attributes_as_json(path: Path) -> dict[str, Any]:
    """
    :param path: a zip, or a file-like object, which is left where it was
    :return: what it holds beside weights, as it is written there
    :raises ValueError: if it is no saved model, or one that was made up
    """
    with _opened(path) as archive:
        return _attributes(path, archive)


def read_attributes(
    path: Path,
    names: Collection[str] | None = None,
    custom_objects: dict[str, Any] | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """
    :param path: as for :func:`attributes_as_json`
    :param names: of the attributes that are wanted; all by default
    :param custom_objects: SB3's: what stands for attributes of the file, which are then not read
    :param trust: whether the file may run code
    :return: those that it holds, by name
    :raises UntrustedError: if one needs trust, and there is none
    :raises ValueError: if the file is damaged or of another version
    """
    with _opened(path) as archive:
        saved = _attributes(path, archive)
        given = custom_objects or {}
        read = _reader(path, archive, trust)
        return {
            name: given[name] if name in given else read(name, node)
            for name, node in saved.items()
            if names is None or name in names
        }


def for_stock_load(
    path: Path, custom_objects: dict[str, Any] | None = None, trust: bool = False, without: Collection[str] = ()
) -> tuple[io.BytesIO, dict[str, Any]]:
    """
    What Stable-Baselines3's ``load`` can open without unpickling anything: weights, and the attributes as the
    ``custom_objects`` that it takes in place of those of the file.

    :param path: as for :func:`attributes_as_json`
    :param custom_objects: the caller's
    :param trust: whether the file may run code
    :param without: parts of the model whose weights are not wanted
    :return: a zip in memory, and all attributes
    :raises UntrustedError: if an attribute needs trust, and there is none
    :raises ValueError: if the file is damaged or of another version
    """
    found = read_attributes(path, None, custom_objects, trust)
    stream = io.BytesIO()
    with _opened(path) as archive, zipfile.ZipFile(stream, "w") as plain:
        plain.writestr("data", json.dumps(dict.fromkeys(found)))
        for name in archive.namelist():
            if name == "system_info.txt":
                plain.writestr(name, archive.read(name))
            elif name.endswith(".pth") and "/" not in name and name.split(".")[0] not in without:
                plain.writestr(name, _weights(path, name, archive.read(name)))
    stream.seek(0)
    return stream, found


def _weights(path: Path, name: str, content: bytes) -> bytes:
    """torch reads these with ``weights_only``; they are zips themselves, whose sizes it does not doubt."""
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            check_zip(inner, f"{path_name(path)}: {name}")
    return content


def path_name(path: Any) -> str:
    """
    :param path: a file, or an open one
    :return: what to call it in messages
    """
    return os.fspath(path) if isinstance(path, str | os.PathLike) else "the model in memory"


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    position = path.tell() if isinstance(path, io.IOBase) else 0
    name = path_name(path)
    try:
        with zipfile.ZipFile(path) as archive:  # type: ignore[arg-type]
            check_zip(archive, name)
            yield archive
    except zipfile.BadZipFile as error:
        raise ValueError(f"{name} is not a zip file, or it is truncated: {error}.") from error
    finally:
        if isinstance(path, io.IOBase):
            path.seek(position)


def _attributes(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    name = path_name(path)
    missing = {"data", "policy.pth"} - set(archive.namelist())
    if missing:
        absent = ", ".join(sorted(missing))
        raise ValueError(f"{name} is not a model saved by Stable-Baselines3, or it is truncated: it has no {absent}.")
    try:
        saved = json.loads(archive.read("data"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is not a model saved by Stable-Baselines3: its data is no JSON ({error}).") from error
    if not isinstance(saved, dict):
        raise ValueError(f"{name} is not a model saved by Stable-Baselines3: its data is no JSON object.")
    return {key: value for key, value in saved.items() if key not in _LEFT_OUT}


def header(path: Path) -> dict[str, Any] | None:
    """
    :param path: as for :func:`attributes_as_json`
    :return: who wrote a file of ours; None for one of Stable-Baselines3's
    :raises ValueError: if it is damaged
    """
    with _opened(path) as archive:
        return _read_header(path, archive)


def _read_header(path: Path, archive: zipfile.ZipFile) -> dict[str, Any] | None:
    if HEADER not in archive.namelist():
        if any(name.startswith("arrays/") for name in archive.namelist()):
            raise ValueError(f"{path_name(path)} is damaged: it has no {HEADER}.")
        return None
    try:
        found = json.loads(archive.read(HEADER))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path_name(path)} is damaged: its {HEADER} is no JSON object.")
    return found


def _reader(path: Path, archive: zipfile.ZipFile, trust: bool) -> Any:
    """:return: what reads an attribute, given its name and node"""
    about, name = _read_header(path, archive), path_name(path)
    if about is None:
        return lambda attribute, node: _stock_value(f"{name}, its {attribute!r},", attribute, node, trust)
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{name} is in format {about.get('format')!r} of sb3_o2o {about.get('sb3_o2o')}; this is {__version__}, "
            f"which reads format {FORMAT}: open it with the version that wrote it."
        )
    parts = PartsReader(archive)

    def read(attribute: str, node: Any) -> Any:
        try:
            return Decoder(parts, trust).decode(node)
        except UntrustedError as error:
            raise error.within(f"{name}, its {attribute!r},") from None
        except (ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{name} cannot be opened: of its {attribute!r}, {error}.") from error

    return read


def _stock_value(where: str, attribute: str, node: Any, trust: bool) -> Any:
    if not (isinstance(node, dict) and _PICKLED in node):
        return node
    try:
        pickled = base64.b64decode(node[_PICKLED], validate=True)
        return load_pickle(pickled, trust)
    except UntrustedError as error:
        schedule = known_schedule(pickled)
        if schedule is None:
            raise error.within(where) from None
        return schedule
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
