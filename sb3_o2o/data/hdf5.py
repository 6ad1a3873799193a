"""Reads HDF5 files in D4RL's layout: flat arrays, one row per step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from sb3_o2o.data.arrays import SYNONYMS, flat_transitions, require_fields, spaces_or_inferred
from sb3_o2o.data.checks import (
    Location,
    checked_actions,
    checked_flags,
    checked_observations,
    checked_rewards,
)
from sb3_o2o.data.transitions import Source, Transitions, close_episodes, file_states, map_observations

#: Steps that are read at a time, unless an episode is longer.
SLAB = 65536
_FIELDS = ("observations", "next_observations", "actions", "rewards", "terminations", "truncations")


def hdf5_source(
    path: Path, observation_space: spaces.Space | None = None, action_space: spaces.Space | None = None
) -> Source:
    """
    D4RL's files mostly have no next observations: that of a step is then the next row. What was seen after the last
    step of a timed-out episode is unknown, so that step is dropped (as ``d4rl.qlearning_dataset`` does) and the episode
    truncated one step earlier. After a termination nothing is bootstrapped, so the last observation stands in.

    :param path: a file with ``observations``, ``actions``, ``rewards``, ``terminals`` and ``timeouts``, or the latter's
        newer names; ``next_observations`` instead of ``timeouts`` will do
    :param observation_space: the environment's; None to take the shapes of the data
    :param action_space: the environment's; None for [-1, 1]
    :return: the source
    :raises ValueError: if the file is damaged or has another layout
    """
    try:
        with h5py.File(path, "r") as file:
            names = {SYNONYMS.get(name, name): name for name in file}
            names = {field: name for field, name in names.items() if field in _FIELDS}
            if any(name.startswith("episode_") for name in file):
                raise ValueError(f"{path} belongs to a Minari dataset: load it by its id, or by its folder.")
            require_fields(names, ("observations", "actions", "rewards", "terminations"), str(path))
            if "truncations" not in names and "next_observations" not in names:
                raise ValueError(
                    f"{path} has no field 'timeouts' and no 'next_observations': without one of them it is unknown "
                    "where episodes end."
                )
            described = {field: _described(file[names[field]]) for field in ("observations", "actions")}
            observation_space, action_space = spaces_or_inferred(described, observation_space, action_space)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as HDF5: {error}. It may be truncated: download it again.") from error

    def chunks(clip: float) -> Iterator[Transitions]:
        try:
            with h5py.File(path, "r") as file:
                yield from _slabs(file, names, observation_space, action_space, clip)
        except OSError as error:
            raise ValueError(f"{path} is damaged: {error}.") from error

    key = {"hdf5": file_states(path), "spaces": [str(observation_space), str(action_space)]}
    return Source(str(path), observation_space, action_space, chunks, cache_key=key, on_disk=True)


def _described(entry: Any) -> Any:
    return {key: entry[key] for key in entry} if isinstance(entry, h5py.Group) else entry


def _slabs(
    file: h5py.File, names: dict[str, str], space: spaces.Space, action_space: spaces.Box, clip: float
) -> Iterator[Transitions]:
    length = len(file[names["actions"]])
    flags = {
        field: checked_flags(field, file[names[field]][:] if field in names else np.zeros(length), length, Location())
        for field in ("terminations", "truncations")
    }
    ends = np.append(np.flatnonzero(flags["terminations"] | flags["truncations"]) + 1, length)
    start = 0
    while start < length:
        # The last episode end within the slab, or the first one after it
        within = ends[(ends > start) & (ends <= start + SLAB)]
        stop = int(within[-1] if len(within) else ends[ends > start][0])
        fields = {field: _read(file[name], start, stop) for field, name in names.items()}
        fields.update({field: array[start:stop] for field, array in flags.items()})
        where = Location(start)
        if "next_observations" in fields:
            yield flat_transitions(fields, space, action_space, clip, where=where)
        else:
            slab = _without_next_observations(fields, space, action_space, clip, where)
            if len(slab):
                yield slab
        start = stop


def _read(entry: Any, start: int, stop: int) -> Any:
    if isinstance(entry, h5py.Group):
        return {key: entry[key][start:stop] for key in entry}
    return entry[start:stop]


def _without_next_observations(
    fields: dict[str, Any], space: spaces.Space, action_space: spaces.Box, clip: float, where: Location
) -> Transitions:
    actions = checked_actions(fields["actions"], action_space, where, clip)
    length = len(actions)
    rewards = checked_rewards(fields["rewards"], length, where)
    observations = checked_observations(fields["observations"], space, length, where)
    terminations = fields["terminations"]
    ended = terminations | fields["truncations"]
    ended[-1] = True
    kept = terminations | ~ended
    # The last observation of a terminated episode is there twice, the second one for the row that comes after it
    row_index = np.arange(length) + np.cumsum(terminations) - terminations
    truncations = np.zeros(int(kept.sum()), dtype=bool)
    if len(truncations):
        truncations, _ = close_episodes(row_index[kept], terminations[kept], truncations)
    return Transitions(
        rows=map_observations(lambda array: np.repeat(array, 1 + terminations, axis=0), observations),
        row_index=row_index[kept],
        actions=actions[kept],
        rewards=rewards[kept],
        terminations=terminations[kept],
        truncations=truncations,
    )
