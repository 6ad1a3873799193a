"""Fine-tuning callbacks."""

from sb3_o2o.finetuning.base import FineTuningCallback
from sb3_o2o.finetuning.replay import DatasetReplay, SymmetricReplay
from sb3_o2o.finetuning.warmup import Warmup

__all__ = ["DatasetReplay", "FineTuningCallback", "SymmetricReplay", "Warmup"]
