"""The cache of converted datasets."""

import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_o2o.data import OfflineDataset, cache, transitions
from sb3_o2o.data.cache import cache_folder
from sb3_o2o.data.formats import minari as minari_format

from .toys import make_arrays, make_episode


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The episodes that were converted, one after the other."""
    episodes: list[int] = []
    original = minari_format._minari_episode

    def counted(episode: Any, *args: Any) -> Any:
        episodes.append(int(episode.id))
        return original(episode, *args)

    monkeypatch.setattr(minari_format, "_minari_episode", counted)
    return episodes


def entries() -> list[Path]:
    """The converted datasets in the cache."""
    return sorted(cache_folder().iterdir())


def test_converted_once(two_episodes: str, conversions: list[int]) -> None:
    first = OfflineDataset.load(two_episodes)
    second = OfflineDataset.load(two_episodes, reward_scale=2.0, fraction=0.3)
    assert conversions == [0, 1]
    assert len(entries()) == 1
    assert len(second) == 3
    np.testing.assert_array_equal(first.rewards[:3] * 2, second.rewards)


def test_mapped_into_memory(two_episodes: str, two_dict_episodes: str) -> None:
    def is_mapped(array: np.ndarray | None) -> bool:
        while array is not None and not isinstance(array, np.memmap):
            array = array.base
        return array is not None

    for _ in range(2):
        dataset = OfflineDataset.load(two_episodes)
        assert is_mapped(dataset._rows)
        assert is_mapped(dataset.actions)
        rows = OfflineDataset.load(two_dict_episodes)._rows
        assert all(is_mapped(array) for array in rows.values())
    assert not is_mapped(OfflineDataset.load(two_episodes, cache=False).actions)


def test_no_cache(two_episodes: str, conversions: list[int]) -> None:
    OfflineDataset.load(two_episodes, cache=False)
    OfflineDataset.load(make_arrays())
    assert conversions == [0, 1]
    assert not cache_folder().exists()


def test_another_folder(two_episodes: str, tmp_path: Path) -> None:
    OfflineDataset.load(two_episodes, cache=tmp_path / "elsewhere")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    assert not cache_folder().exists()


def test_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SB3_O2O_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "ours"
    monkeypatch.delenv("SB3_O2O_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "sb3_o2o"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "sb3_o2o"


def test_other_content_and_other_clip_are_converted_anew(
    two_episodes: str, write_minari: Any, conversions: list[int]
) -> None:
    before = OfflineDataset.load(two_episodes)
    OfflineDataset.load(two_episodes, action_clip=0.5)
    assert len(entries()) == 2
    minari.delete_dataset(two_episodes)
    write_minari(two_episodes, [make_episode(3, 3, True), make_episode(1, 4, False)])
    after = OfflineDataset.load(two_episodes)
    assert len(conversions) == 6
    np.testing.assert_array_equal(after.rewards[:3], [30, 31, 32])
    # What was opened before is unaffected
    np.testing.assert_array_equal(before.rewards[:3], [0, 1, 2])


def flip_a_reward(folder: Path) -> None:
    """Damage that changes no size: the last byte of the file that holds the rewards."""
    import json

    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / manifest["arrays"]["rewards"]["file"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def shorten(folder: Path) -> None:
    """Damage: a file that lacks its end."""
    path = folder / "0.npy"
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_reward,
        shorten,
        lambda folder: (folder / "1.npy").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("{}"),
    ],
)
def test_damage_is_noticed_and_repaired(damage: Any, two_episodes: str, conversions: list[int]) -> None:
    fingerprint = OfflineDataset.load(two_episodes).fingerprint
    damage(entries()[0])
    with pytest.warns(UserWarning, match="is damaged .*: converting it again"):
        repaired = OfflineDataset.load(two_episodes)
    assert repaired.fingerprint == fingerprint
    assert len(conversions) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OfflineDataset.load(two_episodes)


def test_a_failed_conversion_leaves_nothing(write_minari: Any) -> None:
    bad = make_episode(1, 3, True)
    bad.rewards[1] = float("nan")
    write_minari("test/bad-v0", [make_episode(0, 3, True), bad])
    with pytest.raises(ValueError, match=r"rewards\[4\]"):
        OfflineDataset.load("test/bad-v0")
    assert entries() == []


def test_a_conversion_that_cannot_be_put_in_place(two_episodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PermissionError, match="not here"):
        OfflineDataset.load(two_episodes)
    assert entries() == []


def test_a_cache_that_cannot_be_written_is_said_so(two_episodes: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match=r"Cannot write to the cache .*: converting in memory. Set SB3_O2O_CACHE"):
        dataset = OfflineDataset.load(two_episodes, cache=tmp_path / "file")
    assert dataset.fingerprint == OfflineDataset.load(two_episodes).fingerprint


def test_another_process_may_convert_at_the_same_time(two_episodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = minari_format._minari_episode
    raced = []

    def slow(episode: Any, *args: Any) -> Any:
        # While the first conversion is under way, a second one starts and is done before it
        if not raced:
            raced.append(True)
            OfflineDataset.load(two_episodes)
        return original(episode, *args)

    monkeypatch.setattr(minari_format, "_minari_episode", slow)
    first = OfflineDataset.load(two_episodes)
    np.testing.assert_array_equal(first.rewards, [0, 1, 2, 10, 11, 12, 13])
    assert len(entries()) == 1


# -- what is in the cache is what is in the file -------------------------------------------------------------------


def write_hdf5(path: Path, n: int = 40) -> None:
    """A file of D4RL's layout."""
    with h5py.File(path, "w") as file:
        for name, values in make_arrays(n).items():
            file[name] = values


def with_the_same_size_and_time(path: Path, change: Any) -> None:
    """As ``rsync --inplace --times`` leaves a file."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def another_reward(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["rewards"][0] = 77.0


def test_a_changed_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "recorded.hdf5"
    write_hdf5(path)
    assert OfflineDataset.load(path).rewards[0] != 77.0
    with_the_same_size_and_time(path, another_reward)
    assert OfflineDataset.load(path).rewards[0] == 77.0


@given(at=st.integers(0, 4095))
def test_without_times_of_change_a_small_files_content_tells(at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("states") / "file"
    path.write_bytes(bytes(5000))
    before = transitions._sample(path)
    content = bytearray(5000)
    content[at] = 1
    path.write_bytes(content)
    assert transitions._sample(path) != before


def test_blocks_of_large_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = np.zeros(10_000_000, np.uint8)
    content.tofile(path)
    before = transitions._sample(path)
    for at in (0, 5_000_000, 9_999_999):
        content[:] = 0
        content[max(at - 400_000, 0) : at + 400_000] = 1
        content.tofile(path)
        assert transitions._sample(path) != before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject, tmp_path: Path) -> None:
    path, folder = tmp_path / "recorded.hdf5", tmp_path / "here"
    if not path.exists():
        write_hdf5(path, 3000)  # more rows than the fingerprint looks at
    fingerprint = OfflineDataset.load(path, cache=folder).fingerprint
    (entry,) = folder.iterdir()
    file = data.draw(st.sampled_from(sorted(entry.glob("*.npy"))))
    at = data.draw(st.integers(128, file.stat().st_size - 1))

    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[at] ^= 255
        file.write_bytes(content)

    with_the_same_size_and_time(file, flip)
    with pytest.warns(UserWarning, match="is damaged .* holds other values than were written.*converting it again"):
        assert OfflineDataset.load(path, cache=folder).fingerprint == fingerprint


def test_all_rows_are_compared_once(two_episodes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    original = cache._hash
    monkeypatch.setattr(cache, "_hash", lambda array: (compared.append(len(array)), original(array))[1])
    OfflineDataset.load(two_episodes)
    assert len(compared) == 6  # observations, rows, actions, rewards, two flags
    OfflineDataset.load(two_episodes)
    assert len(compared) == 6
    os.utime(entries()[0] / "0.npy")
    OfflineDataset.load(two_episodes)
    assert len(compared) == 12


# -- writers that end otherwise ------------------------------------------------------------------------------------


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """The system refuses to write more, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("n", [40, 20_000])
def test_without_room_the_data_are_converted_in_memory(n: int, tmp_path: Path) -> None:
    path = tmp_path / "recorded.hdf5"
    write_hdf5(path, n)
    with (
        pytest.warns(UserWarning, match=r"Cannot write to the cache .*: converting in memory\. .* with room"),
        largest_file(500),
    ):
        dataset = OfflineDataset.load(path)
    assert entries() == []
    assert dataset.fingerprint == OfflineDataset.load(path).fingerprint


def test_what_a_killed_writer_left_is_deleted(two_episodes: str, tmp_path: Path) -> None:
    cache_folder().mkdir()
    program = (
        "import os, signal, sys; from pathlib import Path; from sb3_o2o.data.cache import _place_for\n"
        "with _place_for(Path(sys.argv[1])) as folder:\n"
        "    (folder / '0.npy').write_bytes(bytes(1000))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, cache_folder() / "ab"], check=False)
    assert [path.suffix for path in entries()] == [".incomplete", ".lock"]
    with cache._place_for(cache_folder() / "cd") as another:  # somebody else is writing, and is left alone
        assert another.is_dir()
        OfflineDataset.load(two_episodes)
        left = [path.name for path in entries()]
        assert another.name in left
    assert sum(name.endswith(".incomplete") for name in left) == 1
    assert [path.suffix for path in entries()] == [""]
