"""Samplers and pruners by name."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sb3_o2o.checked import checked
from sb3_o2o.errors import missing_package, unknown
from sb3_o2o.kinds import Count, CountFromZero, Seed


def _tpe(seed: int, n_startup_trials: int) -> BaseSampler:
    # constant_liar: what other workers are trying counts as bad, so that they spread
    return optuna.samplers.TPESampler(
        n_startup_trials=n_startup_trials, multivariate=True, constant_liar=True, seed=seed
    )


def _gp(seed: int, n_startup_trials: int) -> BaseSampler:
    _require("scipy", "Sampler 'gp'")
    return optuna.samplers.GPSampler(n_startup_trials=n_startup_trials, seed=seed)


def _cmaes(seed: int, n_startup_trials: int) -> BaseSampler:
    _require("cmaes", "Sampler 'cmaes'")
    return optuna.samplers.CmaEsSampler(n_startup_trials=n_startup_trials, seed=seed)


def _qmc(seed: int, n_startup_trials: int) -> BaseSampler:
    _require("scipy", "Sampler 'qmc'")
    return optuna.samplers.QMCSampler(seed=0, scramble=True)  # one sequence, of which each trial takes a point


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": lambda seed, _: optuna.samplers.RandomSampler(seed=seed),
    "gp": _gp,
    "cmaes": _cmaes,
    "qmc": _qmc,
}
#: before the name of a package of OptunaHub
HUB = "hub:"
PRUNERS = ("median", "wilcoxon", "halving", "none")
#: Runs of a trial without which a signed-rank test can prune nothing.
ENOUGH_PAIRS = 5


class SeededByTrial(BaseSampler):
    """
    A sampler whose random numbers belong to the trial: workers that start with the same seed do not try the same, and a
    study with one worker can be repeated.

    :param make: makes the sampler, given a seed
    :param seed: of the study
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int):
        self._make, self._seed = make, seed
        self._inner = make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See ``BaseSampler``."""
        self._inner = self._make(int(np.random.SeedSequence((self._seed, trial.number)).generate_state(1)[0]))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See ``BaseSampler``."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``BaseSampler``."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See ``BaseSampler``."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """See ``BaseSampler``."""
        self._inner.after_trial(study, trial, state, values)


@checked
def make_sampler(name: str, seed: Seed = 0, n_startup_trials: CountFromZero = 10) -> BaseSampler:
    """
    :param name: one of :data:`SAMPLERS`, or ``hub:samplers/NAME`` for one of OptunaHub's, which is downloaded
    :param seed: of the study
    :param n_startup_trials: trials before a sampler that learns from others begins to
    :return: the sampler
    :raises ValueError: unknown name (the nearest is named)
    :raises ImportError: a package is missing
    """
    if name.startswith(HUB):
        package = name.removeprefix(HUB)
        module = _hub().load_module(package)
        names = getattr(module, "__all__", ())
        classes = [getattr(module, each) for each in names]
        kinds = [each for each in classes if isinstance(each, type) and issubclass(each, BaseSampler)]
        if not kinds:
            raise ValueError(f"OptunaHub's package {package!r} holds no sampler.")
        return kinds[0]()
    if name not in SAMPLERS:
        raise unknown("sampler", name, [*SAMPLERS, f"{HUB}samplers/NAME"])
    # which makes one at once, so that what is missing is said now
    return SeededByTrial(lambda own: _quiet(SAMPLERS[name], own, n_startup_trials), seed)


def _quiet(make: Callable[[int, int], BaseSampler], seed: int, n_startup_trials: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make(seed, n_startup_trials)


@checked
def make_pruner(name: str | None, n_runs: Count, n_startup_trials: CountFromZero = 5, n_tasks: Count = 1) -> BasePruner:
    """
    What ends a trial between two of its runs.

    :param name: ``"median"``, ``"halving"``, ``"none"``, or ``"wilcoxon"``: a signed-rank test of the trial's runs
        against those of the best one. None for ``"median"`` with one task; with several ``"wilcoxon"`` where there are
        runs enough, else ``"none"``
    :param n_runs: runs of a trial: seeds, times tasks
    :param n_startup_trials: trials that are not compared
    :param n_tasks: tasks of a trial
    :return: the pruner
    :raises ValueError: unknown name (the nearest is named), a test that so few runs cannot pass, or a rule that would
        compare runs of different tasks
    :raises ImportError: a package is missing
    """
    if name is None:
        name = "median" if n_tasks == 1 else "wilcoxon" if n_runs >= ENOUGH_PAIRS else "none"
    if name in ("median", "halving") and n_tasks > 1:
        raise ValueError(
            f"Pruner {name!r} takes a trial's best run so far, and runs of {n_tasks} tasks have scores of their own "
            "size: take 'wilcoxon', which compares run by run, or 'none'."
        )
    if name == "median":
        return MedianPruner(n_startup_trials=n_startup_trials)
    if name == "halving":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    if name == "none":
        return NopPruner()
    if name != "wilcoxon":
        raise unknown("pruner", name, PRUNERS)
    _require("scipy", "Pruner 'wilcoxon'")
    # The smallest p that n pairs can have is 2^-n, and the last run leaves nothing to prune.
    if n_runs < ENOUGH_PAIRS:
        what, instead = ("seeds", "median") if n_tasks == 1 else ("runs", "none")
        raise ValueError(
            f"Pruner 'wilcoxon' needs at least {ENOUGH_PAIRS} {what}: with {n_runs} its smallest p before the last is "
            f"{0.5 ** max(n_runs - 1, 0):g}, and it prunes below 0.1. Take more, or {instead!r}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=0.1)


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise missing_package(f"{what} needs", package, "tune")


def _hub() -> Any:
    _require("optunahub", "A sampler of OptunaHub")
    import optunahub

    return optunahub
