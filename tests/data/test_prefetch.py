"""Minibatches that are gathered ahead are those of drawing one by one, and so is the random generator."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer, ReplaySamples
from sb3_o2o.data import prefetch as module
from sb3_o2o.data.prefetch import Prefetcher
from sb3_o2o.data.transitions import take

from .toys import make_arrays

ROWS = 50


def gathered(indices: np.ndarray) -> ReplaySamples:
    """A minibatch whose every field says which rows it is of."""
    column = th.from_numpy(indices.astype(np.float32)).reshape(-1, 1)
    return ReplaySamples({"a": column, "b": column.expand(-1, 2)}, column, column + 1, column, column, None, column)


#: draw so many transitions; or look at the generator; or draw from it
ACTS = st.lists(st.one_of(st.integers(1, 9), st.sampled_from(["look", "draw elsewhere"])), max_size=60)


@given(ACTS)
def test_as_one_by_one(acts: list[Any]) -> None:
    prefetcher, rng = Prefetcher(np.random.default_rng(0)), np.random.default_rng(0)
    for act in acts:
        if act == "look":
            assert prefetcher.rewind().bit_generator.state == rng.bit_generator.state
        elif act == "draw elsewhere":
            assert prefetcher.rewind().random() == rng.random()
        else:
            expected = gathered(rng.integers(ROWS, size=act))
            samples = prefetcher.take(act, ROWS, gathered, row_bytes=4)
            for key in ("a", "b"):
                assert th.equal(samples.observations[key], expected.observations[key])
            assert samples.discounts is None
            for name in ("actions", "next_observations", "dones", "rewards", "returns_to_go"):
                assert th.equal(getattr(samples, name), getattr(expected, name))
    assert prefetcher.rewind().bit_generator.state == rng.bit_generator.state


def test_how_many_are_gathered() -> None:
    sizes: list[int] = []

    def gather(indices: np.ndarray) -> ReplaySamples:
        sizes.append(len(indices))
        return gathered(indices)

    def draw(times: int, row_bytes: int = 4) -> list[int]:
        sizes.clear()
        for _ in range(times):
            prefetcher.take(3, ROWS, gather, row_bytes)
        return [size // 3 for size in sizes]

    prefetcher = Prefetcher(np.random.default_rng(0))
    assert draw(63) == [1, 2, 4, 8, 16, 16, 16]
    prefetcher.rewind()
    assert draw(3) == [1, 2]  # somebody looks: they may do it after each
    prefetcher.rewind()
    assert draw(8, row_bytes=module.MOST_BYTES // 6) == [1, 2, 2, 2, 2]  # two fill the memory that is allowed
    prefetcher.rewind()
    assert draw(2, row_bytes=module.MOST_BYTES) == [1, 1]


def open_buffer(seed: int = 0, **options: Any) -> OfflineReplayBuffer:
    dataset = OfflineDataset.load(make_arrays(20))
    return OfflineReplayBuffer(dataset, dataset.observation_space, dataset.action_space, "cpu", seed=seed, **options)


@pytest.mark.parametrize("options", [{}, {"n_steps": 3}, {"n_steps": None}, {"returns_to_go": True}])
def test_a_buffer_saved_in_between_goes_on(options: dict[str, Any]) -> None:
    one, other = open_buffer(**options), open_buffer(**options)
    for _ in range(5):
        other.rng  # noqa: B018  (looking is what makes it draw one by one)
        assert all(map(same, one.sample(4), other.sample(4)))
    loaded = pickle.loads(pickle.dumps(one))
    loaded.dataset = one.dataset
    for _ in range(5):
        expected = other.sample(4)
        assert all(map(same, one.sample(4), expected))
        assert all(map(same, loaded.sample(4), expected))


def same(one: Any, other: Any) -> bool:
    return one is other is None or th.equal(one, other)


def test_buffers_share_no_generator() -> None:
    one, other, reference = open_buffer(0), open_buffer(1), open_buffer(0)
    other.rng = one.rng
    for _ in range(6):
        expected = reference.sample(4)
        assert all(map(same, one.sample(4), expected))
        assert all(map(same, other.sample(4), expected))


def test_a_setting_that_changes_counts_at_once() -> None:
    buffer = open_buffer(n_steps=3, gamma=0.5)
    for _ in range(4):
        buffer.sample(4)
    buffer.gamma = 1.0
    discounts = buffer.sample(4).discounts
    assert discounts is not None
    assert th.all(discounts == 1.0)


def test_another_dataset_is_drawn_from_at_once() -> None:
    buffer, arrays = open_buffer(), make_arrays(20)
    for _ in range(4):
        buffer.sample(4)
    buffer.dataset = OfflineDataset.load({**arrays, "rewards": np.full_like(arrays["rewards"], 7.0)})
    assert th.all(buffer.sample(4).rewards == 7.0)


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_taken_from_any_layout(order: Any) -> None:
    array = np.asarray(np.arange(24.0).reshape(6, 4), order=order)
    np.testing.assert_array_equal(take(array, np.array([4, 0, 4])), array[[4, 0, 4]])


def test_no_more_is_copied_than_the_rows() -> None:
    array = np.broadcast_to(np.float32(3.0), (2**40, 2))  # terabytes, if somebody made them
    np.testing.assert_array_equal(take(array, np.array([2**39, 5])), np.full((2, 2), 3.0))
