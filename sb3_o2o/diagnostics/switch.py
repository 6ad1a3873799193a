"""What the switch from dataset to environment cost."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from sb3_o2o.checked import checked
from sb3_o2o.diagnostics.diagnostic import DiagnosticsCallback
from sb3_o2o.evaluation import NormalizedEvalCallback, ReferenceScore
from sb3_o2o.evaluation.curve_metrics import drop_at_switch, ended_successes, regret, steps_to_recover


class SwitchDiagnostics(DiagnosticsCallback):
    """
    What the switch cost, after each evaluation: ``drop`` (how far the score fell below the pre-trained policy's),
    ``steps_to_recover`` (infinite until it is back) and, where the environment reports success, ``regret`` over the
    training's own episodes. Formulas in :mod:`sb3_o2o.evaluation.curve_metrics`; regret as in CORL's fine-tuning.
    Pre-training is left out.

    :param evaluation: the run's evaluation callback, earlier in the list than this one. Scores are normalised where it
        has references, which are written as well. Stable-Baselines3's ``EvalCallback`` needs a ``log_path``: without it
        keeps no evaluations
    :param offline_score: score of the pre-trained policy, in the same unit; by default the evaluation at the start
    :param log_path: see :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`
    :raises ValueError: if nothing gives the score at the switch, or ``evaluation`` keeps nothing; when training starts,
        if it is not one of the run's callbacks, or comes later
    """

    name: ClassVar[str] = "switch"
    online_only: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        evaluation: EvalCallback,
        offline_score: float | None = None,
        log_path: str | os.PathLike[str] | None = None,
    ):
        super().__init__(1, log_path, 0)
        if offline_score is None and not getattr(evaluation, "at_start", False):
            raise ValueError(
                "SwitchDiagnostics needs the score at the switch: evaluate with NormalizedEvalCallback(at_start=True), "
                "or pass offline_score=…"
            )
        if not isinstance(evaluation, NormalizedEvalCallback) and evaluation.log_path is None:
            raise ValueError(
                f"SwitchDiagnostics reads the evaluations, and {type(evaluation).__name__} keeps none without a "
                "log_path: pass log_path=… to it, or evaluate with NormalizedEvalCallback."
            )
        self.evaluation = evaluation
        self.offline_score = offline_score
        self.successes: list[bool] = []
        self._running: dict[int, bool] = {}
        # evaluations of earlier runs, which Stable-Baselines3's callback keeps
        self._n_earlier = 0

    @classmethod
    def check(cls, model: Any) -> None:
        """See :class:`~sb3_o2o.diagnostics.DiagnosticsCallback`: any model will do, this looks at returns alone."""

    def check_run(self, callbacks: list[BaseCallback]) -> None:
        """
        Asked where a ``learn`` begins, before anything has changed.

        :param callbacks: all of the run
        :raises ValueError: if the evaluation is not among those before this one
        """
        if not any(each is self.evaluation for each in callbacks[: callbacks.index(self)]):
            raise self._misplaced()

    def _misplaced(self) -> ValueError:
        return ValueError(
            "SwitchDiagnostics(evaluation) must be one of this run's callbacks, before SwitchDiagnostics: "
            "callback=[evaluation, SwitchDiagnostics(evaluation)]."
        )

    def _init_callback(self) -> None:
        super()._init_callback()
        # callbacks are given their model in order
        if getattr(self.evaluation, "model", None) is not self.model:
            raise self._misplaced()

    def _on_training_start(self) -> None:
        # all callbacks of one call are given the same object; this one may have been in an earlier call only
        if getattr(self.evaluation, "locals", None) is not self.locals:
            raise self._misplaced()
        super()._on_training_start()

    def _begin(self) -> None:
        super()._begin()
        self.successes, self._running = [], {}
        # ours has started afresh as well
        is_ours = isinstance(self.evaluation, NormalizedEvalCallback)
        self._n_earlier = 0 if is_ours else len(self.evaluation.evaluations_timesteps)

    def _on_step(self) -> bool:
        infos, dones = self.locals.get("infos"), self.locals.get("dones")
        if infos is not None and dones is not None:
            self.successes += ended_successes(self._running, infos, dones)
        return super()._on_step()

    def _look(self) -> None:
        evaluated = self.evaluation.evaluations_timesteps[self._n_earlier :]
        if evaluated and evaluated[-1] == self.num_timesteps:
            super()._look()

    def _reference(self) -> ReferenceScore | None:
        return self.evaluation.reference if isinstance(self.evaluation, NormalizedEvalCallback) else None

    def measure(self) -> dict[str, float]:
        """See :class:`~sb3_o2o.diagnostics.diagnostic.DiagnosticsCallback`."""
        steps = np.array(self.evaluation.evaluations_timesteps[self._n_earlier :])
        results = self.evaluation.evaluations_results[self._n_earlier :]
        scores, reference = np.array([np.mean(returns) for returns in results]), self._reference()
        scores = scores if reference is None else reference.normalize(scores)
        offline = float(scores[0]) if self.offline_score is None else self.offline_score
        steps = steps - (steps[0] if self.offline_score is None else 0)
        return {
            "drop": drop_at_switch(steps, scores, offline),
            "steps_to_recover": steps_to_recover(steps, scores, offline),
            "regret": regret(self.successes) if self.successes else np.nan,
        }

    def _arrays(self) -> dict[str, Any]:
        reference = self._reference()
        bounds = [] if reference is None else [reference.minimum, reference.maximum]
        return {**super()._arrays(), "reference": np.array(bounds)}
