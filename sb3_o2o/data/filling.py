"""Datasets into online buffers, and datasets with other actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.data.dataset import OfflineDataset
from sb3_o2o.data.online import MonteCarloReplayBuffer, close_episodes

_CHUNK = 65_536


def fill_replay_buffer(buffer: ReplayBuffer, dataset: OfflineDataset) -> None:
    """
    Write transitions into an online buffer as if they had been collected, without a Python loop over them.

    With several environments each gets a contiguous share, whose last transition is marked as a time-out so that
    n-step returns do not run on into online data; up to ``n_envs - 1`` transitions at the end are left out.

    :param buffer: an SB3 buffer with room for the dataset
    :param dataset: transitions
    :raises ValueError: if the buffer is too small, or needs what a dataset does not hold
    """
    rows = len(dataset) // buffer.n_envs
    free = buffer.buffer_size - buffer.size()
    if rows > free:
        raise ValueError(
            f"The dataset has {len(dataset)} transitions, the replay buffer has room for {free * buffer.n_envs}: "
            f"set buffer_size to at least {len(dataset) + buffer.size() * buffer.n_envs}."
        )
    _refuse_what_is_not_held(buffer)
    returns = None
    close_episodes(buffer)  # what is unfinished would go on in the dataset
    if isinstance(buffer, MonteCarloReplayBuffer):
        returns = dataset.returns_to_go(buffer.gamma, negative_reward=buffer.negative_reward)
    for column in range(buffer.n_envs):
        if returns is not None:
            written = slice(buffer.pos, buffer.pos + rows)
            buffer.returns[written, column] = returns[column * rows : (column + 1) * rows]  # type: ignore[attr-defined]
        for start in range(0, rows, _CHUNK):
            stop = min(start + _CHUNK, rows)
            _write(buffer, slice(buffer.pos + start, buffer.pos + stop), column, dataset, column * rows + start)
        buffer.dones[buffer.pos + rows - 1, column] = 1.0
        if not dataset.terminations[(column + 1) * rows - 1]:
            buffer.timeouts[buffer.pos + rows - 1, column] = 1.0
        if isinstance(buffer, HerReplayBuffer):
            _note_episodes(buffer, buffer.pos, rows, column)
    buffer.pos += rows
    if buffer.pos == buffer.buffer_size:
        buffer.full, buffer.pos = True, 0
    if isinstance(buffer, HerReplayBuffer):
        buffer._current_ep_start[:] = buffer.pos


def _refuse_what_is_not_held(buffer: ReplayBuffer) -> None:
    """:raises ValueError: if the buffer needs what a dataset does not hold"""
    if buffer.optimize_memory_usage:
        raise ValueError(
            "A replay buffer with optimize_memory_usage=True takes each observation for the one that followed before, "
            "across the ends of episodes: set optimize_memory_usage=False, or mix the dataset in by SymmetricReplay."
        )
    if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
        raise ValueError(
            "HerReplayBuffer(copy_info_dict=True) computes rewards from the infos of each step, which a dataset does "
            "not hold: set copy_info_dict=False, or mix the dataset in by SymmetricReplay."
        )


def _note_episodes(buffer: HerReplayBuffer, first: int, n: int, column: int) -> None:
    """HER draws goals from the episode of a transition, so it has to know where episodes begin and end."""
    ends = np.flatnonzero(buffer.dones[first : first + n, column]) + 1
    lengths = np.diff(ends, prepend=0)
    buffer.ep_start[first : first + n, column] = np.repeat(first + ends - lengths, lengths)
    buffer.ep_length[first : first + n, column] = np.repeat(lengths, lengths)


def _write(buffer: Any, rows: slice, column: int, dataset: OfflineDataset, start: int) -> None:
    batch = dataset.get(np.arange(start, start + rows.stop - rows.start))
    if isinstance(batch.observations, dict):
        for key, values in batch.observations.items():
            buffer.observations[key][rows, column] = values
            buffer.next_observations[key][rows, column] = batch.next_observations[key]
    else:
        buffer.observations[rows, column] = batch.observations
        buffer.next_observations[rows, column] = batch.next_observations
    buffer.actions[rows, column] = batch.actions
    buffer.rewards[rows, column] = batch.rewards
    buffer.dones[rows, column] = batch.terminations | batch.truncations
    # a transition that is both is a terminal one
    buffer.timeouts[rows, column] = batch.truncations & ~batch.terminations


def with_actions(dataset: OfflineDataset, actions: np.ndarray) -> OfflineDataset:
    """
    The same transitions with other actions, as cloning another policy needs.

    :param dataset: transitions
    :param actions: scaled to [-1, 1], ``(N, act)``
    :return: a dataset in memory that shares everything else
    :raises ValueError: if the actions do not fit
    """
    if actions.shape != dataset.actions.shape:
        raise ValueError(f"actions have shape {actions.shape}, the dataset's have {dataset.actions.shape}.")
    if not np.isfinite(actions).all():
        row = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
        raise ValueError(f"actions[{row}] is {actions[row]}: expected finite numbers.")
    clipped = np.clip(actions, -1 + 1e-5, 1 - 1e-5).astype(np.float32)
    return dataset._derived(dataset.options, False, actions=clipped)
