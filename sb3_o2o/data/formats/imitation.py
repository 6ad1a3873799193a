"""
Reads trajectories of ``imitation`` (https://github.com/HumanCompatibleAI/imitation), without importing it: objects with
``obs`` (T + 1 rows), ``acts``, ``infos``, ``terminal`` and, from experts with rewards, ``rews``.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_o2o.data.formats.episode_lists import episodes_source
from sb3_o2o.data.formats.reading import Format, Reading
from sb3_o2o.data.formats.tables import arrow_rows
from sb3_o2o.data.transitions import Source

#: Observations may be dictionaries (imitation's DictObs); which of them, what the rewards are and what ``terminal`` is.
IMITATION_OPTIONS = frozenset({"observation_keys", "reward", "dones"})
_KIND = "imitation's trajectories"


def is_trajectory(value: Any) -> bool:
    """
    :param value: anything
    :return: whether it looks like a trajectory of imitation
    """
    return all(hasattr(value, name) for name in ("obs", "acts", "terminal")) and not isinstance(value, Mapping)


def trajectories_source(
    trajectories: Sequence[Any], reading: Reading, name: str = "trajectories", **known: Any
) -> Source:
    """
    :param trajectories: imitation's
    :param reading: how to read them
    :param name: for people
    :param known: further fields of ``Source``
    :return: the source
    :raises ValueError: if something is missing or wrong, or they are not all of one kind
    """
    for index, trajectory in enumerate(trajectories):
        if not is_trajectory(trajectory):
            raise ValueError(
                f"{name}: entry {index} is a {type(trajectory).__name__}, while the first is a trajectory of imitation."
            )
    return _source([_as_dictionary(trajectory) for trajectory in trajectories], name, reading, **known)


def _as_dictionary(trajectory: Any) -> dict[str, Any]:
    observations = trajectory.obs
    if hasattr(observations, "unwrap"):  # imitation's dictionary observations
        observations = observations.unwrap()
    episode = {"obs": observations, "acts": trajectory.acts, "terminal": trajectory.terminal}
    if getattr(trajectory, "rews", None) is not None:
        episode["rews"] = trajectory.rews
    infos = getattr(trajectory, "infos", None)
    return {**episode, "infos": [] if infos is None else infos}


def _source(episodes: list[dict[str, Any]], name: str, reading: Reading, **known: Any) -> Source:
    """With ``terminal`` as terminations and time limits where the infos tell them apart, else as it is: a done."""
    told = [_time_limit(episode["infos"]) for episode in episodes]
    apart = reading.dones is None and all(limit is not None for limit in told)
    result = []
    for episode, limit in zip(episodes, told, strict=True):
        ended = bool(np.asarray(episode["terminal"]).all())
        fields = {key: value for key, value in episode.items() if key not in ("infos", "terminal")}
        flags = {"terminated": ended and not limit} if apart else {"done": ended}
        result.append({**fields, **flags})
    kind = f"{_KIND}, time limits from 'TimeLimit.truncated' in infos" if apart else _KIND
    any_done = any(episode.get("done", False) for episode in result)
    return episodes_source(
        lambda: iter(result), name, reading, any_done=any_done, kind=kind, called={"dones": "terminal"}, **known
    )


def _time_limit(infos: Sequence[Any]) -> bool | None:
    """Whether the last info says that a time limit ended the episode; None if it does not say."""
    if len(infos) == 0:
        return None
    last = infos[-1]
    if isinstance(last, str):  # as it is saved
        try:
            last = json.loads(last)
        except json.JSONDecodeError:
            return None
    value = last.get("TimeLimit.truncated") if isinstance(last, Mapping) else None
    return bool(value) if isinstance(value, (bool, np.bool_)) else None


# -------------------------------------------------------------------------------------------------------------- files


def _is_npz(names: Collection[str]) -> bool:
    return {"obs", "acts", "terminal", "indices"} <= set(names)


def _npz(opened: tuple[Path, dict[str, np.ndarray]], reading: Reading) -> Source:
    # All trajectories one after the other; indices are where acts are to be split, obs have one more row each time
    path, arrays = opened
    splits = np.asarray(arrays["indices"])
    parts = {
        "obs": np.split(arrays["obs"], splits + np.arange(len(splits)) + 1),
        "acts": np.split(arrays["acts"], splits),
        "terminal": list(arrays["terminal"]),
    }
    if "rews" in arrays:
        parts["rews"] = np.split(arrays["rews"], splits)
    counts = {name: len(part) for name, part in parts.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"{path} is damaged: it has {counts} trajectories by name.")
    episodes = [{**{name: part[index] for name, part in parts.items()}, "infos": []} for index in range(counts["obs"])]
    return _source(episodes, str(path), reading, on_disk=True)


IMITATION_NPZ = Format("an .npz of imitation's trajectories", _is_npz, _npz, IMITATION_OPTIONS)


def is_saved_folder(folder: Path) -> bool:
    """
    :param folder: any
    :return: whether ``imitation.data.serialize.save`` (Hugging Face's datasets) may have written it
    """
    return (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()


def saved_folder_source(folder: Path, reading: Reading) -> Source:
    """
    :param folder: what ``imitation.data.serialize.save`` wrote: one row of Arrow files for each trajectory
    :param reading: how to read it
    :return: the source
    :raises ImportError: without pyarrow
    :raises ValueError: if it holds something else
    """
    try:
        state = json.loads((folder / "state.json").read_text())
        files = [folder / entry["filename"] for entry in state.get("_data_files", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'state.json'} does not name the files of the data: {error}.") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise ValueError(f"{folder} is damaged: {', '.join(missing) or 'all data files'} missing.")
    rows: Iterable[dict[str, Any]] = arrow_rows(files)
    episodes = list(_checked_rows(rows, folder))
    return _source(episodes, str(folder), reading, on_disk=True)


def _checked_rows(rows: Iterable[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    for row in rows:
        if not {"obs", "acts", "terminal"} <= set(row):
            raise ValueError(
                f"{folder} is a folder of Hugging Face's datasets with the columns {sorted(row)}: expected imitation's "
                "trajectories with 'obs', 'acts', 'terminal' and 'rews'."
            )
        known: dict[str, Any] = {name: row[name] for name in ("obs", "acts", "rews", "terminal") if name in row}
        yield {**known, "infos": row.get("infos") or []}


IMITATION_FOLDER = Format(
    "a folder of imitation's trajectories", is_saved_folder, saved_folder_source, IMITATION_OPTIONS
)
