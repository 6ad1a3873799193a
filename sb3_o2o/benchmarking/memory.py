"""
What a memory-mapped dataset takes, in a process of its own so that nothing else is counted.

    python -m sb3_o2o.benchmarking.memory FILE CACHE_FOLDER [--convert]

prints JSON: MiB of memory before, after opening, and after sampling; anonymous memory is a copy, mapped pages are the
file's and the system takes them back when it needs them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer

#: batches of 256 after which nearly every page of a million transitions has been touched
_BATCHES = 4000


def resident_mib() -> dict[str, float]:
    """:return: this process's resident memory by kind, MiB; empty where the system does not say (not Linux)"""
    status = Path("/proc/self/status")
    if not status.exists():
        return {}
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    kinds = {"all": "VmRSS", "anonymous": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}
    return {kind: int(fields[name].split()[0]) / 1024 for kind, name in kinds.items()}


def folder_mib(folder: Path) -> float:
    """
    :param folder: to add up
    :return: size of its files, MiB
    """
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def measure(path: Path, cache: Path) -> dict[str, object]:
    """
    :param path: a dataset in a file
    :param cache: folder with its converted form
    :return: memory at each stage, and sizes on disk
    """
    before = resident_mib()
    dataset = OfflineDataset.load(path, cache=cache)
    opened = resident_mib()
    buffer = OfflineReplayBuffer(dataset, dataset.observation_space, dataset.action_space, "cpu", seed=0)
    for _ in range(_BATCHES):
        buffer.sample(256)
    return {
        "before": before,
        "opened": opened,
        "sampled": resident_mib(),
        "file_mib": path.stat().st_size / 2**20,
        "cache_mib": folder_mib(cache),
    }


def main(path: Path, cache: Path, convert: bool) -> None:
    """
    :param path: a dataset in a file
    :param cache: folder with its converted form
    :param convert: make that form, and measure nothing
    """
    if convert:
        OfflineDataset.load(path, cache=cache)
    else:
        print(json.dumps(measure(path, cache)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), convert="--convert" in sys.argv)
