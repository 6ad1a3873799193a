"""
Reads d3rlpy's files (https://github.com/takuseno/d3rlpy), without importing it. Version 1 wrote flat arrays
(``MDPDataset.dump``), version 2 writes ``observations_0``, ``actions_0``, ... for each episode (``ReplayBuffer.dump``).
In both, an episode of T steps has T observations: that after a time limit is unknown.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sb3_o2o.data.formats.fields import contents, require_fields
from sb3_o2o.data.formats.hdf5_episodes import hdf5_episodes_source
from sb3_o2o.data.formats.hdf5_files import opened_hdf5
from sb3_o2o.data.formats.reading import Format, Reading
from sb3_o2o.data.formats.steps import described_steps
from sb3_o2o.data.transitions import Source, Transitions, file_states
from sb3_o2o.errors import warn

_REQUIRED = ("observations", "actions", "rewards", "terminated")


def _is_version_1(file: Collection[str]) -> bool:
    return "episode_terminals" in file or {"observations", "discrete_action"} <= set(file)


def _open_version_1(opened: tuple[Path, h5py.File], reading: Reading) -> Source:
    path, file = opened
    if "discrete_action" in file and bool(np.all(file["discrete_action"][()])):
        raise ValueError(f"{path} is a dataset of d3rlpy 1 with discrete actions: only continuous ones are supported.")
    if "episode_terminals" not in file:
        raise ValueError(
            f"{path} is a dataset of d3rlpy 1 without 'episode_terminals', so that it is unknown where episodes end "
            f"by a time limit: it has {contents(file)}. Write it again with d3rlpy 1."
        )
    if "version" not in file:
        warn(
            f"{path} has no 'version': it may be from d3rlpy before 1.0, whose rewards belong to the step before. It "
            "is read as d3rlpy 1.0 wrote it.",
        )
    steps = described_steps(_as_steps(file), reading, f"{path} (d3rlpy 1)", {"dones": "episode_terminals"})

    def chunks(clip: float) -> Iterator[Transitions]:
        with opened_hdf5(path) as file:
            yield from steps.chunks(_as_steps(file), clip)

    spaces = steps.observation_space, steps.action_space
    key = {"d3rlpy 1": file_states(path), "spaces": list(map(str, spaces)), **reading.given}
    return Source(
        str(path),
        *spaces,
        chunks,
        cache_key=key,
        on_disk=True,
        episode_ends=f"d3rlpy 1, {steps.ends.told}",
        options=reading.given,
    )


def _as_steps(file: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: name for name in ("observations", "actions", "rewards", "terminals") if name in file}
    return {**{name: file[name] for name in names}, "dones": file["episode_terminals"]}


def _is_version_2(file: Collection[str]) -> bool:
    return {"columns", "num_episodes", "version"} <= set(file)


def _open_version_2(opened: tuple[Path, h5py.File], reading: Reading) -> Source:
    path, file = opened
    columns = [name.decode() if isinstance(name, bytes) else str(name) for name in file["columns"][()]]
    count = int(file["num_episodes"][()])
    source = f"{path} is a dataset of d3rlpy 2 ({count} episodes) that"
    require_fields(columns, _REQUIRED, source, f"the columns {', '.join(columns)}")
    if "observations_0_0" in file:
        raise ValueError(
            f"{source} has tuples of observations, which Stable-Baselines3 has not: it has {contents(file)}. Read it "
            "with d3rlpy and give a list of dictionaries, one for each episode, with dictionaries of observations."
        )
    if count and file["actions_0"].dtype.kind in "iu":
        raise ValueError(f"{source} has discrete actions: only continuous ones are supported. It has {contents(file)}.")

    def read(file: h5py.File, index: int) -> dict[str, Any]:
        return {name: file[f"{name}_{index}"][()] for name in _REQUIRED}

    return hdf5_episodes_source(path, count, read, reading, kind="d3rlpy 2")


D3RLPY_1 = Format("a dataset of d3rlpy 1", _is_version_1, _open_version_1)
D3RLPY_2 = Format("a dataset of d3rlpy 2", _is_version_2, _open_version_2)
