"""The read-only view on a dataset."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer

from .toys import ACTIONS, BOX, DICT, WalkEnv, make_arrays, observation


def open_buffer(name: str, **options: Any) -> OfflineReplayBuffer:
    """A buffer on a dataset of the fixtures."""
    dataset = OfflineDataset.load(name)
    return OfflineReplayBuffer(dataset, dataset.observation_space, ACTIONS, "cpu", seed=0, **options)


def normalizing(dictionary: bool = False) -> VecNormalize:
    """An environment that normalises with fixed, known statistics."""
    env = VecNormalize(DummyVecEnv([lambda: WalkEnv(dictionary)]), training=False, clip_reward=3.0)
    statistics = env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms]
    for running in statistics:
        running.mean, running.var = np.full_like(running.mean, 2.0), np.full_like(running.var, 4.0)
    env.ret_rms.var = np.array(16.0)
    env.epsilon = 0.0
    return env


def test_samples_are_transitions_of_the_dataset(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes)
    samples = buffer.sample(200)
    dataset = buffer.dataset
    # The rewards are all different, so they say which transition it is
    indices = [int(np.flatnonzero(dataset.rewards == reward)[0]) for reward in samples.rewards[:, 0].numpy()]
    assert set(indices) == set(range(7))
    expected = dataset.get(np.array(indices))
    np.testing.assert_array_equal(samples.observations, expected.observations)
    np.testing.assert_array_equal(samples.next_observations, expected.next_observations)
    np.testing.assert_array_equal(samples.actions, expected.actions)
    np.testing.assert_array_equal(samples.dones[:, 0], expected.terminations)
    assert samples.discounts is None
    assert samples.returns_to_go is None
    assert {tensor.dtype for tensor in samples if isinstance(tensor, th.Tensor)} == {th.float32}
    assert samples.rewards.shape == samples.dones.shape == (200, 1)


def test_dictionary_samples(two_dict_episodes: str) -> None:
    buffer = open_buffer(two_dict_episodes)
    samples = buffer._get_samples(np.array([2, 3]))
    np.testing.assert_array_equal(samples.next_observations["state"][0], np.float32(observation(0, 3)))
    np.testing.assert_array_equal(samples.observations["goal"], np.float32([[0.5], [1.5]]))


def test_n_step_values(two_episodes: str) -> None:
    # Rewards 0 1 2 (terminates) and 10 11 12 13 (truncated)
    samples = open_buffer(two_episodes, n_steps=3, gamma=0.5)._get_samples(np.arange(7))
    rewards = [0 + 0.5 + 0.5, 1 + 1, 2, 10 + 5.5 + 3, 11 + 6 + 3.25, 12 + 6.5, 13]
    np.testing.assert_array_equal(samples.rewards[:, 0], rewards)
    assert samples.discounts is not None
    np.testing.assert_array_equal(samples.discounts[:, 0], [0.125, 0.25, 0.5, 0.125, 0.125, 0.25, 0.5])
    np.testing.assert_array_equal(samples.dones[:, 0], [1, 1, 1, 0, 0, 0, 0])
    following = [observation(0, 3)] * 3 + [observation(1, 3)] + [observation(1, 4)] * 3
    np.testing.assert_array_equal(samples.next_observations, np.float32(following))
    np.testing.assert_array_equal(samples.observations[4], np.float32(observation(1, 1)))


def test_returns_to_go(two_episodes: str) -> None:
    samples = open_buffer(two_episodes, gamma=0.5, returns_to_go=True)._get_samples(np.array([0, 2, 5]))
    assert samples.returns_to_go is not None
    np.testing.assert_array_equal(samples.returns_to_go[:, 0], [0 + 0.5 + 0.5, 2, 12 + 6.5])


def test_returns_to_go_use_the_negative_reward() -> None:
    arrays = make_arrays(4)
    arrays.update(rewards=np.full(4, -1.0), terminations=np.zeros(4, dtype=bool))
    dataset = OfflineDataset.load(arrays)
    spaces = (dataset.observation_space, dataset.action_space)
    for negative, expected in (("auto", -2.0), (None, -1.0), (-7.0, -1.0)):
        options: dict[str, Any] = {"gamma": 0.5, "returns_to_go": True, "negative_reward": negative}
        samples = OfflineReplayBuffer(dataset, *spaces, "cpu", **options)._get_samples(np.array([3]))
        assert samples.returns_to_go is not None
        assert samples.returns_to_go.item() == expected


@pytest.mark.parametrize("n_steps", [1, 2])
def test_normalised_with_the_environments_statistics(n_steps: int, two_episodes: str) -> None:
    env = normalizing()
    samples = open_buffer(two_episodes, n_steps=n_steps, gamma=0.5, returns_to_go=True)._get_samples(
        np.array([1, 4]), env
    )
    expected = (np.array([observation(0, 1), observation(1, 1)]) - 2.0) / 2.0
    np.testing.assert_allclose(samples.observations, expected)
    following = np.array([observation(0, 1 + n_steps), observation(1, 1 + n_steps)])
    np.testing.assert_allclose(samples.next_observations, (following - 2.0) / 2.0)
    # Rewards are divided by 4 and clipped at 3, one by one; returns are only divided
    rewards = [0.25, 2.75] if n_steps == 1 else [0.25 + 0.25, 2.75 + 1.5]
    np.testing.assert_allclose(samples.rewards[:, 0], rewards)
    assert samples.returns_to_go is not None
    np.testing.assert_allclose(samples.returns_to_go[:, 0], [(1 + 1) / 4, (11 + 6 + 3.25) / 4])


def test_rewards_are_clipped_like_the_environments(two_episodes: str) -> None:
    samples = open_buffer(two_episodes)._get_samples(np.array([6]), normalizing())
    assert samples.rewards.item() == 3.0


def test_dictionaries_are_normalised(two_dict_episodes: str) -> None:
    samples = open_buffer(two_dict_episodes)._get_samples(np.array([1]), normalizing(dictionary=True))
    np.testing.assert_allclose(samples.observations["state"], [[-1.0, (1.25 - 2.0) / 2.0]])
    np.testing.assert_allclose(samples.next_observations["goal"], [[(0.5 - 2.0) / 2.0]])


def test_its_random_generator_is_its_own(two_episodes: str) -> None:
    state = np.random.get_state()[1].tobytes()
    first, second = open_buffer(two_episodes), open_buffer(two_episodes)
    th.testing.assert_close(first.sample(20).rewards, second.sample(20).rewards, rtol=0, atol=0)
    second.rng = np.random.default_rng(1)
    assert not th.equal(first.sample(20).rewards, second.sample(20).rewards)
    assert np.random.get_state()[1].tobytes() == state


def test_without_a_seed_it_follows_sb3s(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    drawn = []
    for seed in (3, 3, 4):
        np.random.seed(seed)
        drawn.append(OfflineReplayBuffer(dataset, BOX, ACTIONS, "cpu").sample(50).rewards)
    assert th.equal(drawn[0], drawn[1])
    assert not th.equal(drawn[0], drawn[2])


def test_read_only(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes)
    assert isinstance(buffer, ReplayBuffer)
    assert buffer.size() == 7
    with pytest.raises(TypeError, match="read-only: put online transitions into another"):
        buffer.add()
    with pytest.raises(TypeError, match="cannot be emptied"):
        buffer.reset()


def test_pickle_leaves_the_data_out(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes, n_steps=2, returns_to_go=True, next_actions=True)
    buffer.sample(5)
    pickled = pickle.dumps(buffer)
    assert buffer.dataset.rewards.tobytes() not in pickled
    assert buffer.dataset.observations[:2].tobytes() not in pickled
    again = pickle.loads(pickled)
    assert again.size() == 7
    # Both go on with the same random numbers, and a second pickle is as good as the first
    for other in (again, pickle.loads(pickle.dumps(pickle.loads(pickled)))):
        expected = pickle.loads(pickled).sample(20)
        for tensor, wanted in zip(other.sample(20), expected, strict=True):
            assert th.allclose(tensor, wanted, rtol=0, atol=0, equal_nan=True)
    assert th.equal(buffer.sample(20).rewards, pickle.loads(pickled).sample(20).rewards)


def test_data_from_memory_have_to_be_given_back() -> None:
    dataset = OfflineDataset.load(make_arrays(6))
    buffer = OfflineReplayBuffer(dataset, dataset.observation_space, dataset.action_space, "cpu", seed=0)
    again = pickle.loads(pickle.dumps(buffer))
    with pytest.raises(ValueError, match=r"'arrays' was not saved, only its name.*buffer.dataset = dataset"):
        again.sample(3)
    again.dataset = dataset
    assert th.equal(again.sample(10).rewards, buffer.sample(10).rewards)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps of OfflineReplayBuffer must be a whole number of at least 1 or None, not 0"),
        ({"n_steps": 1.5}, "n_steps .* not 1.5"),
        ({"gamma": 1.2}, r"gamma of OfflineReplayBuffer must be a number in \[0, 1\], not 1.2"),
        ({"returns_to_go": True, "negative_reward": "x"}, "negative_reward of .* not 'x'"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str, two_episodes: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_buffer(two_episodes, **options)


def test_another_environment_is_refused(two_episodes: str) -> None:
    with pytest.raises(ValueError, match="does not match the environment's observations"):
        OfflineReplayBuffer(OfflineDataset.load(two_episodes), DICT, ACTIONS, "cpu")
