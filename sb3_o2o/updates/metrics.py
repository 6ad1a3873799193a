"""Losses and metrics of many updates, summed where they are and read when a log is due."""

from __future__ import annotations

import torch as th


class Metrics:
    """
    Sums of scalars since the last log. They stay on the device: reading a number would wait for it.

    Kept over an interruption: :attr:`sums`, so that an interval that was cut logs what an uncut one would have.
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[th.Tensor, int]] = {}

    def add(self, metrics: dict[str, th.Tensor]) -> None:
        """
        :param metrics: of one update; those of more than one number are for ``after_update`` and are not logged
        """
        totals, values = [], []
        for name, value in metrics.items():
            if value.numel() != 1:
                continue
            if value.requires_grad or value.dim():
                value = value.detach().reshape(())
            total, count = self.sums.get(name, (None, 0))
            if total is None:
                total = value + 0.0  # a tensor of its own: what a metric shows may change in place
            else:
                totals.append(total)
                values.append(value)
            self.sums[name] = total, count + 1
        if totals:
            th._foreach_add_(totals, values)  # as one call: an addition of two numbers takes less than its call

    def means(self) -> dict[str, float]:
        """:return: the means since the last log, each over the updates that had it"""
        return {name: total.item() / count for name, (total, count) in self.sums.items()}

    def clear(self) -> None:
        """Begin a new interval."""
        self.sums = {}

    def to(self, device: th.device) -> None:
        """
        :param device: where updates are made from now on
        """
        self.sums = {name: (total.to(device), count) for name, (total, count) in self.sums.items()}
