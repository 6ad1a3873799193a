"""One fine-tuning run: which steps belong to it, and which callbacks."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from stable_baselines3.common.callbacks import BaseCallback


class Counting(Protocol):
    """An algorithm, as far as its steps are counted."""

    num_timesteps: int

    @property
    def n_finetuning_steps(self) -> int:
        """Environment steps of the fine-tuning run."""


@dataclass
class FineTuningRun:
    """
    A fine-tuning run begins with the offline policy: in ``load_offline``, in a ``pretrain`` that counts from zero, and
    in the first ``learn`` of any other model, such as a new one or a stock zip. Every further ``learn`` goes on with
    it, whether Stable-Baselines3's ``num_timesteps`` counts on or from zero. So do saved, resumed and copied models:
    all of this object is saved with the model.

    Schedules of fine-tuning (thresholds, weights, warm-ups) count its steps, and each has its own length in its
    arguments. Learning rates are Stable-Baselines3's: they follow ``total_timesteps`` of ``learn``.

    :param id: names the run: callbacks know by it whether they have been in another one
    :param steps_before: environment steps of the run before those that ``num_timesteps`` counts; None before its first
        ``learn``
    :param started: whether online updates have begun
    :param n_updates: how many there were
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    steps_before: int | None = None
    started: bool = False
    n_updates: int = 0

    def steps(self, num_timesteps: int) -> int:
        """
        :param num_timesteps: environment steps that Stable-Baselines3 counts
        :return: environment steps of the run, over all environments, calls of ``learn`` and saves
        """
        return 0 if self.steps_before is None else self.steps_before + num_timesteps

    @contextmanager
    def counting_on(self, model: Counting, reset_num_timesteps: bool) -> Iterator[None]:
        """
        While ``learn`` begins, which may set ``num_timesteps`` to zero, the run's count stays where it is.

        :param model: whose run this is
        :param reset_num_timesteps: of ``learn``
        """
        steps = model.n_finetuning_steps
        self.steps_before = steps - (0 if reset_num_timesteps else model.num_timesteps)
        try:
            yield
        finally:
            self.steps_before = steps - model.num_timesteps

    def bring_in(self, callbacks: Iterable[BaseCallback]) -> None:
        """
        Let callbacks that come from another run begin again. They may be a user's own, given to several calls.

        :param callbacks: of this run
        """
        for callback in callbacks:
            if not hasattr(callback, "begin_new_run"):
                continue
            if getattr(callback, "run_id", "") not in ("", self.id):
                callback.begin_new_run()
            callback.run_id = self.id  # type: ignore[attr-defined]
