"""What is in a file, told without opening it: no class is made, nothing is unpickled, no module of others imported."""

from __future__ import annotations

import base64
import csv
import json
import mmap
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
from minari.storage import get_dataset_path

from sb3_o2o.plain import UntrustedError
from sb3_o2o.plain.allowlist import is_listed, safe_global
from sb3_o2o.plain.documents import document, is_document
from sb3_o2o.plain.listing import Noted, Notes
from sb3_o2o.plain.parts import check_zip, npy_header
from sb3_o2o.plain.pickles import needs_trust
from sb3_o2o.resume.manifest import MANIFEST, Manifest
from sb3_o2o.resume.series import bundles
from sb3_o2o.runs.folder import RunFolder, is_run
from sb3_o2o.transfer.archive import saved_family, saved_model_path, saved_spaces
from sb3_o2o.transfer.model_file import attributes_as_json, header
from sb3_o2o.transfer.schedules import known_schedule

#: attributes of models that say how far one is
_PROGRESS = (
    *("objective", "online_objective", "recipe", "phase", "n_pretrain_steps", "num_timesteps", "gamma", "batch_size"),
    *("learning_rate", "n_critics", "seed"),
)
#: of replay buffers and VecNormalize
_OF_PICKLES = ("buffer_size", "pos", "full", "n_envs", "optimize_memory_usage", "training", "norm_obs", "norm_reward")
_PICKLED = ":serialized:"


@dataclass
class Contents:
    """
    What a file is and holds.

    :param kind: for people
    :param facts: what it says of itself, by name
    :param names: classes and functions that it names, dotted
    :param needs_trust: those of them that are not opened without trust, with where they stand
    """

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    needs_trust: list[str] = field(default_factory=list)


def inspect(path: str | Path) -> Contents:
    """
    :param path: a saved model (its ending may be left out), resume bundle or a folder of them, run folder, replay
        buffer, ``VecNormalize`` or dataset; or the id of a Minari dataset
    :return: what is in it
    :raises ValueError: if it is nothing that is known, or damaged
    :raises FileNotFoundError: if there is no such file
    """
    file = Path(path)
    if not file.exists() and file.suffix != ".zip":
        file = saved_model_path(path) or file
    if not file.exists():
        dataset = Path(get_dataset_path(str(path)))
        if not (dataset / "data").is_dir():
            raise FileNotFoundError(f"There is no file, folder or Minari dataset {path}.")
        return _folder(dataset)
    return _file(file)


def _file(path: Path) -> Contents:
    if path.is_dir():
        return _folder(path)
    readers = {".pkl": _pickle, ".pickle": _pickle, ".npz": _arrays, ".hdf5": _hdf5, ".h5": _hdf5, ".csv": _table}
    if path.suffix in readers:
        return readers[path.suffix](path)
    if zipfile.is_zipfile(path):
        return _document(path) if is_document(path) else _model(path)
    if path.suffix == ".zip":
        raise ValueError(f"{path} is no zip, or one that is cut or damaged.")
    raise ValueError(f"{path} is no model, bundle, buffer or dataset that is known here.")


def _folder(path: Path) -> Contents:
    if (path / MANIFEST).is_file():
        return _bundle(path)
    there = bundles(path) or bundles(path / "resume")
    if there:
        found = _bundle(there[-1])
        found.kind = f"{len(there)} resume bundles, of which {there[-1].name} is the newest"
        return found
    for folder in (path / "data", path):
        if (folder / "metadata.json").is_file():
            return _minari(folder)
    model = RunFolder(path).model if is_run(path) else None  # a run that has finished has no bundles
    if model is not None:
        found = _model(model)
        found.kind = f"a run folder, of which {model.relative_to(path)} is {found.kind}"
        return found
    raise ValueError(
        f"{path} is neither a resume bundle ({MANIFEST}), nor has it some, nor is it a run with a model, or a Minari "
        "dataset (metadata.json): give a file in it."
    )


# -- ours ----------------------------------------------------------------------------------------------------------


def _model(path: Path) -> Contents:
    about, attributes = header(path), attributes_as_json(path)
    found = Contents(f"a {saved_family(path)} model of Stable-Baselines3 or a relative of it")
    if about is not None:
        found.kind = f"a model of {about.get('algorithm')}, saved by sb3_o2o"
        found.facts.update({f"version of {name}": value for name, value in about.items() if name != "algorithm"})
    for name in _PROGRESS:
        value = attributes.get(name)
        if value is not None and not isinstance(value, dict | list):
            found.facts[name] = value
    for attribute, node in attributes.items():
        names, refused = _names_of(node, is_ours=about is not None)
        found.names += names
        found.needs_trust += [f"{name} (its {attribute!r})" for name in refused]
    callbacks = _names_of(attributes.get("finetuning"), is_ours=about is not None)[0]
    found.facts["fine-tuning callbacks"] = ", ".join(name.rpartition(".")[2] for name in callbacks) or "none"
    _add_spaces(path, found)
    return _with_parts(path, found)


def _add_spaces(path: Path, found: Contents) -> None:
    try:
        observations, actions = saved_spaces(path)
    except UntrustedError:
        return
    found.facts.update(observations=observations, actions=actions)


def _names_of(node: Any, is_ours: bool) -> tuple[list[str], list[str]]:
    """Names in an attribute, and those that need trust."""
    if not is_ours:
        if not (isinstance(node, dict) and isinstance(node.get(_PICKLED), str)):
            return [], []
        pickled = base64.b64decode(node[_PICKLED])
        names = Notes(pickled).names
        refused = [] if known_schedule(pickled) is not None else needs_trust(names)
        return [f"{module}.{name}" for module, name in names], refused
    found, refused = [], []
    for each in _named_nodes(node):
        module, _, name = str(each["name"]).partition(":")
        found.append(f"{module}.{name}")
        if each["!"] == "code" or not _is_safe(module, name):
            refused.append(f"{module}.{name}")
    return found, refused


def _is_safe(module: str, name: str) -> bool:
    if is_listed(module, name):
        return True
    try:
        safe_global(module, name)  # vouched for
    except UntrustedError:
        return False
    return True


def _named_nodes(node: Any) -> Iterator[dict[str, Any]]:
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            if each.get("!") in ("class", "function", "code"):
                yield each
            waiting += each.values()


def _document(path: Path) -> Contents:
    with zipfile.ZipFile(path) as archive:
        check_zip(archive, str(path))
        node = document(archive, str(path))
    names, refused = _names_of(node, is_ours=True)
    keys = ", ".join(node) if isinstance(node, dict) and "!" not in node else "one value"
    return _with_parts(path, Contents("a part of a resume bundle", {"holds": keys}, names, refused))


def _with_parts(path: Path, found: Contents) -> Contents:
    with zipfile.ZipFile(path) as archive:
        check_zip(archive, str(path))
        entries = archive.infolist()
    code = [entry.filename for entry in entries if entry.filename.startswith("code/")]
    if code:
        found.facts["pickled code"] = f"{len(code)} parts, which nothing reads without trust"
    largest = sorted(entries, key=lambda entry: -entry.file_size)[:5]
    found.facts["bytes"] = f"{path.stat().st_size:,}"
    found.facts["largest parts"] = ", ".join(f"{entry.filename} ({entry.file_size:,})" for entry in largest)
    found.names = list(dict.fromkeys(found.names))
    found.needs_trust = list(dict.fromkeys(found.needs_trust))
    return found


def _bundle(path: Path) -> Contents:
    manifest = Manifest.read(path)
    found = Contents("a resume bundle", {"goes on from": str(manifest), "algorithm": manifest.algorithm})
    found.facts.update(
        {f"version of {name}": getattr(manifest, name) for name in ("sb3_o2o", "stable_baselines3", "torch")}
    )
    try:
        manifest.check(path)
        found.facts["files"] = f"{len(manifest.files)}, all whole"
    except ValueError as error:
        found.facts["files"] = str(error)
    for each in sorted(path.glob("*.zip")):
        if each.is_symlink() or not zipfile.is_zipfile(each):
            continue
        part = _file(each)
        found.names += part.names
        found.needs_trust += [f"{name} in {each.name}" for name in part.needs_trust]
    found.names = list(dict.fromkeys(found.names))
    return found


# -- others --------------------------------------------------------------------------------------------------------


def _pickle(path: Path) -> Contents:
    with open(path, "rb") as file:
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            try:
                notes = Notes(mapped)
            except ValueError as error:
                raise ValueError(f"{path}: {error}.") from error
    root = notes.value
    found = Contents("a pickle of " + (root.name if isinstance(root, Noted) else type(root).__name__))
    state = root.state if isinstance(root, Noted) else root
    if isinstance(state, dict):
        found.facts.update({name: state[name] for name in _OF_PICKLES if name in state})
        found.facts["holds"] = ", ".join(map(str, state))
    found.facts["bytes"] = f"{path.stat().st_size:,}"
    found.names = [f"{module}.{name}" for module, name in notes.names]
    found.needs_trust = needs_trust(notes.names)
    return found


def _arrays(path: Path) -> Contents:
    found = Contents("an .npz of arrays")
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(archive, str(path))
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    shape, _, dtype = npy_header(file)
                name = entry.filename.removesuffix(".npy")
                found.facts[name] = f"{dtype}, {shape}"
                if dtype.hasobject:
                    found.facts[name] += ": Python objects, which are never read"
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is no .npz that can be read: {error}.") from error
    return found


def _hdf5(path: Path) -> Contents:
    found = Contents("an HDF5 file")

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and len(found.facts) < 100:
            found.facts[name] = f"{item.dtype}, {item.shape}"

    try:
        with h5py.File(path, "r") as file:
            file.visititems(note)
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file that can be read: {error}.") from error
    return found


def _table(path: Path) -> Contents:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        columns = next(csv.reader([file.readline(2**20)]), [])
    return Contents("a table of text", {"columns": ", ".join(columns), "bytes": f"{path.stat().st_size:,}"})


def _minari(folder: Path) -> Contents:
    try:
        metadata = json.loads((folder / "metadata.json").read_text())
        spec = json.loads(metadata.get("env_spec") or "{}")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / 'metadata.json'} cannot be read: {error}.") from error
    found = Contents("a Minari dataset")
    for name in ("dataset_id", "total_episodes", "total_steps", "data_format", "minari_version"):
        if name in metadata:
            found.facts[name] = metadata[name]
    found.facts["environment"] = spec.get("id", "none")
    entry_point = spec.get("entry_point")
    if entry_point:
        found.names.append(str(entry_point).replace(":", "."))
        found.facts["entry point"] = f"{entry_point}, which is not imported: the environment is made by its id"
        if not {"observation_space", "action_space"} <= metadata.keys():
            found.needs_trust.append(f"{entry_point}, to know the spaces")
    return found
