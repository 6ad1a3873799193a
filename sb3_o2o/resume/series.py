"""The resume bundles of a run: a folder of numbered ones, of which the newest whole one counts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sb3_o2o.checked import checked
from sb3_o2o.files import remove_folder, settled
from sb3_o2o.resume import bundle
from sb3_o2o.resume.manifest import MANIFEST, DamagedBundle, Manifest

_NAME = re.compile(r"bundle_(\d+)")


def bundles(folder: str | os.PathLike[str]) -> list[Path]:
    """
    :param folder: where :func:`write` writes
    :return: all bundles, the oldest first, whole or not
    """
    path = Path(folder)
    found = [each for each in path.iterdir() if _NAME.fullmatch(each.name)] if path.is_dir() else []
    return sorted(found, key=_number)


def write(model: Any, folder: str | os.PathLike[str], keep: int = 2, compare_all: bool = True) -> Path:
    """
    Add a bundle, and then remove the oldest. What has not changed in a replay buffer is taken over from the last.

    :param model: an algorithm at a point where nothing is half-done
    :param folder: of the run's bundles
    :param keep: bundles that stay, > 0
    :param compare_all: read all rows of the replay buffer, and not only those that may have changed
    :return: the new one
    :raises OSError: if it cannot be written; those that were there are there then
    """
    there = bundles(folder)
    path = Path(folder) / f"bundle_{_number(there[-1]) + 1 if there else 1:06}"
    bundle.save(model, path, there[-1] if there else None, compare_all)
    whole = [each for each in there if _is_complete(each)]
    staying = whole[max(len(whole) - keep + 1, 0) :]
    for each in there:
        if each not in staying:
            remove_folder(each)
    return path


@checked
def newest_bundle(path: str | os.PathLike[str]) -> tuple[Path, Manifest, list[str]] | None:
    """
    From where a run goes on. All of a bundle is compared with what it says of itself; none of it is opened.

    :param path: a folder of bundles, or a bundle itself
    :return: the newest whole bundle, what it says of itself, and what is wrong with each newer one; None if there is no
        bundle
    :raises ValueError: if none is whole, or another version has written them
    """
    target = settled(path)
    if (target / MANIFEST).exists():
        manifest = Manifest.read(target)
        manifest.check(target)
        return target, manifest, []
    there, faults = bundles(target), []
    for each in reversed(there):
        try:
            manifest = Manifest.read(each)
            manifest.check(each)
        except DamagedBundle as error:
            faults.append(str(error))
            continue
        return each, manifest, faults
    if faults:
        raise ValueError(f"No resume bundle in {target} is whole. {' '.join(faults)}")
    return None


def run_of(folder: str | os.PathLike[str]) -> str | None:
    """
    :param folder: of bundles
    :return: identity of the run that wrote the last one that can tell; None if none can
    """
    for each in reversed(bundles(folder)):
        try:
            return Manifest.read(each).run
        except ValueError:
            continue
    return None


def _is_complete(path: Path) -> bool:
    """Whether all files are there, without reading them."""
    try:
        Manifest.read(path).check(path, contents=False)
    except ValueError:
        return False
    return True


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])
