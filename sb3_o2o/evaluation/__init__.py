"""Scores, metrics and evaluation."""

from sb3_o2o.evaluation.curve_metrics import cumulative_regret, drop_at_switch, regret, steps_to_recover
from sb3_o2o.evaluation.eval_callback import NormalizedEvalCallback, read_evaluations
from sb3_o2o.evaluation.evaluate import Evaluation, evaluate, preserved_random_state
from sb3_o2o.evaluation.policy_selection import Candidate, Selection, select_policy
from sb3_o2o.evaluation.scores import ReferenceScore, normalized_score, reference_score

__all__ = [
    "Candidate",
    "Evaluation",
    "NormalizedEvalCallback",
    "ReferenceScore",
    "Selection",
    "cumulative_regret",
    "drop_at_switch",
    "evaluate",
    "normalized_score",
    "preserved_random_state",
    "read_evaluations",
    "reference_score",
    "regret",
    "select_policy",
    "steps_to_recover",
]
