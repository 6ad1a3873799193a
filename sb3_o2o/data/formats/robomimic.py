"""
Reads robomimic's files (https://robomimic.github.io/docs/datasets/overview.html): a group ``data/demo_i`` for each
demonstration, with ``obs/KEY``, ``next_obs/KEY``, ``actions``, ``rewards`` and ``dones``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from sb3_o2o.data.formats.fields import contents
from sb3_o2o.data.formats.hdf5_episodes import hdf5_episodes_source
from sb3_o2o.data.formats.reading import Format, Reading
from sb3_o2o.data.formats.steps import STEP_OPTIONS
from sb3_o2o.data.transitions import Source

#: robomimic's number for environments of Gym, whose name is an id.
_GYM = 2
_FIELDS = ("obs", "next_obs", "actions", "rewards", "dones")


def _demonstrations(file: Mapping[str, Any]) -> list[str]:
    data = file.get("data")
    names = [name for name in data if name.startswith("demo_")] if isinstance(data, Mapping) else []
    return sorted(names, key=lambda name: (len(name), name))  # demo_10 after demo_9


def _is_robomimic(file: Mapping[str, Any]) -> bool:
    return bool(_demonstrations(file))


def _open(opened: tuple[Path, h5py.File], reading: Reading) -> Source:
    path, file = opened
    names = _demonstrations(file)
    first = file["data"][names[0]]
    missing = [name for name in ("obs", "actions") if name not in first]
    if missing or not isinstance(first["obs"], Mapping):
        raise ValueError(
            f"{path} is a robomimic file of {len(names)} demonstrations without "
            f"{' and '.join(missing or ['obs/KEY'])}: {names[0]} has {contents(first)}. Extract observations, rewards "
            "and dones with robomimic's dataset_states_to_obs.py."
        )
    any_done = any(bool(file["data"][name]["dones"][:].any()) for name in names if "dones" in file["data"][name])

    def read(file: h5py.File, index: int) -> dict[str, Any]:
        group = file["data"][names[index]]
        return {name: _loaded(group[name]) for name in _FIELDS if name in group}

    return hdf5_episodes_source(
        path,
        len(names),
        read,
        reading,
        kind=f"robomimic, {len(names)} demonstrations",
        any_done=any_done,
        env_id=_env_id(file["data"]),
    )


def _loaded(entry: Any) -> Any:
    return {key: value[:] for key, value in entry.items()} if isinstance(entry, Mapping) else entry[:]


def _env_id(data: h5py.Group) -> str | None:
    try:
        described = json.loads(data.attrs["env_args"])
        return str(described["env_name"]) if described.get("env_type") == _GYM else None
    except (KeyError, TypeError, ValueError):
        return None


ROBOMIMIC = Format("a robomimic file", _is_robomimic, _open, STEP_OPTIONS)
