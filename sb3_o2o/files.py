"""Files that are whole or not there: what is written replaces nothing before it is on the disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

#: ending of a folder that was set aside while another takes its place
_ASIDE = ".replaced"
#: a disk or a quota is full, a file too large, a disk broken
_OF_DISKS = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO") if hasattr(errno, name))


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """
    Write a file that appears under its name only when it is complete and on the disk. Until then, and if writing
    fails or the process dies, what was there before stays as it was.

    :param path: of the file; its folder is made if need be
    :return: a binary file to write to
    :raises OSError: if it cannot be written
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".incomplete")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.chmod(temporary, _permissions(target))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _OF_DISKS and error.filename is None:
            error.filename = str(target)  # the system does not say what was being written
        raise
    sync_folder(target.parent)


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """
    :param path: of the file
    :param content: all of it; text is written as UTF-8
    :raises OSError: if it cannot be written; what was there before is then still there
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Make a folder that appears under its name only when all of its files are on the disk. One that has the name already
    is set aside for the moment of the change, and deleted after it; :func:`settled` finds it again if the process dies
    in that moment.

    :param path: of the folder; the folder above it is made if need be
    :return: an empty folder to write to
    :raises OSError: if it cannot be written
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".incomplete"))
    try:
        yield temporary
        for each in temporary.rglob("*"):
            if each.is_dir():
                sync_folder(each)
            elif each.stat().st_nlink == 1:  # what has another name was written under that, and is on the disk
                _sync_file(each)
        sync_folder(temporary)
        os.chmod(temporary, 0o777 & ~_umask())
        _exchange(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(temporary: Path, target: Path) -> None:
    aside = _aside(target)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(target, aside)
    os.replace(temporary, target)
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_folder(path: str | os.PathLike[str]) -> None:
    """
    Delete a folder so that it is gone from its name at once: a process that dies meanwhile leaves no half of it there,
    but a leftover (:func:`remove_leftovers`).

    :param path: of the folder; there may be none
    """
    target = Path(path)
    if not target.exists():
        return
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".incomplete"))
    os.replace(target, aside / target.name)
    shutil.rmtree(aside, ignore_errors=True)


def settled(path: str | os.PathLike[str]) -> Path:
    """
    A folder that :func:`whole_folder` writes. If a process died between setting the old one aside and putting the new
    one in its place, the old one is put back first.

    :param path: of the folder
    :return: the same path; whether there is such a folder is not asked
    """
    target = Path(path)
    if not target.exists() and _aside(target).exists():
        os.replace(_aside(target), target)
        sync_folder(target.parent)
    return target


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """
    Delete what killed writers have left in a folder. Nobody else may be writing there.

    :param folder: whose files and folders were written by :func:`whole_file` and :func:`whole_folder`
    """
    for each in Path(folder).rglob(".*.incomplete"):
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}{_ASIDE}")


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """
    Make a change of names survive a power failure.

    :param path: the folder in which files were renamed
    """
    if sys.platform == "win32":  # there, folders cannot be opened
        return
    with suppress(OSError):  # some network drives refuse; the names are then theirs to keep
        _sync_file(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _permissions(target: Path) -> int:
    """Those of the file that is replaced, or of a new one: temporary files are private."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        return 0o666 & ~_umask()


@contextmanager
def locked(folder: str | os.PathLike[str], name: str = ".lock") -> Iterator[None]:
    """
    Keep a folder to this process. The operating system ends the lock with the process, however it ends: a dead
    holder's lock is simply taken over.

    :param folder: what to lock
    :param name: of the lock file in it
    :raises ValueError: if another process holds it, naming that process
    """
    path = Path(folder) / name
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{folder} is in use by {_holder(path)}: wait for it, or stop it.") from None
    try:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat("T", "seconds"),
        }
        with whole_file(_holder_file(path)) as file:
            file.write(json.dumps(holder).encode())
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        lock.release()


def _holder_file(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder")


def _holder(lock: Path) -> str:
    """:return: who holds a lock, for people"""
    try:
        known: dict[str, Any] = json.loads(_holder_file(lock).read_text())
        return f"process {known['pid']} on {known['host']} (since {known['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"
