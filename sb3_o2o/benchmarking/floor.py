"""The time of an update's matrix products, and of nothing else."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch as th

from sb3_o2o.benchmarking.products import Product, products
from sb3_o2o.benchmarking.work import Work

_TYPES = {"fp32": th.float32, "bf16": th.bfloat16}
#: sizes of square products by which the machine's best rate is found
_SQUARES = (256, 512, 1024)


class ProductTimer:
    """
    All products of an update on operands of their own, in the layouts that training has: gradients multiply by
    transposed views. Each product is made in the form that is faster here, batched or member after member.

    :param work: the update
    :param precision: ``"fp32"`` or ``"bf16"``
    :param device: torch device
    """

    def __init__(self, work: Work, precision: str, device: str):
        self.device, self.dtype = device, _TYPES[precision]
        self._steps = [(product.every, self._fastest(product)) for product in products(work)]
        self._update = 0

    @th.no_grad()
    def run(self, updates: int) -> None:
        """
        :param updates: how many updates' products to make
        """
        for _ in range(updates):
            self._update += 1
            for every, multiply in self._steps:
                if self._update % every == 0:
                    multiply()

    def best_rate(self) -> float:
        """:return: GFLOP/s of the fastest square product"""
        rates = []
        for size in _SQUARES:
            square, out = self._random(size, size), self._random(size, size)
            seconds = self._seconds(lambda a=square, out=out: th.mm(a, a, out=out))  # type: ignore[misc]
            rates.append(2e-9 * size**3 / seconds)
        return max(rates)

    def _random(self, *shape: int) -> th.Tensor:
        return th.randn(shape, device=self.device).to(self.dtype)

    def _operands(self, product: Product) -> tuple[th.Tensor, th.Tensor]:
        members, rows, inner, columns = product.members, product.rows, product.inner, product.columns
        if product.kind == "weight":
            return self._random(members, inner, rows).transpose(1, 2), self._random(members, inner, columns)
        if product.kind == "input":
            return self._random(members, rows, inner), self._random(members, columns, inner).transpose(1, 2)
        return self._random(members, rows, inner), self._random(members, inner, columns)

    def _fastest(self, product: Product) -> Callable[[], Any]:
        left, right = self._operands(product)
        out = self._random(product.members, product.rows, product.columns)
        triples = list(zip(left.unbind(0), right.unbind(0), out.unbind(0), strict=True))

        def batched() -> None:
            th.bmm(left, right, out=out)

        def one_by_one() -> None:
            for a, b, result in triples:
                th.mm(a, b, out=result)

        return min((batched, one_by_one), key=self._seconds)

    @th.no_grad()
    def _seconds(self, multiply: Callable[[], Any], repeats: int = 7) -> float:
        times = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            multiply()
            if self.device == "cuda":
                th.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])
