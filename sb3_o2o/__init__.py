"""Offline-to-online reinforcement learning for Stable-Baselines3."""

from sb3_o2o.algorithms import O2OSAC
from sb3_o2o.data import OfflineDataset

__version__ = "0.1.0"

__all__ = ["O2OSAC", "OfflineDataset", "__version__"]
