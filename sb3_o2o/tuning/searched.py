"""The search space of a recipe: what is declared beside its arguments, and what the user says."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import optuna

from sb3_o2o.algorithms import algorithm_class
from sb3_o2o.checked import check_keyword_arguments, checked
from sb3_o2o.errors import unknown
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives import objective_class
from sb3_o2o.objectives.overlay import goes_on
from sb3_o2o.recipes import Recipe
from sb3_o2o.runs.settings import arguments_over, check_overrides, merged
from sb3_o2o.search_space import Choice, Range, SearchSpace, read_search

#: what both phases have, and are tuned together where the recipe gives both the same
_OFFLINE, _ONLINE = "objective_kwargs", "online_objective_kwargs"


@checked
def declared_space(recipe: Recipe, overrides: Mapping[str, Any] | None = None) -> dict[str, Range | Choice]:
    """
    What may be tuned of a recipe: of its algorithm, its objectives and its fine-tuning callbacks. An argument whose
    value lies outside of what is declared (or that is off) is left as it is: the range was not meant for it.

    :param recipe: a recipe's entry
    :param overrides: constructor arguments that hold instead of its own
    :return: search spaces by dotted name
    """
    arguments = arguments_over(recipe, overrides)
    found: dict[str, Range | Choice] = {}
    for prefix, space, values in _declarations(recipe, arguments):
        for name, search in space.items():
            if contains(search, values.get(name)):
                found[f"{prefix}{name}"] = search
    return found


def _declarations(recipe: Recipe, arguments: Mapping[str, Any]) -> Iterator[tuple[str, SearchSpace, Mapping[str, Any]]]:
    """:return: for each thing with arguments: before their names, their search spaces, their values"""
    algorithm: Any = algorithm_class(recipe.algorithm)
    constructor = algorithm.constructor
    yield "", constructor.search_space, {**constructor.defaults, **arguments}
    default = getattr(algorithm, "default_online_objective", None)
    objectives = {_OFFLINE: arguments.get("objective"), _ONLINE: arguments.get("online_objective") or default}
    if recipe.pretrain_steps == 0:
        objectives[_OFFLINE] = None
    elif default is not None and goes_on(algorithm, arguments):
        objectives[_ONLINE] = None
    for prefix, name in objectives.items():
        if name is not None and prefix in constructor.signature.parameters:
            kind = objective_class(name, algorithm.available_objectives, recipe.algorithm)
            yield f"{prefix}.", kind.search_space, {**_defaults(kind), **(arguments.get(prefix) or {})}
    callbacks = [spec for spec in arguments.get("finetuning") or () if not isinstance(spec, FineTuningCallback)]
    named = [(spec, {}) if isinstance(spec, str) else next(iter(spec.items())) for spec in callbacks]
    for name, values in named:
        if [each for each, _ in named].count(name) == 1:
            callback = FineTuningCallback.registry[name]
            yield f"finetuning.{name}.", callback.search_space, {**_defaults(callback), **(values or {})}


def _defaults(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for owner in reversed(kind.__mro__[:-1]):
        if "__init__" in vars(owner):
            parameters = inspect.signature(vars(owner)["__init__"]).parameters.values()
            found.update({each.name: each.default for each in parameters if each.default is not each.empty})
    return found


def contains(search: Range | Choice, value: Any) -> bool:
    """
    :param search: what is searched
    :param value: of an argument
    :return: whether it could have been found there
    """
    if isinstance(search, Choice):
        return any(value == option and type(value) is type(option) for option in search.options)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and search.low <= value <= search.high and (not search.is_whole or float(value).is_integer())


@checked
def select_space(
    declared: SearchSpace, chosen: Sequence[tuple[str, Any]], recipe: Recipe, overrides: Mapping[str, Any] | None = None
) -> dict[str, Range | Choice]:
    """
    The search space of a study, checked: both ends of every range make a model's arguments.

    :param declared: see :func:`declared_space`
    :param chosen: names or patterns with None, which choose from what is declared, and names with a space of the
        user's own (as :func:`~sb3_o2o.search_space.read_search` reads it); all that is declared if empty
    :param recipe: the recipe's entry
    :param overrides: constructor arguments that hold instead of its own
    :return: the chosen part, and the user's own
    :raises ValueError: nothing to tune, a name that nothing declares, or a value that an argument may not have
    """
    space = dict(declared) if not chosen else {}
    for name, own in chosen:
        if own is not None:
            space[name] = read_search(name, own)
            continue
        matching = {each: search for each, search in declared.items() if fnmatchcase(each, name)}
        if not matching:
            raise unknown(f"hyper-parameter to tune (without a search space of its own: {name}=…)", name, declared)
        space |= matching
    if not space:
        raise ValueError(
            f"Nothing of recipe {recipe.reference!r} declares what it is tuned in. Say it yourself: "
            "--tune learning_rate='{low: 1e-5, high: 1e-3, log: true}'."
        )
    for values in _corners(space):
        _check(_merged(values, recipe, overrides), recipe, "--tune")
    return space


def _check(arguments: Mapping[str, Any], recipe: Recipe, said: str) -> None:
    """:raises ValueError: for what the constructor, or an objective, does not take"""
    algorithm: Any = algorithm_class(recipe.algorithm)
    check_overrides(algorithm, arguments, said)
    everything = arguments_over(recipe, arguments)
    for name, kwargs in ((name, f"{name}_kwargs") for name in ("objective", "online_objective")):
        if everything.get(name) is not None and kwargs in arguments:
            kind = objective_class(everything[name], algorithm.available_objectives, recipe.algorithm)
            what = f"argument of objective {everything[name]!r}"
            check_keyword_arguments(what, kind, arguments[kwargs] or {}, skip=("model",))


def _corners(space: SearchSpace) -> Iterable[dict[str, Any]]:
    """Every end of a range and every option, one hyper-parameter at a time."""
    for name, search in space.items():
        for value in search.options if isinstance(search, Choice) else (search.low, search.high):
            yield {name: value}


@checked
def suggest(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any]:
    """
    Ask a trial for a value of each hyper-parameter.

    :param trial: of any Optuna study
    :param space: what is tuned
    :return: values by dotted name
    """
    values: dict[str, Any] = {}
    for name, search in space.items():
        if isinstance(search, Choice):
            texts = {as_category(option): option for option in search.options}
            values[name] = texts[trial.suggest_categorical(name, list(texts))]
        elif search.is_whole:
            values[name] = trial.suggest_int(name, int(search.low), int(search.high), log=search.log)
        else:
            values[name] = trial.suggest_float(name, search.low, search.high, log=search.log)
    return values


def as_category(option: Any) -> Any:
    """
    :param option: of a choice
    :return: as a database keeps it: lists and dictionaries as text
    """
    return option if option is None or isinstance(option, bool | int | float | str) else json.dumps(option)


def values_of(params: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """
    :param params: of a trial, as Optuna keeps them
    :param space: what was tuned
    :return: the same as constructors take them
    """
    values = dict(params)
    for name, search in space.items():
        if isinstance(search, Choice) and name in values:
            values[name] = next(option for option in search.options if as_category(option) == values[name])
    return values


def own_values(space: SearchSpace, recipe: Recipe, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """
    The recipe's own values, where they lie in the search space: a study's first trial.

    :param space: what is tuned
    :param recipe: the recipe's entry
    :param overrides: constructor arguments that hold instead of its own
    :return: values by dotted name, as Optuna keeps them
    """
    arguments = arguments_over(recipe, overrides)
    found: dict[str, Any] = {}
    for prefix, _, values in _declarations(recipe, arguments):
        for name, search in space.items():
            key = name.removeprefix(prefix)
            if name.startswith(prefix) and "." not in key and key in values and contains(search, values[key]):
                found[name] = as_category(values[key])
    return found


@checked
def overrides_of_trial(
    values: Mapping[str, Any], recipe: Recipe, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    The constructor arguments of a trial.

    :param values: hyper-parameters by dotted name
    :param recipe: the recipe's entry
    :param overrides: constructor arguments that hold instead of its own in every trial
    :return: keyword arguments that replace or join the recipe's
    :raises ValueError: a combination that no model takes
    """
    found = _merged(values, recipe, overrides)
    _check(found, recipe, "A trial")
    return found


def _merged(values: Mapping[str, Any], recipe: Recipe, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    arguments = arguments_over(recipe, overrides)
    settings = dict(values)
    # Without arguments of its own, the online objective is the offline one, and has its.
    if arguments.get(_ONLINE) and goes_on(algorithm_class(recipe.algorithm), arguments):
        both = {name: value for name, value in values.items() if name.startswith(f"{_OFFLINE}.")}
        settings |= {f"online_{name}": value for name, value in both.items()}
    found = merged(settings.items(), arguments, copy.deepcopy(dict(overrides or {})), "--tune")
    # Given beside a recipe, an argument would hold in both phases: one that has a value of its own before keeps it.
    if any(name in (recipe.arguments.get("pretrain_kwargs") or {}) for name in values):
        found.setdefault("pretrain_kwargs", copy.deepcopy(recipe.arguments["pretrain_kwargs"]))
    return found


def of_pretraining(values: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """
    Those hyper-parameters that a pre-trained model depends on: trials that agree in them share it.

    :param values: by dotted name
    :param recipe: the recipe's entry
    :return: the part of them that matters before fine-tuning
    """
    algorithm: Any = algorithm_class(recipe.algorithm)
    apart = {*algorithm.constructor.online, *(recipe.arguments.get("pretrain_kwargs") or {})}

    def matters(name: str) -> bool:
        root, *rest = name.split(".")
        if root == "finetuning":
            return not rest or FineTuningCallback.registry[rest[0]].hears_offline_updates
        return root not in apart

    return {name: value for name, value in values.items() if matters(name)}
