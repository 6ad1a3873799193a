"""Policies of any kind, asked for actions as Stable-Baselines3 asks its own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import BasePolicy

from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.normalization import Normalizer
from sb3_o2o.data.returns import returns_to_go

#: transitions that a policy without memory sees at once
_CHUNK = 4096
#: episodes that a policy with memory goes through side by side
_N_ROWS = 64


#: what ``predict`` may ask for beside Stable-Baselines3's arguments, each ``(batch,)`` float32
ALONG = {
    "reward": "the reward of the step before, unscaled; 0 where an episode begins",
    "return_to_go": "the undiscounted sum of the dataset's rewards from this transition to the end of its episode",
}


def has_predict(source: Any) -> bool:
    """
    :param source: anything
    :return: whether it has the ``predict`` of Stable-Baselines3, which hands on a state
    """
    if isinstance(source, BaseAlgorithm | BasePolicy):
        return True
    predict = getattr(source, "predict", None)
    return callable(predict) and {"state", "episode_start"} <= inspect.signature(predict).parameters.keys()


def check_known(source: Any, known: Collection[str], where: str) -> None:
    """
    :param source: a policy of any kind
    :param known: names of :data:`ALONG` that it can be given there
    :param where: it is to act, for the error
    :raises ValueError: if its ``predict`` cannot do without another
    """
    for name, is_needed in _asked_along(source).items():
        if is_needed and name not in known:
            raise ValueError(
                f"predict of {type(source).__name__} needs {name} ({ALONG[name]}), which is not known {where}: clone "
                f"it on a dataset, or give {name} a default there, with which it acts alone."
            )


def _asked_along(source: Any) -> dict[str, bool]:
    """:return: names of :data:`ALONG` that a policy's ``predict`` takes, and whether it cannot do without"""
    if isinstance(source, BaseAlgorithm | BasePolicy) or not has_predict(source):
        return {}
    parameters = inspect.signature(source.predict).parameters
    return {name: parameters[name].default is inspect.Parameter.empty for name in ALONG if name in parameters}


class Acting:
    """
    A policy of any kind with the ``predict`` of Stable-Baselines3, giving the actions that would be executed.

    :param source: a model or policy of SB3, another object with SB3's ``predict``, which may take what :data:`ALONG`
        lists as well, or a ``torch.nn.Module`` or other callable without memory
    :param action_space: the bounds of what is executed
    :param normalizer: by which it sees observations; None where it sees them as they are
    """

    def __init__(self, source: Any, action_space: spaces.Box, normalizer: Normalizer | None = None):
        self.source = source
        self.normalizer = normalizer
        self.action_space = action_space
        self.may_sample = has_predict(source)
        self.asks = tuple(_asked_along(source))
        self._function = None if self.may_sample else _as_function(source)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        along: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, Any]:
        """
        :param observation: as the environment gives it without normaliser, ``(batch, *obs_shape)``, or a dictionary of
            such
        :param state: what was returned before, None at first
        :param episode_start: which of them begin an episode, ``(batch,)`` bool
        :param deterministic: the mode, or a sample where the policy has a distribution
        :param along: what is known of :data:`ALONG`
        :return: actions within the bounds, ``(batch, *action_shape)`` float32, and the state to hand on
        """
        if self.normalizer is not None:
            observation = self.normalizer.normalize_obs(observation)
        if self._function is not None:
            actions = self._function(observation)
        else:
            actions, state = self.source.predict(
                observation,
                state=state,
                episode_start=episode_start,
                deterministic=deterministic,
                **{name: values for name, values in (along or {}).items() if name in self.asks},
            )
        if isinstance(actions, th.Tensor):
            actions = actions.detach().cpu()
        actions = np.asarray(actions, dtype=np.float32)
        if actions.ndim == 0 or actions.size != len(actions) * math.prod(self.action_space.shape):
            raise ValueError(
                f"{type(self.source).__name__} gave actions of shape {actions.shape}; expected (batch, "
                f"{', '.join(map(str, self.action_space.shape))}), one for each observation of the batch."
            )
        actions = actions.reshape(len(actions), *self.action_space.shape)
        return np.clip(actions, self.action_space.low, self.action_space.high), state

    def on_dataset(
        self, dataset: OfflineDataset, seed: int | None = None, rewards: np.ndarray | None = None
    ) -> np.ndarray:
        """
        :param dataset: whose observations are acted on, as episodes where the policy has a memory
        :param seed: of samples of its distribution; None for its mode
        :param rewards: of the dataset's transitions, unscaled, ``(N,)``; the dataset's own by default
        :return: actions within the bounds, ``(N, *action_shape)`` float32
        :raises ValueError: if the policy asks for rewards, and there are none
        """
        along = self._along(dataset, dataset.rewards if rewards is None else rewards)
        roll = self._episodes if self._remembers(dataset) else self._chunks
        if seed is None:
            return roll(dataset, along, self._mode)
        # of random numbers that belong to nobody else
        with th.random.fork_rng(devices=list(range(th.cuda.device_count()))), self._fresh_noise() as renew:
            th.manual_seed(seed)

            def sample(observation: Any, state: Any, episode_start: np.ndarray, along: Any) -> tuple[np.ndarray, Any]:
                renew(len(episode_start))
                return self.predict(observation, state, episode_start, deterministic=False, along=along)

            return roll(dataset, along, sample)

    def _mode(self, observation: Any, state: Any, episode_start: np.ndarray, along: Any) -> tuple[np.ndarray, Any]:
        return self.predict(observation, state, episode_start, along=along)

    def _along(self, dataset: OfflineDataset, rewards: np.ndarray) -> dict[str, np.ndarray]:
        """:return: what the policy asks for of :data:`ALONG`, ``(N,)`` each"""
        if not self.asks:
            return {}
        if not rewards.any():
            raise ValueError(
                f"{type(self.source).__name__} acts by {' and '.join(self.asks)}, and all rewards of the dataset are "
                "0: clone it on a dataset that has rewards."
            )
        before = np.roll(rewards, 1).astype(np.float32)
        before[dataset.episode_starts] = 0.0
        values = {"reward": before, "return_to_go": returns_to_go(rewards, dataset.episode_starts, 1.0)}
        return {name: values[name] for name in self.asks}

    def _remembers(self, dataset: OfflineDataset) -> bool:
        if not isinstance(self.source, BaseAlgorithm | BasePolicy):
            return self._function is None
        first = np.zeros(1, dtype=np.int64)
        return self.predict(dataset.observations_at(first), None, np.ones(1, dtype=bool))[1] is not None

    def _chunks(
        self, dataset: OfflineDataset, along: Mapping[str, np.ndarray], act: Callable[..., tuple[np.ndarray, Any]]
    ) -> np.ndarray:
        starts = range(0, len(dataset), _CHUNK)
        chunks = [np.arange(start, min(start + _CHUNK, len(dataset))) for start in starts]
        return np.concatenate(
            [act(dataset.observations_at(rows), None, np.ones(len(rows), dtype=bool), along)[0] for rows in chunks]
        )

    def _episodes(
        self, dataset: OfflineDataset, along: Mapping[str, np.ndarray], act: Callable[..., tuple[np.ndarray, Any]]
    ) -> np.ndarray:
        """As in parallel environments: each row of the batch goes through the episodes of its share in turn."""
        starts, ends = _shares(dataset)
        begins = np.zeros(len(dataset), dtype=bool)
        begins[dataset.episode_starts] = True
        found = np.empty((len(dataset), *self.action_space.shape), dtype=np.float32)
        state = None
        for step in range(int((ends - starts).max())):
            rows = np.minimum(starts + step, ends - 1)  # a share that is through waits at its last transition
            here = {name: values[rows] for name, values in along.items()}
            actions, state = act(dataset.observations_at(rows), state, begins[rows], here)
            going_on = starts + step < ends
            found[rows[going_on]] = actions[going_on]
        return found

    @contextmanager
    def _fresh_noise(self) -> Iterator[Callable[[int], None]]:
        """
        gSDE keeps its noise until told otherwise, and then all states of the dataset would share one draw of it.

        :return: draws the noise of as many actions; what the source had is put back in the end
        """
        policy = getattr(self.source, "policy", self.source)
        owner = policy if hasattr(policy, "action_dist") else getattr(policy, "actor", None)
        noise = getattr(owner, "action_dist", None)
        if not isinstance(noise, StateDependentNoiseDistribution):
            yield lambda n_actions: None
            return
        kept = dict(vars(noise))
        try:
            yield lambda n_actions: noise.sample_weights(owner.log_std, batch_size=n_actions)  # type: ignore[union-attr]
        finally:
            vars(noise).update(kept)


class ToldRewards:
    """
    A policy in an environment, for ``evaluate_policy``, that is told the reward of the step before.

    :param acting: the policy
    """

    def __init__(self, acting: Acting):
        self.acting, self.rewards = acting, np.zeros(0, np.float32)

    def hear(self, seen: dict[str, Any], _: dict[str, Any]) -> None:
        """
        :param seen: what ``evaluate_policy`` tells its callback
        """
        self.rewards = np.asarray(seen["rewards"], dtype=np.float32)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[np.ndarray, Any]:
        """See :meth:`Acting.predict`."""
        before = np.zeros(len(episode_start), np.float32)
        going_on = ~np.asarray(episode_start, dtype=bool)
        if self.rewards.size:
            before[going_on] = self.rewards[going_on]
        return self.acting.predict(observation, state, episode_start, deterministic, {"reward": before})


def _shares(dataset: OfflineDataset) -> tuple[np.ndarray, np.ndarray]:
    """:return: first transitions of contiguous shares of whole episodes, and one past their last ones"""
    wanted = np.arange(_N_ROWS) * len(dataset) // _N_ROWS
    starts = np.unique(dataset.episode_starts[dataset.episode_of(wanted)])
    return starts, np.append(starts[1:], len(dataset))


def _as_function(source: Any) -> Callable[[Any], Any]:
    """
    :param source: a ``torch.nn.Module`` or another callable
    :return: its actions from a batch of observations, which are NumPy
    """
    if not isinstance(source, th.nn.Module):
        return source
    device = next((parameter.device for parameter in source.parameters()), th.device("cpu"))

    def act(observations: Any) -> th.Tensor:
        with th.no_grad():
            inputs = (
                {key: th.as_tensor(value, device=device) for key, value in observations.items()}
                if isinstance(observations, dict)
                else th.as_tensor(observations, device=device)
            )
            return source(inputs)

    return act
