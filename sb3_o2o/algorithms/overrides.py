"""Arguments that no objective of a model follows."""

from __future__ import annotations

import inspect
from typing import Any

from sb3_o2o.errors import warn
from sb3_o2o.objectives.objective import UNUSED


def warn_of_overridden_arguments(model: Any) -> None:
    """
    Say which of the arguments that somebody has set, a user or a recipe, no objective of the model follows.

    :param model: with its objectives
    """
    names = {"objective": model.objective, "online_objective": getattr(model, "online_objective", None)}
    offline, online = model.offline_objective, model.finetuning_objective
    parameters = inspect.signature(type(model).__init__).parameters
    for name, decided in offline.overrides.items():
        if name not in parameters or name not in online.overrides:
            continue
        value, settled = getattr(model, name), (decided, online.overrides[name])
        is_set = value != parameters[name].default or (name in model.explicit_arguments and UNUSED not in settled)
        if not is_set or value in settled:
            continue
        who = " and ".join(f"{kind} {given!r}" for kind, given in names.items() if given is not None)
        instead = "Leave it out."
        if name in inspect.signature(type(offline).__init__).parameters:
            instead = f"Give it in objective_kwargs={{{name!r}: {value!r}}}, or leave it out."
        elif decided is not UNUSED:
            instead = f"It is {decided!r} there, whatever the algorithm is given: leave it out."
        warn(f"{name}={value!r} has no effect with {who}. {instead}")
