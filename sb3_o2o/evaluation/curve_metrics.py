"""How well a policy survived the switch from its dataset to the environment, as pure functions."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sb3_o2o.checked import checked
from sb3_o2o.kinds import NotNegative, Numbers, number

#: Keys under which environments report success in ``info``: Gymnasium-Robotics' mazes and hands, its Fetch tasks, D4RL.
SUCCESS_KEYS: tuple[str, ...] = ("success", "is_success", "goal_achieved")


def is_success(info: Mapping[str, Any], keys: Sequence[str] = SUCCESS_KEYS) -> bool | None:
    """
    Whether a step's ``info`` reports success under any of the keys.

    :param info: the info dictionary of one environment step
    :param keys: names under which success is looked for
    :return: True or False, or None where the step reports neither
    """
    reports = [bool(np.any(info[key])) for key in keys if key in info]
    return any(reports) if reports else None


def ended_successes(running: dict[int, bool], infos: Sequence[Mapping[str, Any]], dones: Sequence[bool]) -> list[bool]:
    """
    :param running: by environment, whether the episode that goes on in it has reported success; brought up to date
    :param infos: of one step of all environments
    :param dones: whether an episode ended in them
    :return: of the episodes that ended and reported success or failure, which of them it was
    """
    ended = []
    for index, (info, done) in enumerate(zip(infos, dones, strict=True)):
        success = is_success(info)
        if success is not None:
            running[index] = running.get(index, False) or success
        if done and index in running:
            ended.append(running.pop(index))
    return ended


def _curve(steps: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two axes of a learning curve as checked one-dimensional arrays."""
    step_array = np.asarray(steps, dtype=np.float64)
    score_array = np.asarray(scores, dtype=np.float64)
    if step_array.ndim != 1 or step_array.shape != score_array.shape:
        raise ValueError(
            "steps and scores must be one-dimensional and equally long (average the episodes of an evaluation first), "
            f"got the shapes {step_array.shape} and {score_array.shape}."
        )
    if len(step_array) == 0:
        raise ValueError("A learning curve needs at least one evaluation, got none.")
    for name, values in (("steps", step_array), ("scores", score_array)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, found {values[~np.isfinite(values)][0]}.")
    if (np.diff(step_array) <= 0).any():
        raise ValueError("steps must increase from one evaluation to the next.")
    return step_array, score_array


@checked
def drop_at_switch(
    steps: Numbers,
    scores: Numbers,
    offline_score: float,
    *,
    window: Annotated[float, number(0, finite=False)] = math.inf,
) -> float:
    """
    How far the score falls below the pre-trained policy's after fine-tuning began.

    ``max(0, offline_score - min(scores up to window))``

    :param steps: environment steps since the switch, one for each evaluation, increasing, shape (evaluations,)
    :param scores: mean score of each evaluation, shape (evaluations,)
    :param offline_score: score of the pre-trained policy, in the same unit
    :param window: look at evaluations up to this many environment steps; all by default
    :return: the drop in the score's unit, 0 where the score never fell
    :raises ValueError: the curve is empty, not finite or out of order, or no evaluation lies in the window
    """
    step_array, score_array = _curve(steps, scores)
    inside = score_array[step_array <= window]
    if len(inside) == 0:
        raise ValueError(f"No evaluation lies within the first {window:g} steps; the first is at {step_array[0]:g}.")
    return max(0.0, float(offline_score) - float(inside.min()))


@checked
def steps_to_recover(steps: Numbers, scores: Numbers, offline_score: float, *, tolerance: NotNegative = 0.0) -> float:
    """
    Environment steps until the score is back at the pre-trained policy's, for good or not.

    The first evaluation that reaches ``offline_score - tolerance`` after the score had fallen below it.

    :param steps: environment steps since the switch, increasing, shape (evaluations,)
    :param scores: mean score of each evaluation, shape (evaluations,)
    :param offline_score: score of the pre-trained policy, in the same unit
    :param tolerance: how far below still counts as recovered, in the score's unit, at least 0
    :return: environment steps; 0 where the score never fell, infinity where it did not come back
    :raises ValueError: the curve is empty, not finite or out of order, or the tolerance is negative
    """
    step_array, score_array = _curve(steps, scores)
    below = score_array < offline_score - tolerance
    if not below.any():
        return 0.0
    fell = int(np.argmax(below))
    recovered = np.flatnonzero(~below[fell:])
    return float(step_array[fell + recovered[0]]) if len(recovered) else math.inf


@checked
def regret(successes: Numbers) -> float:
    """
    Mean failure over all training episodes so far: ``mean(1 - success)`` (CORL's fine-tuning metric).

    For tasks with a goal only; lower is better. An episode is a success if the goal was reached at any of its steps.

    :param successes: one entry for each *training* episode, bool or in [0, 1], shape (episodes,)
    :return: regret in [0, 1]
    :raises ValueError: no episode, or an entry outside [0, 1]
    """
    return float(1.0 - _successes(successes).mean())


@checked
def cumulative_regret(successes: Numbers) -> NDArray[np.float64]:
    """
    The regret after each training episode, as a curve.

    :param successes: one entry for each *training* episode, bool or in [0, 1], shape (episodes,)
    :return: regret after each episode, in [0, 1], shape (episodes,)
    :raises ValueError: no episode, or an entry outside [0, 1]
    """
    values = _successes(successes)
    return 1.0 - np.cumsum(values) / np.arange(1, len(values) + 1)


def _successes(successes: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(successes, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"successes needs one entry for each episode, got the shape {values.shape}.")
    if not ((values >= 0) & (values <= 1)).all():
        first = values[~((values >= 0) & (values <= 1))][0]
        raise ValueError(f"successes must lie in [0, 1], found {first}.")
    return values
