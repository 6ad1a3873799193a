"""Datasets and replay buffers. Knows nothing of networks."""

from sb3_o2o.data.collect import collect
from sb3_o2o.data.dataset import OfflineDataset
from sb3_o2o.data.replay_buffers import (
    MixedReplayBuffer,
    MonteCarloDictReplayBuffer,
    MonteCarloReplayBuffer,
    OfflineReplayBuffer,
    ReplaySamples,
    concatenate_samples,
)
from sb3_o2o.data.sum_tree import SumTree

__all__ = [
    "MixedReplayBuffer",
    "MonteCarloDictReplayBuffer",
    "MonteCarloReplayBuffer",
    "OfflineDataset",
    "OfflineReplayBuffer",
    "ReplaySamples",
    "SumTree",
    "collect",
    "concatenate_samples",
]
