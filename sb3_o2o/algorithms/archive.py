"""What a saved model is, before it is opened."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

#: attributes that only one family of algorithms saves, most specific first
_MARKS = {
    "TQC": {"top_quantiles_to_drop_per_net"},
    "SAC": {"target_entropy", "ent_coef"},
    "TD3": {"target_policy_noise", "policy_delay"},
    "PPO": {"clip_range", "n_epochs"},
}


def saved_model_path(source: Any) -> Path | None:
    """
    :param source: anything that ``load_offline`` accepts
    :return: the zip that it names, with or without the ending; None if it names none
    """
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source)
    for candidate in (path, path.with_name(path.name + ".zip")):
        if candidate.is_file() and candidate.suffix == ".zip":
            return candidate
    if path.suffix == ".zip":
        raise FileNotFoundError(f"There is no saved model at {path}.")
    return None


def saved_family(path: str | os.PathLike[str] | io.BufferedIOBase) -> str:
    """
    Which family of algorithms a saved model belongs to.

    :param path: a zip, or a file-like object, which is left where it was
    :return: ``"SAC"``, ``"TQC"``, ``"CrossQ"``, ``"TD3"``, ``"PPO"`` or ``"unknown"``
    :raises ValueError: if it is no model saved by Stable-Baselines3
    """
    position = path.tell() if isinstance(path, io.IOBase) else 0
    try:
        with zipfile.ZipFile(path) as archive:  # type: ignore[arg-type]
            missing = {"data", "policy.pth"} - set(archive.namelist())
            if missing:
                absent = ", ".join(sorted(missing))
                raise ValueError(
                    f"{path} is not a model saved by Stable-Baselines3, or it is truncated: it has no {absent}."
                )
            data = json.loads(archive.read("data"))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a zip file, or it is truncated: {error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a model saved by Stable-Baselines3: its data is no JSON ({error}).") from error
    finally:
        if isinstance(path, io.IOBase):
            path.seek(position)
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a model saved by Stable-Baselines3: its data is no JSON object.")
    policy_class = data.get("policy_class")
    if isinstance(policy_class, dict) and ".crossq." in str(policy_class.get("__module__")):
        return "CrossQ"  # a relative of SAC that saves the same attributes
    return next((family for family, marks in _MARKS.items() if marks <= data.keys()), "unknown")
