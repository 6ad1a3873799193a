"""Batched ensembles, policies and the normaliser."""

from sb3_o2o.networks.ensemble import EnsembleCritic, EnsembleLayerNorm, EnsembleLinear, EnsembleMLP
from sb3_o2o.networks.normalizer import NormalizedExtractor, set_observation_statistics
from sb3_o2o.networks.policies import O2OSACCnnPolicy, O2OSACMultiInputPolicy, O2OSACPolicy

__all__ = [
    "EnsembleCritic",
    "EnsembleLayerNorm",
    "EnsembleLinear",
    "EnsembleMLP",
    "NormalizedExtractor",
    "O2OSACCnnPolicy",
    "O2OSACMultiInputPolicy",
    "O2OSACPolicy",
    "set_observation_statistics",
]
