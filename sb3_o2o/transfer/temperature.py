"""The temperature with which SAC goes on: a source's own, where it was tuned, else one that is stated."""

from __future__ import annotations

import math
from typing import Any

import torch as th

from sb3_o2o.updates.phases import PRETRAINING

#: where a temperature starts that a source has not tuned, unless somebody says another value: what Luo et al. 2024
#: (OCR-CFT) preset for policies of any offline method on medium data. Stable-Baselines3's 1 pays a trained policy for
#: acting at random
UNTUNED_ENT_COEF = 0.2


def stated_start(ent_coef: Any) -> float | None:
    """
    :param ent_coef: SAC's argument: a number, ``"auto"``, or ``"auto_0.1"``
    :return: the start that it names for a temperature that is tuned; None for the others
    """
    if not isinstance(ent_coef, str) or "_" not in ent_coef:
        return None
    return float(ent_coef.split("_")[1])


def fixed_value(ent_coef: Any) -> float | None:
    """
    :param ent_coef: SAC's argument
    :return: the value at which it fixes the temperature, which may be written as text; None if it is tuned
    """
    return None if ent_coef is None or str(ent_coef).startswith("auto") else float(ent_coef)


def was_tuned(source: Any) -> bool:
    """
    :param source: SAC or a relative, ours or stock, with a temperature that can be tuned
    :return: whether it was, against values, or was set to something on purpose; behaviour cloning's is another
        quantity: the multiplier of its entropy term
    """
    if not source.log_ent_coef.requires_grad:
        return True  # frozen where it is
    if source.ent_coef_optimizer.state:
        objective = getattr(source, "offline_objective", None)
        return objective is None or source.phase != PRETRAINING or objective.tunes_ent_coef
    return not math.isclose(source.log_ent_coef.exp().item(), stated_start(source.ent_coef) or 1.0, rel_tol=1e-5)


def own_temperature(source: Any) -> float | None:
    """
    :param source: any policy or model
    :return: its temperature, if it has one that was tuned or chosen
    """
    if getattr(source, "log_ent_coef", None) is not None:
        return float(source.log_ent_coef.exp().item()) if was_tuned(source) else None
    return float(source.ent_coef_tensor.item()) if hasattr(source, "ent_coef_tensor") else None


def check_start(model: Any, start_ent_coef: float | None, ent_coef: Any) -> None:
    """
    :param model: an algorithm's class, or a model
    :param start_ent_coef: what ``load_offline`` was given
    :param ent_coef: likewise, or by its recipe
    :raises ValueError: if there is no temperature that could start there
    """
    if start_ent_coef is None:
        return
    if not hasattr(model, "set_ent_coef"):
        name = (model if isinstance(model, type) else type(model)).__name__
        raise ValueError(f"start_ent_coef is a temperature, which {name} does not have.")
    if fixed_value(ent_coef) is not None:
        raise ValueError(
            f"ent_coef={ent_coef} fixes the temperature, so that it does not start at start_ent_coef: leave one out."
        )


def _by_callbacks(model: Any, start_ent_coef: float | None) -> tuple[float, str] | None:
    """
    What a model's callbacks set before fine-tuning; ``start_ent_coef`` takes its place.

    :return: the temperature that is set last, and whose it is; None where nobody sets one
    """
    found = None
    for each in model.finetuning:
        value = each.starts_ent_coef(model.finished_phases)
        if value is not None:
            if start_ent_coef is not None:
                each.ent_coef = value = start_ent_coef
            found = value, type(each).__name__
    return found


def change_ent_coef(model: Any, ent_coef: Any) -> None:
    """
    Give a model that was just opened another ``ent_coef``. What its own file says as well changes nothing, so that a
    temperature that was tuned goes on.

    :param model: the model, of SAC
    :param ent_coef: a number, which stops the tuning; ``"auto"``, which goes on from where it is; or ``"auto_0.1"``
    """
    fixed = fixed_value(ent_coef)
    if fixed is not None:
        model.fix_ent_coef(fixed)
        model.ent_coef = ent_coef
        return
    if ent_coef == model.ent_coef:
        return
    present, start = _current(model), stated_start(ent_coef)
    if model.log_ent_coef is None:
        model.tune_ent_coef(ent_coef)
        start = start or present or None  # a temperature of 0 is none to start from
    if start is not None:
        model.set_ent_coef(start)
    model.ent_coef = ent_coef


def export_ent_coef(model: Any, stock: Any) -> None:
    """
    Give a stock model the temperature. Where pre-training fixes one that fine-tuning tunes, that is where it starts;
    where it is the other way round, the stock model has the value of fine-tuning already.

    :param model: of SAC
    :param stock: the same as a stock model, set up with the arguments of fine-tuning
    """
    present = _current(model)
    if stock.log_ent_coef is not None and model.log_ent_coef is not None:
        stock.log_ent_coef.data.copy_(model.log_ent_coef.data)
    elif stock.log_ent_coef is not None:
        if present > 0:  # a temperature of 0 is none to start from
            with th.no_grad():
                stock.log_ent_coef.fill_(math.log(present))
    elif "ent_coef" not in model.online_arguments:
        stock.ent_coef_tensor.fill_(present)


def settle_temperature(
    model: Any,
    taken: float | None,
    *,
    start: float | None = None,
    given: Any = None,
    otherwise: Any = None,
    who: str = "the source",
) -> None:
    """
    Decide where the temperature goes on. What is decided here, and not what was tuned in the model itself, is noted in
    its ``temperature_note`` and printed if it is verbose.

    :param model: the model that will fine-tune
    :param taken: the source's temperature, see :func:`own_temperature`
    :param start: ``start_ent_coef``, which wins
    :param given: the user's ``ent_coef``
    :param otherwise: a recipe's, or fine-tuning's where pre-training had another
    :param who: has tuned none, for the note
    :raises ValueError: if ``start`` is given and no temperature can start there
    """
    asked = otherwise if given is None else given
    model.temperature_note = None  # of an earlier run
    is_fixed = getattr(model, "log_ent_coef", None) is None
    check_start(model, start, getattr(model, "ent_coef", None) if asked is None and is_fixed else asked)
    set_later = _by_callbacks(model, start)
    if not hasattr(model, "set_ent_coef"):
        return
    fixed = fixed_value(asked)
    if fixed is not None:
        model.fix_ent_coef(fixed)
        model.ent_coef = asked
        return
    if is_fixed and asked is None:
        return
    if is_fixed:
        model.tune_ent_coef(asked)
        taken = None if stated_start(given) is not None else taken
    named = next((each for each in (given, otherwise, model.ent_coef) if stated_start(each) is not None), None)
    if start is not None:
        value, why = start, "as start_ent_coef says"
    elif taken is not None:
        value, why = taken, "where the source had it"
    elif not model.finetuning_objective.tunes_ent_coef:
        return
    elif named is not None:
        value, why = float(stated_start(named) or 0), f"as ent_coef={named!r} says, for {who} has tuned none"
    else:
        value, why = UNTUNED_ENT_COEF, f"for {who} has tuned none, and no start_ent_coef says another"
    if set_later is not None and set_later[0] != value:
        value, why = set_later[0], f"as {set_later[1]} says"
    if asked is not None and (taken is None or given is None):
        model.ent_coef = asked
    if start is None and not is_fixed and taken is not None and math.isclose(value, _current(model), rel_tol=1e-6):
        return  # it goes on, moments included
    model.set_ent_coef(value)
    model.temperature_note = f"The temperature starts at {value:g}, {why}."
    if model.verbose >= 1:
        print(model.temperature_note)


def _current(model: Any) -> float:
    return float(model.current_ent_coef().item())
