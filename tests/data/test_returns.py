"""Monte-Carlo returns, against values worked out by hand."""

import numpy as np
import pytest

from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.returns import returns_to_go, sparse_negative_reward

STARTS = np.array([0, 3])


def test_dense_returns_stop_at_the_end_of_the_episode() -> None:
    result = returns_to_go(np.float32([1, 2, 4, 8, 16]), STARTS, gamma=0.5)
    np.testing.assert_array_equal(result, np.float32([1 + 1 + 1, 2 + 2, 4, 8 + 8, 16]))
    assert result.dtype == np.float32


def test_an_episode_of_nothing_but_failure_fails_for_ever() -> None:
    result = returns_to_go(np.float32([-1, -1, -1, -1, 0]), STARTS, gamma=0.75, negative_reward=-1.0)
    np.testing.assert_array_equal(result, np.float32([-4, -4, -4, -1, 0]))


def test_scaled_negative_reward_compares_in_float32() -> None:
    rewards = np.float32([0.1, 0.1, 0.1, 0.1, 7.0])
    result = returns_to_go(rewards, STARTS, gamma=0.5, negative_reward=0.1)
    np.testing.assert_allclose(result, [0.2, 0.2, 0.2, 3.6, 7.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([0, 0, 1], 0.0),
        ([-1, 0, -1], -1.0),
        ([-5, 5], -5.0),
        ([0, 1, 2], None),
        ([0, 0], 0.0),
        ([-5], -5.0),
        ([1, 1], None),
    ],
)
def test_sparse_negative_reward(rewards: list[float], expected: float | None) -> None:
    assert sparse_negative_reward(np.float32(rewards)) == expected


@pytest.mark.parametrize(("gamma", "negative"), [(-0.1, None), (1.1, None), (1.0, -1.0), (np.nan, None)])
def test_gamma_out_of_range(gamma: float, negative: float | None) -> None:
    with pytest.raises(ValueError, match=r"gamma is .*: expected a number in \[0, 1"):
        returns_to_go(np.float32([1, 1]), np.array([0]), gamma, negative)


def test_of_a_dataset(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    assert dataset.negative_reward() is None
    np.testing.assert_array_equal(dataset.returns_to_go(1.0), [3, 3, 2, 46, 36, 25, 13])
    np.testing.assert_array_equal(dataset.returns_to_go(0.0), dataset.rewards)
    with pytest.raises(ValueError, match=r"negative_reward of .* not 'never'"):
        dataset.returns_to_go(0.9, negative_reward="never")


def test_auto_finds_the_negative_reward() -> None:
    from .toys import make_arrays

    arrays = make_arrays(5)
    arrays.update(rewards=np.array([0, 0, 1, 0, 0]), terminations=np.arange(5) == 2)
    dataset = OfflineDataset.load(arrays, reward_scale=10.0, reward_shift=-5.0)
    assert dataset.negative_reward() == -5.0
    np.testing.assert_array_equal(dataset.returns_to_go(0.5), [-5 - 2.5 + 1.25, -5 + 2.5, 5, -10, -10])
    np.testing.assert_array_equal(dataset.returns_to_go(0.5, negative_reward=None)[3:], [-7.5, -5])
    np.testing.assert_array_equal(dataset.returns_to_go(0.5, negative_reward=-1.0)[3:], [-7.5, -5])
