"""What the diagnostics share: when they measure, what they log and write."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.checked import checked
from sb3_o2o.diagnostics.measure import check_model
from sb3_o2o.evaluation.eval_callback import is_pretraining
from sb3_o2o.files import whole_file
from sb3_o2o.kinds import Count, Seed

#: folder of diagnostics beside a phase's evaluations
FOLDER = "diagnostics"


class DiagnosticsCallback(BaseCallback):
    """
    What the diagnostics share: they measure before the first step, every ``freq`` calls and at the end, log under
    ``diagnostics/``, and keep what they found in ``<log_path>/diagnostics/<name>.npz``: ``timesteps`` and an array for
    each quantity, as Stable-Baselines3's ``EvalCallback`` does. They draw nothing from the training's random streams: a
    run's parameters are the same bit for bit with and without them.

    A call of ``learn`` that counts on (``reset_num_timesteps=False``) goes on with what was found. One whose steps
    begin again, or count something else (``learn`` after ``pretrain``), starts afresh, in the file as well: give each
    phase a ``log_path`` of its own.

    Sub-classes say what they measure in :meth:`measure`.

    :param freq: calls between two measurements: gradient steps offline, steps of all environments together online
    :param log_path: folder for what was found; None keeps it in memory (``timesteps`` and ``values``)
    :param seed: of what is drawn; an interrupted run measures as an uninterrupted one does
    :raises ValueError: if ``freq`` is below 1
    """

    name: ClassVar[str]
    #: every measurement seeds its episodes: resume bundles need no environments of ours
    keeps_environments: ClassVar[bool] = False
    #: whether pre-training is left out
    online_only: ClassVar[bool] = False

    @checked
    def __init__(self, freq: Count, log_path: str | os.PathLike[str] | None, seed: Seed):
        super().__init__()
        self.freq = freq
        self.log_path = None if log_path is None else Path(log_path)
        self.seed = seed
        self.timesteps: list[int] = []
        self.values: dict[str, list[float]] = {}
        #: wall-clock seconds spent measuring
        self.seconds = 0.0
        # what the steps so far counted, None before the first, and the last of them
        self._counts_offline: bool | None = None
        self._last_step = 0

    def measure(self) -> dict[str, float]:
        """:return: what there is to say now, by name; NaN where a quantity does not exist"""
        raise NotImplementedError

    @classmethod
    def check(cls, model: Any) -> None:
        """
        :param model: an algorithm
        :raises ValueError: if there is nothing to measure of it
        """
        check_model(model, cls.__name__)

    def _init_callback(self) -> None:
        self.check(self.model)

    def _skips(self) -> bool:
        return self.online_only and is_pretraining(self.model)

    def _on_training_start(self) -> None:
        if self._skips():
            return
        is_offline = is_pretraining(self.model)
        if self._counts_offline is is_offline and self.num_timesteps >= self._last_step:
            return  # a run that goes on has its earlier measurements
        self._counts_offline, self._last_step = is_offline, self.num_timesteps
        self._begin()
        self._look()

    def _begin(self) -> None:
        """Forget what was found in another run."""
        self.timesteps, self.values, self.n_calls = [], {}, 0

    def _on_step(self) -> bool:
        if not self._skips():
            self._last_step = self.num_timesteps
            if self.n_calls % self.freq == 0:
                self._look()
        return True

    def _on_training_end(self) -> None:
        # a phase that was cut short gets no last point: going on would repeat it
        if not self._skips() and self.num_timesteps >= self.model._total_timesteps:
            self._look()

    def _look(self) -> None:
        if self.timesteps and self.timesteps[-1] == self.num_timesteps:
            return
        started = time.perf_counter()
        found = self.measure()
        self.seconds += time.perf_counter() - started
        for name, value in found.items():
            self.values.setdefault(name, []).append(value)
            if not np.isnan(value):
                self.logger.record(f"diagnostics/{name}", value)
        self.timesteps.append(self.num_timesteps)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.log_path is not None:
            with whole_file(self.log_path / FOLDER / f"{self.name}.npz") as file:
                np.savez(file, **self._arrays())

    def _arrays(self) -> dict[str, Any]:
        """What is written."""
        return {"timesteps": np.array(self.timesteps), **{name: np.array(found) for name, found in self.values.items()}}
