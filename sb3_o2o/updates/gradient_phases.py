"""Phases of updates without environment steps, what they log, and where they can be interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.objectives import Batch, Objective
from sb3_o2o.updates.bars import PhaseProgressBar
from sb3_o2o.updates.phases import PRETRAINING
from sb3_o2o.updates.sampling import SamplingMixin


class UpdatePhases(SamplingMixin):
    """Which phase a model is in, and the phases that only make updates."""

    def _init_phases(self) -> None:
        self.phase: str | None = None
        #: gradient-only phases of fine-tuning: updates made of each, and the names of those that are complete
        self.phase_steps: dict[str, int] = {}
        self.finished_phases: list[str] = []
        self._phase_in_progress: tuple[Objective, OfflineReplayBuffer] | None = None
        self._is_collecting = False
        self._shows_progress = False
        self._driven_callbacks: list[BaseCallback] = []
        self._metric_sums: dict[str, tuple[th.Tensor, int]] = {}

    @property
    def active_objective(self) -> Objective:
        """What the next gradient step minimises."""
        if self._phase_in_progress is not None:
            return self._phase_in_progress[0]
        return self.offline_objective if self.phase == PRETRAINING else self.finetuning_objective

    def set_phase(self, phase: str) -> None:
        """
        Enter a phase and tell the callbacks.

        :param phase: ``"pretraining"``, ``"warmup"`` or ``"finetuning"``
        """
        if phase != self.phase:
            old, self.phase = self.phase, phase
            self.hooks.call("on_phase_change", old, phase)

    def _optimizers(self) -> dict[str, th.optim.Optimizer]:
        """The algorithm's optimisers, by the names that objectives yield."""
        raise NotImplementedError

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        """Make gradient steps."""
        raise NotImplementedError

    def _gradient_step(self, batch: Batch, actor_batch: Batch | None, prepare: bool = False) -> dict[str, th.Tensor]:
        """Make one gradient step."""
        raise NotImplementedError

    def request_stop(self) -> None:
        """End the call at the next point where nothing is half-done."""
        raise NotImplementedError

    def _clean_point(self) -> bool:
        """Whether to stop here, where nothing is half-done."""
        raise NotImplementedError

    # -- phases ----------------------------------------------------------------------------------------------------

    def _gradient_steps(
        self, start: int, total: int, batch_size: int | None = None, anneal: bool = False
    ) -> Iterator[int]:
        """
        Updates without environment steps, until all are made or a stop is asked for.

        :param start: updates made before
        :param total: updates at the end
        :param batch_size: transitions per update; what offline phases draw by default
        :param anneal: schedules of learning rates follow this count; otherwise they stay where they are
        :return: after each update, how many have been made
        """
        for step in range(start, total):
            if self._clean_point():
                return
            if anneal:
                self._update_current_progress_remaining(step, total)
            self._update(1, batch_size or self._offline_batch_size)
            yield step + 1

    def gradient_phase(
        self,
        name: str,
        objective: Objective,
        gradient_steps: int,
        buffer: OfflineReplayBuffer,
        log_interval: int = 1000,
        batch_size: int | None = None,
    ) -> bool:
        """
        A phase of fine-tuning that makes updates and no environment steps, such as the reconstruction of a critic.
        Callbacks call it inside ``learn``. It logs under ``finetune/<name>/``, shows a progress bar where ``learn``
        does, and can be interrupted by :meth:`request_stop`; called again, it goes on where it was. Hooks that change
        updates are not asked: they belong to the online updates.

        :param name: of the phase, which callbacks hear of by ``on_phase_change``
        :param objective: what to minimise
        :param gradient_steps: updates in all, those of an interrupted call included, > 0
        :param buffer: where transitions come from
        :param log_interval: updates between two logs
        :param batch_size: transitions per update; the model's by default
        :return: whether the phase is complete; False where a stop was asked for
        """
        outer = self.phase
        start = self.phase_steps.setdefault(name, 0)
        self.hooks.deliver_to(self._driven_callbacks, offline=True)
        self._phase_in_progress = objective, buffer
        self.set_phase(name)
        bar = PhaseProgressBar(start, gradient_steps, name) if self._shows_progress else None
        is_watched = bar is not None or bool(self.hooks.defined("on_phase_step"))
        try:
            for step in self._gradient_steps(start, gradient_steps, batch_size):
                self.phase_steps[name] = step
                is_logged = step % log_interval == 0 or step == gradient_steps
                metrics = self._mean_metrics() if is_watched and (is_logged or step % 100 == 0) else {}
                if bar is not None:
                    bar.update(metrics)
                self.hooks.call("on_phase_step", name, step, gradient_steps, metrics)
                if is_logged:
                    self._record_metrics(f"finetune/{name}")
                    self.logger.dump(step)  # x-axis of these keys: gradient steps
        finally:
            if bar is not None:
                bar.close()
            self._phase_in_progress = None
            self.hooks.deliver_to(self._driven_callbacks)
        if self.phase_steps[name] < gradient_steps:
            self.request_stop()  # for those who wait for the end of this phase
            return False
        self.finished_phases.append(name)
        if outer not in (None, PRETRAINING, *self.phase_steps):  # a warm-up, which is still to come
            self.set_phase(str(outer))
        return True

    def collect_rollouts(self, env: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> Any:
        """SB3's; before it, callbacks may run their gradient-only phases."""
        if not self._may_collect():
            return self._no_rollout()
        return super().collect_rollouts(env, callback, *args, **kwargs)  # type: ignore[misc]

    def _may_collect(self) -> bool:
        """Let callbacks do what comes before a rollout; False where a stop was asked for."""
        if not self._is_collecting:
            for method in self.hooks.defined("before_collecting"):
                method()
                if self._clean_point():
                    return False
            self._is_collecting = True
        for method in self.hooks.defined("before_rollout"):
            method()
            if self._clean_point():
                return False
        return True

    def _no_rollout(self) -> Any:
        """What SB3 takes for a rollout that a callback stopped before its first step."""
        raise NotImplementedError

    # -- logging ---------------------------------------------------------------------------------------------------

    def _accumulate(self, metrics: dict[str, th.Tensor]) -> None:
        """Sum on the device: reading a number would wait for it."""
        totals, values = [], []
        for name, value in metrics.items():
            if value.numel() != 1:
                continue
            if value.requires_grad or value.dim():
                value = value.detach().reshape(())
            total, count = self._metric_sums.get(name, (None, 0))
            if total is None:
                total = value + 0.0  # a tensor of its own: what a metric shows may change in place
            else:
                totals.append(total)
                values.append(value)
            self._metric_sums[name] = total, count + 1
        if totals:
            th._foreach_add_(totals, values)  # as one call: an addition of two numbers takes less than its call

    def _mean_metrics(self) -> dict[str, float]:
        """The means since the last log, each over the updates that had it."""
        return {name: total.item() / count for name, (total, count) in self._metric_sums.items()}

    def _record_metrics(self, prefix: str) -> None:
        for name, value in self._mean_metrics().items():
            self.logger.record(f"{prefix}/{name}", value)
        if self._metric_sums:
            optimizers = self._optimizers() | self.active_objective.optimizers
            trained = [name for name in optimizers if f"{name}_loss" in self._metric_sums]
            # a delayed actor may have had no step since the last log, but some phases train none
            name = trained[0] if self._phase_in_progress is not None and "actor" not in trained else "actor"
            self.logger.record(f"{prefix}/learning_rate", optimizers[name].param_groups[0]["lr"])
        if self._gradient_functions.compile:
            self.logger.record("time/compile_seconds", self._gradient_functions.compile_seconds)
        self._metric_sums = {}
