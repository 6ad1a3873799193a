"""Recognises HDF5 files by the names that they hold, and reads D4RL's layout: flat arrays, one row per step."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import h5py
from gymnasium import spaces

from sb3_o2o.data.formats.d3rlpy import D3RLPY_1, D3RLPY_2
from sb3_o2o.data.formats.fields import contents
from sb3_o2o.data.formats.hdf5_files import opened_hdf5
from sb3_o2o.data.formats.reading import Format, Reading, first_match, open_as
from sb3_o2o.data.formats.robomimic import ROBOMIMIC
from sb3_o2o.data.formats.steps import STEP_OPTIONS, Steps, described_steps
from sb3_o2o.data.transitions import Source, Transitions, file_states

#: Steps that are read at a time, unless an episode is longer.
SLAB = 65536


def hdf5_source(path: Path, reading: Reading) -> Source:
    """
    :param path: a file of D4RL, d3rlpy or robomimic
    :param reading: how to read it
    :return: the source
    :raises ValueError: saying what the file is and holds, if it is damaged or has another layout
    """
    with opened_hdf5(path) as file:
        kind = first_match(_HDF5_FORMATS, file)
        assert kind is not None  # the last one takes all
        return open_as(kind, (path, file), reading, str(path))


def _is_minari(file: Collection[str]) -> bool:
    return any(name.startswith("episode_") and name[8:].isdigit() for name in file)


def _minari(opened: tuple[Path, h5py.File], reading: Reading) -> Source:
    path, file = opened
    raise ValueError(
        f"{path} belongs to a Minari dataset: load it by its id, or by its folder. It holds {len(file)} groups: "
        f"{contents(file)}."
    )


def _is_anything(file: Collection[str]) -> bool:
    return True


def _flat(opened: tuple[Path, h5py.File], reading: Reading) -> Source:
    """
    D4RL's files mostly have no next observations: that of a step is then the next row, and the last step before a time
    limit is dropped (``steps.without_next_observations``).
    """
    path, file = opened
    steps = described_steps(file, reading, f"{path} (HDF5, flat arrays)")
    return flat_source(path, steps, steps.names)


def flat_source(path: Path, steps: Steps, names: Mapping[str, str]) -> Source:
    """
    :param path: the file
    :param steps: its description
    :param names: what it calls each field
    :return: the source, which opens the file again to read it
    """

    def chunks(clip: float) -> Iterator[Transitions]:
        with opened_hdf5(path) as file:
            yield from steps.chunks(file, clip, SLAB)

    described: tuple[spaces.Space, spaces.Box] = steps.observation_space, steps.action_space
    given = steps.reading.given
    return Source(
        str(path),
        *described,
        chunks,
        cache_key={"hdf5": file_states(path), "spaces": list(map(str, described)), **given},
        on_disk=True,
        episode_ends=steps.ends.told,
        options=given,
    )


_HDF5_FORMATS = (
    Format("a file of a Minari dataset", _is_minari, _minari, STEP_OPTIONS),
    ROBOMIMIC,
    D3RLPY_2,
    D3RLPY_1,
    Format("an HDF5 file of flat arrays", _is_anything, _flat, STEP_OPTIONS),
)
