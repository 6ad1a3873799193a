"""The phases of a run."""

PRETRAINING, WARMUP, FINETUNING = "pretraining", "warmup", "finetuning"
