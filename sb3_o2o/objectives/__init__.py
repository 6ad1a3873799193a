"""Objectives by name."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

from sb3_o2o.checked import check_keyword_arguments, checked
from sb3_o2o.errors import unknown
from sb3_o2o.objectives.alignment import (
    DeterministicAlignmentObjective,
    OnReevaluatedCriticsObjective,
    ReevaluationObjective,
    StochasticAlignmentObjective,
)
from sb3_o2o.objectives.awac import AWACObjective
from sb3_o2o.objectives.batch import Batch, LossesAndMetrics, Penalty, Step
from sb3_o2o.objectives.bc import BCObjective
from sb3_o2o.objectives.cql import CalQLObjective, CQLObjective
from sb3_o2o.objectives.draws import Draws
from sb3_o2o.objectives.edac import EDACObjective, SACNObjective
from sb3_o2o.objectives.iql import IQLObjective
from sb3_o2o.objectives.learner import CriticLearner, CriticSet, Learner, PPOLearner, SACLearner, TD3Learner
from sb3_o2o.objectives.objective import MODEL, Objective, SACObjective
from sb3_o2o.objectives.ppo_objectives import (
    MonteCarloValueObjective,
    PPOAWACObjective,
    PPOBCObjective,
    PPOCritics,
    PPOIQLObjective,
)
from sb3_o2o.objectives.rebrac import ReBRACObjective
from sb3_o2o.objectives.sac_ml import SACMLObjective
from sb3_o2o.objectives.spot import SPOTObjective
from sb3_o2o.objectives.td3_bc import TD3BCObjective
from sb3_o2o.objectives.td3_objective import TD3Objective
from sb3_o2o.plain import add_safe_globals

#: objectives that SAC can minimise, by the name users give
SAC_OBJECTIVES: dict[str, type[Objective]] = {
    "sac": SACObjective,
    "bc": BCObjective,
    "cql": CQLObjective,
    "calql": CalQLObjective,
    "sac_n": SACNObjective,
    "edac": EDACObjective,
    "iql": IQLObjective,
    "awac": AWACObjective,
    "sac_ml": SACMLObjective,
}
#: objectives that TD3 can minimise
TD3_OBJECTIVES: dict[str, type[Objective]] = {
    "td3": TD3Objective,
    "bc": BCObjective,
    "td3_bc": TD3BCObjective,
    "iql": IQLObjective,
    "spot": SPOTObjective,
    "rebrac": ReBRACObjective,
}
#: objectives that PPO can minimise offline
PPO_OBJECTIVES: dict[str, type[Objective]] = {
    "bc": PPOBCObjective,
    "iql": PPOIQLObjective,
    "awac": PPOAWACObjective,
}


#: the same by the algorithm's short name
_FAMILIES = {"sac": SAC_OBJECTIVES, "td3": TD3_OBJECTIVES, "ppo": PPO_OBJECTIVES}


@checked
def register_objective(name: str, objective: type[Objective], *algorithms: str) -> None:
    """
    Give an objective of one's own a name, which recipes and the command line can hold.

    :param name: that no other objective of these algorithms has
    :param objective: the class
    :param algorithms: that can minimise it: ``"sac"``, ``"td3"`` or ``"ppo"``
    :raises ValueError: for another class, an unknown algorithm, or a name that is taken; nothing is registered then
    """
    _check_class(objective)
    if not algorithms:
        raise ValueError(f"register_objective({name!r}) needs the algorithms that can minimise it: sac, td3 or ppo.")
    for algorithm in algorithms:
        if algorithm not in _FAMILIES:
            raise unknown("algorithm", algorithm, _FAMILIES)
        if _FAMILIES[algorithm].get(name, objective) is not objective:
            raise ValueError(f"{name!r} is the name of {_FAMILIES[algorithm][name].__name__} already.")
    for algorithm in algorithms:
        _FAMILIES[algorithm][name] = objective
    add_safe_globals(objective)


@checked
def objective_class(name: str | type[Objective], available: dict[str, type[Objective]], whose: str) -> type[Objective]:
    """
    :param name: an objective's name, ``"package.module.Class"``, or the class itself
    :param available: the objectives of an algorithm by their names
    :param whose: the algorithm, for the error message
    :return: the class
    :raises ValueError: if there is none, naming the nearest
    """
    if not isinstance(name, str):
        return _check_class(name)
    if name in available:
        return available[name]
    module, _, attribute = name.rpartition(".")
    if not all(module.split(".")):
        raise unknown(f"objective for {whose}", name, available)
    try:
        return _check_class(getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"There is no objective {name!r}: {error}.") from error


def _check_class(objective: Any) -> type[Objective]:
    if not (isinstance(objective, type) and issubclass(objective, Objective)):
        raise ValueError(f"An objective is a sub-class of sb3_o2o.objectives.Objective, which {objective!r} is not.")
    return objective


@checked
def make_objective(
    name: str | type[Objective],
    kwargs: dict[str, Any] | None,
    model: Annotated[Any, MODEL],
    available: dict[str, type[Objective]],
) -> Objective:
    """
    :param name: see :func:`objective_class`
    :param kwargs: its keyword arguments
    :param model: the algorithm whose networks are trained
    :param available: the objectives of this algorithm
    :return: the objective
    :raises ValueError: for an unknown name or argument, naming the nearest
    """
    kind = objective_class(name, available, type(model).__name__)
    check_keyword_arguments(f"argument of objective {name!r}", kind, kwargs or {}, skip=("model",))
    return kind(model, **(kwargs or {}))


__all__ = [
    "PPO_OBJECTIVES",
    "SAC_OBJECTIVES",
    "TD3_OBJECTIVES",
    "AWACObjective",
    "BCObjective",
    "Batch",
    "CQLObjective",
    "CalQLObjective",
    "CriticLearner",
    "CriticSet",
    "DeterministicAlignmentObjective",
    "Draws",
    "EDACObjective",
    "IQLObjective",
    "Learner",
    "LossesAndMetrics",
    "MonteCarloValueObjective",
    "Objective",
    "OnReevaluatedCriticsObjective",
    "PPOAWACObjective",
    "PPOBCObjective",
    "PPOCritics",
    "PPOIQLObjective",
    "PPOLearner",
    "Penalty",
    "ReBRACObjective",
    "ReevaluationObjective",
    "SACLearner",
    "SACMLObjective",
    "SACNObjective",
    "SACObjective",
    "SPOTObjective",
    "Step",
    "StochasticAlignmentObjective",
    "TD3BCObjective",
    "TD3Learner",
    "TD3Objective",
    "make_objective",
    "objective_class",
    "register_objective",
]
