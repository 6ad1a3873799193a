"""The dataset that comes with the library, so that the first run needs no download.

``double-pendulum-medium-20k.npz``: 20,000 steps of a Stable-Baselines3 SAC agent in
InvertedDoublePendulum-v5 after 4,000 steps of training, actions sampled; made by ``examples/make_demo_dataset.py``.
"""

from pathlib import Path

#: Environment that the dataset comes from.
DEMO_ENVIRONMENT = "InvertedDoublePendulum-v5"
#: Path of the dataset, for :meth:`sb3_o2o.OfflineDataset.load`.
DEMO_DATASET = Path(__file__).with_name("double-pendulum-medium-20k.npz")
