"""Online and offline data in one buffer."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_o2o.data import MixedReplayBuffer, OfflineDataset
from sb3_o2o.data.online import NStepDictReplayBuffer

from .test_buffers import normalizing
from .test_online import add
from .toys import ACTIONS, BOX, DICT, WalkEnv


def open_buffer(dataset: str, **options: Any) -> MixedReplayBuffer:
    """A buffer of 16 online steps; online rewards are negative, those of the datasets are not."""
    space = DICT if "dict" in dataset else BOX
    return MixedReplayBuffer(16, space, ACTIONS, "cpu", dataset=dataset, seed=0, **options)


def n_online(samples: Any) -> int:
    """Number of online rows."""
    return int((samples.rewards < 0).sum())


@pytest.mark.parametrize("dataset", ["two_episodes", "two_dict_episodes"])
@pytest.mark.parametrize(
    ("fraction", "batch_size", "offline"),
    [(0.5, 8, 4), (0.5, 7, 4), (0.25, 10, 3), (0.1, 4, 0), (0.0, 8, 0), (1.0, 8, 8), (0.75, 256, 192)],
)
def test_the_split_is_exact(
    dataset: str, fraction: float, batch_size: int, offline: int, request: pytest.FixtureRequest
) -> None:
    buffer = open_buffer(request.getfixturevalue(dataset), offline_fraction=fraction)
    add(buffer, 0, [-1], [False])
    for _ in range(5):
        samples = buffer.sample(batch_size)
        assert len(samples.rewards) == batch_size
        assert n_online(samples) == batch_size - offline
        assert samples.discounts is None


@pytest.mark.parametrize("n_steps", [1, 2])
@pytest.mark.parametrize(("fraction", "size", "offline"), [(0.5, 4, 2), (0.25, 8, 2), (0.75, 4, 3), (0.3, 10, 3)])
def test_each_slice_keeps_the_share(fraction: float, size: int, offline: int, n_steps: int, two_episodes: str) -> None:
    """One block is drawn for many updates, then cut into minibatches."""
    buffer = open_buffer(two_episodes, offline_fraction=fraction, n_steps=n_steps)
    add(buffer, 0, [-1], [True])
    samples = buffer.sample(6 * size)
    for start in range(0, 6 * size, size):
        assert (samples.rewards[start : start + size] >= 0).sum() == offline


def test_all_is_offline_until_there_is_something_else(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes, offline_fraction=0.0)
    assert buffer.size() == 0
    assert n_online(buffer.sample(6)) == 0
    add(buffer, 0, [-1], [False])
    assert n_online(buffer.sample(6)) == 6
    buffer.reset()
    assert n_online(buffer.sample(6)) == 0


def test_the_fraction_may_change(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes)
    add(buffer, 0, [-1], [False])
    buffer.offline_fraction = 0.25
    assert n_online(buffer.sample(8)) == 6
    for fraction in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"offline_fraction must be a number in \[0, 1\], not"):
            buffer.offline_fraction = fraction


@pytest.mark.parametrize("dataset", ["two_episodes", "two_dict_episodes"])
def test_n_steps_on_both_sides(dataset: str, request: pytest.FixtureRequest) -> None:
    buffer = open_buffer(request.getfixturevalue(dataset), n_steps=2, gamma=0.5)
    assert isinstance(buffer.online, NStepDictReplayBuffer if "dict" in dataset else NStepReplayBuffer)
    add(buffer, 0, [-1], [False])
    add(buffer, 1, [-2], [True])
    samples = buffer.sample(400)
    assert samples.discounts is not None
    found = set(zip(samples.rewards[:, 0].tolist(), samples.discounts[:, 0].tolist(), strict=True))
    offline = {(0.5, 0.25), (2.0, 0.25), (2.0, 0.5), (15.5, 0.25), (17.0, 0.25), (18.5, 0.25), (13.0, 0.5)}
    assert found == offline | {(-2.0, 0.25), (-2.0, 0.5)}


def test_online_rows_are_those_of_sb3(two_episodes: str) -> None:
    mixed, stock = open_buffer(two_episodes), ReplayBuffer(16, BOX, ACTIONS, "cpu")
    for step in range(5):
        for buffer in (mixed, stock):
            add(buffer, step, [-1.0 - step], [step == 2])
    np.random.seed(0)
    samples = mixed.sample(20)
    np.random.seed(0)
    expected = stock.sample(10)
    online = samples.rewards[:, 0] < 0
    assert th.equal(samples.rewards[online], expected.rewards)
    assert th.equal(samples.observations[online], expected.observations.float())


def test_both_sides_are_normalised(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes)
    add(buffer, 0, [-4], [True])
    samples = buffer.sample(100, normalizing())
    assert set(samples.rewards[:, 0].tolist()) <= {-1.0, 0.0, 0.25, 0.5, 2.5, 2.75, 3.0}
    online = samples.rewards[:, 0] == -1.0
    assert online.sum() == 50
    np.testing.assert_allclose(samples.observations[online], [[-1.0, -1.0]] * 50)


def test_pickled_without_the_dataset(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes)
    add(buffer, 0, [-1], [False])
    buffer.sample(4)
    pickled = pickle.dumps(buffer)
    assert buffer.offline.dataset.rewards.tobytes() not in pickled
    again = pickle.loads(pickled)
    assert again.size() == 1
    np.random.seed(0)
    expected = buffer.sample(20)
    np.random.seed(0)
    assert th.equal(again.sample(20).rewards, expected.rewards)


def test_it_looks_like_the_online_part(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes)
    add(buffer, 0, [-1], [False])
    assert isinstance(buffer, ReplayBuffer)
    assert (buffer.pos, buffer.full, buffer.buffer_size, buffer.size()) == (1, False, 16, 1)
    assert buffer.dones is buffer.online.dones
    buffer.pos, buffer.full = 3, True
    assert (buffer.online.pos, buffer.online.full) == (3, True)
    buffer.device = th.device("meta")
    assert buffer.online.device == buffer.offline.device == buffer.device == th.device("meta")
    with pytest.raises(AttributeError, match="no_such_thing"):
        buffer.no_such_thing  # noqa: B018


def test_loading_it_as_a_dataset_gives_the_online_part(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes)
    add(buffer, 0, [-1], [False])
    add(buffer, 1, [-2], [False])
    np.testing.assert_array_equal(OfflineDataset.load(buffer).rewards, [-1, -2])


def test_arguments_of_the_dataset(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes, dataset_kwargs={"reward_scale": 2.0, "fraction": 0.3})
    np.testing.assert_array_equal(buffer.offline.dataset.rewards, [0, 2, 4])
    opened = MixedReplayBuffer(8, BOX, ACTIONS, "cpu", dataset=OfflineDataset.load(two_episodes))
    assert opened.offline.size() == 7
    with pytest.raises(ValueError, match="does not match the environment's observations"):
        MixedReplayBuffer(8, DICT, ACTIONS, "cpu", dataset=two_episodes)


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_stock_sac_trains_saves_and_goes_on(
    dictionary: bool, n_envs: int, two_episodes: str, two_dict_episodes: str, tmp_path: Path
) -> None:
    env = VecNormalize(DummyVecEnv([lambda: WalkEnv(dictionary)] * n_envs))
    dataset = two_dict_episodes if dictionary else two_episodes
    model = SAC(
        "MultiInputPolicy" if dictionary else "MlpPolicy",
        env,
        buffer_size=200,
        learning_starts=4,
        batch_size=8,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
        replay_buffer_class=MixedReplayBuffer,
        replay_buffer_kwargs={"dataset": dataset, "offline_fraction": 0.25},
    )
    before = model.policy.state_dict()["actor.mu.weight"].clone()
    model.learn(16)
    assert not th.equal(model.policy.state_dict()["actor.mu.weight"], before)
    assert isinstance(model.replay_buffer, MixedReplayBuffer)
    assert model.replay_buffer.size() == 16 // n_envs
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    again = SAC.load(tmp_path / "model.zip", env=env, device="cpu")
    again.load_replay_buffer(tmp_path / "buffer.pkl")
    assert isinstance(again.replay_buffer, MixedReplayBuffer)
    assert again.replay_buffer.size() == 16 // n_envs
    again.learn(4, reset_num_timesteps=False)
    assert again.replay_buffer.size() == 20 // n_envs


def test_stock_sac_is_the_same_twice(two_episodes: str) -> None:
    weights = []
    for _ in range(2):
        model = SAC(
            "MlpPolicy",
            WalkEnv(),
            learning_starts=4,
            batch_size=8,
            buffer_size=100,
            seed=0,
            device="cpu",
            policy_kwargs={"net_arch": [8]},
            replay_buffer_class=MixedReplayBuffer,
            replay_buffer_kwargs={"dataset": two_episodes, "n_steps": 2},
        )
        weights.append(model.learn(12).policy.state_dict()["actor.mu.weight"])
    assert th.equal(*weights)


def test_as_a_source_it_says_which_part_is_read(two_episodes: str) -> None:
    buffer = open_buffer(two_episodes)
    for step in range(5):
        add(buffer, step, [-1.0], [False])
    with pytest.warns(UserWarning, match="mixes a dataset of 7 transitions .* read are the 5 that it collected online"):
        dataset = OfflineDataset.load(buffer)
    assert len(dataset) == 5
    assert len(buffer.offline.dataset) == 7
