"""What a saved model is, before it is opened."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, TypeVar

from gymnasium import spaces
from stable_baselines3.common.vec_env.patch_gym import _convert_space

from sb3_o2o.transfer.model_file import attributes_as_json, read_attributes

Algorithm = TypeVar("Algorithm", bound=type)

#: the algorithms of ours by the name of the stock class whose saved models they open; each enters itself
ALGORITHMS_BY_FAMILY: dict[str, Any] = {}
#: arguments of a model that only acts, whatever it was trained with: no buffer, hence no environment, to speak of, and
#: no seed, which would be the process's from then on
OFF_POLICY_ACTING: dict[str, Any] = {
    "buffer_size": 1,
    "replay_buffer_class": None,
    "replay_buffer_kwargs": {},
    "optimize_memory_usage": False,
    "n_steps": 1,
    "seed": None,
}
ON_POLICY_ACTING: dict[str, Any] = {
    "n_steps": 1,
    "rollout_buffer_class": None,
    "rollout_buffer_kwargs": {},
    "seed": None,
}

#: attributes that only one family of algorithms saves, most specific first
_MARKS = {
    "TQC": {"top_quantiles_to_drop_per_net"},
    "SAC": {"target_entropy", "ent_coef"},
    "TD3": {"target_policy_noise", "policy_delay"},
    "PPO": {"clip_range", "n_epochs"},
}
#: relatives of SAC and PPO that save the same attributes, by where their policies are
_RELATIVES = {".crossq.": "CrossQ", ".recurrent.": "RecurrentPPO", ".maskable.": "MaskablePPO"}


def opens_family(algorithm: Algorithm) -> Algorithm:
    """
    Enter an algorithm of ours in :data:`ALGORITHMS_BY_FAMILY`, by its ``stock_class``. A decorator.

    :param algorithm: the class
    :return: the same
    """
    ALGORITHMS_BY_FAMILY[algorithm.stock_class.__name__] = algorithm  # type: ignore[attr-defined]
    return algorithm


def saved_model_path(source: Any) -> Path | None:
    """
    :param source: anything that ``load_offline`` accepts
    :return: the zip that it names, with or without the ending; None if it names none
    :raises FileNotFoundError: if it names a zip that is not there
    :raises ValueError: if it names a folder with saved models, such as that of a run
    """
    if not isinstance(source, str | os.PathLike) or not str(source).strip():
        return None
    path = Path(source)
    for candidate in (path, Path(f"{path}.zip")):
        if candidate.is_file() and candidate.suffix == ".zip":
            return candidate
    if path.suffix == ".zip":
        raise FileNotFoundError(f"There is no saved model at {path}.")
    models = [*path.glob("*.zip"), *path.glob("*/*.zip")] if path.is_dir() else []
    if models:
        newest = max(models, key=lambda model: model.stat().st_mtime)
        raise ValueError(f"{path} is a folder with saved models, not one of them. The newest is {newest}.")
    return None


def saved_family(path: str | os.PathLike[str] | io.BufferedIOBase) -> str:
    """
    Which family of algorithms a saved model belongs to.

    :param path: a zip, or a file-like object, which is left where it was
    :return: ``"SAC"``, ``"TQC"``, ``"CrossQ"``, ``"TD3"``, ``"PPO"``, ``"RecurrentPPO"``, ``"MaskablePPO"`` or
        ``"unknown"``
    :raises ValueError: if it is no model saved by Stable-Baselines3
    """
    return _family(attributes_as_json(path))


def opens_as_ours(path: str | os.PathLike[str] | io.BufferedIOBase) -> bool:
    """
    Whether the class of ours opens a saved model of its family: one of ours, or a stock one with a stock policy (and,
    of PPO, what offline datasets are for).

    :param path: as for :func:`saved_family`
    :return: False for what only its own class opens
    """
    data = attributes_as_json(path)
    if "n_pretrain_steps" in data:
        return True
    is_stock = _policy_module(data).startswith("stable_baselines3.")
    if _family(data) != "PPO":
        return is_stock
    is_box = ".box.Box" in str((data.get("action_space") or {}).get(":type:"))
    return is_stock and is_box and not data.get("use_sde")


def saved_spaces(
    path: str | os.PathLike[str] | io.BufferedIOBase,
    custom_objects: dict[str, Any] | None = None,
    trust: bool = False,
) -> tuple[spaces.Space | None, spaces.Space | None]:
    """
    What a saved model sees and does.

    :param path: as for :func:`saved_family`
    :param custom_objects: SB3's, which replace what cannot be read
    :param trust: whether the file may run code
    :return: observation and action space; None for one that the file does not hold
    """
    read = read_attributes(path, ("observation_space", "action_space"), custom_objects, trust)
    observations, actions = (
        _convert_space(read[name]) if name in read else None for name in ("observation_space", "action_space")
    )
    return observations, actions


def _family(data: dict[str, Any]) -> str:
    for package, family in _RELATIVES.items():
        if package in _policy_module(data):
            return family
    return next((family for family, marks in _MARKS.items() if marks <= data.keys()), "unknown")


def _policy_module(data: dict[str, Any]) -> str:
    policy_class = data.get("policy_class")
    if not isinstance(policy_class, dict):
        return ""
    return str(policy_class.get("__module__") or policy_class.get("name"))
