"""The minibatch that replay buffers return, and how two of them become one."""

from typing import Annotated, Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o.checked import checked
from sb3_o2o.data.transitions import Observations
from sb3_o2o.kinds import Fraction, kind


class ReplaySamples(NamedTuple):
    """
    A minibatch: SB3's ``ReplayBufferSamples`` with one more field, so that stock SB3 algorithms can use it too.

    :param observations: ``(batch, *obs_shape)``, or a dictionary of such
    :param actions: scaled to [-1, 1], ``(batch, action_dim)``
    :param next_observations: n steps later, or where the episode ended; as ``observations``
    :param dones: 1 if the episode terminated in between, 0 if it goes on or was truncated, ``(batch, 1)``
    :param rewards: discounted sum over the n steps, ``(batch, 1)``
    :param discounts: what the value of ``next_observations`` is multiplied by, ``(batch, 1)``;
        None stands for gamma in every row
    :param returns_to_go: discounted return from here to the end of the episode, ``(batch, 1)``, where it is known
    :param next_actions: what was done at ``next_observations``, as ``actions``, where it is known; NaN in rows where
        the episode ended, and in those of online transitions
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None = None
    returns_to_go: th.Tensor | None = None
    next_actions: th.Tensor | None = None


_SAMPLES = kind("samples of a replay buffer", lambda value: hasattr(value, "rewards") and hasattr(value, "_fields"))


@checked
def concatenate_samples(
    first: Annotated[Any, _SAMPLES], second: Annotated[Any, _SAMPLES], gamma: Fraction, interleave: bool = False
) -> ReplaySamples:
    """
    Join two minibatches.

    :param first: ``ReplaySamples``, or the samples of an SB3 buffer
    :param second: the same
    :param gamma: fills ``discounts`` where only one of the two has them
    :param interleave: spread the rows of both evenly instead of placing one after the other. If the batch is cut into
        equal slices, each then holds the same share of both, as RLPD's high update-to-data loop needs
        (Ball et al. 2023, https://arxiv.org/abs/2302.02948, algorithm 1: each update sees both halves)
    :return: a minibatch with the rows of both; ``returns_to_go`` only if both have them, ``next_actions`` if one has
    :raises ValueError: if the observations have different keys
    """
    order = _interleaving(len(first.actions), len(second.actions)) if interleave else None

    def join(one: th.Tensor, other: th.Tensor) -> th.Tensor:
        joined = th.cat([one, other.to(one.dtype)])
        return joined if order is None else joined[order.to(joined.device)]

    def join_observations(one: Any, other: Any) -> Any:
        if not isinstance(one, dict) and not isinstance(other, dict):
            return join(one, other)
        if not isinstance(one, dict) or not isinstance(other, dict) or one.keys() != other.keys():
            keys = [sorted(each) if isinstance(each, dict) else "a single array" for each in (one, other)]
            raise ValueError(f"Cannot join observations with the keys {keys[0]} and {keys[1]}.")
        return {key: join(value, other[key]) for key, value in one.items()}

    discounts = returns_to_go = next_actions = None
    if first.discounts is not None or second.discounts is not None:
        discounts = join(*(_discounts_or(gamma, samples) for samples in (first, second)))
    following = [getattr(samples, "next_actions", None) for samples in (first, second)]
    if any(each is not None for each in following):
        known = zip(following, (first, second), strict=True)
        next_actions = join(*(th.full_like(all.actions, th.nan) if each is None else each for each, all in known))
    returns = [getattr(samples, "returns_to_go", None) for samples in (first, second)]
    if returns[0] is not None and returns[1] is not None:
        returns_to_go = join(returns[0], returns[1])
    return ReplaySamples(
        observations=join_observations(first.observations, second.observations),
        actions=join(first.actions, second.actions),
        next_observations=join_observations(first.next_observations, second.next_observations),
        dones=join(first.dones, second.dones),
        rewards=join(first.rewards, second.rewards),
        discounts=discounts,
        returns_to_go=returns_to_go,
        next_actions=next_actions,
    )


def take_rows(samples: ReplaySamples, rows: np.ndarray) -> ReplaySamples:
    """
    :param samples: a minibatch
    :param rows: indices of its rows, ``(k,)``
    :return: these rows, in this order
    """
    order = th.from_numpy(rows).to(samples.actions.device)

    def take(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item[order] for key, item in value.items()}
        return None if value is None else value[order]

    return ReplaySamples(*map(take, samples))


def _discounts_or(gamma: float, samples: Any) -> th.Tensor:
    return th.full_like(samples.rewards, gamma) if samples.discounts is None else samples.discounts


def _interleaving(n_first: int, n_second: int) -> th.Tensor:
    # Row i of n sits at (i + 1/2) / n of the batch's length. The number of rows before x is then n * x, rounded:
    # a slice that starts and ends where both products are whole holds both kinds in the exact proportion.
    positions = [(np.arange(n) + 0.5) / max(n, 1) for n in (n_first, n_second)]
    return th.from_numpy(np.argsort(np.concatenate(positions), kind="stable"))


def normalize_returns(returns: np.ndarray, env: VecNormalize | None) -> np.ndarray:
    """
    Give returns the unit that ``VecNormalize`` gives rewards: it divides them by a running standard deviation. (It also
    clips them, at 10 unless told otherwise; that is not followed here.)

    :param returns: discounted sums of raw rewards, any shape
    :param env: the normalising environment; None for none
    :return: float32, the same shape
    """
    if env is None or not env.norm_reward:
        return returns
    return (returns / np.sqrt(env.ret_rms.var + env.epsilon)).astype(np.float32)


def to_tensors(buffer: BaseBuffer, observations: Observations) -> Any:
    """
    :param buffer: says the device
    :param observations: gathered for this minibatch, so that they need not be copied; ``(batch, *obs_shape)``
    :return: the same as tensors
    """
    if isinstance(observations, dict):
        return {key: buffer.to_torch(array, copy=False) for key, array in observations.items()}
    return buffer.to_torch(observations, copy=False)


def to_column(buffer: BaseBuffer, values: np.ndarray) -> th.Tensor:
    """
    :param buffer: says the device
    :param values: ``(batch,)``
    :return: ``(batch, 1)`` float32
    """
    return buffer.to_torch(values.astype(np.float32).reshape(-1, 1), copy=False)
