"""Replay buffers for online data that SB3 does not have: n-step returns of dictionaries, and Monte-Carlo returns."""

import warnings
from typing import Any

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o.checked import checked
from sb3_o2o.data.returns import checked_gamma, checked_n_steps, returns_to_go
from sb3_o2o.data.rewards import is_reward
from sb3_o2o.data.samples import ReplaySamples, normalize_returns, to_column, to_tensors
from sb3_o2o.data.transitions import map_observations
from sb3_o2o.kinds import Count, CountFromZero, Fraction


class NStepDictReplayBuffer(DictReplayBuffer):
    """
    SB3's ``NStepReplayBuffer`` for dictionary observations.

    :param args: SB3's own, see ``DictReplayBuffer``
    :param n_steps: steps over which rewards are summed, at least 1; fewer where an episode or the recording ends
    :param gamma: discount factor, in [0, 1]
    :param kwargs: SB3's own
    """

    @checked
    def __init__(self, *args: Any, n_steps: Count = 3, gamma: Fraction = 0.99, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n_steps, self.gamma = checked_n_steps(n_steps), checked_gamma(gamma)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplaySamples:  # type: ignore[override]
        columns = np.random.randint(0, self.n_envs, size=len(batch_inds))
        return _n_step_samples(self, batch_inds, columns, env)


class MonteCarloReplayBuffer(ReplayBuffer):
    """
    A replay buffer that knows the discounted return from each transition to the end of its episode (Cal-QL, Nakamoto et
    al. 2023, https://arxiv.org/abs/2303.05479). It is filled in when the episode ends, so only transitions of ended
    episodes are sampled. Nothing is added for what would have come after a time limit.

    Like SB3's buffers it draws from NumPy's global generator.

    :param args: SB3's own, see ``ReplayBuffer``
    :param gamma: discount factor, in [0, 1]
    :param negative_reward: an episode in which every reward is this one counts as failing for ever, with the return
        ``negative_reward / (1 - gamma)``; None for dense rewards. See ``OfflineDataset.negative_reward``
    :param kwargs: SB3's own
    :raises ValueError: if gamma is out of range, or ``optimize_memory_usage`` is asked for
    """

    @checked
    def __init__(self, *args: Any, gamma: Fraction = 0.99, negative_reward: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.optimize_memory_usage:
            raise ValueError("Monte-Carlo returns need optimize_memory_usage=False.")
        checked_gamma(gamma, negative_reward)
        self.gamma, self.negative_reward = gamma, negative_reward
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.returns = np.zeros((self.buffer_size, self.n_envs), dtype=np.float32)
        # The unfinished episode of an environment is its newest transitions: their number says all
        self._unfinished = np.zeros(self.n_envs, dtype=np.int64)
        self._failing = np.ones(self.n_envs, dtype=bool)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """
        Add one step of each environment; see ``ReplayBuffer.add``.

        :param args: SB3's own
        :param kwargs: SB3's own
        """
        row = self.pos
        super().add(*args, **kwargs)
        # An episode longer than the buffer overwrites its own beginning
        self._unfinished = np.minimum(self._unfinished + 1, self.buffer_size)
        if self.negative_reward is not None:
            self._failing &= is_reward(self.rewards[row], self.negative_reward)
        for column in np.flatnonzero(self.dones[row]):
            self._finish(row, int(column))

    def _finish(self, last: int, column: int) -> None:
        rows = (last - np.arange(self._unfinished[column])) % self.buffer_size
        if self.negative_reward is not None and self._failing[column]:
            self.returns[rows, column] = self.negative_reward / (1.0 - self.gamma)
        else:
            oldest_first = rows[::-1]
            rewards = self.rewards[oldest_first, column]
            self.returns[oldest_first, column] = returns_to_go(rewards, np.zeros(1, dtype=np.int64), self.gamma)
        self._unfinished[column], self._failing[column] = 0, True

    def truncate_last_trajectory(self) -> None:
        """
        End the unfinished episodes here, as truncated. Needed if the environments are reset in between, as when a saved
        buffer is used in a new run: otherwise one episode would go on in the next.
        """
        last = (self.pos - 1) % self.buffer_size
        for column in np.flatnonzero(self._unfinished):
            self.dones[last, column] = self.timeouts[last, column] = 1.0
            self._finish(last, int(column))

    @property
    def _sampleable(self) -> np.ndarray:
        return self.size() - self._unfinished

    @property
    def n_sampleable(self) -> int:
        """Number of transitions whose episode has ended."""
        return int(self._sampleable.sum())

    @checked
    def sample(self, batch_size: CountFromZero, env: VecNormalize | None = None) -> ReplaySamples:  # type: ignore[override]
        """
        :param batch_size: transitions to draw, uniformly over ended episodes, with replacement
        :param env: normalises observations and rewards with its present statistics
        :return: a minibatch with ``returns_to_go``
        :raises ValueError: if no episode has ended yet
        """
        if self.n_sampleable == 0:
            raise ValueError(
                "No episode has ended yet, so no return is known: collect until one has (see n_sampleable), "
                "for instance with learning_starts or a warm-up longer than an episode."
            )
        counts = np.cumsum(self._sampleable)
        drawn = np.random.randint(0, counts[-1], size=batch_size)
        columns = np.searchsorted(counts, drawn, side="right")
        oldest = self.pos if self.full else 0
        rows = (oldest + drawn - (counts - self._sampleable)[columns]) % self.buffer_size
        return samples_at(self, rows, columns, env)


class MonteCarloDictReplayBuffer(MonteCarloReplayBuffer, DictReplayBuffer):  # type: ignore[misc]
    """``MonteCarloReplayBuffer`` for dictionary observations, with the same arguments."""


def can_be_sampled(buffer: ReplayBuffer) -> bool:
    """
    :param buffer: any replay buffer to which transitions were added
    :return: whether a minibatch can be drawn: some buffers wait for the end of an episode, and one that is longer than
        the buffer overwrites all that have ended
    """
    if isinstance(buffer, HerReplayBuffer):
        return bool((buffer.ep_length > 0).any())  # an episode has a length once it has ended
    n_sampleable = getattr(buffer, "n_sampleable", None)
    return n_sampleable is None or n_sampleable > 0


def close_episodes(buffer: Any) -> None:
    """
    End the episodes that are under way, whose environments begin new ones: their last transitions are truncations.

    :param buffer: any replay buffer
    """
    if hasattr(buffer, "truncate_last_trajectory"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # hindsight's: it asks whether this is meant
            buffer.truncate_last_trajectory()
    elif buffer.size() > 0:
        last = (buffer.pos - 1) % buffer.buffer_size
        goes_on = buffer.dones[last] == 0  # a failure at the last step stays one
        buffer.dones[last, goes_on] = 1.0
        if not buffer.optimize_memory_usage:  # which would find the next episode's first observation there
            buffer.timeouts[last, goes_on] = 1.0


def unfinished_steps(buffer: ReplayBuffer) -> np.ndarray:
    """
    :param buffer: any replay buffer
    :return: newest transitions of each environment that may not be sampled yet, because their return is not known;
        0 unless it is a Monte-Carlo buffer, ``(n_envs,)``
    """
    if isinstance(buffer, MonteCarloReplayBuffer):
        return buffer._unfinished.copy()
    return np.zeros(buffer.n_envs, dtype=np.int64)


def samples_at(
    buffer: ReplayBuffer, rows: np.ndarray, columns: np.ndarray, env: VecNormalize | None = None
) -> ReplaySamples:
    """
    The transitions that SB3's buffers draw at random, by their place instead.

    :param buffer: of SB3 or of this library, with ``optimize_memory_usage=False``
    :param rows: of the buffer, ``(batch,)``
    :param columns: environments, ``(batch,)``
    :param env: normalises observations and rewards with its present statistics
    :return: a minibatch; n-step, or with ``returns_to_go``, if the buffer's own are
    """
    if isinstance(buffer, NStepReplayBuffer | NStepDictReplayBuffer):
        return _n_step_samples(buffer, rows, columns, env)
    returns = None
    if isinstance(buffer, MonteCarloReplayBuffer):
        returns = to_column(buffer, normalize_returns(buffer.returns[rows, columns], env))
    dones = buffer.dones[rows, columns] * (1 - buffer.timeouts[rows, columns])
    return ReplaySamples(
        observations=_observations(buffer, buffer.observations, rows, columns, env),
        actions=buffer.to_torch(buffer.actions[rows, columns], copy=False),
        next_observations=_observations(buffer, buffer.next_observations, rows, columns, env),
        dones=to_column(buffer, dones),
        rewards=to_column(buffer, buffer._normalize_reward(buffer.rewards[rows, columns], env)),
        returns_to_go=returns,
    )


def _n_step_samples(
    buffer: "NStepReplayBuffer | NStepDictReplayBuffer",
    first: np.ndarray,
    columns: np.ndarray,
    env: VecNormalize | None,
) -> ReplaySamples:
    steps = np.arange(buffer.n_steps)
    rows = (first[:, None] + steps) % buffer.buffer_size
    ended = (buffer.dones[rows, columns[:, None]] > 0) | (buffer.timeouts[rows, columns[:, None]] > 0)
    # What follows the newest transition is the oldest one, or nothing
    ended |= rows == (buffer.pos - 1) % buffer.buffer_size
    last = np.where(ended.any(axis=1), ended.argmax(axis=1), buffer.n_steps - 1)
    rewards = buffer._normalize_reward(buffer.rewards[rows, columns[:, None]], env)
    rewards = (rewards * buffer.gamma**steps * (steps <= last[:, None])).sum(axis=1)
    final = (first + last) % buffer.buffer_size
    dones = buffer.dones[final, columns] * (1 - buffer.timeouts[final, columns])
    return ReplaySamples(
        observations=_observations(buffer, buffer.observations, first, columns, env),
        actions=buffer.to_torch(buffer.actions[first, columns]),
        next_observations=_observations(buffer, buffer.next_observations, final, columns, env),
        dones=to_column(buffer, dones),
        rewards=to_column(buffer, rewards),
        discounts=to_column(buffer, buffer.gamma ** (last + 1.0)),
    )


def _observations(
    buffer: ReplayBuffer, stored: Any, rows: np.ndarray, columns: np.ndarray, env: VecNormalize | None
) -> Any:
    gathered: Any = map_observations(lambda array: array[rows, columns], stored)
    return to_tensors(buffer, buffer._normalize_obs(gathered, env))
