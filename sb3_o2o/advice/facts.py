"""What is known about a dataset and a policy before anything is trained online, in plain numbers."""

from dataclasses import dataclass
from typing import Literal

#: of what ``mean`` and ``best`` are: normalised score (0 random, 100 expert), part of the episodes that reach the goal
#: in percent, or the raw return where nobody knows references
Unit = Literal["score", "success", "return"]


@dataclass(frozen=True)
class DatasetFacts:
    """
    A dataset.

    :param name: id or path
    :param env_id: Gymnasium id
    :param transitions: how many
    :param episodes: how many
    :param unit: of all the following returns, and of a policy's beside it
    :param mean: over episodes
    :param deviation: standard deviation over episodes
    :param best: mean of the best tenth of the episodes
    :param scale: what 100 points are: 100, or for raw returns the distance from the worst episode to the best
    :param sparse: whether rewards say no more than whether the goal is reached: at most two values
    :param coverage: how different the actions are that were taken in similar states, from 0 (always the same) to about
        1 (uniform over the action space); None where it cannot be measured
    """

    name: str
    env_id: str
    transitions: int
    episodes: int
    unit: Unit
    mean: float
    deviation: float
    best: float
    scale: float
    sparse: bool
    coverage: float | None


@dataclass(frozen=True)
class PolicyFacts:
    """
    A policy, in the dataset's environment.

    :param name: path, or class
    :param family: stock algorithm, such as ``"SAC"``, ``"TD3"``, ``"PPO"`` or ``"TQC"``; ``"callable"`` for anything
        else that acts
    :param mean: over evaluated episodes, in the dataset's unit
    :param deviation: standard deviation over them
    :param episodes: how many
    :param kendall_tau: how well its critic orders what it does by what it earns, in [-1, 1]; None where it has no
        critic to ask
    """

    name: str
    family: str
    mean: float
    deviation: float
    episodes: int
    kendall_tau: float | None
