"""Reads Minari's datasets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec
from minari import MinariDataset
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage import get_dataset_path

from sb3_o2o.data.checks import (
    Location,
    checked_actions,
    checked_flags,
    checked_observations,
    checked_rewards,
    checked_spaces,
)
from sb3_o2o.data.transitions import Source, Transitions, close_episodes, file_states
from sb3_o2o.errors import nearest
from sb3_o2o.plain.entry_points import check_recorded_spaces


def minari_source(dataset: MinariDataset, name: str | None = None) -> Source:
    """
    :param dataset: an opened Minari dataset, or a part of one (``filter_episodes``); it has its own spaces
    :param name: id or path by which it was opened; None if it came as an object
    :return: its episodes
    :raises ValueError: if its spaces are not supported
    """
    checked_spaces(dataset.observation_space, dataset.action_space)
    metadata = dataset.storage.metadata
    env_spec = dataset.env_spec
    data_path = Path(dataset.storage.data_path)
    whole = len(dataset.episode_indices) == dataset.storage.total_episodes
    if name is None and whole and data_path == get_dataset_path(dataset.id) / "data":
        name = dataset.id

    def chunks(clip: float) -> Iterator[Transitions]:
        offset, episodes = 0, dataset.iterate_episodes()
        for index in dataset.episode_indices:
            try:
                episode = next(episodes)
            except (OSError, KeyError, RuntimeError) as error:
                raise ValueError(f"Minari dataset {dataset.id!r} is damaged at episode {index}: {error}.") from error
            chunk = _minari_episode(episode, dataset, Location(offset, int(index)), clip)
            yield chunk
            offset += len(chunk)

    return Source(
        name=name or (dataset.id if whole else f"part of {dataset.id}"),
        observation_space=dataset.observation_space,
        action_space=dataset.action_space,
        chunks=chunks,
        cache_key={
            "minari": dataset.id,
            "episodes": [int(index) for index in dataset.episode_indices],
            "files": file_states(data_path),
        },
        env_id=None if env_spec is None else env_spec.id,
        ref_min_score=metadata.get("ref_min_score"),
        ref_max_score=metadata.get("ref_max_score"),
        on_disk=name is not None,
        episode_ends="Minari, 'terminations' and 'truncations' as recorded; an episode with neither was cut",
    )


def _minari_episode(episode: Any, dataset: MinariDataset, where: Location, clip: float) -> Transitions:
    actions = checked_actions(episode.actions, dataset.action_space, where, clip)
    length = len(actions)
    terminations = checked_flags("terminations", episode.terminations, length, where)
    truncations = checked_flags("truncations", episode.truncations, length, where)
    row_index = np.arange(length)
    return Transitions(
        rows=checked_observations(
            episode.observations, dataset.observation_space, length + 1, where, reference="actions and a last one"
        ),
        row_index=row_index,
        actions=actions,
        rewards=checked_rewards(episode.rewards, length, where),
        terminations=terminations,
        truncations=close_episodes(row_index, terminations, truncations)[0],
    )


def is_minari_folder(folder: Path) -> bool:
    """
    :param folder: any
    :return: whether it looks like a Minari dataset, or the ``data`` folder of one
    """
    return any((each / "metadata.json").is_file() for each in (folder, folder / "data"))


def minari_folder_source(folder: Path, trust: bool = False) -> Source:
    """
    :param folder: of a Minari dataset
    :param trust: whether its environment may be imported, where its spaces are not said
    :return: its episodes
    :raises ValueError: if it cannot be read
    """
    return minari_source(_opened(folder / "data" if (folder / "data").is_dir() else folder, trust), str(folder))


def open_minari(name: str, trust: bool = False) -> Source:
    """
    :param name: id of a dataset that is on this machine
    :param trust: see :func:`minari_folder_source`
    :return: its episodes
    :raises FileNotFoundError: if there is none, saying how to get it
    :raises ValueError: if it cannot be read, or is no id
    """
    return minari_source(_opened(folder_of(name) / "data", trust), name)


def _beside(path: Path) -> list[str]:
    """The files in the folder of one that is not there: its ending may have been left out."""
    return [str(path.with_name(each.name)) for each in path.parent.glob("*") if path.name and each.is_file()]


def folder_of(name: str) -> Path:
    """
    :param name: id of a dataset
    :return: the folder that it is in
    :raises FileNotFoundError: if it is not on this machine, saying how to get it and which name is near
    :raises ValueError: if it is no id
    """
    try:
        parse_dataset_id(name)
    except (ValueError, TypeError) as error:  # a TypeError is what an id without a version gets
        raise ValueError(
            f"Cannot load {name!r}: neither a file, nor a folder, nor a Minari id such as 'mujoco/hopper/medium-v0'."
            + nearest(name, _beside(Path(name)))
        ) from error
    path = get_dataset_path(name)
    if not (path / "data").is_dir():
        known = sorted(minari.list_local_datasets())
        raise FileNotFoundError(
            f"There is no Minari dataset {name!r} in {path}.{nearest(name, known)} Get it with "
            f"`minari download {name}`, or set MINARI_DATASETS_PATH. Here are: {', '.join(known) if known else 'none'}."
        )
    return path


def recorded_environment(name: str, trust: bool = False) -> EnvSpec | None:
    """
    :param name: id of a dataset that is on this machine
    :param trust: see :func:`minari_folder_source`
    :return: what it says of its environment; nothing is imported
    :raises FileNotFoundError: if there is no such dataset
    :raises ValueError: if it cannot be read, or is no id
    """
    path = get_dataset_path(name)
    if not (path / "data").is_dir():
        raise FileNotFoundError(f"Minari dataset {name!r} is not in {path}.")
    spec: EnvSpec | None = _opened(path / "data", trust).env_spec
    return spec


def _opened(folder: Path, trust: bool) -> MinariDataset:
    check_recorded_spaces(folder, trust)
    try:
        return MinariDataset(folder)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
        # whatever Minari runs into where its description is none
        raise ValueError(f"{folder} is not a Minari dataset that can be read: {error}.") from error
