"""``--set NAME=VALUE``: names as ``recipes show`` writes them, values as in YAML."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml


def parse_settings(
    settings: Sequence[str] | None,
    arguments: Mapping[str, Any],
    algorithm: str,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    Constructor arguments from ``--set NAME=VALUE``.

    :param settings: the options
    :param arguments: of whose nested ones (``policy_kwargs``, ``finetuning`` …) a dotted name changes one: the recipe's
    :param algorithm: name of the class that takes them
    :param extra: arguments that other options stand for
    :return: keyword arguments
    :raises ValueError: another spelling, an unknown argument (the nearest is named), or a value that it may not have
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


def shown(value: Any) -> str:
    """
    :param value: of a constant
    :return: as ``recipes show`` prints it, and :func:`parse_value` reads it again
    """
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
