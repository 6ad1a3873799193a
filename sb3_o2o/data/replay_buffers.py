"""Replay buffers, as SB3's algorithms use them, on top of a dataset."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o.checked import checked
from sb3_o2o.data.dataset import DatasetReference, OfflineDataset
from sb3_o2o.data.online import MonteCarloDictReplayBuffer, MonteCarloReplayBuffer, NStepDictReplayBuffer
from sb3_o2o.data.prefetch import Prefetcher
from sb3_o2o.data.returns import checked_gamma, checked_n_steps
from sb3_o2o.data.samples import ReplaySamples, concatenate_samples, normalize_returns, to_column, to_tensors
from sb3_o2o.data.sources import Dataset
from sb3_o2o.data.transitions import take
from sb3_o2o.kinds import Count, CountFromZero, Device, Fraction, Seed, number

__all__ = [
    "MixedReplayBuffer",
    "MonteCarloDictReplayBuffer",
    "MonteCarloReplayBuffer",
    "NStepDictReplayBuffer",
    "OfflineReplayBuffer",
    "ReplaySamples",
    "concatenate_samples",
]


class OfflineReplayBuffer(ReplayBuffer):
    """
    A dataset, to be sampled like a replay buffer. It holds no copy of the data, takes none, and has its own random
    generator, so that sampling it does not change what an online buffer draws.

    Pickling keeps the name of the dataset instead of the data, and opens it again when it is next sampled. A dataset
    that came from memory has to be given back: ``buffer.dataset = dataset``.

    :param dataset: what to sample from
    :param observation_space: the environment's; the dataset must match
    :param action_space: the environment's; the dataset must match
    :param device: PyTorch device of the samples
    :param n_steps: steps over which rewards are summed, at least 1; fewer where an episode ends. None for all the rest
        of the episode: ``rewards`` are Monte-Carlo returns, which ``discounts`` times the value of
        ``next_observations`` completes where the episode was truncated
    :param gamma: discount factor, in [0, 1], of n-step rewards and of returns-to-go
    :param seed: of the random generator; None takes one from NumPy's global generator, which SB3's ``seed`` sets
    :param returns_to_go: whether samples hold Monte-Carlo returns (Cal-QL needs them)
    :param negative_reward: as in ``OfflineDataset.returns_to_go``
    :param next_actions: whether samples hold what was done next (ReBRAC needs it)
    :raises ValueError: if the dataset does not match the spaces, or a number is out of range
    """

    @checked
    def __init__(
        self,
        dataset: OfflineDataset,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: Device = "auto",
        *,
        n_steps: Count | None = 1,
        gamma: Fraction = 0.99,
        seed: Seed | None = None,
        returns_to_go: bool = False,
        negative_reward: float | Literal["auto"] | None = "auto",
        next_actions: bool = False,
    ) -> None:
        # ReplayBuffer's constructor would allocate arrays for online data
        super(ReplayBuffer, self).__init__(len(dataset), observation_space, action_space, device)
        self.n_steps = None if n_steps is None else checked_n_steps(n_steps)
        self.gamma = checked_gamma(gamma)
        self.with_returns_to_go, self.negative_reward = returns_to_go, negative_reward
        self.with_next_actions = next_actions
        self._prefetcher = Prefetcher(np.random.default_rng(np.random.randint(2**31) if seed is None else seed))
        self.pos, self.full = 0, True
        self.dataset = dataset

    @property
    def rng(self) -> np.random.Generator:
        """
        The random generator, as it is after the last minibatch. Ask for it again after each :meth:`sample`; what is
        assigned is copied, so that no two buffers draw from one.
        """
        return self._prefetcher.rewind()

    @rng.setter
    def rng(self, rng: np.random.Generator) -> None:
        self._prefetcher = Prefetcher(copy.deepcopy(rng))

    @property
    def dataset(self) -> OfflineDataset:
        """The dataset; after unpickling it is opened again on first use."""
        if self._dataset is None:
            assert self._reference is not None
            self.dataset = self._reference.open()
        assert self._dataset is not None
        return self._dataset

    @dataset.setter
    def dataset(self, dataset: OfflineDataset) -> None:
        dataset = dataset.adapted_to(self.observation_space, self.action_space)
        self._prefetcher.rewind()
        self._dataset: OfflineDataset | None = dataset
        self._reference: DatasetReference | None = None
        self.buffer_size = len(dataset)
        self._last = np.repeat(dataset.episode_ends - 1, dataset.episode_lengths)
        self._rest = dataset.returns_to_go(self.gamma, negative_reward=None) if self.n_steps is None else None
        self._returns: np.ndarray | None = None
        if self.with_returns_to_go:
            self._returns = dataset.returns_to_go(self.gamma, negative_reward=self.negative_reward)

    @property
    def fingerprint(self) -> str:
        """Of the dataset, which is not opened for it where a saved buffer only names it."""
        known = self._reference if self._dataset is None else self._dataset
        assert known is not None
        return known.fingerprint

    def add(self, *args: Any, **kwargs: Any) -> None:
        """
        :raises TypeError: always; a dataset does not change
        """
        raise TypeError("An OfflineReplayBuffer is read-only: put online transitions into another replay buffer.")

    def reset(self) -> None:
        """
        :raises TypeError: always; a dataset does not change
        """
        raise TypeError("An OfflineReplayBuffer is read-only: it cannot be emptied.")

    def size(self) -> int:
        """
        :return: number of transitions
        """
        return self.buffer_size

    @checked
    def sample(self, batch_size: CountFromZero, env: VecNormalize | None = None) -> ReplaySamples:  # type: ignore[override]
        """
        :param batch_size: transitions to draw, uniformly, with replacement
        :param env: normalises observations and rewards with its present statistics
        :return: a minibatch; its tensors may be parts of larger ones, so clone what you keep for long
        """
        if env is not None:  # its statistics may be others at the next minibatch
            return self._get_samples(self.rng.integers(len(self.dataset), size=batch_size), env)
        dataset = self.dataset
        settings = self.device, self.gamma, self.n_steps
        return self._prefetcher.take(batch_size, len(dataset), self._get_samples, dataset.row_bytes, settings)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplaySamples:  # type: ignore[override]
        dataset = self.dataset
        last, discounts, returns = batch_inds, None, None
        if self.n_steps == 1:
            rewards = self._normalize_reward(dataset.rewards[batch_inds], env)
        elif self._rest is not None:
            rewards, last = normalize_returns(self._rest[batch_inds], env), self._last[batch_inds]
            discounts = self.gamma ** (last - batch_inds + 1)
        else:
            rewards, last, discounts = self._n_step(batch_inds, env)
        if self._returns is not None:
            returns = to_column(self, normalize_returns(self._returns[batch_inds], env))
        return ReplaySamples(
            observations=to_tensors(self, self._normalize_obs(dataset.observations_at(batch_inds), env)),
            actions=self.to_torch(take(dataset.actions, batch_inds), copy=False),
            next_observations=to_tensors(self, self._normalize_obs(dataset.next_observations_at(last), env)),
            dones=to_column(self, dataset.terminations[last]),
            rewards=to_column(self, rewards),
            discounts=None if discounts is None else to_column(self, discounts),
            returns_to_go=returns,
            next_actions=self._next_actions(last) if self.with_next_actions else None,
        )

    def _next_actions(self, last: np.ndarray) -> th.Tensor:
        """
        :param last: transitions, ``(batch,)``
        :return: the actions of those after them, ``(batch, action_dim)``; NaN where an episode ends
        """
        is_last = last == self._last[last]
        actions = take(self.dataset.actions, np.where(is_last, last, last + 1))
        actions[is_last] = np.nan
        return self.to_torch(actions, copy=False)

    def _n_step(self, first: np.ndarray, env: VecNormalize | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.n_steps is not None
        steps = np.arange(self.n_steps)
        final = np.minimum(first + self.n_steps - 1, self._last[first])
        indices = np.minimum(first[:, None] + steps, final[:, None])
        inside = steps <= (final - first)[:, None]
        rewards = self._normalize_reward(self.dataset.rewards[indices], env)
        rewards = (rewards * self.gamma**steps * inside).sum(axis=1)
        return rewards, final, self.gamma ** (final - first + 1)

    def __getstate__(self) -> dict[str, Any]:
        reference = self._reference if self._dataset is None else self._dataset.reference
        return {
            **{name: value for name, value in self.__dict__.items() if name != "_prefetcher"},
            "rng": self.rng,
            "_reference": reference,
            "_dataset": None,
            "_last": None,
            "_rest": None,
            "_returns": None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.rng = state.pop("rng")
        self.__dict__.update(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OfflineReplayBuffer":
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)  # data never change, so both may have the same
        copied.rng = self.rng
        memo[id(self)] = copied
        return copied


class MixedReplayBuffer(ReplayBuffer):
    """
    Online data and a dataset, sampled together in a fixed proportion, as RLPD does (Ball et al. 2023,
    https://arxiv.org/abs/2302.02948). Any off-policy algorithm of SB3 takes it:

    ``SAC("MlpPolicy", env, replay_buffer_class=MixedReplayBuffer, replay_buffer_kwargs=dict(dataset="o2o/x-v0"))``

    Of each minibatch the same number of transitions comes from the dataset; before there are online ones, all do. The
    rows of both are spread evenly, so that equal slices of a large batch keep the share. What is drawn online is what
    SB3's own buffer would draw. Pickling keeps the online data only; see ``OfflineReplayBuffer`` about the dataset.

    :param buffer_size: online transitions to keep
    :param observation_space: the environment's, ``Box`` or flat ``Dict``
    :param action_space: the environment's
    :param device: PyTorch device of the samples
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: as in ``ReplayBuffer``, for the online part; not together with ``n_steps``
    :param handle_timeout_termination: as in ``ReplayBuffer``
    :param dataset: an ``OfflineDataset``, or what ``OfflineDataset.load`` takes
    :param offline_fraction: part of each minibatch that comes from the dataset, in [0, 1]; may be changed later
    :param n_steps: steps over which rewards are summed, at least 1
    :param gamma: discount factor of n-step rewards; the algorithm's own
    :param seed: of the dataset's sampling, see ``OfflineReplayBuffer``
    :param dataset_kwargs: further arguments of ``OfflineDataset.load``
    :raises ValueError: if the dataset does not match the spaces, or a number is out of range
    """

    @checked
    def __init__(
        self,
        buffer_size: Count,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: Device = "auto",
        n_envs: Count = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        dataset: Dataset,
        offline_fraction: Fraction = 0.5,
        n_steps: Count = 1,
        gamma: Fraction = 0.99,
        seed: Seed | None = None,
        dataset_kwargs: dict[str, Any] | None = None,
    ) -> None:
        dataset = OfflineDataset.load(
            dataset, observation_space=observation_space, action_space=action_space, **(dataset_kwargs or {})
        )
        self.offline = OfflineReplayBuffer(
            dataset, observation_space, action_space, device, n_steps=n_steps, gamma=gamma, seed=seed
        )
        self.online = _online_buffer(observation_space, n_steps, gamma)(
            buffer_size,
            observation_space,
            action_space,
            device=device,
            n_envs=n_envs,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=handle_timeout_termination,
        )
        # The constructors of the base classes would allocate arrays a second time
        self.observation_space, self.action_space = observation_space, action_space
        self.obs_shape, self.action_dim, self.n_envs = self.online.obs_shape, self.online.action_dim, n_envs
        self.offline_fraction = offline_fraction

    @property
    def offline_fraction(self) -> float:
        """Part of each minibatch that comes from the dataset, in [0, 1]."""
        return self._offline_fraction

    @offline_fraction.setter
    def offline_fraction(self, fraction: float) -> None:
        number(0, 1).check("offline_fraction", fraction)
        self._offline_fraction = float(fraction)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """
        Add one step of each environment to the online part; see ``ReplayBuffer.add``.

        :param args: SB3's own
        :param kwargs: SB3's own
        """
        self.online.add(*args, **kwargs)

    def reset(self) -> None:
        """Forget the online part."""
        self.online.reset()

    def size(self) -> int:
        """
        :return: number of online steps of each environment, as in SB3
        """
        return self.online.size()

    @checked
    def sample(self, batch_size: CountFromZero, env: VecNormalize | None = None) -> ReplaySamples:  # type: ignore[override]
        """
        :param batch_size: transitions to draw
        :param env: normalises observations and rewards with its present statistics, offline and online ones alike
        :return: a minibatch; the rows of both parts are spread evenly, each in the order in which they were drawn
        """
        n_offline = batch_size if self.size() == 0 else int(batch_size * self.offline_fraction + 0.5)
        if n_offline == batch_size:
            return self.offline.sample(batch_size, env)
        online = self.online.sample(batch_size - n_offline, env)
        if n_offline == 0:
            return ReplaySamples(*online)
        return concatenate_samples(self.offline.sample(n_offline, env), online, self.offline.gamma, interleave=True)

    def __getattr__(self, name: str) -> Any:
        # Whatever else SB3 asks of a replay buffer (buffer_size, dones, ...) is asked of the online part
        if name.startswith("__") or "online" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.online, name)

    @property
    def pos(self) -> int:  # type: ignore[override]
        """Row of the online part that is written next."""
        return self.online.pos

    @pos.setter
    def pos(self, pos: int) -> None:
        self.online.pos = pos

    @property
    def full(self) -> bool:  # type: ignore[override]
        """Whether the online part has begun to overwrite its oldest rows."""
        return self.online.full

    @full.setter
    def full(self, full: bool) -> None:
        self.online.full = full

    @property
    def device(self) -> th.device:  # type: ignore[override]
        """PyTorch device of the samples; SB3 sets it after loading."""
        return self.online.device

    @device.setter
    def device(self, device: th.device) -> None:
        self.online.device = self.offline.device = device


def _online_buffer(observation_space: spaces.Space, n_steps: int, gamma: float) -> Callable[..., ReplayBuffer]:
    is_dict = isinstance(observation_space, spaces.Dict)
    if n_steps == 1:
        return DictReplayBuffer if is_dict else ReplayBuffer
    return partial(NStepDictReplayBuffer if is_dict else NStepReplayBuffer, n_steps=n_steps, gamma=gamma)
