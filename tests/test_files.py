"""What is written is whole or not there, and a folder belongs to one process at a time."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy_tasks import assert_same, make, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.files import locked, remove_folder, remove_leftovers, settled, whole_file, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    write_whole(path, "old")
    with whole_file(path) as file:
        file.write(b"half")
        assert path.read_text() == "old"
        file.write(b" and half")
    assert path.read_text() == "half and half"
    assert names(path.parent) == ["table.csv"]


def test_a_failed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_whole(path, b"old")
    with pytest.raises(OSError, match="No space left"), whole_file(path) as file:  # noqa: PT012
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
def test_permissions_are_those_of_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_whole(tmp_path / "whole", "")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "whole").chmod(0o640)
    write_whole(tmp_path / "whole", "again")
    assert (tmp_path / "whole").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for content in ("old", "new"):
        with whole_folder(target) as folder:
            (folder / "part").mkdir()
            (folder / "part" / "file").write_text(content)
            assert content == "old" or (target / "part" / "file").read_text() == "old"
    assert (target / "part" / "file").read_text() == "new"
    with pytest.raises(RuntimeError, match="stop"), whole_folder(target) as folder:
        raise RuntimeError("stop")
    assert (target / "part" / "file").read_text() == "new"
    assert names(tmp_path) == ["bundle"]


def run_and_kill(code: str, folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL


_IN_THE_MIDDLE = """
import os, sys
from pathlib import Path
from sb3_o2o import files
real = os.replace
def replace(source, target):
    if str(target).endswith("bundle"):
        print("ready", flush=True); input()
    real(source, target)
os.replace = replace
with files.whole_folder(Path(sys.argv[1]) / "bundle") as folder:
    (folder / "file").write_text("new")
"""


def test_killed_between_two_names_the_old_folder_is_found_again(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "bundle") as folder:
        (folder / "file").write_text("old")
    run_and_kill(_IN_THE_MIDDLE, tmp_path)
    assert not (tmp_path / "bundle").exists()
    assert (settled(tmp_path / "bundle") / "file").read_text() == "old"
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["bundle"]


_HOLD = """
import sys
from sb3_o2o import files
with files.locked(sys.argv[1]):
    print("ready", flush=True); input()
"""


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    with pytest.raises(ValueError, match=rf"in use by process {holder.pid} on "), locked(tmp_path):
        pass
    holder.communicate("\n")
    with locked(tmp_path):
        assert (tmp_path / ".lock.holder").is_file()
    assert not (tmp_path / ".lock.holder").exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    run_and_kill(_HOLD, tmp_path)
    assert (tmp_path / ".lock.holder").is_file()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock.holder").read_text()


def test_a_model_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of a save: the model and the bundle of before open as they did."""
    model = make().learn(6)
    model.save(tmp_path / "model")
    model.save_resume(tmp_path / "bundle")
    before = state(O2OSAC.load(tmp_path / "model"))
    model.learn(6, reset_num_timesteps=False)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        for write in (model.save, model.save_resume):
            with pytest.raises(OSError, match="No space left"):
                write(tmp_path / ("model" if write == model.save else "bundle"))
    assert names(tmp_path) == ["bundle", "model.zip"]
    assert_same(before, state(O2OSAC.load(tmp_path / "model.zip")))
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert_same(before, state(resumed))
    assert resumed.num_timesteps == 6


def test_a_full_disk_is_named_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_whole(tmp_path / "evaluations.npz", "before")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device: '.*evaluations\.npz'"):
        write_whole(tmp_path / "evaluations.npz", "after")
    assert (tmp_path / "evaluations.npz").read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["evaluations.npz"]


def test_a_folder_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the process dies while its files are deleted."""

    class Killed(BaseException):
        pass

    def rmtree(*_: object, **__: object) -> None:
        raise Killed

    write_whole(tmp_path / "folder" / "a", "")
    with monkeypatch.context() as patch:
        patch.setattr("sb3_o2o.files.shutil.rmtree", rmtree)
        with pytest.raises(Killed):
            remove_folder(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []
    remove_folder(tmp_path / "folder")  # there is none
