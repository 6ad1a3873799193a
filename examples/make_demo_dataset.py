"""Cut a small dataset out of a large one: whole episodes, float32, one compressed file with spaces and provenance.

python examples/make_demo_dataset.py mujoco/hopper/medium-v0 hopper-20k.npz --transitions 20000 --first-episode 5
"""

import argparse
from pathlib import Path

import numpy as np

from sb3_o2o import OfflineDataset


def cut(source: str, target: Path, transitions: int, first_episode: int = 0) -> OfflineDataset:
    """
    Keep consecutive episodes of a dataset.

    :param source: Minari id, or path of a file
    :param target: ``.npz`` to write
    :param transitions: stop before the episode that would exceed this number
    :param first_episode: index of the first episode to keep
    :return: the cut dataset
    """
    dataset = OfflineDataset.load(source, cache=False)
    starts = np.append(dataset.episode_starts, len(dataset))
    begin = starts[first_episode]
    end = starts[starts <= begin + transitions].max()
    if end == begin:
        raise ValueError(f"Episode {first_episode} alone is longer than {transitions} transitions.")
    kept = dataset.subset(indices=np.arange(begin, end))
    kept.save(target)
    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="Minari id, or path of a file")
    parser.add_argument("target", type=Path, help=".npz to write")
    parser.add_argument("--transitions", type=int, default=20_000)
    parser.add_argument("--first-episode", type=int, default=0)
    arguments = parser.parse_args()
    cut(arguments.source, arguments.target, arguments.transitions, arguments.first_episode).summary()
    print(f"{arguments.target}: {arguments.target.stat().st_size / 1e6:.1f} MB")
