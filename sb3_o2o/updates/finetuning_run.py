"""One fine-tuning run: which steps belong to it, and which callbacks."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.updates.attributes import AlgorithmArguments


class FineTuningRun(AlgorithmArguments):
    """
    A fine-tuning run begins with the offline policy: in ``load_offline``, in a ``pretrain`` that counts from zero, and
    in the first ``learn`` of any other model, such as a new one or a stock zip. Every further ``learn`` goes on with
    it, whether Stable-Baselines3's ``num_timesteps`` counts on or from zero. So do saved, resumed and copied models.

    Schedules of fine-tuning (thresholds, weights, warm-ups) count :attr:`n_finetuning_steps`, and each has its own
    length in its arguments. Learning rates are Stable-Baselines3's: they follow ``total_timesteps`` of ``learn``.
    """

    #: environment steps of the run before those that ``num_timesteps`` counts; None before its first ``learn``
    _steps_before: int | None = None
    #: names the run: callbacks know by it whether they have been in another one
    _run_id: str = ""

    def _init_run(self) -> None:
        self._run_id, self._steps_before = uuid.uuid4().hex, None
        #: whether online updates have begun, and how many there were
        self._finetuning_started, self._n_finetuning_updates = False, 0

    @property
    def n_finetuning_steps(self) -> int:
        """Environment steps of this fine-tuning run, over all environments, calls of ``learn`` and saves."""
        if self._steps_before is None:
            return 0
        # while pre-training, ``num_timesteps`` counts gradient steps
        online = self.num_timesteps if self._online_steps is None else self._online_steps[0]
        return self._steps_before + online

    @contextmanager
    def _counting_on(self, reset_num_timesteps: bool) -> Iterator[None]:
        """While ``learn`` begins, which may set ``num_timesteps`` to zero, the run's count stays where it is."""
        steps = self.n_finetuning_steps
        self._steps_before = steps - (0 if reset_num_timesteps else self.num_timesteps)
        try:
            yield
        finally:
            self._steps_before = steps - self.num_timesteps

    def _begin_new_run(self) -> None:
        """Forget what belongs to one fine-tuning run."""
        self._init_run()
        self._bring_into_run(self.finetuning)

    def _bring_into_run(self, callbacks: Iterable[BaseCallback]) -> None:
        """
        Let callbacks that come from another run begin again. They may be a user's own, given to several calls.

        :param callbacks: of this run
        """
        for callback in callbacks:
            if not hasattr(callback, "begin_new_run"):
                continue
            if getattr(callback, "run_id", "") not in ("", self._run_id):
                callback.begin_new_run()
            callback.run_id = self._run_id  # type: ignore[attr-defined]
