"""Algorithms: Stable-Baselines3's, offline to online."""

from pathlib import Path
from typing import TYPE_CHECKING

from sb3_o2o.algorithms.ppo import O2OPPO
from sb3_o2o.algorithms.sac import O2OSAC
from sb3_o2o.algorithms.td3 import O2OTD3
from sb3_o2o.checked import checked
from sb3_o2o.errors import unknown
from sb3_o2o.transfer.archive import ALGORITHMS_BY_FAMILY, saved_family

if TYPE_CHECKING:
    from sb3_o2o.finetuning.fine_tuned_learner import FineTunedLearner
    from sb3_o2o.objectives import PPOLearner, SACLearner, TD3Learner

#: any of the algorithms
OfflineToOnlineAlgorithm = O2OSAC | O2OTD3 | O2OPPO

#: the algorithms by their own names
ALGORITHMS: dict[str, type[O2OSAC] | type[O2OTD3] | type[O2OPPO]] = {
    "O2OSAC": O2OSAC,
    "O2OTD3": O2OTD3,
    "O2OPPO": O2OPPO,
}

if TYPE_CHECKING:
    # what objectives and callbacks rely on is there
    _LEARNERS: tuple[type[SACLearner], type[TD3Learner], type[PPOLearner]] = O2OSAC, O2OTD3, O2OPPO
    _FINE_TUNED: tuple[type[FineTunedLearner], ...] = O2OSAC, O2OTD3, O2OPPO


@checked
def algorithm_class(name: str) -> type[O2OSAC] | type[O2OTD3] | type[O2OPPO]:
    """
    :param name: of an algorithm, as recipes write it
    :return: the class
    :raises ValueError: if there is none, naming the nearest
    """
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]


@checked
def algorithm_of(path: str | Path) -> type[O2OSAC] | type[O2OTD3] | type[O2OPPO] | None:
    """
    :param path: a saved model, ours or stock
    :return: the class that opens it; None if none of ours does
    """
    return ALGORITHMS_BY_FAMILY.get(saved_family(path))


__all__ = [
    "ALGORITHMS",
    "O2OPPO",
    "O2OSAC",
    "O2OTD3",
    "OfflineToOnlineAlgorithm",
    "algorithm_class",
    "algorithm_of",
]
