"""Reads SB3's replay buffers."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.data.arrays import flat_transitions
from sb3_o2o.data.checks import Location, checked_spaces
from sb3_o2o.data.transitions import Observations, Source, Transitions, map_observations


def pickled_buffer_source(path: Path) -> Source:
    """
    :param path: what SB3's ``model.save_replay_buffer`` wrote. Unpickling runs code: open only files you trust
    :return: the buffer's transitions
    :raises ValueError: if the file is damaged, or holds something else
    """
    try:
        with open(path, "rb") as file:
            buffer = pickle.load(file)
    except Exception as error:  # a damaged pickle raises whatever it happens to run into
        raise ValueError(
            f"{path} cannot be unpickled: {error}. It may be truncated, or from other versions."
        ) from error
    if not isinstance(buffer, ReplayBuffer):
        raise ValueError(f"{path} holds a {type(buffer).__name__}, expected an SB3 ReplayBuffer or DictReplayBuffer.")
    return replay_buffer_source(buffer, str(path), on_disk=True)


def replay_buffer_source(buffer: ReplayBuffer, name: str, on_disk: bool = False) -> Source:
    """
    The transitions of each environment in the order in which they were added. A full buffer has overwritten the
    beginning of its oldest episode; what is left of it counts as an episode.

    :param buffer: any replay buffer of SB3; its actions are scaled already
    :param name: for people
    :param on_disk: whether it can be opened again by its name
    :return: the transitions
    :raises ValueError: if it is empty, or its spaces are not supported
    """
    checked_spaces(buffer.observation_space, buffer.action_space)
    action_space = buffer.action_space
    assert isinstance(action_space, spaces.Box)
    rows = _recorded_rows(buffer)
    if len(rows) == 0:
        raise ValueError(f"{name} is an empty replay buffer: expected at least one transition.")

    def chunks(clip: float) -> Iterator[Transitions]:
        for column in range(buffer.n_envs):
            where = Location(column * len(rows))
            fields = _column(buffer, rows, column)
            yield flat_transitions(
                fields, buffer.observation_space, action_space, clip, already_scaled=True, where=where
            )

    return Source(name, buffer.observation_space, action_space, chunks, on_disk=on_disk)


def _recorded_rows(buffer: ReplayBuffer) -> np.ndarray:
    if not buffer.full:
        return np.arange(buffer.pos)
    rows = (np.arange(buffer.buffer_size) + buffer.pos) % buffer.buffer_size
    # With one array for both, the oldest observation has been overwritten by the newest next observation
    return rows[1:] if buffer.optimize_memory_usage else rows


def _column(buffer: ReplayBuffer, rows: np.ndarray, column: int) -> dict[str, Any]:
    stored: Observations = buffer.observations
    following, next_rows = stored, (rows + 1) % buffer.buffer_size
    if not buffer.optimize_memory_usage:
        following, next_rows = buffer.next_observations, rows
    dones, timeouts = buffer.dones[rows, column] > 0, buffer.timeouts[rows, column] > 0
    return {
        "observations": map_observations(lambda array: array[rows, column], stored),
        "next_observations": map_observations(lambda array: array[next_rows, column], following),
        "actions": buffer.actions[rows, column],
        "rewards": buffer.rewards[rows, column],
        "terminations": dones & ~timeouts,
        "truncations": dones & timeouts,
    }
