"""``--set NAME=VALUE``: names as ``recipes show`` writes them, values as in YAML."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from sb3_o2o.recipes import Recipe


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
    from sb3_o2o.recipes import load_recipe

    if recipe is None:
        return parse_onto(settings, {}, "O2OSAC", extra)
    loaded = load_recipe(recipe, env_id)
    return parse_onto(settings, loaded.arguments, loaded.algorithm, extra)


def parse_onto(
    settings: Sequence[str] | None,
    arguments: Mapping[str, Any],
    algorithm: str,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Likewise, where the arguments are known that a dotted name changes one of.

    :param settings: the options
    :param arguments: those arguments
    :param algorithm: name of the class that takes them
    :param extra: arguments that other options stand for
    :return: keyword arguments
    :raises ValueError: see :func:`parse_settings`
    """
    from sb3_o2o.runs.settings import overrides_of

    return overrides_of(_parsed(settings), arguments, algorithm, extra)


def dataset_settings(settings: Sequence[str] | None, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    What ``--set dataset_kwargs.NAME=VALUE`` says, before the environment is known.

    :param settings: the options
    :param known: arguments of the dataset that hold unless they are set
    :return: keyword arguments of ``OfflineDataset.load``
    :raises ValueError: another spelling, an unknown argument (the nearest is named), or a value of another type
    """
    from sb3_o2o.checked import check_keyword_arguments
    from sb3_o2o.data import OfflineDataset
    from sb3_o2o.runs.settings import merged

    chosen = [setting for setting in settings or () if setting.partition("=")[0].split(".")[0] == "dataset_kwargs"]
    found = merged(_parsed(chosen), {"dataset_kwargs": known or {}}).get("dataset_kwargs", known) or {}
    check_keyword_arguments("dataset argument", OfflineDataset.load, found, skip=("source",))
    return dict(found)


def _parsed(settings: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals or not all(name.split(".")):
            raise ValueError(f"--set takes NAME=VALUE, got {setting!r}.")
        yield name, parse_value(f"--set {name}", text)


def parse_value(said: str, text: str) -> Any:
    """
    :param said: what the user wrote it for, for the error
    :param text: a value as in YAML, and numbers as ``recipes show`` prints them
    :return: the value
    :raises ValueError: it is not YAML
    """
    from sb3_o2o.recipes import read_yaml

    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", text):  # as ``recipes show`` prints it
        return int(text.replace(",", ""))
    if re.fullmatch(r"\d+[eE]\+?\d+", text):  # YAML's is a float, and a count would not be one
        return int(float(text))
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"The value of {said} is not YAML: {text!r}.") from error
