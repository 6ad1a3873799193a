"""What ``load_offline`` is asked to do, checked before anything is opened."""

from __future__ import annotations

import os
from typing import Any

from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o.data.sources import DATASET
from sb3_o2o.kinds import (
    ARGUMENTS,
    DEVICE,
    ENVIRONMENT_OR_ID,
    FLAG,
    NOTHING,
    READABLE,
    Kind,
    instance,
    kind,
    number,
    one_of,
    whole,
)
from sb3_o2o.transfer.acting import has_predict


def _is_policy(value: Any) -> bool:
    return not isinstance(value, type) and (has_predict(value) or callable(value) or isinstance(value, os.PathLike))


#: by which statistics a policy saw observations
STATISTICS = (
    instance("a VecNormalize", VecNormalize)
    | instance("the file of one", str, os.PathLike)
    | kind("False", lambda value: value is False)
    | NOTHING
)
_POLICY = kind("a saved model or a live one, a policy, a module or another function of observations", _is_policy)
_OPTIONS: dict[str, Kind] = {
    "source": _POLICY | DATASET,
    "pretrain_steps": whole(1) | NOTHING,
    "load_actor": FLAG,
    "load_critic": FLAG | NOTHING,
    "load_optimizer": FLAG,
    "start_ent_coef": number(above=0) | NOTHING,
    "clone_std": number(above=0),
    "clone_loss": one_of("mse", "likelihood"),
    "report_episodes": whole(0),
    "progress_bar": FLAG,
    "custom_objects": ARGUMENTS | NOTHING,
    "trust": FLAG,
    "vec_normalize": STATISTICS,
}


_LOAD: dict[str, Kind] = {
    "path": READABLE,
    "env": ENVIRONMENT_OR_ID | NOTHING,
    "device": DEVICE,
    "custom_objects": ARGUMENTS | NOTHING,
    "print_system_info": FLAG,
    "force_reset": FLAG,
    "allow_nonfinite": FLAG,
    "trust": FLAG,
}


def check_load(algorithm: Any, given: dict[str, Any]) -> None:
    """
    :param algorithm: the class
    :param given: arguments of ``load`` that are none of the constructor
    :raises ValueError: for one that is not what it may be
    """
    for name, value in given.items():
        _LOAD[name].check(f"{name} of {algorithm.__name__}.load", value)


def check_options(algorithm: Any, of_constructor: dict[str, Any], options: dict[str, Any]) -> None:
    """
    :param algorithm: the class
    :param of_constructor: parameters of ``load_offline`` that are the constructor's as well; None where left out
    :param options: its other parameters
    :raises ValueError: for a value that is not what its parameter may be, or values that do not go together
    """
    given = {name: value for name, value in of_constructor.items() if value is not None or name == "device"}
    algorithm.constructor.accepted(algorithm, given)
    for name, value in options.items():
        _OPTIONS[name].check(name, value)
    if not options["load_actor"] and options["load_critic"] is False:
        raise ValueError("load_actor=False and load_critic=False keep nothing: build a new model instead.")
