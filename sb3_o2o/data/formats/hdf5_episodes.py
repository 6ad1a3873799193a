"""HDF5 files that have a place of its own for each episode."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from sb3_o2o.data.formats.episode_lists import episodes_source
from sb3_o2o.data.formats.hdf5_files import opened_hdf5
from sb3_o2o.data.formats.reading import Reading
from sb3_o2o.data.transitions import Source, file_states


def hdf5_episodes_source(
    path: Path,
    count: int,
    read: Callable[[h5py.File, int], Mapping[str, Any]],
    reading: Reading,
    *,
    kind: str,
    **known: Any,
) -> Source:
    """
    :param path: the file
    :param count: number of episodes
    :param read: reads the episode of a number in [0, count), by name
    :param reading: how to read them
    :param kind: what the file is, for ``summary`` and the cache
    :param known: further arguments of ``episodes_source``
    :return: the source, which opens the file again to read it
    :raises ValueError: if the first episode lacks something
    """

    def episodes() -> Iterator[Mapping[str, Any]]:
        with opened_hdf5(path) as file:
            for index in range(count):
                try:
                    yield read(file, index)
                except (KeyError, OSError, RuntimeError) as error:
                    raise ValueError(f"{path} is damaged at episode {index}: {error}.") from error

    spaces = str(reading.observation_space), str(reading.action_space)
    key = {kind: file_states(path), "spaces": list(spaces), **reading.given}
    return episodes_source(episodes, str(path), reading, kind=kind, cache_key=key, on_disk=True, **known)
