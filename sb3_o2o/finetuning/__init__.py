"""Fine-tuning callbacks."""

from sb3_o2o.finetuning.advantage import AuxiliaryAdvantage
from sb3_o2o.finetuning.balanced_replay import BalancedReplay
from sb3_o2o.finetuning.base import FineTuningCallback
from sb3_o2o.finetuning.constraint import ConstrainedFineTuning
from sb3_o2o.finetuning.dual_critic import DualCritic
from sb3_o2o.finetuning.kappa import LinearSchedule
from sb3_o2o.finetuning.online_pretraining import OnlinePretraining
from sb3_o2o.finetuning.reconstruction import PolicyReevaluation, ValueAlignment
from sb3_o2o.finetuning.replay import DatasetReplay, FIFOReplay, SymmetricReplay
from sb3_o2o.finetuning.targets import PerturbedTargets
from sb3_o2o.finetuning.warmup import Warmup

__all__ = [
    "AuxiliaryAdvantage",
    "BalancedReplay",
    "ConstrainedFineTuning",
    "DatasetReplay",
    "DualCritic",
    "FIFOReplay",
    "FineTuningCallback",
    "LinearSchedule",
    "OnlinePretraining",
    "PerturbedTargets",
    "PolicyReevaluation",
    "SymmetricReplay",
    "ValueAlignment",
    "Warmup",
]
