"""Priorities of which a sum is kept at every level, so that drawing by priority takes logarithmic time."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from sb3_o2o.checked import checked
from sb3_o2o.kinds import ARRAY, Count, CountFromZero, Numbers, Rows


class SumTree:
    """
    Non-negative priorities in a binary tree whose inner nodes are the sums of their children. A batch is drawn, or
    changed, level by level in NumPy: there is no Python loop over its entries. Sums are formed anew from the children
    at each change, so rounding errors do not add up.

    :param capacity: number of entries, at least 1; all priorities are 0 at the start
    :raises ValueError: if there is no entry
    """

    @checked
    def __init__(self, capacity: Count):
        self.capacity = capacity
        self.depth = (capacity - 1).bit_length()
        # node 1 is the root, node n has the children 2n and 2n + 1, the leaves are the second half
        self._nodes = np.zeros(2 << self.depth)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._nodes[1])

    @property
    def priorities(self) -> np.ndarray:
        """Priority of each entry, a view that must not be written to, ``(capacity,)``."""
        first = 1 << self.depth
        view = self._nodes[first : first + self.capacity]
        view.flags.writeable = False
        return view

    @checked
    def update(self, indices: Rows, priorities: Numbers) -> None:
        """
        :param indices: entries to change, ``(k,)``; of an entry that is named twice, the last priority counts
        :param priorities: finite and >= 0, ``(k,)`` or one for all
        :raises ValueError: if an index or a priority is out of range, before anything is changed
        """
        indices = np.asarray(indices, dtype=np.int64)
        values = np.asarray(priorities, dtype=np.float64)
        if len(indices) == 0:
            return
        if indices.min() < 0 or indices.max() >= self.capacity:
            raise ValueError(f"Indices of a SumTree with {self.capacity} entries must lie in [0, {self.capacity - 1}].")
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError("Priorities must be finite and >= 0.")
        nodes = indices + (1 << self.depth)
        self._nodes[nodes] = values
        for _ in range(self.depth):
            # the same parent may be formed several times, each time to the same sum: cheaper than to sort it out
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    @checked
    def sample(self, size: CountFromZero, rng: np.random.Generator, stratified: bool = True) -> np.ndarray:
        """
        :param size: entries to draw, with replacement
        :param rng: random generator
        :param stratified: draw one entry from each of ``size`` equal parts of the total, in random order: the same
            expected number of each entry with less variance (Schaul et al. 2016, appendix B.2.1)
        :return: indices, each with probability ``priority / total``, ``(size,)``
        :raises ValueError: if all priorities are 0
        """
        if not self.total > 0:
            raise ValueError("All priorities are 0: there is nothing to draw.")
        draws = rng.random(size)
        if stratified:
            draws = (rng.permutation(size) + draws) / size
        return self.find(draws * self.total)

    @checked
    def find(self, prefixes: Annotated[np.ndarray, ARRAY]) -> np.ndarray:
        """
        :param prefixes: in [0, total), ``(k,)``
        :return: for each the first entry up to which, included, the priorities sum to more, ``(k,)``
        """
        nodes, rest = np.ones(len(prefixes), dtype=np.int64), np.array(prefixes, dtype=np.float64)
        for _ in range(self.depth):
            nodes = nodes << 1
            left = self._nodes[nodes]
            # a prefix that rounding has carried beyond the last positive entry stays with it
            right = (rest >= left) & (self._nodes[nodes + 1] > 0)
            rest -= np.where(right, left, 0.0)
            nodes += right
        return nodes - (1 << self.depth)
