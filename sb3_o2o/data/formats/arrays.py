"""Reads steps from memory or from an ``.npz``: flat arrays, OGBench's among them; writes datasets to ``.npz``."""

import json
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from minari.serialization import deserialize_space, serialize_space

from sb3_o2o.data.checks import (
    Location,
    checked_actions,
    checked_flags,
    checked_length,
    checked_observations,
    checked_rewards,
    checked_spaces,
)
from sb3_o2o.data.formats.fields import contents, grouped, require_fields
from sb3_o2o.data.formats.imitation import IMITATION_NPZ
from sb3_o2o.data.formats.reading import Format, Reading, first_match, open_as
from sb3_o2o.data.formats.steps import STEP_OPTIONS, steps_source
from sb3_o2o.data.transitions import Source, Transitions, map_observations, named_observations
from sb3_o2o.files import whole_file

#: Field that tells an ``.npz`` written by ``OfflineDataset.save`` from one of flat arrays.
_DESCRIPTION = "sb3_o2o_dataset"


def array_source(arrays: Mapping[str, Any], reading: Reading, name: str = "arrays", **known: Any) -> Source:
    """
    :param arrays: steps, one row each: ``observations``, ``actions``, ``rewards``, ``terminations``, and
        ``truncations`` or ``next_observations`` or both; or D4RL's names, or OGBench's dictionary. Dictionary
        observations are dictionaries, or fields named ``observations/key``
    :param reading: how to read them
    :param name: for people
    :param known: further fields of ``Source``
    :return: the source
    :raises ValueError: naming the field, if one is missing or something is wrong with it
    """
    return steps_source(grouped(arrays), name, reading, **known)


#: what a saved dataset says of itself beside its spaces
_DESCRIBED = ("env_id", "ref_min_score", "ref_max_score", "episode_ends", "reward_scale", "reward_shift")
#: what NumPy and its zips raise for files that are none; a shape may ask for more than all memory
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def npz_source(path: Path, reading: Reading) -> Source:
    """
    :param path: an ``.npz`` of flat arrays (see ``array_source``), of OGBench or of ``imitation``, or one that
        ``OfflineDataset.save`` wrote, which has its own spaces
    :param reading: how to read it
    :return: the source
    :raises ValueError: if the file is damaged, holds objects, or a field is missing
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} cannot be read as an .npz of plain arrays: it is no zip file. It may be truncated.")
    try:
        with np.load(path, allow_pickle=False) as file:
            kind = first_match(_NPZ_FORMATS, file.files)
            assert kind is not None  # the last one takes all
            # imitation's infos are objects: to unpickle them would run code, and nothing needs them
            names = [name for name in file.files if kind is not IMITATION_NPZ or name != "infos"]
            arrays = {name: _array(file, name) for name in names}
    except _DAMAGED as error:
        raise ValueError(f"{path} cannot be read as an .npz of plain arrays: {error}. It may be truncated.") from error
    return open_as(kind, (path, arrays), reading, str(path))


def _array(file: Any, name: str) -> np.ndarray:
    try:
        array = file[name]
    except _DAMAGED as error:
        raise ValueError(f"{name!r}: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name!r} is no array of NumPy")
    return array


def _flat_npz(opened: tuple[Path, dict[str, np.ndarray]], reading: Reading) -> Source:
    path, arrays = opened
    return steps_source(grouped(arrays), str(path), reading, on_disk=True)


def _saved_npz(opened: tuple[Path, dict[str, np.ndarray]], reading: Reading) -> Source:
    path, arrays = opened
    try:
        description = json.loads(str(arrays.pop(_DESCRIPTION)))
        space, bounds = (deserialize_space(description[name]) for name in ("observation_space", "action_space"))
        checked_spaces(space, bounds)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path}: {_DESCRIPTION!r} does not describe a dataset: {error!r}.") from error
    fields = grouped(arrays)
    required = ("observations", "row_index", "actions", "rewards", "terminations", "truncations")
    require_fields(fields, required, str(path), contents(fields))
    known = {name: description[name] for name in _DESCRIBED if name in description}

    def chunks(clip: float) -> Iterator[Transitions]:
        yield _saved_transitions(fields, space, bounds, clip)

    return Source(str(path), space, bounds, chunks, on_disk=True, **known)


def _is_saved(names: Collection[str]) -> bool:
    return _DESCRIPTION in names


def _is_anything(names: Collection[str]) -> bool:
    return True


_NPZ_FORMATS = (
    Format("a dataset saved by sb3_o2o", _is_saved, _saved_npz),
    IMITATION_NPZ,
    Format("an .npz of flat arrays", _is_anything, _flat_npz, STEP_OPTIONS),
)


def _saved_transitions(
    fields: Mapping[str, Any], space: spaces.Space, action_space: spaces.Box, clip: float
) -> Transitions:
    where = Location()
    actions = checked_actions(fields["actions"], action_space, where, clip, already_scaled=True)
    length, row_index = len(actions), np.asarray(fields["row_index"])
    checked_length("row_index", row_index, length, where)
    n_rows = len(next(iter(named_observations(fields["observations"]).values())))
    if row_index.dtype.kind not in "iu" or (np.diff(row_index) < 1).any() or row_index[0] < 0:
        raise ValueError("row_index: expected increasing integers.")
    if row_index[-1] + 1 >= n_rows:
        raise ValueError(f"row_index[{length - 1}] is {row_index[-1]}: there are only {n_rows} rows of observations.")
    return Transitions(
        rows=checked_observations(fields["observations"], space, n_rows, where),
        row_index=row_index.astype(np.int64),
        actions=actions,
        rewards=checked_rewards(fields["rewards"], length, where),
        terminations=checked_flags("terminations", fields["terminations"], length, where),
        truncations=checked_flags("truncations", fields["truncations"], length, where),
    )


def write_npz(
    path: Path, transitions: Transitions, observation_space: spaces.Space, action_space: spaces.Box, **known: Any
) -> None:
    """
    :param path: file to write, compressed
    :param transitions: what to write; rows that none of them uses are left out
    :param observation_space: of the observations
    :param action_space: of the actions
    :param known: further fields of ``Source``, plain types
    """
    used = np.unique(np.concatenate([transitions.row_index, transitions.row_index + 1]))
    description = {
        "observation_space": serialize_space(observation_space),
        "action_space": serialize_space(action_space),
        **known,
    }
    arrays = {
        **named_observations(map_observations(lambda array: array[used], transitions.rows)),
        "row_index": np.searchsorted(used, transitions.row_index),
        **{name: getattr(transitions, name) for name in ("actions", "rewards", "terminations", "truncations")},
        _DESCRIPTION: np.array(json.dumps(description)),
    }
    with whole_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
