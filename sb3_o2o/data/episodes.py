"""Recorded transitions, to be read: what a dataset is before it has spaces and a name."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from sb3_o2o.checked import checked
from sb3_o2o.data import cache, moments, returns
from sb3_o2o.data.transitions import (
    Observations,
    Transitions,
    close_episodes,
    map_observations,
    named_observations,
    take,
)
from sb3_o2o.kinds import Fraction, Rows


class TransitionBatch(NamedTuple):
    """Some transitions of a dataset; shapes as in ``OfflineDataset``, with the number of indices in place of N."""

    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: Observations
    terminations: np.ndarray
    truncations: np.ndarray


class Episodes:
    """
    N recorded transitions in E episodes. All arrays are read-only.

    Attributes: ``actions`` ``(N, action_dim)`` float32, scaled to [-1, 1]; ``rewards`` ``(N,)`` float32;
    ``terminations`` and ``truncations`` ``(N,)`` bool; ``episode_starts`` ``(E,)`` int64.

    :param transitions: what was read; transitions that nothing follows are marked as truncated
    """

    def __init__(self, transitions: Transitions) -> None:
        truncations, starts = close_episodes(transitions.row_index, transitions.terminations, transitions.truncations)
        self._rows = transitions.rows
        self._row_index = transitions.row_index
        self.actions = transitions.actions
        self.rewards = transitions.rewards
        self.terminations = transitions.terminations
        self.truncations = truncations
        self.episode_starts = starts
        self._protect()

    def _protect(self) -> None:
        self._rows = map_observations(_read_only, self._rows)
        for name in ("_row_index", "actions", "rewards", "terminations", "truncations", "episode_starts"):
            setattr(self, name, _read_only(getattr(self, name)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Arrays lose their write protection in a pickle
        self.__dict__.update(state)
        self._protect()

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def observations(self) -> Observations:
        """All observations, ``(N, *obs_shape)`` or a dictionary of such: float32, or uint8 for images. A copy."""
        return self.observations_at(np.arange(len(self)))

    @property
    def next_observations(self) -> Observations:
        """All next observations, as ``observations``; at an episode's end the last one that was seen. A copy."""
        return self.next_observations_at(np.arange(len(self)))

    @property
    def episode_ends(self) -> np.ndarray:
        """One past the last transition of each episode, ``(E,)``."""
        return np.append(self.episode_starts[1:], len(self))

    @property
    def episode_lengths(self) -> np.ndarray:
        """Transitions in each episode, ``(E,)``."""
        return self.episode_ends - self.episode_starts

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """Undiscounted sum of the rewards of each episode, ``(E,)`` float64."""
        return np.add.reduceat(self.rewards, self.episode_starts, dtype=np.float64)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content, 32 hexadecimal digits: the same data give the same, wherever they come from."""
        return cache.fingerprint(self._transitions)

    @property
    def _transitions(self) -> Transitions:
        return Transitions(self._rows, self._row_index, self.actions, self.rewards, self.terminations, self.truncations)

    @checked
    def observations_at(self, indices: Rows) -> Observations:
        """
        :param indices: transitions, ``(batch,)`` integers in [0, N)
        :return: their observations, ``(batch, *obs_shape)`` or a dictionary of such, a copy
        """
        rows = self._row_index[indices]
        return map_observations(lambda array: take(array, rows), self._rows)

    @checked
    def next_observations_at(self, indices: Rows) -> Observations:
        """
        :param indices: transitions, ``(batch,)`` integers in [0, N)
        :return: their next observations, ``(batch, *obs_shape)`` or a dictionary of such, a copy
        """
        rows = self._row_index[indices] + 1
        return map_observations(lambda array: take(array, rows), self._rows)

    @cached_property
    def row_bytes(self) -> int:
        """Memory of one transition in a minibatch: its two observations, action, reward, and end."""
        first = np.zeros(min(1, len(self)), dtype=np.int64)
        arrays = [*named_observations(self.observations_at(first)).values(), self.actions[first]]
        return sum(array.nbytes for array in arrays[:-1]) * 2 + arrays[-1].nbytes + 8

    @checked
    def get(self, indices: Rows) -> TransitionBatch:
        """
        :param indices: transitions, ``(batch,)`` integers in [0, N)
        :return: copies of them, in the given order
        """
        return TransitionBatch(
            observations=self.observations_at(indices),
            actions=take(self.actions, indices),
            rewards=self.rewards[indices],
            next_observations=self.next_observations_at(indices),
            terminations=self.terminations[indices],
            truncations=self.truncations[indices],
        )

    @checked
    def episode_of(self, indices: Rows) -> np.ndarray:
        """
        :param indices: transitions, ``(batch,)`` integers in [0, N)
        :return: the episode of each, ``(batch,)`` in [0, E)
        """
        return np.searchsorted(self.episode_starts, indices, side="right") - 1

    def negative_reward(self) -> float | None:
        """
        :return: the reward of a step that achieved nothing, if the rewards look sparse (at most two distinct ones);
            None if they are dense
        """
        return returns.sparse_negative_reward(self.rewards)

    @checked
    def returns_to_go(self, gamma: Fraction, *, negative_reward: float | Literal["auto"] | None = "auto") -> np.ndarray:
        """
        Discounted return from each transition to the end of its episode, with Cal-QL's rule for sparse rewards.

        :param gamma: discount factor, in [0, 1]
        :param negative_reward: an episode in which every reward is this one counts as failing for ever, with the
            return ``negative_reward / (1 - gamma)``; "auto" for what ``negative_reward()`` finds, None for never
        :return: ``(N,)`` float32
        :raises ValueError: if an argument is out of range
        """
        if isinstance(negative_reward, str):
            negative_reward = self.negative_reward()
        return returns.returns_to_go(self.rewards, self.episode_starts, gamma, negative_reward)

    def observation_stats(self) -> tuple[Observations, Observations]:
        """
        :return: mean and population standard deviation of each entry over the N observations (those that are only a
            next observation do not count), ``obs_shape`` float32, or dictionaries of such
        """
        if not isinstance(self._rows, dict):
            return moments.mean_and_std(self._rows, self._row_index)
        pairs = {key: moments.mean_and_std(rows, self._row_index) for key, rows in self._rows.items()}
        return {key: mean for key, (mean, _) in pairs.items()}, {key: std for key, (_, std) in pairs.items()}

    @checked
    def observation_moments(self, keys: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """
        :param keys: of the observations that are asked for; the empty one where they are no dictionaries
        :return: mean and population variance of each entry over the N observations, ``obs_shape`` float64, of the keys
            that there are
        """
        rows = self._rows if isinstance(self._rows, dict) else {"": self._rows}
        return {key: moments.mean_and_variance(rows[key], self._row_index) for key in keys if key in rows}


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
