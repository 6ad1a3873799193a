"""Datasets written into online buffers, and datasets with other actions."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.filling import fill_replay_buffer, with_actions

from .test_online import add
from .toys import ACTIONS, BOX, DICT


@pytest.mark.parametrize("name", ["two_episodes", "two_dict_episodes"])
def test_a_filled_buffer_is_the_dataset(name: str, request: pytest.FixtureRequest) -> None:
    dataset = OfflineDataset.load(request.getfixturevalue(name))
    kind, space = (DictReplayBuffer, DICT) if "dict" in name else (ReplayBuffer, BOX)
    buffer = kind(20, space, ACTIONS, "cpu")
    fill_replay_buffer(buffer, dataset)
    assert (buffer.pos, buffer.full) == (7, False)
    assert OfflineDataset.load(buffer).fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(buffer.timeouts[:7, 0], [0, 0, 0, 0, 0, 0, 1])


def test_what_is_there_stays(two_episodes: str) -> None:
    buffer = ReplayBuffer(9, BOX, ACTIONS, "cpu")
    add(buffer, 0, [-1], [True])
    add(buffer, 1, [-2], [True])
    fill_replay_buffer(buffer, OfflineDataset.load(two_episodes))
    assert (buffer.pos, buffer.full) == (0, True)
    np.testing.assert_array_equal(buffer.rewards[:, 0], [-1, -2, 0, 1, 2, 10, 11, 12, 13])


def test_each_environment_gets_a_share_that_ends(two_episodes: str) -> None:
    buffer = ReplayBuffer(16, BOX, ACTIONS, "cpu", n_envs=2)
    fill_replay_buffer(buffer, OfflineDataset.load(two_episodes))
    np.testing.assert_array_equal(buffer.rewards[:3], [[0, 10], [1, 11], [2, 12]])
    np.testing.assert_array_equal(buffer.dones[:3], [[0, 0], [0, 0], [1, 1]])
    np.testing.assert_array_equal(buffer.timeouts[:3], [[0, 0], [0, 0], [0, 1]])


def test_a_buffer_that_is_too_small(two_episodes: str) -> None:
    buffer = ReplayBuffer(6, BOX, ACTIONS, "cpu")
    with pytest.raises(
        ValueError, match=r"7 transitions, the replay buffer has room for 6: set buffer_size to at least 7"
    ):
        fill_replay_buffer(buffer, OfflineDataset.load(two_episodes))
    assert buffer.size() == 0


def test_other_actions(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    other = with_actions(dataset, np.full((7, 2), 1.0))
    np.testing.assert_array_equal(other.actions, np.full((7, 2), np.float32(1 - 1e-5)))
    np.testing.assert_array_equal(other.rewards, dataset.rewards)
    assert not other.reopenable
    bad: dict[str, Any] = {
        r"shape \(6, 2\)": np.zeros((6, 2)),
        r"actions\[3\]": np.where(np.arange(14) == 7, np.nan, 0),
    }
    for message, actions in bad.items():
        with pytest.raises(ValueError, match=message):
            with_actions(dataset, actions.reshape(-1, 2))
