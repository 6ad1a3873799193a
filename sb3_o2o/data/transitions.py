"""
What every source of data is turned into: checked transitions in the T+1 layout.

An episode of T transitions has T+1 observations. They are stored once, one row after the other, and a transition only
knows the row of its observation: that of its next observation is the row after it. So ``next_observations`` costs no
memory, and taking a part of the transitions, or ending an episode early, copies no observation.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces

Observations: TypeAlias = "np.ndarray | dict[str, np.ndarray]"


@dataclass(frozen=True)
class Transitions:
    """
    N transitions in recorded order. Not yet an ``OfflineDataset``: no spaces, no name, no promises.

    :param rows: observations, ``(R, *obs_shape)`` or a dictionary of such, R > N
    :param row_index: row of each transition's observation, ``(N,)`` int64, increasing;
        the next observation is in the row after it
    :param actions: scaled to [-1, 1] and clipped, ``(N, action_dim)`` float32
    :param rewards: ``(N,)`` float32
    :param terminations: the episode ended here for good, ``(N,)`` bool
    :param truncations: the recording stopped here, ``(N,)`` bool
    """

    rows: Observations
    row_index: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray

    def __len__(self) -> int:
        return len(self.rewards)


def map_observations(function: Callable[[np.ndarray], np.ndarray], observations: Observations) -> Observations:
    """
    Apply a function to an array of observations, or to each array of a dictionary of them.

    :param function: from array to array
    :param observations: ``(N, *obs_shape)``, or a dictionary of such
    :return: the same structure, with the results
    """
    if isinstance(observations, Mapping):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def take(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """
    :param array: ``(N, ...)``
    :param indices: which rows, ``(k,)`` integers in [0, N)
    :return: copies of them, ``(k, ...)``, in memory even where the rows are in a mapped file
    """
    if not array.flags.c_contiguous:
        return array[indices]  # NumPy's take would first copy the whole array
    return np.asarray(array).take(indices, axis=0)  # half the time for the short rows of most datasets


def named_observations(observations: Observations) -> dict[str, np.ndarray]:
    """
    :param observations: ``(N, *obs_shape)``, or a dictionary of such
    :return: each array under the name by which messages and files call it: ``observations`` or ``observations/key``
    """
    if isinstance(observations, dict):
        return {f"observations/{key}": value for key, value in observations.items()}
    return {"observations": observations}


def close_episodes(
    row_index: np.ndarray, terminations: np.ndarray, truncations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    Mark a transition as truncated if what comes after it is not its continuation, or nothing comes: otherwise returns
    and n-step windows would run from one episode into the next.

    :param row_index: row of each transition's observation, ``(N,)``
    :param terminations: ``(N,)`` bool
    :param truncations: ``(N,)`` bool
    :return: the truncations with these added, ``(N,)`` bool, and the first transition of each episode, ``(E,)`` int64
    """
    interrupted = np.ones(len(row_index), dtype=bool)
    interrupted[:-1] = np.diff(row_index) != 1
    truncations = truncations | (interrupted & ~terminations)
    ends = np.flatnonzero(terminations | truncations)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    return truncations, starts


@dataclass(frozen=True)
class Source:
    """
    Something that transitions can be read from.

    :param name: id, path or description, for people
    :param observation_space: of the observations as they are stored
    :param action_space: bounds by which actions are scaled
    :param chunks: reads everything, a part at a time, given the largest absolute value of a scaled action
    :param cache_key: what changes if the content does, as plain types; None for what need not be cached
    :param env_id: Gymnasium id, if it is known
    :param ref_min_score: return of a random policy, if it is known
    :param ref_max_score: return of an expert, if it is known
    :param on_disk: whether ``OfflineDataset.load`` finds it again by its name
    :param episode_ends: how terminations were told from time limits, one line for people
    :param options: what was said to ``OfflineDataset.load`` about how to read it; plain types
    :param reward_scale: that the rewards it holds were multiplied by before they were written
    :param reward_shift: that was added after that
    """

    name: str
    observation_space: spaces.Space
    action_space: spaces.Box
    chunks: Callable[[float], Iterator[Transitions]]
    cache_key: dict[str, Any] | None = None
    env_id: str | None = None
    ref_min_score: float | None = None
    ref_max_score: float | None = None
    on_disk: bool = False
    episode_ends: str = "not known"
    options: dict[str, Any] = field(default_factory=dict)
    reward_scale: float = 1.0
    reward_shift: float = 0.0


#: bytes of a block, and blocks of a file, that tell one content from another
_BLOCK, _BLOCKS = 4096, 32


def file_states(path: Path) -> list[list[Any]]:
    """
    :param path: a file, or a folder
    :return: path, size, times of change and a hash of some blocks of each file in it. Whoever copies another file over
        one may set its size and its time of modification, but not the time at which that was done; and where a file
        system does not keep this one, the blocks differ. To read gigabytes for a hash would take longer than what the
        cache saves
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[str(file.resolve()), *_state(file), _sample(file)] for file in files if file.is_file()]


def _state(file: Path) -> tuple[int, int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _sample(file: Path) -> str:
    """Hash of a file's beginning, its end, and blocks in between."""
    digest, size = hashlib.blake2b(digest_size=16), file.stat().st_size
    starts = np.unique(np.linspace(0, max(size - _BLOCK, 0), _BLOCKS).astype(np.int64))
    with open(file, "rb") as opened:
        for start in starts.tolist():
            opened.seek(start)
            digest.update(opened.read(_BLOCK))
    return digest.hexdigest()
