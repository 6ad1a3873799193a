"""The dataset that comes with the library, so that the first run needs no download.

``halfcheetah-medium-replay-20k.npz``: episodes 45 to 64 (20,000 transitions) of the replay buffer of a
Stable-Baselines3 SAC agent that learned HalfCheetah-v5 from scratch, cut by ``examples/make_demo_dataset.py``.
"""

from pathlib import Path

#: Path of the dataset, for :meth:`sb3_o2o.OfflineDataset.load`.
DEMO_DATASET = Path(__file__).with_name("halfcheetah-medium-replay-20k.npz")
