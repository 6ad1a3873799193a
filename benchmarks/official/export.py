"""
A Minari dataset as a file of D4RL's layout: ``python benchmarks/official/export.py o2o/hopper/medium-v0 hopper.hdf5``.

Rows are transitions; ``next_observations`` holds the true ones, of the last step of an episode as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import h5py
import minari
import numpy as np


def export(dataset_id: str, path: Path) -> int:
    """
    :param dataset_id: of a Minari dataset with vector observations
    :param path: file to write
    :return: transitions
    """
    columns: dict[str, list[np.ndarray]] = {}
    for episode in minari.load_dataset(dataset_id).iterate_episodes():
        if not isinstance(episode.observations, np.ndarray):
            raise SystemExit(f"{dataset_id} has observations of several parts; D4RL's layout has one vector.")
        rows = {
            "observations": episode.observations[:-1].astype(np.float32),
            "actions": episode.actions.astype(np.float32),
            "next_observations": episode.observations[1:].astype(np.float32),
            "rewards": np.asarray(episode.rewards, np.float32),
            "terminals": np.asarray(episode.terminations, bool),
            "timeouts": np.asarray(episode.truncations, bool),
        }
        for name, values in rows.items():
            columns.setdefault(name, []).append(values)
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = np.concatenate(values)
        return len(file["rewards"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="Minari id")
    parser.add_argument("path", type=Path, help="file to write")
    arguments = parser.parse_args()
    print(f"{export(arguments.dataset, arguments.path):,} transitions in {arguments.path}")


if __name__ == "__main__":
    main()
