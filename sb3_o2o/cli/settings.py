"""``--set NAME=VALUE``: names as ``recipes show`` writes them, values as in YAML."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
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


def parse_settings(
    settings: Sequence[str] | None, recipe: "str | Recipe | None", env_id: str, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """
    Constructor arguments from ``--set NAME=VALUE``.

    :param settings: the options
    :param recipe: recipe of whose nested arguments (``policy_kwargs``, ``finetuning`` …) a dotted name changes one
    :param env_id: environment the recipe is for
    :param extra: arguments that other options stand for
    :return: keyword arguments
    :raises ValueError: another spelling, an unknown argument (the nearest is named), or a value that it may not have
    """
    from sb3_o2o.algorithms import O2OSAC, algorithm_class
    from sb3_o2o.recipes import load_recipe

    base: dict[str, Any] = {}
    algorithm: Any = O2OSAC
    if recipe is not None:
        loaded = load_recipe(recipe, env_id)
        base, algorithm = dict(loaded.arguments), algorithm_class(loaded.algorithm)
    overrides = _parsed(settings, base, extra)
    for name in overrides:
        if name in _OTHER_WAYS:
            raise ValueError(f"--set cannot change {name}: {_OTHER_WAYS[name]}.")
    constructor = algorithm.constructor
    constructor.check_names("constructor argument", overrides, skip=("_init_setup_model", *_OTHER_WAYS))
    constructor.accepted(algorithm, overrides)
    return overrides


def dataset_settings(settings: Sequence[str] | None, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    What ``--set dataset_kwargs.NAME=VALUE`` says, before recipe and environment are known.

    :param settings: the options
    :param known: arguments of the dataset that hold unless they are set
    :return: keyword arguments of ``OfflineDataset.load``
    :raises ValueError: another spelling, an unknown argument (the nearest is named), or a value of another type
    """
    from sb3_o2o.data import OfflineDataset
    from sb3_o2o.errors import check_keyword_arguments

    chosen = [setting for setting in settings or () if setting.partition("=")[0].split(".")[0] == "dataset_kwargs"]
    found = _parsed(chosen, {"dataset_kwargs": known or {}}).get("dataset_kwargs", known) or {}
    check_keyword_arguments("dataset argument", OfflineDataset.load, found, skip=("source",))
    return dict(found)


def _parsed(
    settings: Sequence[str] | None, base: dict[str, Any], extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    overrides = dict(extra or {})
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        path = name.split(".")
        if not equals or not all(path):
            raise ValueError(f"--set takes NAME=VALUE, got {setting!r}.")
        value, root = _value(name, text), path[0]
        if len(path) > 1:
            value = _with_nested(overrides.get(root, copy.deepcopy(base.get(root))), path[1:], value, name)
        overrides[root] = value
    return overrides


def _value(name: str, text: str) -> Any:
    from sb3_o2o.recipes import PlainLoader

    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", text):  # as ``recipes show`` prints it
        return int(text.replace(",", ""))
    if re.fullmatch(r"\d+[eE]\+?\d+", text):  # YAML's is a float, and a count would not be one
        return int(float(text))
    try:
        return yaml.load(text, Loader=PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"The value of --set {name} is not YAML: {text!r}.") from error


def _with_nested(current: Any, path: Sequence[str], value: Any, name: str) -> Any:
    """What stands there already, with one entry changed or added."""
    if name.startswith("finetuning.") and isinstance(current, list | None) and len(path) == name.count("."):
        return _with_callback(current or [], path, value, name)
    if current is not None and not isinstance(current, Mapping):
        raise ValueError(f"--set {name} goes into an argument that has no names inside: it is {current!r}.")
    current = dict(current or {})
    current[path[0]] = value if len(path) == 1 else _with_nested(current.get(path[0]), path[1:], value, name)
    return current


def _with_callback(callbacks: list[Any], path: Sequence[str], value: Any, name: str) -> list[Any]:
    """The list of callbacks with one of them changed, or joined by another."""
    from sb3_o2o.errors import unknown
    from sb3_o2o.finetuning import FineTuningCallback

    if path[0] not in FineTuningCallback.registry:
        raise unknown("fine-tuning callback", path[0], FineTuningCallback.registry)
    callbacks = [{each: {}} if isinstance(each, str) else each for each in callbacks]
    places = [index for index, each in enumerate(callbacks) if isinstance(each, Mapping) and path[0] in each]
    if len(places) > 1:
        raise ValueError(
            f"--set {name}: there are {len(places)} of {path[0]}, so write the whole list: finetuning=[…]."
        )
    before = callbacks[places[0]][path[0]] if places else None
    changed = {path[0]: value if len(path) == 1 else _with_nested(before, path[1:], value, name)}
    return [changed if index in places else each for index, each in enumerate(callbacks)] + [changed] * (not places)
