"""What ``learn`` does before its first step, around what Stable-Baselines3 does."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from sb3_o2o.algorithms.pretrain_kwargs import arguments_of_finetuning
from sb3_o2o.transfer import renewal
from sb3_o2o.updates import pretraining, sampling
from sb3_o2o.updates.hooks import Hooks, as_list, refuse_conflicts, walk


def before_learn(model: Any, callback: Any, progress_bar: bool, n_steps: int) -> None:
    """
    Check the callbacks, pre-train where the constructor says so, and hand the policy over.

    :param model: an algorithm of ours
    :param callback: what ``learn`` was given
    :param progress_bar: likewise
    :param n_steps: environment steps to make
    :raises ValueError: if a callback would do nothing, or cannot work beside the others; no environment, network or
        count has changed then
    """
    callbacks = all_callbacks(model, callback)
    refuse_conflicts(callbacks)
    hooks = Hooks()
    hooks.deliver_to(callbacks)
    model.refuse_unused_hooks(hooks)
    _check_run(model, callbacks)
    if model.pretrain_steps > 0 and model.n_pretrain_steps < model.pretrain_steps:
        for each in callbacks:
            if hasattr(each, "check_length"):
                each.check_length(n_steps)
        _pretrain_first(model, callbacks, progress_bar)
    model.check_reward_scale()
    note = model.note_on_counts()
    if note is not None and model.verbose >= 1:
        print(note)
    if model.n_pretrain_steps >= model.pretrain_steps:  # and not stopped in the middle of it
        renewal.hand_over(model)
        model.finetuning_objective.check_prepared()
    pretraining.set_statistics(model)
    sampling.fit_normalizer_to_callbacks(model, all_callbacks(model, callback))


def begin_learn(model: Any, callback: BaseCallback, resets: bool, progress_bar: bool) -> None:
    """
    Bring the callbacks into the run, and look at the first observations.

    :param model: an algorithm of ours
    :param callback: all callbacks, after Stable-Baselines3 has initialised them
    :param resets: the environments have begun new episodes
    :param progress_bar: of ``learn``
    :raises ValueError: if two losses share a name
    """
    if resets:
        model.episodes_cut()
        model.call.begins_episodes = True
    model.call.is_collecting, model.call.shows_progress = False, progress_bar
    if model.temperature_note is not None and model.n_finetuning_steps == 0:
        model.logger.record("finetune/start_ent_coef", model.current_ent_coef().item())
    model.call.take(callback, offline=False, logger=model.logger)
    model.loop.watch.begin_call()
    model.loop.watch.check_first(model._last_obs)
    model.finetuning_run.bring_in(walk(callback))
    model.hooks.deliver_to(walk(callback))
    _ask(model.call.callbacks)  # those of another run have begun anew, and may refuse what they had behind them
    model.loop.optimizers(model.finetuning_objective)  # refuses losses that share a name


def begin_new_episodes(model: Any) -> None:
    """
    Reset the environments in the middle of a call, after a step that was not stored.

    :param model: an algorithm of ours
    """
    model.episodes_cut()
    model._last_obs = model.env.reset()
    model._last_episode_starts = np.ones((model.env.num_envs,), dtype=bool)
    model.loop.watch.check_first(model._last_obs)
    model.hooks.call("on_new_episodes")


def all_callbacks(model: Any, callback: Any) -> list[BaseCallback]:
    """
    :param model: an algorithm of ours
    :param callback: what ``learn`` was given
    :return: the model's own callbacks and those, each by itself and once
    """
    return list(dict.fromkeys(each for given in (*model.finetuning, *as_list(callback)) for each in walk(given)))


def _pretrain_first(model: Any, callbacks: list[BaseCallback], progress_bar: bool) -> None:
    """
    RL Zoo knows only the constructor and ``learn``. Its callbacks belong to the online phase: their evaluations and
    checkpoints are numbered by environment steps.
    """
    with arguments_of_finetuning(model):
        for each in callbacks:  # one that cannot start says so before hours of training; ours have been asked
            if not hasattr(each, "check_run"):
                each.init_callback(model)
    is_new, missing = model.n_pretrain_steps == 0, model.pretrain_steps - model.n_pretrain_steps
    hearing = [each for each in callbacks if getattr(each, "hears_pretraining_of_learn", False)]
    model.pretrain(None, missing, hearing, progress_bar=progress_bar, reset_gradient_steps=is_new)
    if model.n_pretrain_steps < model.pretrain_steps:
        model.request_stop()  # it was stopped: do not go on in the environment


def _check_run(model: Any, callbacks: list[BaseCallback]) -> None:
    """:raises ValueError: if one of our callbacks could not start, or not beside the others"""
    model.hooks.deliver_to(callbacks)
    if not hasattr(model, "_logger"):
        model.set_logger(Logger(None, []))  # that of ``learn`` comes when callbacks are initialised again
        model._custom_logger = False
    with arguments_of_finetuning(model):
        for each in callbacks:  # in order, as ``learn`` will do it: some look at those before them
            if hasattr(each, "check_run"):
                each.init_callback(model)
            else:
                each.model = model  # what others do when they are initialised, such as make folders, comes later
        model.loop.optimizers(model.finetuning_objective)
        _ask(callbacks)


def _ask(callbacks: list[BaseCallback]) -> None:
    """:raises ValueError: if one of our callbacks cannot work beside the others"""
    for each in callbacks:
        if hasattr(each, "check_run"):
            each.check_run(callbacks)
