"""Options of ``load``, and the methods behind them."""

from typing import Any

import numpy as np
import pytest

from sb3_o2o.data import OfflineDataset

from .toys import make_arrays


def sparse(*episodes: list[float]) -> OfflineDataset:
    """A dataset of episodes with these rewards, none of which terminates."""
    lengths = [len(rewards) for rewards in episodes]
    count = sum(lengths)
    arrays = make_arrays(count)
    arrays.update(
        rewards=np.concatenate([np.array(rewards) for rewards in episodes]),
        terminations=np.zeros(count, dtype=bool),
        truncations=np.isin(np.arange(count), np.cumsum(lengths) - 1),
    )
    return OfflineDataset.load(arrays)


def test_reward_scale_and_shift(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes, reward_scale=10.0, reward_shift=-5.0)
    np.testing.assert_array_equal(dataset.rewards, [-5, 5, 15, 95, 105, 115, 125])
    assert np.shares_memory(dataset.actions, dataset.with_rewards(2.0).actions)


def test_cut_at_success() -> None:
    # The last one succeeds where it was truncated: that is a termination
    cut = sparse([0, 0, 1, 0, 1], [0, 0], [1, 1], [0, 1]).cut_at_success()
    np.testing.assert_array_equal(cut.rewards, [0, 0, 1, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(np.flatnonzero(cut.terminations), [2, 5, 7])
    np.testing.assert_array_equal(np.flatnonzero(cut.truncations), [4])
    np.testing.assert_array_equal(cut.episode_starts, [0, 3, 5, 6])
    # The next observation at the success is still the one that was seen there
    np.testing.assert_array_equal(cut.next_observations[2], [0.0, 3.25])


def test_cut_at_success_with_a_threshold() -> None:
    dataset = sparse([-1, -1, 0, -1], [-1, -1])
    np.testing.assert_array_equal(dataset.cut_at_success(0.0).rewards, [-1, -1, 0, -1, -1])
    never = sparse([0, 0], [0, 0, 0]).cut_at_success()
    np.testing.assert_array_equal(never.rewards, [0] * 5)
    np.testing.assert_array_equal(never.terminations, [False] * 5)


def test_cut_at_success_refuses_rewards_that_do_not_say_it() -> None:
    """Dense rewards are positive from the first step on: an episode would be one transition long."""
    dense = sparse([0.5, 1.5, 2.5], [0.5, 0.25])
    message = (
        r"two values.*between 0\.25 and 2\.5 \(rewards\[0\] is 0\.5\).*Give cut_at_success the reward of a success"
    )
    for refused in (dense.cut_at_success, lambda: OfflineDataset.load(dense, cut_at_success=True)):
        with pytest.raises(ValueError, match=message):
            refused()
    np.testing.assert_array_equal(dense.cut_at_success(1.0).rewards, [0.5, 1.5, 0.5, 0.25])
    with pytest.raises(ValueError, match=r"first positive reward\. Those of .* are -1 and 0\."):
        sparse([-1, -1, 0, -1], [-1, -1]).cut_at_success()


def test_a_threshold_that_leaves_one_transition_an_episode_is_said() -> None:
    dense = sparse([0.5, 1.5, 2.5], [0.5, 0.25])
    with pytest.warns(UserWarning, match=r"cut_at_success=0\.0 leaves one transition of each of the 2 episodes"):
        assert len(dense.cut_at_success(0.0)) == 2


@pytest.mark.parametrize(
    ("fraction", "lengths"),
    [(0.1, [2]), (0.2, [2]), (0.21, [2, 3]), (0.5, [2, 3]), (0.51, [2, 3, 5]), (1.0, [2, 3, 5])],
)
def test_fraction_takes_whole_episodes_until_it_is_reached(fraction: float, lengths: list[int]) -> None:
    dataset = sparse([0.0] * 2, [1.0] * 3, [2.0] * 5)
    np.testing.assert_array_equal(dataset.subset(fraction=fraction).episode_lengths, lengths)


def test_top_return_fraction_keeps_recorded_order() -> None:
    dataset = sparse([5.0, 5.0], [0.0] * 4, [30.0], [5.0, 5.0], [0.0])
    # 10 transitions; returns 10, 0, 30, 10, 0: the best one, then the first of the two equal ones
    np.testing.assert_array_equal(dataset.subset(top_return_fraction=0.3).rewards, [5, 5, 30])
    np.testing.assert_array_equal(dataset.subset(top_return_fraction=0.1).rewards, [30])
    np.testing.assert_array_equal(dataset.subset(top_return_fraction=0.31).rewards, [5, 5, 30, 5, 5])


def test_subset_of_indices_truncates_at_gaps() -> None:
    dataset = sparse([0, 1, 2, 3], [4, 5])
    part = dataset.subset(indices=[5, 0, 1, 3])
    np.testing.assert_array_equal(part.rewards, [0, 1, 3, 5])
    np.testing.assert_array_equal(part.episode_starts, [0, 2, 3])
    np.testing.assert_array_equal(part.truncations, [False, True, True, True])
    np.testing.assert_array_equal(part.next_observations, dataset.next_observations[[0, 1, 3, 5]])
    masked = dataset.subset(indices=dataset.rewards > 3)
    np.testing.assert_array_equal(masked.rewards, [4, 5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of indices, fraction and top_return_fraction"),
        ({"fraction": 0.5, "indices": [0]}, "exactly one of"),
        ({"fraction": 0.0}, r"fraction of OfflineDataset.subset must be a number in \(0, 1\] or None, not 0.0"),
        ({"top_return_fraction": 1.5}, "top_return_fraction of .*, not 1.5"),
        ({"indices": [0, 6]}, r"indices\[1\] is 6: expected a number in \[0, 6\)"),
        ({"indices": [0, -1]}, r"indices\[1\] is -1"),
        ({"indices": [2, 1, 2]}, "transition 2 is given 2 times"),
        ({"indices": []}, "at least one transition"),
        ({"indices": [0.5]}, "indices of .* array of whole numbers"),
        ({"indices": np.zeros(6, dtype=bool)}, "at least one transition"),
    ],
)
def test_subset_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sparse([0, 1, 2, 3], [4, 5]).subset(**arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"reward_scale": 0.0},
        {"reward_scale": np.nan},
        {"reward_shift": np.inf},
        {"action_clip": 0.0},
        {"action_clip": 1.5},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], two_episodes: str) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} of OfflineDataset.load must be"):
        OfflineDataset.load(two_episodes, **options)


OPTIONS: dict[str, Any] = {
    "cut_at_success": 11.0,
    "fraction": 0.9,
    "top_return_fraction": 0.5,
    "reward_scale": 3.0,
    "reward_shift": 0.1,
    "action_clip": 0.9,
}


def test_options_open_the_same_again(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes, **OPTIONS)
    assert dataset.options == OPTIONS
    assert dataset.reopenable
    assert OfflineDataset.load(dataset.source, **dataset.options).fingerprint == dataset.fingerprint


def test_the_methods_are_the_options(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes, action_clip=0.9)
    dataset = dataset.cut_at_success(11.0).subset(fraction=0.9).subset(top_return_fraction=0.5).with_rewards(3.0, 0.1)
    assert dataset.reopenable
    assert dataset.options == OPTIONS
    assert dataset.fingerprint == OfflineDataset.load(two_episodes, **OPTIONS).fingerprint


def test_another_order_is_not_claimed_to_open_again(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    assert not dataset.with_rewards(2.0).subset(fraction=0.5).reopenable
    assert not dataset.with_rewards(2.0).with_rewards(3.0).reopenable
    assert not dataset.subset(fraction=0.5).cut_at_success(11.0).reopenable
    assert not dataset.subset(indices=[0]).reopenable


def test_options_of_a_dataset_that_is_open_already(two_episodes: str) -> None:
    dataset = OfflineDataset.load(two_episodes)
    again = OfflineDataset.load(dataset, fraction=0.3, reward_scale=2.0)
    assert again.fingerprint == OfflineDataset.load(two_episodes, fraction=0.3, reward_scale=2.0).fingerprint
    clipped = OfflineDataset.load(two_episodes, action_clip=0.5)
    assert OfflineDataset.load(clipped).fingerprint == clipped.fingerprint
    with pytest.raises(ValueError, match=r"clipped at 0.99999, not at action_clip=0.5"):
        OfflineDataset.load(dataset, action_clip=0.5)
