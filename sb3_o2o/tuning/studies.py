"""A study from its configuration to its pictures; the same call anywhere shares it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, CountFromZero, Seed
from sb3_o2o.runs.training import Interrupted, prepare
from sb3_o2o.tuning.configuration import TuningConfig
from sb3_o2o.tuning.samplers import make_pruner, make_sampler
from sb3_o2o.tuning.searched import own_values
from sb3_o2o.tuning.storages import give_back, open_storage, open_study, take_over
from sb3_o2o.tuning.trials import TrialRunner

#: Trials that count: those that ended by themselves, and those that were ended because they were worse.
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


@checked
def tune(
    config: TuningConfig,
    folder: str | os.PathLike[str],
    n_trials: Count,
    *,
    name: str,
    storage: str | BaseStorage | None = None,
    sampler: str | BaseSampler = "tpe",
    pruner: str | optuna.pruners.BasePruner | None = None,
    prune_runs: bool = True,
    seed: Seed = 0,
    n_startup_trials: CountFromZero = 10,
    threads: Count | None = None,
    on_trial: Callable[[optuna.Study, FrozenTrial], None] | None = None,
) -> optuna.Study:
    """
    Work on a study until it has so many trials, alone or beside other workers. The first trial is the recipe as it
    stands, where its own values lie in the search space.

    :param config: what is asked for, the same for every worker
    :param folder: of the study: its runs lie there, and ``study.db`` where no other storage is named
    :param n_trials: that the study shall have, those of all workers together, failed ones left out
    :param name: of the study
    :param storage: see :func:`~sb3_o2o.tuning.storages.open_storage`; or one of Optuna's
    :param sampler: a name, see :func:`~sb3_o2o.tuning.samplers.make_sampler`; or one of Optuna's
    :param pruner: what ends a trial between two runs, see :func:`~sb3_o2o.tuning.samplers.make_pruner`; or one of
        Optuna's
    :param prune_runs: end runs at their evaluations as well, by the median rule over other trials' runs of the same
        task and seed
    :param seed: of the sampler
    :param n_startup_trials: trials before the sampler learns from others; half as many before anything is pruned
    :param threads: CPU threads of each run; None to have them chosen
    :param on_trial: is told of each trial that this worker has ended
    :return: the study
    :raises ValueError: for an argument that is not what it may be; a study of this name was made for something else
    :raises Interrupted: Ctrl-C came; the trial waits for whoever comes next
    """
    folder = Path(folder)
    before_pruning = max(n_startup_trials // 2, 1)
    chooses = make_sampler(sampler, seed, n_startup_trials) if isinstance(sampler, str) else sampler
    if pruner is None or isinstance(pruner, str):
        pruner = make_pruner(pruner, len(config.runs), before_pruning, len(config.tasks))
    with _quiet_optuna():
        _check(config)  # first: a study of what is refused here would refuse what is asked for instead
        where = storage or str(folder / "study.db")
        opened = open_storage(where) if isinstance(where, str) else where
        study = open_study(opened, name, config, chooses, pruner)
        folder.mkdir(parents=True, exist_ok=True)
        if not study.get_trials(deepcopy=False):
            own = agreed_values(config)
            study.enqueue_trial(own, user_attrs={"note": "the recipe as it stands"}, skip_if_exists=True)
        runner = TrialRunner(config, folder, prune_runs, before_pruning, threads)
        _work(study, runner, n_trials, [] if on_trial is None else [on_trial])
    return study


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Optuna would log what is told here in fewer words, and a traceback for Ctrl-C."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _work(study: optuna.Study, runner: TrialRunner, n_trials: int, callbacks: list[Any]) -> None:
    """:raises Interrupted: Ctrl-C came; the trial waits for whoever comes next"""
    while True:
        take_over(study)
        if _taken(study) >= n_trials:
            return
        try:
            study.optimize(runner, n_trials=1, callbacks=callbacks)
        except (Interrupted, KeyboardInterrupt) as error:
            give_back(study, study.get_trials(deepcopy=False)[runner.number or 0], was_stopped=True)
            raise Interrupted from error


def _taken(study: optuna.Study) -> int:
    """Trials that are done or being made; those that wait for somebody are not."""
    states = (*COUNTED, TrialState.RUNNING)
    return len(study.get_trials(deepcopy=False, states=states))


def agreed_values(config: TuningConfig) -> dict[str, Any]:
    """
    :param config: of a study
    :return: the recipe's own values in which its entries for all tasks agree, by dotted name; others are drawn
    """
    first, *others = [own_values(config.space, task.recipe, task.overrides) for task in config.tasks]
    return {name: value for name, value in first.items() if all(each.get(name) == value for each in others)}


def _check(config: TuningConfig) -> None:
    """:raises ValueError: dataset, environment and recipe do not fit together, which no trial could change"""
    for task in config.tasks:
        prepared = prepare(config.run(config.seeds[0], task.overrides, task=task), recipe=task.recipe)
        prepared.close()
        if config.also and prepared.reference is None:
            raise ValueError(
                f"Returns of {task.environment.id} have no reference scores, so that there is no mean with those of "
                "other tasks: tune it alone."
            )
