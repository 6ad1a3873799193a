"""Constructor arguments that replace or join a recipe's, by the dotted names that ``recipes show`` prints."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sb3_o2o.algorithms import algorithm_class
from sb3_o2o.errors import unknown
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives.overlay import left_behind, over
from sb3_o2o.recipes import Recipe

#: What a recipe holds and a user may want to set, but an option of its own decides.
_OTHER_WAYS = {
    "n_timesteps": "use --steps",
    "pretrain_steps": "use --gradient-steps (pretrain) or --pretrain-steps (finetune)",
    "n_envs": "use --n-envs",
    "eval_freq": "use --evaluations",
    "n_eval_episodes": "use --eval-episodes",
    "env": "use --env",
    "env_kwargs": "write it into a recipe of your own (--recipe mine.yml)",
    "env_wrapper": "write it into a recipe of your own (--recipe mine.yml)",
    "policy": "the environment's observations decide it",
    "seed": "use --seed",
    "device": "use --device",
    "dataset": "say it with the command (pretrain DATASET, finetune --dataset)",
    "recipe": "use --recipe",
    "tensorboard_log": "it is in the run folder, see --log-dir",
    "verbose": "a run shows bars, and logs to TensorBoard",
}


def arguments_over(recipe: Recipe | None, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    :param recipe: a recipe's entry; None for constructor arguments alone
    :param overrides: constructor arguments that hold instead of its own
    :return: all of them, as its algorithm has them
    """
    given = overrides or {}
    return dict(given) if recipe is None else over(algorithm_class(recipe.algorithm), recipe.arguments, given)


def check_overrides(algorithm: Any, overrides: Mapping[str, Any], said: str = "--set") -> None:
    """
    Refuse what no constructor takes, and what an option of its own decides.

    :param algorithm: the class that will be built
    :param overrides: keyword arguments of its constructor
    :param said: how the user said them, for errors
    :raises ValueError: an unknown argument (the nearest is named), or a value that it may not have
    """
    for name in overrides:
        if name in _OTHER_WAYS:
            raise ValueError(f"{said} cannot change {name}: {_OTHER_WAYS[name]}.")
    constructor = algorithm.constructor
    constructor.check_names("constructor argument", overrides, skip=("_init_setup_model", *_OTHER_WAYS))
    constructor.accepted(algorithm, overrides)


def merged(
    settings: Iterable[tuple[str, Any]],
    base: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    said: str = "--set",
) -> dict[str, Any]:
    """
    Settings one after the other, each onto what stands there already.

    :param settings: dotted names and values
    :param base: the recipe's arguments, of whose nested ones a dotted name changes one
    :param extra: arguments that hold instead of the recipe's
    :param said: how the user said them, for errors
    :return: keyword arguments of a constructor, not checked yet
    :raises ValueError: a name that leads into something without names inside
    """
    overrides = dict(extra or {})
    for name, value in settings:
        path = name.split(".")
        root = path[0]
        if len(path) > 1:
            value = _with_nested(overrides.get(root, copy.deepcopy(base.get(root))), path[1:], value, name, said)
        overrides[root] = value
    return overrides


def overrides_of(
    settings: Iterable[tuple[str, Any]],
    arguments: Mapping[str, Any],
    algorithm: str,
    extra: Mapping[str, Any] | None = None,
    said: str = "--set",
) -> dict[str, Any]:
    """
    Constructor arguments from dotted names. Those of an objective go onto another's that is named instead of none.

    :param settings: dotted names and values
    :param arguments: the recipe's
    :param algorithm: name of its algorithm
    :param extra: arguments that hold instead of the recipe's
    :param said: how the user said them, for errors
    :return: keyword arguments
    :raises ValueError: an unknown argument (the nearest is named), or a value that it may not have
    """
    kind, settings, extra = algorithm_class(algorithm), list(settings), extra or {}
    base = over(kind, arguments, extra)
    gone = left_behind(kind, base, {name: value for name, value in settings if "." not in name})
    overrides = merged(settings, {**base, **gone}, {name: gone.get(name, value) for name, value in extra.items()}, said)
    check_overrides(kind, overrides, said)
    return overrides


def _with_nested(current: Any, path: Sequence[str], value: Any, name: str, said: str) -> Any:
    """What stands there already, with one entry changed or added."""
    if name.startswith("finetuning.") and isinstance(current, list | None) and len(path) == name.count("."):
        return _with_callback(current or [], path, value, name, said)
    if current is not None and not isinstance(current, Mapping):
        raise ValueError(f"{said} {name} goes into an argument that has no names inside: it is {current!r}.")
    current = dict(current or {})
    current[path[0]] = value if len(path) == 1 else _with_nested(current.get(path[0]), path[1:], value, name, said)
    return current


def _with_callback(callbacks: list[Any], path: Sequence[str], value: Any, name: str, said: str) -> list[Any]:
    """The list of callbacks with one of them changed, or joined by another."""
    if path[0] not in FineTuningCallback.registry:
        raise unknown("fine-tuning callback", path[0], FineTuningCallback.registry)
    callbacks = [{each: {}} if isinstance(each, str) else each for each in callbacks]
    places = [index for index, each in enumerate(callbacks) if isinstance(each, Mapping) and path[0] in each]
    if len(places) > 1:
        raise ValueError(
            f"{said} {name}: there are {len(places)} of {path[0]}, so write the whole list: finetuning=[…]."
        )
    before = callbacks[places[0]][path[0]] if places else None
    changed = {path[0]: value if len(path) == 1 else _with_nested(before, path[1:], value, name, said)}
    return [changed if index in places else each for index, each in enumerate(callbacks)] + [changed] * (not places)
