"""The sum tree against a plain array of priorities."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_o2o.data import SumTree

FEW = settings(max_examples=60, deadline=None)
#: whole numbers and quarters, whose sums are exact in any order
PRIORITIES = st.integers(0, 40).map(lambda number: number / 4)


@st.composite
def histories(draw: Any) -> tuple[int, list[tuple[list[int], list[float]]]]:
    """A capacity, and batches of changes."""
    capacity = draw(st.integers(1, 40))
    change = st.tuples(st.integers(0, capacity - 1), PRIORITIES)
    batches = draw(st.lists(st.lists(change, max_size=12), max_size=6))
    return capacity, [([index for index, _ in batch], [value for _, value in batch]) for batch in batches]


def built(capacity: int, batches: list[tuple[list[int], list[float]]]) -> tuple[SumTree, np.ndarray]:
    tree, naive = SumTree(capacity), np.zeros(capacity)
    for indices, values in batches:
        tree.update(np.array(indices, dtype=np.int64), np.array(values))
        for index, value in zip(indices, values, strict=True):
            naive[index] = value
    return tree, naive


@FEW
@given(histories())
def test_it_holds_what_an_array_holds(history: tuple[int, list[Any]]) -> None:
    tree, naive = built(*history)
    assert np.array_equal(tree.priorities, naive)
    assert tree.total == naive.sum()


@FEW
@given(histories(), st.lists(st.integers(0, 999), max_size=20))
def test_it_finds_what_a_scan_finds(history: tuple[int, list[Any]], thousandths: list[int]) -> None:
    tree, naive = built(*history)
    prefixes = np.array(thousandths) / 1000 * tree.total
    prefixes = prefixes[prefixes < tree.total]
    expected = [int(np.flatnonzero(np.cumsum(naive) > prefix)[0]) for prefix in prefixes]
    assert tree.find(prefixes).tolist() == expected


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.booleans())
def test_nothing_without_priority_is_drawn(seed: int, capacity: int, stratified: bool) -> None:
    """Priorities over sixteen orders of magnitude, of which half are 0: sums are rounded."""
    rng = np.random.default_rng(seed)
    priorities = 10.0 ** rng.uniform(-8, 8, capacity) * (rng.random(capacity) < 0.5)
    priorities[rng.integers(capacity)] = 1.0
    tree = SumTree(capacity)
    tree.update(np.arange(capacity), priorities)
    drawn = tree.sample(64, rng, stratified)
    assert (priorities[drawn] > 0).all()
    beyond = tree.find(np.array([tree.total, np.nextafter(tree.total, np.inf)]))
    assert (priorities[beyond] > 0).all()  # the last of them, or where rounding led the last prefix


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def test_frequencies_are_the_probabilities() -> None:
    """19 degrees of freedom: 95 % of all samples lie below 30.1 and 99.9 % below 43.8; 0.1 % below 5.4."""
    priorities = np.arange(1.0, 21.0)
    tree = SumTree(20)
    tree.update(np.arange(20), priorities)
    drawn = tree.sample(100_000, np.random.default_rng(0), stratified=False)
    counts = np.bincount(drawn, minlength=20)
    assert 5.4 < chi_square(counts, priorities / priorities.sum()) < 43.8
    # and the test can tell: uniform probabilities are out of the question
    assert chi_square(counts, np.full(20, 1 / 20)) > 1000


def test_strata_leave_less_to_chance() -> None:
    """Each entry covers whole strata but for the two at its ends."""
    priorities = np.array([0.5, 3.0, 0.0, 1.5, 7.0])
    tree = SumTree(5)
    tree.update(np.arange(5), priorities)
    rng = np.random.default_rng(0)
    for size in (8, 100, 1000):
        counts = np.bincount(tree.sample(size, rng), minlength=5)
        assert (np.abs(counts - size * priorities / 12) < 2).all()


def test_strata_come_in_random_order() -> None:
    """A batch that is cut into minibatches must not begin with the first entries."""
    tree = SumTree(1000)
    tree.update(np.arange(1000), 1.0)
    drawn = tree.sample(1000, np.random.default_rng(0))
    assert abs(np.corrcoef(drawn, np.arange(1000))[0, 1]) < 0.1
    assert sorted(drawn) != list(drawn)


def test_one_entry() -> None:
    tree = SumTree(1)
    with pytest.raises(ValueError, match="All priorities are 0"):
        tree.sample(2, np.random.default_rng(0))
    tree.update(np.zeros(1, dtype=np.int64), 3.0)
    assert tree.total == 3.0
    assert tree.sample(4, np.random.default_rng(0)).tolist() == [0, 0, 0, 0]


def test_rejections_change_nothing() -> None:
    tree = SumTree(3)
    tree.update(np.arange(3), 1.0)
    for indices, priorities, message in (
        ([0, 3], [5.0, 5.0], r"\[0, 2\]"),
        ([-1], [5.0], r"\[0, 2\]"),
        ([0, 1], [5.0, -1.0], "finite and >= 0"),
        ([0], [np.nan], "finite and >= 0"),
        ([0], [np.inf], "finite and >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            tree.update(np.array(indices), np.array(priorities))
    assert tree.priorities.tolist() == [1.0, 1.0, 1.0]
    assert tree.total == 3.0
    with pytest.raises(ValueError, match="at least 1"):
        SumTree(0)
    with pytest.raises(ValueError, match="read-only"):
        tree.priorities[0] = 2.0
