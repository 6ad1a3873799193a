"""Formulas of the diagnostics, against values worked out by hand and against SciPy's."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sb3_o2o.diagnostics import (
    gaussian_kl,
    kendall_tau,
    mean_window_tau,
    normalized_difference,
    softmax_kl,
    true_q_values,
)

# -- Kendall's tau -------------------------------------------------------------------------------------------------


def test_kendall_tau_by_hand() -> None:
    """Of six pairs five agree and one does not."""
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0


def test_kendall_tau_with_ties_by_hand() -> None:
    """Ten pairs, 8 concordant; one tied in either list, another one in each: 8 / sqrt(9 * 9)."""
    assert kendall_tau([1, 2, 2, 4, 3], [1, 3, 2, 5, 5]) == pytest.approx(8 / 9)


@pytest.mark.parametrize(("n", "expected"), [(10, 0.29553088043720516), (50, 0.3932288194335473)])
def test_kendall_tau_is_that_of_scipy(n: int, expected: float) -> None:
    """With many ties; the numbers are those of ``scipy.stats.kendalltau`` 1.15.3."""
    first = np.round(np.sin(np.arange(n) * 1.7) * 4) / 2
    second = np.round(np.cos(np.arange(n) * 0.9 + 1) * 3 + first, 1)
    assert kendall_tau(first, second) == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30))
def test_kendall_tau_is_that_of_scipy_on_anything(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs).T
    expected = stats.kendalltau(first, second).statistic
    assert kendall_tau(first, second) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=20))
def test_kendall_tau_is_a_correlation(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs).T
    tau = kendall_tau(first, second)
    assert math.isnan(tau) == (len(set(first)) == 1 or len(set(second)) == 1)
    if not math.isnan(tau):
        assert -1 - 1e-12 <= tau <= 1 + 1e-12
        assert kendall_tau(second, first) == pytest.approx(tau)
        assert kendall_tau(first, -second) == pytest.approx(-tau)
        assert kendall_tau(3.0 * first + 1, second) == pytest.approx(tau)


def test_kendall_tau_of_nothing() -> None:
    assert math.isnan(kendall_tau([1.0], [2.0]))
    assert math.isnan(kendall_tau([1.0, 1.0], [2.0, 3.0]))


def test_windows() -> None:
    """In each half of the episode the order is right, between them it is not."""
    true = np.arange(10.0)
    estimated = np.concatenate([np.arange(5.0), np.arange(5.0) - 100])
    assert mean_window_tau(estimated, true, length=5, count=2) == 1.0
    # 45 pairs, 25 of them across the halves
    assert mean_window_tau(estimated, true, length=10, count=10) == pytest.approx((20 - 25) / 45)
    assert mean_window_tau(estimated[:4], true[:4], length=50) == 1.0
    # windows that start at 0, 1 and 2; a constant one counts for nothing
    values = np.array([1.0, 1.0, 1.0, 2.0, 0.0])
    taus = [kendall_tau(values[start : start + 3], true[start : start + 3]) for start in (1, 2)]
    assert mean_window_tau(values, true[:5], length=3, count=3) == pytest.approx(np.mean(taus))
    assert math.isnan(mean_window_tau(np.ones(5), np.arange(5)))


# -- differences ---------------------------------------------------------------------------------------------------


def test_normalized_difference_by_hand() -> None:
    assert normalized_difference([3.0, 2.0], [2.0, 4.0]) == pytest.approx((0.5 - 0.5) / 2)
    # over-estimation is positive where returns are negative as well
    assert normalized_difference([-1.0, -3.0], [-2.0, -4.0]) == pytest.approx((0.5 + 0.25) / 2)
    assert normalized_difference([1.0], [0.0], smallest=0.5) == pytest.approx(2.0)
    assert math.isnan(normalized_difference([], []))


def test_true_q_values_by_hand() -> None:
    assert true_q_values([1.0, 2.0, 4.0], 0.5).tolist() == [3.0, 4.0, 4.0]
    assert true_q_values([1.0, 2.0, 4.0], 0.5, last_value=8.0).tolist() == [4.0, 6.0, 8.0]
    # the bonus of a step belongs to its state, not to its Q
    bonuses = [100.0, 10.0, 1.0]
    assert true_q_values([1.0, 2.0, 4.0], 0.5, bonuses=bonuses).tolist() == [8.25, 4.5, 4.0]


# -- divergences ---------------------------------------------------------------------------------------------------


def test_gaussian_kl_by_hand() -> None:
    """KL(N(0, 1) || N(1, 2)) = log 2 + (1 + 1) / 8 - 1/2, summed over dimensions."""
    zero, one = th.zeros(1, 2), th.ones(1, 2)
    expected = 2 * (math.log(2) + 2 / 8 - 0.5)
    assert gaussian_kl(zero, zero, one, math.log(2) * one).item() == pytest.approx(expected, rel=1e-6)
    assert gaussian_kl(one, zero, one, zero).item() == 0.0


def test_gaussian_kl_is_torchs() -> None:
    mean, log_std, other_mean, other_log_std = th.randn(4, 7, 3, generator=th.Generator().manual_seed(0))
    normals = th.distributions.Normal(mean, log_std.exp()), th.distributions.Normal(other_mean, other_log_std.exp())
    expected = th.distributions.kl_divergence(*normals).sum(dim=1)
    assert th.allclose(gaussian_kl(mean, log_std, other_mean, other_log_std), expected, rtol=1e-4)


def test_softmax_kl_by_hand() -> None:
    values, other = th.tensor([[math.log(3.0), 0.0]]), th.tensor([[5.0, 5.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert softmax_kl(values, other).item() == pytest.approx(expected, rel=1e-5)
    assert softmax_kl(values, values + 7.0).item() == pytest.approx(0.0, abs=1e-6)


# -- bad input -----------------------------------------------------------------------------------------------------


def test_bad_values() -> None:
    for function in (kendall_tau, mean_window_tau, normalized_difference):
        with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
            function([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match="found nan at index 1"):
            function([1, math.nan], [1, 2])
    with pytest.raises(ValueError, match="length of mean_window_tau must be a whole number of at least 2"):
        mean_window_tau([1, 2], [1, 2], length=1)
