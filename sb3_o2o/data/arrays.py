"""Reads flat arrays, from memory or from an ``.npz``; writes datasets to ``.npz``."""

import json
import zipfile
from collections.abc import Iterator, Mapping
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
    infer_observation_space,
    numeric,
)
from sb3_o2o.data.transitions import (
    Observations,
    Source,
    Transitions,
    close_episodes,
    map_observations,
    named_observations,
)
from sb3_o2o.files import whole_file

#: D4RL's names for two of the fields.
SYNONYMS = {"terminals": "terminations", "timeouts": "truncations"}
_REQUIRED = ("observations", "actions", "rewards", "next_observations", "terminations")
#: Field that tells an ``.npz`` written by ``OfflineDataset.save`` from one of flat arrays.
_DESCRIPTION = "sb3_o2o_dataset"


def array_source(
    arrays: Mapping[str, Any],
    name: str,
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
    already_scaled: bool = False,
    **known: Any,
) -> Source:
    """
    :param arrays: ``observations``, ``actions``, ``rewards``, ``next_observations``, ``terminations`` and optionally
        ``truncations``, each with N rows; or with D4RL's names, ``terminals`` and ``timeouts``. Dictionary observations
        are dictionaries, or fields named ``observations/key``
    :param name: for people
    :param observation_space: of the observations; None to take their shapes and dtypes
    :param action_space: of the actions; None for [-1, 1]
    :param already_scaled: whether the actions are scaled to [-1, 1] already
    :param known: further fields of ``Source``
    :return: the source
    :raises ValueError: naming the field, if one is missing
    """
    fields = grouped(arrays)
    require_fields(fields, _REQUIRED, name)
    observation_space, action_space = spaces_or_inferred(fields, observation_space, action_space)

    def chunks(clip: float) -> Iterator[Transitions]:
        yield flat_transitions(fields, observation_space, action_space, clip, already_scaled)

    return Source(name, observation_space, action_space, chunks, **known)


def require_fields(fields: Mapping[str, Any], required: tuple[str, ...], name: str) -> None:
    """
    :param fields: what a source has
    :param required: what it must have
    :param name: the source, for the message
    :raises ValueError: naming the fields that are missing
    """
    missing = [field for field in required if field not in fields]
    if missing:
        raise ValueError(f"{name} has no field {', '.join(map(repr, missing))}: it has {sorted(fields) or 'none'}.")


def spaces_or_inferred(
    fields: Mapping[str, Any], observation_space: spaces.Space | None, action_space: spaces.Space | None
) -> tuple[spaces.Space, spaces.Box]:
    """
    :param fields: ``observations`` and ``actions``, of which only shapes and dtypes are looked at
    :param observation_space: the environment's; None for an unbounded one of the observations' shapes
    :param action_space: the environment's; None for [-1, 1]
    :return: both spaces
    :raises ValueError: if one of them is not supported
    """
    observation_space = observation_space or infer_observation_space(fields["observations"])
    action_space = action_space or _unit_action_space(fields["actions"])
    checked_spaces(observation_space, action_space)
    assert isinstance(action_space, spaces.Box)
    return observation_space, action_space


def flat_transitions(
    fields: Mapping[str, Any],
    space: spaces.Space,
    action_space: spaces.Box,
    clip: float,
    already_scaled: bool = False,
    where: Location | None = None,
) -> Transitions:
    """
    Bring arrays of N transitions, next observations among them, into the T+1 layout.

    :param fields: see ``array_source``
    :param space: of the observations
    :param action_space: of the actions
    :param clip: largest absolute value of a scaled action
    :param already_scaled: whether the actions are scaled to [-1, 1] already
    :param where: for messages
    :return: the transitions
    :raises ValueError: naming the field, the first bad index and what was found
    """
    where = where or Location()
    actions = checked_actions(fields["actions"], action_space, where, clip, already_scaled)
    length = len(actions)
    observations = checked_observations(fields["observations"], space, length, where)
    following = checked_observations(fields["next_observations"], space, length, where, "next_observations")
    terminations = checked_flags("terminations", fields["terminations"], length, where)
    truncations = checked_flags("truncations", fields.get("truncations", np.zeros(length)), length, where)
    rewards = checked_rewards(fields["rewards"], length, where)
    # A last row of its own for each stretch in which one transition's next observation is the next one's observation
    continues = np.zeros(length, dtype=bool)
    continues[:-1] = _rows_equal(following, observations)
    row_index = np.arange(length)
    row_index[1:] += np.cumsum(~continues[:-1])
    ends = np.flatnonzero(~continues)

    def lay_out(array: np.ndarray, after: np.ndarray) -> np.ndarray:
        rows = np.empty((length + len(ends), *array.shape[1:]), dtype=array.dtype)
        rows[row_index] = array
        rows[row_index[ends] + 1] = after[ends]
        return rows

    rows: Observations
    if isinstance(observations, dict) and isinstance(following, dict):
        rows = {key: lay_out(array, following[key]) for key, array in observations.items()}
    else:
        assert isinstance(observations, np.ndarray)
        assert isinstance(following, np.ndarray)
        rows = lay_out(observations, following)
    truncations, _ = close_episodes(row_index, terminations, truncations)
    return Transitions(rows, row_index, actions, rewards, terminations, truncations)


def _rows_equal(following: Observations, observations: Observations) -> np.ndarray:
    named, result = named_observations(observations), None
    for name, array in named_observations(following).items():
        equal = (array[:-1] == named[name][1:]).all(axis=tuple(range(1, array.ndim)))
        result = equal if result is None else result & equal
    assert result is not None
    return result


def grouped(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param arrays: fields by name, dictionary observations as ``observations/key``
    :return: fields by their present names, with dictionaries for such observations
    """
    fields: dict[str, Any] = {}
    for name, values in arrays.items():
        field, _, key = name.partition("/")
        field = SYNONYMS.get(field, field)
        if key:
            fields.setdefault(field, {})[key] = values
        else:
            fields[field] = values
    return fields


def _unit_action_space(actions: Any) -> spaces.Box:
    shape = actions.shape if hasattr(actions, "shape") else numeric("actions", actions, Location()).shape
    if len(shape) < 2:
        raise ValueError(f"actions has the shape {shape}: expected (N, action_dim).")
    return spaces.Box(-1.0, 1.0, shape[1:], np.float32)


def npz_source(
    path: Path, observation_space: spaces.Space | None = None, action_space: spaces.Space | None = None
) -> Source:
    """
    :param path: an ``.npz`` of flat arrays (see ``array_source``), or one that ``OfflineDataset.save`` wrote
    :param observation_space: as in ``array_source``; not used for the latter, which has its own
    :param action_space: likewise
    :return: the source
    :raises ValueError: if the file is damaged, holds objects, or a field is missing
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an .npz of plain arrays: {error}. It may be truncated.") from error
    if _DESCRIPTION not in arrays:
        return array_source(arrays, str(path), observation_space, action_space, on_disk=True)
    description = json.loads(str(arrays.pop(_DESCRIPTION)))
    fields = grouped(arrays)
    require_fields(
        fields, ("observations", "row_index", "actions", "rewards", "terminations", "truncations"), str(path)
    )
    space, bounds = (deserialize_space(description.pop(name)) for name in ("observation_space", "action_space"))

    def chunks(clip: float) -> Iterator[Transitions]:
        yield _saved_transitions(fields, space, bounds, clip)

    return Source(str(path), space, bounds, chunks, on_disk=True, **description)


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
