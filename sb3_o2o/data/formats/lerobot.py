"""
Reads LeRobot's datasets, version 3 and 2 (https://huggingface.co/docs/lerobot/lerobot-dataset-v3): a folder with
``meta/info.json`` and frames in ``data/*/*.parquet``. Low-dimensional observations only: videos stay unread.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sb3_o2o.data.formats.reading import Format, Reading
from sb3_o2o.data.formats.steps import STEP_OPTIONS
from sb3_o2o.data.formats.tables import parquet_columns, parquet_names, table_source
from sb3_o2o.data.transitions import Source
from sb3_o2o.errors import warn

_OBSERVATION = "observation."
_VERSIONS = ("v2", "v3")
_PICTURES = ("video", "image")
_NUMBERS = ("float", "int", "uint", "bool")


def is_lerobot(folder: Path) -> bool:
    """
    :param folder: any
    :return: whether it looks like a LeRobot dataset
    """
    return (folder / "meta" / "info.json").is_file()


def lerobot_source(folder: Path, reading: Reading) -> Source:
    """
    :param folder: a LeRobot dataset. ``next.reward`` are the rewards and ``next.done`` the ends; where the latter are
        missing, episodes end where ``episode_index`` changes, and none is known to terminate
    :param reading: how to read it; ``observation_keys`` are names of features with or without ``observation.``
    :return: the source
    :raises ImportError: without pyarrow
    :raises ValueError: naming version and features, if it cannot be read
    """
    try:
        info = json.loads((folder / "meta" / "info.json").read_text())
        version, features = str(info["codebase_version"]), dict(info["features"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}/meta/info.json is not that of a LeRobot dataset: {error!r}.") from error
    if not version.startswith(_VERSIONS):
        raise ValueError(f"{folder} is a LeRobot dataset of version {version}: versions 2 and 3 are supported.")
    files = sorted((folder / "data").rglob("*.parquet"))
    if not files:
        raise ValueError(f"{folder} is a LeRobot dataset without data/*/*.parquet: download it whole.")
    names = parquet_names(files)
    return table_source(
        names,
        lambda wanted: parquet_columns(files, wanted),
        folder,
        _without_prefix(reading),
        _columns(features, names, reading, folder),
    )


def _columns(features: dict[str, Any], names: Sequence[str], reading: Reading, folder: Path) -> dict[str, Any]:
    pictures = [name for name, about in features.items() if about.get("dtype") in _PICTURES]
    numbers = {name for name, about in features.items() if str(about.get("dtype")).startswith(_NUMBERS)}
    observations = [name for name in names if name.startswith(_OBSERVATION) and name in numbers]
    found = f"LeRobot's features {', '.join(sorted(features))}"
    asked = _asked(reading)
    if asked is not None:
        strange = [key for key in asked if _OBSERVATION + key not in observations]
        if strange:
            raise ValueError(
                f"{folder} has no low-dimensional observation {', '.join(map(repr, strange))}: it has {found}."
            )
        observations = [_OBSERVATION + key for key in asked]
    if not observations or "action" not in names or "episode_index" not in names:
        raise ValueError(
            f"{folder} is a LeRobot dataset without low-dimensional observations, 'action' or 'episode_index': it has "
            f"{found}."
        )
    if pictures and asked is None:
        warn(
            f"{folder}: {', '.join(pictures)} are pictures and stay unread; the observations are "
            f"{', '.join(observations)}.",
        )
    columns: dict[str, Any] = {"actions": "action", "episode": "episode_index"}
    entries = {name.removeprefix(_OBSERVATION): name for name in observations}
    columns["observations"] = entries if len(entries) > 1 or asked is not None else observations[0]
    optional = {
        "rewards": "next.reward",
        "dones": "next.done",
        "terminations": "next.terminated",
        "truncations": "next.truncated",
    }
    return {**columns, **{field: name for field, name in optional.items() if name in names}}


def _asked(reading: Reading) -> list[str] | None:
    keys = reading.observation_keys
    if keys is None:
        return None
    return [key.removeprefix(_OBSERVATION) for key in ([keys] if isinstance(keys, str) else keys)]


def _without_prefix(reading: Reading) -> Reading:
    keys = _asked(reading)
    return reading if keys is None else replace(reading, observation_keys=keys)


LEROBOT = Format("a LeRobot dataset", is_lerobot, lerobot_source, STEP_OPTIONS)
