"""Minibatches of a dataset, gathered several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import Any

import numpy as np

from sb3_o2o.data.samples import ReplaySamples

#: most minibatches that are gathered at once, and most bytes that they may take together
MOST_BATCHES, MOST_BYTES = 16, 2**22


class Prefetcher:
    """
    Draws minibatches uniformly, with replacement. What happens around a gather takes longer than to gather 256 rows, so
    several minibatches are gathered at once and handed out one after the other: as many as were wanted before without
    anybody looking at the random generator in between. Who looks finds it as it is after the last minibatch that was
    handed out, and the minibatches are those of drawing one by one.

    :param rng: the random generator
    """

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._waiting: list[ReplaySamples] = []
        self._state: Mapping[str, Any] = {}  # of the generator before those that wait were drawn, and others with them
        self._drawn: tuple[int, int, Any] = (0, 0, None)
        self._n_batches = 1

    def take(
        self,
        batch_size: int,
        n_rows: int,
        gather: Callable[[np.ndarray], ReplaySamples],
        row_bytes: int,
        settings: Any = None,
    ) -> ReplaySamples:
        """
        :param batch_size: transitions to draw
        :param n_rows: number of transitions to draw from
        :param gather: makes a minibatch of indices, always the same way with the same settings
        :param row_bytes: memory of a transition
        :param settings: what else the minibatches depend on
        :return: a minibatch
        """
        if self._drawn != (batch_size, n_rows, settings):
            self.rewind()
        if not self._waiting:
            n_batches = max(1, min(self._n_batches, MOST_BYTES // max(1, batch_size * row_bytes)))
            self._state = self._rng.bit_generator.state
            samples = gather(self._rng.integers(n_rows, size=n_batches * batch_size))
            self._waiting = [samples] if n_batches == 1 else list(_slices(samples, batch_size))[::-1]
            self._drawn, self._handed_out = (batch_size, n_rows, settings), 0
            self._n_batches = min(2 * n_batches, MOST_BATCHES)
        self._handed_out += 1
        return self._waiting.pop()

    def rewind(self) -> np.random.Generator:
        """
        Forget what waits.

        :return: the random generator, as if that had not been drawn
        """
        if self._waiting:
            batch_size, n_rows, _ = self._drawn
            self._rng.bit_generator.state = self._state
            self._rng.integers(n_rows, size=self._handed_out * batch_size)
        self._waiting, self._drawn, self._n_batches = [], (0, 0, None), 1
        return self._rng


def _slices(samples: ReplaySamples, size: int) -> Iterable[ReplaySamples]:
    def cut(value: Any) -> Iterable[Any]:
        if isinstance(value, dict):
            parts = zip(*(item.split(size) for item in value.values()), strict=True)
            return [dict(zip(value, each, strict=True)) for each in parts]
        return repeat(None) if value is None else value.split(size)

    return (ReplaySamples(*each) for each in zip(*map(cut, samples), strict=False))
