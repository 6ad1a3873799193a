"""A callback that writes resume bundles while a run goes on."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_o2o.checked import checked
from sb3_o2o.errors import warn
from sb3_o2o.files import locked, remove_leftovers
from sb3_o2o.kinds import Count, NotNegative, Share
from sb3_o2o.resume import series
from sb3_o2o.resume.manifest import Manifest


class ResumeBundle(BaseCallback):
    """
    Writes resume bundles during ``learn``, ``pretrain`` and phases that make gradient steps alone, so that a run that
    is killed goes on as if it had not been: ``O2OSAC.load_resume(path, env)`` reads the newest one that is whole.

    A bundle is written at the next point where nothing is half-done, as soon as ``every``, ``min_seconds`` and
    ``max_share`` allow, where the call is stopped (:meth:`request_stop`), and at its end. Writing draws no random
    numbers: the run is the same without it. What a replay buffer has had before is not written again, and observations
    that it has had are not all read again (``compare_all``).

    One that cannot be written, because the disk is full, is a warning and tried again, and the last whole one stays. If
    it is the one of a stop, there is no later: that raises the error.

    :param path: folder of the bundles, made if need be; one run's, and one process's at a time
    :param every: steps between two bundles, > 0: calls of ``on_step``, and updates of phases without environment steps
    :param min_seconds: seconds between two bundles, >= 0
    :param evaluation_seconds: seconds since the last bundle from which on an evaluation (of an ``EvalCallback`` in the
        same call) brings the next one, >= 0; None for none. The command line's is 60
    :param max_share: largest part of the time since the call began that may be spent on writing them, in (0, 1]; None
        for no limit. Measured: the next one is taken to cost what the last one did, in this call or the one before.
        The one of a stop and the one of the end are written in any case
    :param keep: newest bundles that stay, > 0; with more than one there is another if the disk damages the newest
    :param verbose: 1 says what was written
    :param compare_all: look at all rows of the replay buffer each time, for code of yours that changes observations of
        single old rows. By default rewards, ends and other small numbers are compared in all rows, observations where
        they were added, and elsewhere in one of sixteen files each time; where a call ends or is stopped, and in
        buffers of your own classes, all are
    :raises ValueError: for a number out of range; when training starts, if the folder has bundles of another run or is
        in use by another process
    """

    #: nothing that a run needs to go on: bundles leave it out
    keeps_no_state = True
    #: given to a ``learn`` that pre-trains first (``pretrain_steps`` of the constructor), it works there as well
    hears_pretraining_of_learn = True

    @checked
    def __init__(
        self,
        path: str | os.PathLike[str],
        every: Count = 1,
        min_seconds: NotNegative = 120.0,
        max_share: Share | None = 0.02,
        keep: Count = 2,
        verbose: int = 0,
        *,
        evaluation_seconds: NotNegative | None = None,
        compare_all: bool = False,
    ):
        super().__init__(verbose)
        self.path = Path(path)
        self.every, self.min_seconds, self.max_share, self.keep = every, min_seconds, max_share, keep
        self.evaluation_seconds, self.compare_all = evaluation_seconds, compare_all
        #: bundles written in this call, and the seconds that they took
        self.n_written, self.seconds = 0, 0.0
        self._n_steps = 0
        self._began = self._last = self._cost = 0.0
        self._is_ours = self._is_failing = False
        #: bundles of this process that are there, and what was written of them
        self.written: dict[Path, Manifest] = {}

    def _init_callback(self) -> None:
        if not hasattr(self.model, "save_resume"):
            raise ValueError(f"{type(self.model).__name__} has no resume bundles: O2OSAC, O2OTD3 and O2OPPO have.")

    def _on_training_start(self) -> None:
        model: Any = self.model
        lock = ExitStack()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock.enter_context(locked(self.path.parent, f".{self.path.name}.lock"))
        model.call.at_end(lock.close)
        run = series.run_of(self.path)
        if run not in (None, model.finetuning_run.id) and not self._is_ours:
            raise ValueError(
                f"{self.path} holds the resume bundles of another run: go on with that run (load_resume), or choose "
                "another folder."
            )
        remove_leftovers(self.path)
        model.call.before_stop(self._write_at_stop)
        self.n_written, self.seconds, self._n_steps = 0, 0.0, 0
        self._began = self._last = time.monotonic()

    def _on_step(self) -> bool:
        self._count(self.evaluation_seconds is not None and any(map(_evaluates, self.model.call.callbacks)))  # type: ignore[attr-defined]
        return True

    def on_phase_step(self, name: str, done: int, total: int, metrics: dict[str, float]) -> None:
        """See :meth:`~sb3_o2o.finetuning.FineTuningCallback.on_phase_step`."""
        self._count()

    def on_preparation_step(self, name: str, done: int, total: int) -> None:
        """See :meth:`~sb3_o2o.finetuning.FineTuningCallback.on_preparation_step`."""
        self._count()

    def _on_training_end(self) -> None:
        if self._n_steps > 0:
            action = partial(self._write, compare_all=True)
            self.model.call.at_clean_point(action, str(self.path))  # type: ignore[attr-defined]

    def _count(self, is_evaluation: bool = False) -> None:
        self._n_steps += 1
        least = self.min_seconds
        if is_evaluation and self.evaluation_seconds is not None:
            least = min(least, self.evaluation_seconds)
        if self._n_steps >= self.every and self._is_due(least):
            self.model.call.at_clean_point(self._write, str(self.path))  # type: ignore[attr-defined]

    def _is_due(self, min_seconds: float) -> bool:
        now = time.monotonic()
        if now - self._last < min_seconds:
            return False
        return self.max_share is None or self.seconds + self._cost <= self.max_share * (now - self._began)

    def _write_at_stop(self) -> None:
        if self._n_steps > 0 or self.n_written == 0:
            self._write(is_last=True, compare_all=True)

    def _write(self, is_last: bool = False, compare_all: bool = False) -> None:
        started = time.monotonic()
        try:
            written = series.write(self.model, self.path, self.keep, compare_all or self.compare_all)
        except OSError as error:
            self._say_failure(error, is_last)
        else:
            self.n_written, self._is_ours, self._is_failing = self.n_written + 1, True, False
            there = {path: each for path, each in self.written.items() if path.exists()}
            self.written = {**there, written: Manifest.read(written)}
            if self.verbose >= 1:
                print(f"Resume bundle {written} written")
        self._n_steps, self._last = 0, time.monotonic()
        self._cost = self._last - started
        self.seconds += self._cost
        self.logger.record("time/resume_bundle_seconds", self.seconds)

    def _say_failure(self, error: OSError, is_last: bool) -> None:
        there = series.bundles(self.path)
        last = f"the last one is {there[-1]}" if there else "there is none yet"
        text = f"No resume bundle could be written to {self.path} ({error.strerror or error}): {last}."
        if is_last:
            raise OSError(error.errno, text) from error
        if not self._is_failing:
            warn(f"{text} It is tried again while the run goes on.")
        self._is_failing = True


def _evaluates(callback: BaseCallback) -> bool:
    """Whether it has evaluated at this step; or at the one before, where it comes after the bundles."""
    return isinstance(callback, EvalCallback) and callback.eval_freq > 0 and callback.n_calls % callback.eval_freq == 0
