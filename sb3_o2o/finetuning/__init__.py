"""Fine-tuning callbacks."""

from sb3_o2o.finetuning.balanced_replay import BalancedReplay
from sb3_o2o.finetuning.base import FineTuningCallback
from sb3_o2o.finetuning.replay import DatasetReplay, FIFOReplay, SymmetricReplay
from sb3_o2o.finetuning.targets import PerturbedTargets
from sb3_o2o.finetuning.warmup import Warmup

__all__ = [
    "BalancedReplay",
    "DatasetReplay",
    "FIFOReplay",
    "FineTuningCallback",
    "PerturbedTargets",
    "SymmetricReplay",
    "Warmup",
]
