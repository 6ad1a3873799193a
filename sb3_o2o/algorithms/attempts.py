"""``learn`` and ``pretrain``, and again from a resume bundle where they were not finite and that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sb3_o2o.algorithms.learn_setup import all_callbacks
from sb3_o2o.errors import NonFiniteError
from sb3_o2o.resume.going_back import GoingBack
from sb3_o2o.updates import pretraining


def learn(model: Any, once: Callable[..., None], given: Mapping[str, Any]) -> None:
    """
    :param model: an algorithm
    :param once: its ``learn`` of one attempt
    :param given: arguments of that by name; an attempt from a bundle makes what is left
    :raises NonFiniteError: if something was not finite, and there is nothing to go back to, or once too often
    """
    back = GoingBack(model, all_callbacks(model, given.get("callback")), offline=False)
    end = given["total_timesteps"] + (0 if given.get("reset_num_timesteps", True) else model.num_timesteps)
    while True:
        try:
            return once(**given)
        except NonFiniteError as error:
            if back.after(error):
                given = {**given, "total_timesteps": end - model.num_timesteps, "reset_num_timesteps": False}


def pretrain(
    model: Any,
    dataset: Any,
    n_steps: int | None,
    callback: Any,
    log_interval: int,
    progress_bar: bool,
    tb_log_name: str,
    reset_gradient_steps: bool,
) -> None:
    """
    The same for ``pretrain`` of the algorithms, where the arguments are described.

    :raises NonFiniteError: as above
    """
    back = GoingBack(model, all_callbacks(model, callback), offline=True)
    steps = pretraining.default_steps(model) if n_steps is None else n_steps
    end = steps + (0 if reset_gradient_steps else model.n_pretrain_steps)
    while True:
        try:
            return pretraining.pretrain(
                model, dataset, steps, callback, log_interval, progress_bar, tb_log_name, reset_gradient_steps
            )
        except NonFiniteError as error:
            if back.after(error):
                steps, reset_gradient_steps = end - model.n_pretrain_steps, False
