"""Schedules that older versions of Stable-Baselines3 and RL Zoo saved as functions with their code."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.utils import LinearSchedule

from sb3_o2o.plain.listing import Noted, Notes

#: functions by module and name: what they return is the one number that they hold, or proportional to it
_CONSTANT = {("stable_baselines3.common.utils", "constant_fn.<locals>.func")}
#: what some versions wrap them in
_WRAPPERS = {("stable_baselines3.common.utils", "get_schedule_fn.<locals>.<lambda>")}
_LINEAR = {(module, "linear_schedule.<locals>.func") for module in ("rl_zoo3.utils", "utils.utils")}


def known_schedule(pickled: bytes) -> float | LinearSchedule | None:
    """
    Read the number out of a known function instead of running its code: stock models of Stable-Baselines3 before 2.6
    hold ``clip_range`` so, and those of RL Zoo their linear learning rates.

    :param pickled: what ``cloudpickle`` made of it
    :return: the same schedule; None for any other function
    """
    try:
        calls = Notes(pickled).calls
    except ValueError:
        return None
    names = {name for each in calls if (name := _function(each)) is not None} - _WRAPPERS
    numbers = [number for each in calls for number in _cells(each)]
    if len(names) != 1 or len(numbers) != 1:
        return None
    if names <= _CONSTANT:
        return float(numbers[0])
    return LinearSchedule(float(numbers[0]), 0.0, 1.0) if names <= _LINEAR else None


def _states(each: Noted) -> list[dict[Any, Any]]:
    """Where ``cloudpickle`` writes what a function is: its state, or an argument of what sets it."""
    found: list[dict[Any, Any]] = []
    for values in (each.state, each.arguments):
        for value in values if isinstance(values, tuple | list) else (values,):
            found += [value] if isinstance(value, dict) else []
            found += [inner for inner in value if isinstance(inner, dict)] if isinstance(value, tuple) else []
    return found


def _function(each: Noted) -> tuple[str, str] | None:
    for state in _states(each):
        module = state.get("__module__", state.get("module"))
        name = state.get("__qualname__", state.get("qualname"))
        if isinstance(module, str) and isinstance(name, str):
            return module, name
    return None


def _cells(each: Noted) -> list[float]:
    values: list[Any] = []
    if each.name.endswith("._make_cell"):
        values = list(each.arguments or ())
    for state in _states(each):
        values += state.get("closure_values") or ()
    return [value for value in values if isinstance(value, float | int) and not isinstance(value, bool)]
