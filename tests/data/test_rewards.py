"""One scale of rewards offline and online, and rewards that rounding alone tells apart."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_o2o.data import MonteCarloReplayBuffer, OfflineDataset
from sb3_o2o.data.returns import returns_to_go, sparse_negative_reward
from sb3_o2o.data.rewards import is_reward, scaled_rewards

from .toys import ACTIONS, BOX, make_arrays

SCALES = st.floats(1e-3, 1e3).map(lambda value: round(value, 6))
#: of a scaled reward: what is added
PARTS = st.floats(-10.0, 10.0)
#: what a step without and with success pays in the tasks of the papers, and two that no float32 holds
PAIRS = st.sampled_from([(0.0, 1.0), (-1.0, 0.0), (-5.0, 5.0), (0.0, 100.0), (-0.1, 0.3), (0.1, 0.7)])
GAMMA = 0.5


def online_returns(rewards: np.ndarray, negative_reward: float | None) -> np.ndarray:
    """Of two episodes of four steps."""
    buffer = MonteCarloReplayBuffer(8, BOX, ACTIONS, "cpu", gamma=GAMMA, negative_reward=negative_reward)
    arrays = make_arrays(8)
    for step, reward in enumerate(rewards):
        row = [arrays[name][step : step + 1] for name in ("observations", "next_observations", "actions")]
        buffer.add(*row, reward[None], np.array([step % 4 == 3]), [{}])
    return buffer.returns[:, 0]


@given(PAIRS, SCALES, PARTS)
def test_a_failure_is_one_offline_and_online_on_every_scale(
    pair: tuple[float, float], scale: float, part: float
) -> None:
    """The first episode fails all along, the second succeeds at its end."""
    (negative, positive), shift = pair, part * scale
    raw = np.array([negative] * 7 + [positive], dtype=np.float32)
    arrays = {**make_arrays(8), "rewards": raw, "terminations": np.arange(8) % 4 == 3}
    dataset = OfflineDataset.load(arrays, reward_scale=scale, reward_shift=shift)
    found = dataset.negative_reward()
    assert found == dataset.rewards[0]
    offline = dataset.returns_to_go(GAMMA)
    np.testing.assert_allclose(offline[:4], found / (1 - GAMMA), rtol=1e-6)
    assert offline[7] == dataset.rewards[7]
    online = scaled_rewards(raw, scale, shift)
    np.testing.assert_array_equal(online, dataset.rewards)
    np.testing.assert_array_equal(online_returns(online, found), offline)


@given(PAIRS, SCALES, PARTS)
def test_rewards_that_something_else_has_scaled(pair: tuple[float, float], scale: float, part: float) -> None:
    """In single precision, as environments do it, or in double from numbers that were never rounded."""
    shift, raw = part * scale, np.array(pair)
    singly = raw.astype(np.float32) * np.float32(scale) + np.float32(shift)
    for rewards in (singly, raw * scale + shift):
        for index in (0, 1):
            value = float(scaled_rewards(np.float32(pair[index]), scale, shift))
            np.testing.assert_array_equal(is_reward(rewards, value), np.arange(2) == index)


def test_computed_in_double_precision_and_rounded_once() -> None:
    rewards = np.float32([0.1, -1.0])
    found = scaled_rewards(rewards, 2.67, 4.59)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([float(rewards[0]) * 2.67 + 4.59, -2.67 + 4.59]))
    assert found[1] != (np.float32([-1.0]) * 2.67 + 4.59)[0]  # what this is for


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([-1.0, np.nextafter(np.float32(-1), np.float32(0)), 0.0, 1e-8], -1.0),
        ([0.7, np.nextafter(np.float32(0.7), np.float32(1))], None),  # a bonus for every step
        ([-1.0, -0.999, 0.0], None),
    ],
)
def test_two_rewards_that_rounding_has_made_four(rewards: list[float], expected: Any) -> None:
    """As in a dataset of which a part was scaled elsewhere."""
    assert sparse_negative_reward(np.float32(rewards)) == expected
    if expected is not None:
        starts = np.array([0, 2])
        np.testing.assert_allclose(returns_to_go(np.float32(rewards), starts, GAMMA, expected)[:2], [-2, -2])


def test_cut_at_success_of_rewards_that_rounding_has_made_four() -> None:
    rewards = np.float32([-1.0, np.nextafter(np.float32(-1), np.float32(0)), 10.0, np.nextafter(np.float32(10), 11)])
    arrays = {**make_arrays(4), "rewards": rewards}
    assert len(OfflineDataset.load(arrays, cut_at_success=True)) == 3
