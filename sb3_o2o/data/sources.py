"""Recognises what a dataset can be loaded from: tables of objects, files and folders, each with who reads it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from minari import MinariDataset
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.data.checks import as_array
from sb3_o2o.data.episodes import Episodes
from sb3_o2o.data.formats.arrays import array_source, npz_source
from sb3_o2o.data.formats.episode_lists import episodes_source
from sb3_o2o.data.formats.hdf5 import hdf5_source
from sb3_o2o.data.formats.imitation import IMITATION_FOLDER, IMITATION_OPTIONS, is_trajectory, trajectories_source
from sb3_o2o.data.formats.lerobot import LEROBOT
from sb3_o2o.data.formats.minari import folder_of, is_minari_folder, minari_folder_source, minari_source, open_minari
from sb3_o2o.data.formats.reading import Format, Reading, first_match, open_as
from sb3_o2o.data.formats.steps import STEP_OPTIONS
from sb3_o2o.data.formats.stored_buffers import replay_buffer_source
from sb3_o2o.data.formats.tables import CSV, PARQUET
from sb3_o2o.data.transitions import Source
from sb3_o2o.kinds import NOTHING, Kind
from sb3_o2o.plain.pickles import load_pickle

_EXPECTED = (
    "a Minari id, folder or dataset; a file .hdf5, .h5, .npz, .csv, .parquet or .pkl; a folder of LeRobot or "
    "imitation; an SB3 replay buffer; a dictionary of arrays; a list of dictionaries (one for each episode) or of "
    "imitation's trajectories; or an OfflineDataset"
)


def _is_episodes(value: Any) -> bool:
    return _is_list(value) and len(value) > 0 and isinstance(value[0], Mapping)


def _is_trajectories(value: Any) -> bool:
    return _is_list(value) and len(value) > 0 and is_trajectory(value[0])


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _episodes(episodes: Sequence[Any], reading: Reading, name: str = "episodes", **known: Any) -> Source:
    for index, episode in enumerate(episodes):
        if not isinstance(episode, Mapping):
            raise ValueError(
                f"{name}: entry {index} is a {type(episode).__name__}, while the first is a dictionary (an episode)."
            )
    any_done = any(
        np.any(as_array(episode[key])) for episode in episodes for key in ("dones", "done") if key in episode
    )
    return episodes_source(lambda: iter(episodes), name, reading, any_done=any_done, kind="a list of episodes", **known)


def _minari(dataset: MinariDataset, reading: Reading) -> Source:
    return minari_source(dataset)


_OBJECTS = (
    Format("a Minari dataset", lambda value: isinstance(value, MinariDataset), _minari),
    Format(
        "a replay buffer", lambda value: isinstance(value, ReplayBuffer), replay_buffer_source, frozenset({"dones"})
    ),
    Format("a dictionary of arrays", lambda value: isinstance(value, Mapping), array_source, STEP_OPTIONS),
    Format("a list of imitation's trajectories", _is_trajectories, trajectories_source, IMITATION_OPTIONS),
    Format("a list of episodes", _is_episodes, _episodes, STEP_OPTIONS),
)
#: What ``OfflineDataset.load`` takes; whether there is one of that name is not asked.
DATASET = Kind(
    (_EXPECTED,),
    lambda value: isinstance(value, (str, Path, Episodes)) or first_match(_OBJECTS, value) is not None,
)
#: the same as the type of an argument
Dataset = Annotated[Any, DATASET]
#: None where another dataset, or none, stands for it
AnyDataset = Annotated[Any, DATASET | NOTHING]
#: What may also be pickled: SB3's buffers, and plain data.
_PICKLED = _OBJECTS[1:]


def _pickle_source(path: Path, reading: Reading) -> Source:
    value = load_pickle(path, reading.trust)
    kind = first_match(_PICKLED, value)
    if kind is None:
        raise ValueError(
            f"{path} holds a {type(value).__name__}: expected an SB3 ReplayBuffer or DictReplayBuffer, a dictionary of "
            "arrays, or a list of dictionaries (one for each episode) or of imitation's trajectories."
        )
    opener: Callable[..., Source] = partial(kind.open, name=str(path), on_disk=True)  # type: ignore[call-arg]
    return open_as(replace(kind, open=opener), value, reading, str(path))


_Opener = Callable[[Path, Reading], Source]
_FILES: dict[str, _Opener] = {
    ".hdf5": hdf5_source,
    ".h5": hdf5_source,
    ".npz": npz_source,
    ".csv": partial(open_as, CSV),
    ".tsv": partial(open_as, CSV),
    ".parquet": partial(open_as, PARQUET),
    ".pkl": _pickle_source,
    ".pickle": _pickle_source,
}
#: What other files are, and what to do with them.
_OTHER_FILES = {
    ".zip": "a saved model, perhaps: give it to load_offline. Its replay buffer is in a .pkl of its own",
    ".npy": "a single array: put observations, actions, rewards, ... into one .npz (numpy.savez)",
    ".arrow": "one part of a dataset of Hugging Face: give its folder",
    ".pt": "a file of PyTorch: give what torch.load returns, a dictionary or list of arrays",
}
_FOLDERS = (
    LEROBOT,
    IMITATION_FOLDER,
    Format("a Minari dataset", is_minari_folder, lambda folder, reading: minari_folder_source(folder, reading.trust)),
)
#: Whatever is neither a file nor a folder.
_MINARI_ID = Format("a Minari dataset", lambda _: True, lambda name, reading: open_minari(name, reading.trust))


@contextmanager
def naming(source: Any) -> Iterator[None]:
    """
    Inside of this, what is wrong with a file is said with its name.

    :param source: the file, or anything else, which has no name
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError or not isinstance(source, (str, Path)) or str(source) in str(error):
            raise
        raise ValueError(f"{source}: {error}") from error


def open_source(source: Any, reading: Reading | None = None) -> Source:
    """
    Recognise a source.

    :param source: see ``OfflineDataset.load``
    :param reading: how to read it
    :return: the source, with nothing read but its description
    :raises TypeError: if it is nothing that can be read
    :raises ValueError: saying what it is and holds, if that is wrong or incomplete
    :raises FileNotFoundError: if there is no such file or dataset
    :raises ImportError: naming the extra to install, if it needs one
    """
    reading = reading or Reading()
    kind = first_match(_OBJECTS, source)
    if kind is not None:
        return open_as(kind, source, reading, f"The {type(source).__name__}")
    if not isinstance(source, (str, Path)):
        of = f" of {type(source[0]).__name__}" if _is_list(source) and len(source) else ""
        raise TypeError(f"Cannot load a {type(source).__name__}{of}: expected {_EXPECTED}.")
    path = Path(source)
    if path.is_dir() and str(source).strip():
        return _open_folder(path, reading)
    suffix = path.suffix.lower()
    if path.is_file() and suffix not in _FILES:
        what = _OTHER_FILES.get(suffix, "no format that is known")
        raise ValueError(f"Cannot load {source}: {what}. Files that can be read end in {', '.join(_FILES)}.")
    if suffix in _FILES or suffix in _OTHER_FILES:
        check_there(str(source))
        return _FILES[suffix](path, reading)
    return open_as(_MINARI_ID, str(source), reading)


def check_there(name: str) -> None:
    """
    :param name: of a dataset: a Minari id, or the path of a file or folder
    :raises FileNotFoundError: if there is none, with the nearest id that there is
    :raises ValueError: if it can be no dataset's name
    """
    path = Path(name)
    if path.exists() and name.strip():
        return
    if path.suffix.lower() in (*_FILES, *_OTHER_FILES):
        raise FileNotFoundError(f"There is no file {name}.")
    folder_of(name)


def _open_folder(folder: Path, reading: Reading) -> Source:
    kind = first_match(_FOLDERS, folder)
    if kind is None:
        found = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
        shown = ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "")
        raise ValueError(
            f"{folder} is not a Minari dataset that can be read (metadata.json), nor one of LeRobot (meta/info.json) "
            f"or imitation (dataset_info.json): it holds {shown or 'nothing'}."
        )
    return open_as(kind, folder, reading, str(folder))
