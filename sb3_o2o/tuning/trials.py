"""A trial: one set of hyper-parameters on each task with several seeds; what trials agree in is pre-trained once."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock
from optuna.exceptions import TrialPruned
from optuna.pruners import MedianPruner
from optuna.trial import TrialState

from sb3_o2o.evaluation import Evaluation
from sb3_o2o.files import whole_folder, write_whole
from sb3_o2o.recipes import Recipe
from sb3_o2o.runs.folder import RunConfig, RunFolder
from sb3_o2o.runs.settings import arguments_over
from sb3_o2o.runs.threads import Threads, choose_threads, use_threads
from sb3_o2o.runs.training import Interrupted, Prepared, RunListener, prepare, train
from sb3_o2o.tuning.configuration import TuningConfig, TuningRun, plain_types
from sb3_o2o.tuning.searched import of_pretraining, overrides_of_trial, suggest
from sb3_o2o.tuning.storages import signs_of_life

#: Attributes of a trial: why it ended before its last run; for each run ``[steps, scores]``; where its runs lie.
REASON, EVALUATIONS, FOLDER = "reason", "evaluations", "folder"
#: What a run raises whose hyper-parameters were bad: losses or actions that are not finite, combinations that no model
#: takes. Anything else ends the study: it would end the next trial as well.
BAD_TRIAL = (ArithmeticError, ValueError, AssertionError)


class PruningListener(RunListener):
    """
    Ends a run when its evaluations fall behind: Optuna's median rule, among others' runs of the same task and seed.

    :param others: evaluations of other trials' runs of this task and seed, as ``[steps, scores]``
    :param said: what the run is called in the reason
    :param n_startup: runs of others without which none is ended
    :param n_evaluations: that a whole run makes, of which the first third is left alone
    """

    def __init__(self, others: Sequence[Sequence[Any]], said: str, n_startup: int, n_evaluations: int):
        super().__init__()
        self.said, self.n_seen = said, len(others)
        # Optuna's own rule: each run of this task and seed is a trial of a study in memory
        self._study = optuna.create_study(
            direction="maximize", pruner=MedianPruner(n_startup, n_warmup_steps=n_evaluations // 3)
        )
        for _, scores in others:
            values = dict(enumerate(scores))
            self._study.add_trial(optuna.create_trial(value=scores[-1], intermediate_values=values))
        self._run = self._study.ask()
        self.steps: list[int] = []
        self.scores: list[float] = []

    def evaluated(self, step: int, result: Evaluation) -> None:
        """See :class:`~sb3_o2o.runs.training.RunListener`."""
        if not math.isfinite(result.score):
            raise FloatingPointError(f"the score at step {step} is {result.score}")
        self._run.report(result.score, len(self.scores))
        self.steps.append(step)
        self.scores.append(float(result.score))
        if self._run.should_prune():
            raise TrialPruned(
                f"{self.said} at step {step}: score {result.score:.4g}, and the best so far is below the median "
                f"of {self.n_seen} other trials"
            )


@dataclass
class TrialRunner:
    """
    The objective of a study.

    :param config: what is asked for
    :param folder: of the study: ``pretraining/`` and ``trials/`` are made in it
    :param prune_runs: end runs at an evaluation, too
    :param n_startup_trials: trials that are not compared
    :param threads: CPU threads; None to have them chosen at the first run
    """

    config: TuningConfig
    folder: Path
    prune_runs: bool = True
    n_startup_trials: int = 5
    threads: int | None = None
    chosen_threads: Threads | None = field(default=None, init=False)
    #: number of the trial that this worker makes, or made last
    number: int | None = field(default=None, init=False)

    def __call__(self, trial: optuna.Trial) -> float:
        """
        :param trial: of the study
        :return: mean over the tasks and seeds of what its runs are worth
        :raises TrialPruned: it fell behind, or diverged; the reason is one of its attributes
        """
        self.number = trial.number
        with signs_of_life(trial):
            began = time.perf_counter()
            try:
                return self._mean_over_runs(trial)
            except TrialPruned as error:
                trial.set_user_attr(REASON, str(error))
                raise
            except BAD_TRIAL as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                trial.set_user_attr(REASON, reason)
                raise TrialPruned(reason) from error
            finally:
                trial.set_user_attr("seconds", round(time.perf_counter() - began, 3))

    def _mean_over_runs(self, trial: optuna.Trial) -> float:
        values, runs = suggest(trial, self.config.space), self.config.runs
        for task in self.config.tasks:
            overrides_of_trial(values, task.recipe, task.overrides)  # what one refuses is refused before any has run
        folder = self.folder / "trials" / f"{trial.number:04d}"
        if folder.exists():
            shutil.rmtree(folder)  # of a study of this name that was deleted
        trial.set_user_attr(FOLDER, str(folder))
        found: list[float] = []
        for place, run in enumerate(runs):
            try:
                scores = self._run(trial, run, values, folder / run.folder)
            except (Interrupted, KeyboardInterrupt):
                shutil.rmtree(folder, ignore_errors=True)  # whoever takes it over begins again
                raise
            found.append(self.config.value(scores))
            trial.report(found[-1], place)
            if place < len(runs) - 1 and trial.should_prune():
                raise TrialPruned(f"after {_said(run)}: {found[-1]:.4g} falls behind other trials")
        return float(np.mean(found))

    def _run(self, trial: optuna.Trial, run: TuningRun, values: Mapping[str, Any], path: Path) -> list[float]:
        """:return: means of the evaluations that count"""
        task, listener, source = run.task, self._listener(trial, run), None
        sizes = self.config.sizes(task)
        if sizes.pretrain_steps:
            alone = None if sizes.online_steps else listener
            source = self._pretrained(of_pretraining(values, task.recipe), run, path, alone)
        if sizes.online_steps:
            model = None if source is None else str(source / "offline" / "model.zip")
            overrides = overrides_of_trial(values, task.recipe, task.overrides)
            if model is not None:
                overrides.pop("pretrain_kwargs", None)  # they have had their time
            self._train(self.config.run(run.seed, overrides, model, task), task.recipe, path, listener)
        evaluations = dict(trial.user_attrs.get(EVALUATIONS, {}))
        evaluations[run.key] = [listener.steps, listener.scores]
        trial.set_user_attr(EVALUATIONS, evaluations)
        return listener.scores

    def _listener(self, trial: optuna.Trial, run: TuningRun) -> PruningListener:
        others = []
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        for each in trial.study.get_trials(deepcopy=False, states=states) if self.prune_runs else ():
            made = each.user_attrs.get(EVALUATIONS, {}).get(run.key)
            if made is not None and made[1]:
                others.append(made)
        counted = self.config.counted_run(run.task)
        n_evaluations = counted.evaluations("online" if counted.online_steps else "offline")
        # without others nothing is ever ended
        return PruningListener(others, _said(run), self.n_startup_trials, n_evaluations)

    def _pretrained(
        self, values: Mapping[str, Any], run: TuningRun, path: Path, listener: PruningListener | None
    ) -> Path:
        """The run folder of the pre-trained model, which is made by the trial that needs it first."""
        task = run.task
        asked = self.config.run(run.seed, overrides_of_trial(values, task.recipe, task.overrides), task=task)
        if listener is not None:  # nothing follows that could share it
            self._train(asked, task.recipe, path, listener)
            return path
        name = _digest(asked, task.recipe) if values else f"recipe-{_digest(asked, task.recipe)}"
        shared = self.folder / "pretraining" / name / run.folder
        shared.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{shared}.lock"):
            if not shared.is_dir():
                text = json.dumps(dict(values), sort_keys=True)
                write_whole(self.folder / "pretraining" / name / "hyperparameters.json", text + "\n")
                with whole_folder(shared) as incomplete:
                    self._train(asked, task.recipe, incomplete, RunListener())
        return shared

    def _train(self, run: RunConfig, recipe: Recipe, path: Path, listener: RunListener) -> None:
        path.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(path)
        use_threads(self.threads or (self.chosen_threads.count if self.chosen_threads else 1))
        prepared = self._prepared(run, recipe)
        folder.write_start(prepared.config, prepared.arguments())
        try:
            train(prepared, folder, listener, picture=False)
        finally:
            shutil.rmtree(folder.resume_bundle, ignore_errors=True)  # a trial begins again, it does not go on
            prepared.close()

    def _prepared(self, run: RunConfig, recipe: Recipe) -> Prepared:
        prepared = prepare(run, recipe=recipe)
        if self.threads is None and self.chosen_threads is None:
            self.chosen_threads = choose_threads(prepared.model)
            use_threads(self.chosen_threads.count)
        return prepared


def _digest(asked: RunConfig, recipe: Recipe) -> str:
    """
    Of all that decides a pre-trained model but the seed, which its folder says: the folder of a study that is made anew
    has the models of the last one.
    """
    decides = asdict(asked)
    for name in ("command", "recipe", "overrides", "seed", "device"):
        del decides[name]
    arguments = arguments_over(recipe, asked.overrides)
    document = plain_types({"algorithm": recipe.algorithm, **decides, "arguments": arguments})
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def _said(run: TuningRun) -> str:
    """In a sentence: seed 0, or seed 0 of a task where there are several."""
    return f"seed {run.seed}" if run.key == str(run.seed) else f"seed {run.seed} of {run.task.name}"
