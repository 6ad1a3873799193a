"""The phases that the algorithm itself enters; callbacks such as a warm-up name their own."""

PRETRAINING, FINETUNING = "pretraining", "finetuning"
