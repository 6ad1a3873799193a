"""Buffers for online data: Monte-Carlo returns, and n steps of dictionaries."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer

from sb3_o2o.data import MonteCarloDictReplayBuffer, MonteCarloReplayBuffer
from sb3_o2o.data.online import NStepDictReplayBuffer, samples_at, unfinished_steps

from .test_buffers import normalizing
from .toys import ACTIONS, BOX, DICT


def add(
    buffer: ReplayBuffer, step: float, rewards: list[float], dones: list[bool], timeouts: list[bool] | None = None
) -> None:
    """Add a step whose observation is ``[environment, step]``."""
    count = len(rewards)
    state = np.stack([np.arange(count, dtype=float), np.full(count, step)], axis=1)
    rows: list[Any] = [state, state + np.array([0.0, 1.0])]
    if isinstance(buffer.observations, dict):
        rows = [{"goal": row[:, :1], "state": row} for row in rows]
    infos: list[dict[str, Any]] = [{"TimeLimit.truncated": flag} for flag in timeouts or [False] * count]
    buffer.add(*rows, np.zeros((count, 2)), np.array(rewards), np.array(dones), infos)


def open_buffer(size: int = 8, n_envs: int = 1, dictionary: bool = False, **options: Any) -> MonteCarloReplayBuffer:
    """A Monte-Carlo buffer with gamma 1/2."""
    kind = MonteCarloDictReplayBuffer if dictionary else MonteCarloReplayBuffer
    return kind(size, DICT if dictionary else BOX, ACTIONS, "cpu", n_envs=n_envs, gamma=0.5, **options)


def returns_by_reward(buffer: MonteCarloReplayBuffer) -> dict[float, float]:
    """What is sampled: the return of each reward. The rewards have to be different."""
    samples = buffer.sample(400)
    assert samples.returns_to_go is not None
    pairs = zip(samples.rewards[:, 0].tolist(), samples.returns_to_go[:, 0].tolist(), strict=True)
    return dict(sorted(set(pairs)))


@pytest.mark.parametrize("dictionary", [False, True])
def test_returns_are_filled_in_when_the_episode_ends(dictionary: bool) -> None:
    buffer = open_buffer(dictionary=dictionary)
    add(buffer, 0, [1], [False])
    add(buffer, 1, [2], [False])
    assert buffer.n_sampleable == 0
    with pytest.raises(ValueError, match=r"No episode has ended yet.*n_sampleable"):
        buffer.sample(4)
    add(buffer, 2, [4], [True])
    add(buffer, 3, [8], [False])
    assert (buffer.n_sampleable, buffer.size()) == (3, 4)
    assert returns_by_reward(buffer) == {1: 3, 2: 4, 4: 4}
    samples = buffer.sample(50)
    state = samples.observations["state"] if dictionary else samples.observations
    following = samples.next_observations["state"] if dictionary else samples.next_observations
    np.testing.assert_array_equal(following[:, 1], state[:, 1] + 1)
    np.testing.assert_array_equal(2.0 ** state[:, 1], samples.rewards[:, 0])
    np.testing.assert_array_equal(samples.dones, (samples.rewards == 4).float())


def test_a_time_limit_ends_an_episode_but_is_no_termination() -> None:
    buffer = open_buffer()
    add(buffer, 0, [1], [False])
    add(buffer, 1, [2], [True], [True])
    assert returns_by_reward(buffer) == {1: 2, 2: 2}
    assert buffer.sample(20).dones.sum() == 0


def test_environments_are_told_apart() -> None:
    buffer = open_buffer(16, n_envs=2)
    add(buffer, 0, [1, 100], [False, False])
    add(buffer, 1, [2, 200], [False, True])
    add(buffer, 2, [4, 400], [True, False])
    assert buffer.n_sampleable == 5
    assert returns_by_reward(buffer) == {1: 3, 2: 4, 4: 4, 100: 200, 200: 200}


def test_every_ended_transition_is_equally_likely() -> None:
    buffer = open_buffer(16, n_envs=2)
    for step in range(6):
        add(buffer, step, [step, 10 + step], [step == 0, step == 4])
    np.random.seed(0)
    rewards, counts = np.unique(buffer.sample(12_000).rewards.numpy(), return_counts=True)
    assert rewards.tolist() == [0, 10, 11, 12, 13, 14]
    assert np.abs(counts / 2000 - 1).max() < 0.1


def test_a_full_buffer_forgets_the_oldest() -> None:
    buffer = open_buffer(4)
    for step in range(6):
        add(buffer, step, [2.0**step], [step in (2, 4)])
    # Steps 2 to 5 are left: 2 ended an episode, 3 and 4 are one, 5 is under way
    assert returns_by_reward(buffer) == {4: 4, 8: 16, 16: 16}
    assert buffer.n_sampleable == 3


def test_an_episode_longer_than_the_buffer() -> None:
    buffer = open_buffer(3)
    for step in range(5):
        add(buffer, step, [2.0**step], [False])
    assert buffer.n_sampleable == 0
    add(buffer, 5, [32], [True])
    assert returns_by_reward(buffer) == {8: 24, 16: 32, 32: 32}


def test_failing_for_ever() -> None:
    buffer = open_buffer(16, negative_reward=-1.0)
    for step, (reward, done) in enumerate([(-1, False), (-1, True), (-1, False), (0, True), (-1, True)]):
        add(buffer, step, [reward], [done])
    np.testing.assert_array_equal(buffer.returns[:5, 0], [-2, -2, -1, 0, -2])


def test_a_success_that_has_been_overwritten_still_counts() -> None:
    buffer = open_buffer(2, negative_reward=-1.0)
    for step, reward in enumerate([0, -1, -1]):
        add(buffer, step, [reward], [step == 2])
    np.testing.assert_array_equal(np.sort(buffer.returns[:, 0]), [-1.5, -1])


def test_truncate_last_trajectory() -> None:
    buffer = open_buffer(8, n_envs=2)
    add(buffer, 0, [1, 100], [False, False])
    add(buffer, 1, [2, 200], [False, True])
    buffer.truncate_last_trajectory()
    assert returns_by_reward(buffer) == {1: 2, 2: 2, 100: 200, 200: 200}
    np.testing.assert_array_equal(buffer.dones[1], [1, 1])
    np.testing.assert_array_equal(buffer.timeouts[1], [1, 0])
    buffer.truncate_last_trajectory()
    add(buffer, 2, [4, 400], [True, True])
    assert returns_by_reward(buffer) == {1: 2, 2: 2, 4: 4, 100: 200, 200: 200, 400: 400}


def test_reset_forgets() -> None:
    buffer = open_buffer()
    add(buffer, 0, [1], [True])
    add(buffer, 1, [1], [False])
    buffer.reset()
    assert (buffer.size(), buffer.n_sampleable) == (0, 0)
    add(buffer, 2, [8], [True])
    assert returns_by_reward(buffer) == {8: 8}


def test_a_pickled_buffer_goes_on() -> None:
    buffer = open_buffer(negative_reward=-1.0)
    add(buffer, 0, [-1], [False])
    again = pickle.loads(pickle.dumps(buffer))
    for each in (buffer, again):
        add(each, 1, [-1], [True])
    np.testing.assert_array_equal(again.returns, buffer.returns)
    assert returns_by_reward(again) == {-1: -2}


def test_normalised_with_the_environments_statistics() -> None:
    buffer = open_buffer()
    add(buffer, 0, [8], [True])
    samples = buffer.sample(3, normalizing())
    np.testing.assert_allclose(samples.observations, [[-1.0, -1.0]] * 3)
    np.testing.assert_allclose(samples.next_observations, [[-1.0, -0.5]] * 3)
    np.testing.assert_allclose(samples.rewards, 2.0)
    assert samples.returns_to_go is not None
    np.testing.assert_allclose(samples.returns_to_go, 2.0)


def test_refused_arguments() -> None:
    with pytest.raises(ValueError, match="optimize_memory_usage=False"):
        open_buffer(optimize_memory_usage=True, handle_timeout_termination=False)
    with pytest.raises(ValueError, match=r"gamma is 1.0: expected a number in \[0, 1\) with a negative reward"):
        MonteCarloReplayBuffer(8, BOX, ACTIONS, "cpu", gamma=1.0, negative_reward=0.0)
    with pytest.raises(ValueError, match=r"n_steps of NStepDictReplayBuffer must be .*, not 0"):
        NStepDictReplayBuffer(8, DICT, ACTIONS, "cpu", n_steps=0)


@pytest.mark.parametrize("steps", [4, 7, 13])
@pytest.mark.parametrize("normalized", [False, True])
def test_n_steps_of_dictionaries_are_sb3s(steps: int, normalized: bool) -> None:
    ours = NStepDictReplayBuffer(14, DICT, ACTIONS, "cpu", n_envs=2, n_steps=3, gamma=0.9)
    theirs = NStepReplayBuffer(14, BOX, ACTIONS, "cpu", n_envs=2, n_steps=3, gamma=0.9)
    for step in range(steps):
        for buffer in (ours, theirs):
            add(buffer, step, [step, 10 + step], [step % 4 == 3, step % 5 == 2], [False, step % 5 == 2])
    results = []
    for buffer in (ours, theirs):
        np.random.seed(0)
        results.append(buffer.sample(100, normalizing(buffer is ours) if normalized else None))
    mine, wanted = results
    assert th.equal(mine.observations["state"], wanted.observations)
    assert th.equal(mine.next_observations["state"], wanted.next_observations)
    for name in ("actions", "dones", "rewards", "discounts"):
        th.testing.assert_close(getattr(mine, name), getattr(wanted, name).float(), rtol=1e-6, atol=1e-6)


# -- by place ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, NStepDictReplayBuffer])
@pytest.mark.parametrize("full", [False, True])
def test_transitions_by_place_are_those_that_the_buffer_draws(kind: Any, full: bool) -> None:
    """Every place twice: with the environments that the buffer would draw from NumPy's generator."""
    dictionary = kind in (DictReplayBuffer, NStepDictReplayBuffer)
    buffer = kind(6, DICT if dictionary else BOX, ACTIONS, "cpu", n_envs=2)
    for step in range(9 if full else 5):
        add(buffer, step, [step, 10 + step], [step == 2, step == 4], [False, step == 4])
    rows = np.tile(np.arange(buffer.size()), 4)
    env = normalizing(dictionary)
    np.random.seed(0)
    expected = buffer._get_samples(rows, env)
    np.random.seed(0)
    columns = np.random.randint(0, high=2, size=len(rows))
    found = samples_at(buffer, rows, columns, env)
    for name in ("observations", "actions", "next_observations", "dones", "rewards", "discounts"):
        one, other = getattr(found, name), getattr(expected, name)
        if one is None or other is None:
            assert one is other
            continue
        for key in one if isinstance(one, dict) else [None]:
            values = [each if key is None else each[key] for each in (one, other)]
            np.testing.assert_allclose(*values, rtol=1e-6)


def test_returns_by_place() -> None:
    buffer = open_buffer(n_envs=2)
    add(buffer, 0, [1, 10], [False, False])
    add(buffer, 1, [2, 20], [True, False])
    samples = samples_at(buffer, np.array([1, 0]), np.array([0, 0]))
    assert samples.returns_to_go is not None
    assert samples.returns_to_go[:, 0].tolist() == [2, 2]
    assert unfinished_steps(buffer).tolist() == [0, 2]
    assert unfinished_steps(ReplayBuffer(4, BOX, ACTIONS, "cpu", n_envs=3)).tolist() == [0, 0, 0]
