"""Objectives by name."""

from __future__ import annotations

from typing import Any

from sb3_o2o.errors import check_keyword_arguments, unknown
from sb3_o2o.objectives.base import Objective, SACObjective
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Penalty, Step
from sb3_o2o.objectives.bc import BCObjective
from sb3_o2o.objectives.cql import CalQLObjective, CQLObjective
from sb3_o2o.objectives.edac import EDACObjective, SACNObjective
from sb3_o2o.objectives.iql import IQLObjective
from sb3_o2o.objectives.learner import CriticLearner, CriticSet, Learner, PPOLearner, SACLearner, TD3Learner
from sb3_o2o.objectives.ppo import MonteCarloValueObjective, PPOBCObjective, PPOIQLObjective
from sb3_o2o.objectives.reconstruction import (
    DeterministicAlignmentObjective,
    ReevaluationObjective,
    StochasticAlignmentObjective,
)
from sb3_o2o.objectives.spot import SPOTObjective
from sb3_o2o.objectives.td3 import TD3Objective
from sb3_o2o.objectives.td3_bc import TD3BCObjective

#: objectives that SAC can minimise, by the name users give
SAC_OBJECTIVES: dict[str, type[Objective]] = {
    "sac": SACObjective,
    "bc": BCObjective,
    "cql": CQLObjective,
    "calql": CalQLObjective,
    "sac_n": SACNObjective,
    "edac": EDACObjective,
    "iql": IQLObjective,
}
#: objectives that TD3 can minimise
TD3_OBJECTIVES: dict[str, type[Objective]] = {
    "td3": TD3Objective,
    "bc": BCObjective,
    "td3_bc": TD3BCObjective,
    "iql": IQLObjective,
    "spot": SPOTObjective,
}
#: objectives that PPO can minimise offline
PPO_OBJECTIVES: dict[str, type[Objective]] = {"bc": PPOBCObjective, "iql": PPOIQLObjective}


def make_objective(
    name: str, kwargs: dict[str, Any] | None, model: Learner, available: dict[str, type[Objective]]
) -> Objective:
    """
    :param name: an objective's name
    :param kwargs: its keyword arguments
    :param model: the algorithm whose networks are trained
    :param available: the objectives of this algorithm
    :return: the objective
    :raises ValueError: for an unknown name or argument, naming the nearest
    """
    if name not in available:
        raise unknown(f"objective for {type(model).__name__}", name, available)
    objective_class = available[name]
    check_keyword_arguments(f"argument of objective {name!r}", objective_class, kwargs or {}, skip=("model",))
    return objective_class(model, **(kwargs or {}))


__all__ = [
    "PPO_OBJECTIVES",
    "SAC_OBJECTIVES",
    "TD3_OBJECTIVES",
    "BCObjective",
    "Batch",
    "CQLObjective",
    "CalQLObjective",
    "CriticLearner",
    "CriticSet",
    "DeterministicAlignmentObjective",
    "EDACObjective",
    "IQLObjective",
    "Learner",
    "LossesAndMetrics",
    "MonteCarloValueObjective",
    "Objective",
    "PPOBCObjective",
    "PPOIQLObjective",
    "PPOLearner",
    "Penalty",
    "ReevaluationObjective",
    "SACLearner",
    "SACNObjective",
    "SACObjective",
    "SPOTObjective",
    "Step",
    "StochasticAlignmentObjective",
    "TD3BCObjective",
    "TD3Learner",
    "TD3Objective",
    "make_objective",
]
