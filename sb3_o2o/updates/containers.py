"""Dictionaries and lists of a caller stay the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def own_containers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    Stable-Baselines3 writes into some of the dictionaries that it is given, and a model keeps them: a caller may use
    one for two models.

    :param arguments: of a constructor
    :return: the same in dictionaries and lists of their own, nested ones included; what these hold is not copied
    """

    def own(value: Any) -> Any:
        if type(value) is dict:
            return {key: own(item) for key, item in value.items()}
        return [own(item) for item in value] if type(value) is list else value

    is_taken = {name: name.endswith("_kwargs") or name == "finetuning" for name in arguments}
    return {name: own(value) if is_taken[name] else value for name, value in arguments.items()}
