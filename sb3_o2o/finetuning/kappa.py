"""How much a second pair of critics counts: constants, schedules, and a rule that measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_o2o.checked import check_keyword_arguments
from sb3_o2o.errors import unknown


def _check_kappa(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], not {value!r}: 0 is the first critics alone, 1 the second.")


@dataclass(frozen=True)
class LinearSchedule:
    """
    A line over the environment steps of the fine-tuning run, then a constant.

    :param start: value at ``start_step``, in [0, 1]
    :param end: value from ``end_step`` on, in [``start``, 1]
    :param end_step: online environment steps at which the end is reached, >= 0
    :param start_step: online environment steps at which it begins to rise; by default those of the first update
    :raises ValueError: for a value out of range, or a schedule that decreases
    """

    start: float
    end: float
    end_step: int
    start_step: int | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            _check_kappa(getattr(self, name), f"LinearSchedule({name})")
        if self.end < self.start:
            raise ValueError(
                f"LinearSchedule decreases, from {self.start} to {self.end}: kappa is the weight of the "
                "second critics, those that learn online, and has to grow. Swap start and end."
            )
        if self.end_step < 0 or (self.start_step is not None and not 0 <= self.start_step <= self.end_step):
            raise ValueError(
                "LinearSchedule needs 0 <= start_step <= end_step, "
                f"not start_step={self.start_step} and end_step={self.end_step}."
            )

    def __call__(self, step: int, first_update: int) -> float:
        """
        :param step: online environment steps so far
        :param first_update: online environment steps at the first update
        :return: the value, in [0, 1]
        """
        begin = first_update if self.start_step is None else self.start_step
        if step >= self.end_step:
            return self.end
        if step <= begin:  # it may rise at once, at its last step
            return self.start
        return self.start + (self.end - self.start) * (step - begin) / (self.end_step - begin)


#: those of the paper's code, by kind of dataset (Shin et al. 2025)
PUBLISHED: dict[str, float | LinearSchedule] = {
    "random": 1.0,
    "medium": LinearSchedule(0.3, 0.9, 150_000),
    "medium-replay": LinearSchedule(0.1, 0.9, 150_000),
    "antmaze": LinearSchedule(0.1, 0.9, 100_000),
    "antmaze-large-diverse": LinearSchedule(0.1, 0.9, 200_000),
    "adroit-cloned": LinearSchedule(0.1, 0.9, 250_000),
}


def read_kappa(kappa: Any) -> float | LinearSchedule | None:
    """
    :param kappa: a number, a schedule, its arguments, a name in :data:`PUBLISHED`, or ``"auto"``
    :return: a number, a schedule, or None for ``"auto"``
    :raises ValueError: if it is something else, or out of range
    """
    if isinstance(kappa, str):
        if kappa == "auto":
            return None
        if kappa not in PUBLISHED:
            raise unknown("schedule of DualCritic(kappa)", kappa, [*PUBLISHED, "auto"])
        return PUBLISHED[kappa]
    if isinstance(kappa, Mapping):
        check_keyword_arguments("argument of DualCritic(kappa)", LinearSchedule, dict(kappa))
        try:
            return LinearSchedule(**kappa)
        except TypeError as error:
            raise ValueError(f"DualCritic(kappa) as a schedule needs start, end and end_step, not {kappa}.") from error
    if isinstance(kappa, LinearSchedule):
        return kappa
    _check_kappa(kappa, "DualCritic(kappa)")
    return float(kappa)


# ------------------------------------------------------------------------------------------------------ measured


def observed_returns(
    rewards: np.ndarray, terminals: np.ndarray, ends: np.ndarray, tails: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    Discounted returns of recent steps, each to the end of its episode. Where an episode is truncated, or still goes
    on, a value stands for the rest: ``y_t = r_t + gamma y_{t+1}``, and ``y_t = Q(s_t, a_t)`` at its last step.

    :param rewards: ``(T, n_envs)``
    :param terminals: whether the episode terminated with this step, likewise
    :param ends: whether it ended with this step, terminated or truncated, likewise
    :param tails: the value that stands for what is not seen, likewise
    :param gamma: discount factor
    :return: y, and whether it holds a reward at all, likewise
    """
    returns, observed = tails.astype(np.float64), terminals.copy()
    returns[terminals] = rewards[terminals]
    for step in range(len(rewards) - 2, -1, -1):
        goes_on = ~ends[step]
        returns[step, goes_on] = rewards[step, goes_on] + gamma * returns[step + 1, goes_on]
        observed[step] |= goes_on
    return returns, observed


def accuracy_weight(first_error: float, second_error: float) -> float:
    """
    Weight of the second of two estimates: ``e_1 / (e_1 + e_2)``. Of all mixes of two unbiased estimates with
    independent errors, that one has the smallest variance.

    :param first_error: error variance of the first, >= 0
    :param second_error: of the second, >= 0
    :return: in [0, 1]; 1/2 where both are as good
    """
    total = first_error + second_error
    return 0.5 if total == 0 else first_error / total
