"""Minibatches, and two that become one."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from sb3_o2o.data import ReplaySamples, concatenate_samples


def batch(values: list[float], **extra: th.Tensor | None) -> ReplaySamples:
    """A minibatch in which every entry of row i is ``values[i]``."""
    column = th.tensor(values, dtype=th.float32)[:, None]
    return ReplaySamples(column.repeat(1, 3), column.repeat(1, 2), column.repeat(1, 3) + 0.5, column, column, **extra)


def test_rows_follow_each_other() -> None:
    joined = concatenate_samples(batch([1, 2]), batch([3]), gamma=0.9)
    assert joined.rewards[:, 0].tolist() == [1, 2, 3]
    assert joined.next_observations[:, 0].tolist() == [1.5, 2.5, 3.5]
    assert joined.observations.shape == (3, 3)
    assert joined.actions.shape == (3, 2)
    assert joined.discounts is None
    assert joined.returns_to_go is None


def test_gamma_fills_the_discounts_of_one_side() -> None:
    discounts = th.tensor([[0.25], [0.5]])
    for first, second, expected in (
        (batch([1, 2], discounts=discounts), batch([3]), [0.25, 0.5, 0.9]),
        (batch([3]), batch([1, 2], discounts=discounts), [0.9, 0.25, 0.5]),
    ):
        joined = concatenate_samples(first, second, gamma=0.9)
        assert joined.discounts is not None
        np.testing.assert_allclose(joined.discounts[:, 0], expected)


def test_returns_only_if_both_have_them() -> None:
    with_returns = batch([1, 2], returns_to_go=th.tensor([[7.0], [8.0]]))
    joined = concatenate_samples(with_returns, with_returns, 0.9)
    assert joined.returns_to_go is not None
    assert joined.returns_to_go[:, 0].tolist() == [7, 8, 7, 8]
    assert concatenate_samples(with_returns, batch([1]), 0.9).returns_to_go is None
    assert concatenate_samples(batch([1]), with_returns, 0.9).returns_to_go is None


def test_samples_of_sb3_will_do() -> None:
    joined = concatenate_samples(batch([1]), ReplayBufferSamples(*batch([2])[:5]), 0.9)
    assert isinstance(joined, ReplaySamples)
    assert joined.rewards[:, 0].tolist() == [1, 2]


def test_dictionaries() -> None:
    first, second = batch([1]), batch([2])
    dictionary = {"a": first.observations, "b": first.actions}
    first = first._replace(observations=dictionary, next_observations=dictionary)
    joined = concatenate_samples(first, first, 0.9)
    assert joined.observations["b"].shape == (2, 2)
    with pytest.raises(ValueError, match=r"keys \['a', 'b'\] and a single array"):
        concatenate_samples(first, second, 0.9)
    with pytest.raises(ValueError, match=r"keys \['a', 'b'\] and \['a'\]"):
        concatenate_samples(first, first._replace(observations={"a": dictionary["a"]}), 0.9)


def test_interleaved_one_to_one() -> None:
    joined = concatenate_samples(batch([1, 2, 3]), batch([10, 20, 30]), 0.9, interleave=True)
    assert joined.rewards[:, 0].tolist() == [1, 10, 2, 20, 3, 30]
    assert joined.observations[:, 2].tolist() == [1, 10, 2, 20, 3, 30]


def test_interleaved_one_to_three() -> None:
    joined = concatenate_samples(batch([1, 2]), batch([10, 20, 30, 40, 50, 60]), 0.9, interleave=True)
    assert joined.rewards[:, 0].tolist() == [10, 1, 20, 30, 40, 2, 50, 60]


def test_one_side_may_be_empty() -> None:
    joined = concatenate_samples(batch([]), batch([1, 2]), 0.9, interleave=True)
    assert joined.rewards[:, 0].tolist() == [1, 2]
