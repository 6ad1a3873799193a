"""Batched ensembles, policies and the normaliser."""

from sb3_o2o.networks.density import ConditionalVAE
from sb3_o2o.networks.ensemble import EnsembleCritic, EnsembleLayerNorm, EnsembleLinear, EnsembleMLP
from sb3_o2o.networks.freezing import frozen_copy
from sb3_o2o.networks.normalizer import NormalizedExtractor, set_observation_statistics
from sb3_o2o.networks.ppo_policies import O2OPPOCnnPolicy, O2OPPOMultiInputPolicy, O2OPPOPolicy
from sb3_o2o.networks.ratio import DensityRatio
from sb3_o2o.networks.sac_policies import O2OSACCnnPolicy, O2OSACMultiInputPolicy, O2OSACPolicy
from sb3_o2o.networks.td3_policies import O2OTD3CnnPolicy, O2OTD3MultiInputPolicy, O2OTD3Policy
from sb3_o2o.networks.value import ValueNetwork

__all__ = [
    "ConditionalVAE",
    "DensityRatio",
    "EnsembleCritic",
    "EnsembleLayerNorm",
    "EnsembleLinear",
    "EnsembleMLP",
    "NormalizedExtractor",
    "O2OPPOCnnPolicy",
    "O2OPPOMultiInputPolicy",
    "O2OPPOPolicy",
    "O2OSACCnnPolicy",
    "O2OSACMultiInputPolicy",
    "O2OSACPolicy",
    "O2OTD3CnnPolicy",
    "O2OTD3MultiInputPolicy",
    "O2OTD3Policy",
    "ValueNetwork",
    "frozen_copy",
    "set_observation_statistics",
]
