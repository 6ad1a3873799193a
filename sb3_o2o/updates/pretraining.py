"""Pre-training: updates on a fixed dataset, with the environment untouched."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import configure_logger

from sb3_o2o.data import OfflineDataset
from sb3_o2o.errors import NonFiniteError
from sb3_o2o.networks.normalizer import needs_statistics, set_observation_statistics
from sb3_o2o.updates.bars import PretrainingProgressBar
from sb3_o2o.updates.finite import keep, log_folder
from sb3_o2o.updates.gradient_phases import gradient_steps, prepare_objective
from sb3_o2o.updates.hooks import as_list, refuse_conflicts, refuse_unheard, walk
from sb3_o2o.updates.phases import PRETRAINING
from sb3_o2o.updates.sampling import fit_normalizer, is_same, load_dataset, open_offline_buffer
from sb3_o2o.updates.trainee import Trainee


def pretrain(
    model: Trainee,
    dataset: Any,
    n_steps: int,
    callback: MaybeCallback,
    log_interval: int,
    progress_bar: bool,
    tb_log_name: str,
    reset_gradient_steps: bool,
) -> None:
    """
    See ``pretrain`` of the algorithms. ``n_pretrain_steps`` of the model says how far it is, and
    ``online_counters`` holds SB3's counters of environment steps meanwhile; both are saved with it.
    """
    if n_steps == 0:
        raise ValueError(
            "pretrain was not told how many gradient steps to make: pretrain(dataset, gradient_steps=…), "
            "pretrain_steps=… of the constructor, or a recipe that pre-trains."
        )
    given = as_list(callback)
    refuse_conflicts([*model.finetuning, *given])
    refuse_unheard(each for each in given if not any(each is own for own in model.finetuning))
    model.check_reward_scale()
    check_normalizers(model)
    open_data(model, dataset)
    if not model._custom_logger:
        model._logger = configure_logger(model.verbose, model.tensorboard_log, tb_log_name, reset_gradient_steps)
    start = 0 if reset_gradient_steps else model.n_pretrain_steps
    total = start + n_steps
    bars = [PretrainingProgressBar(total)] if progress_bar else []
    callbacks = CallbackList([*given, *bars])
    for each in (*model.finetuning, callbacks):
        each.init_callback(model)  # type: ignore[arg-type]  # one that cannot start changes nothing
    try:
        _start(model, callbacks, start, total)
        callbacks.on_training_start({**locals(), "self": model, "total_timesteps": total}, globals())
        with model.call.running():
            _run(model, callbacks, total, log_interval)
            model.loop.watch.check_weights()
        callbacks.on_training_end()
    except NonFiniteError as error:
        keep(error, log_folder(model))
        raise
    finally:
        for bar in bars:
            bar.close()
        model.hooks.deliver_to(())
        leave(model)
        if "learning_starts" not in model.explicit_arguments:
            model.act_from_the_first_step()
        model.call.let_go(model.finetuning, model.hooks)


def default_steps(model: Trainee) -> int:
    """
    :param model: the algorithm
    :return: gradient steps where the caller names none: the constructor's, else the recipe's
    """
    return model.pretrain_steps or model.recipe_pretrain_steps


def open_data(model: Trainee, dataset: Any) -> None:
    """
    Open what is pre-trained on, or go on with what is open.

    :param model: the algorithm
    :param dataset: the constructor's by default
    :raises ValueError: if there is none, or it does not fit; nothing has changed then
    """
    source = model.dataset if dataset is None else dataset
    opened = model.offline_buffer
    if opened is not None and (source is None or source is model.pretrained_on or is_same(model, source, opened)):
        return  # its random generator goes on
    model.offline_buffer = None
    try:
        buffer = open_offline_buffer(model, source, "pretrain", whole_episodes=False)
        fit_normalizer(model, buffer.dataset)
    except BaseException:
        model.offline_buffer = opened  # nothing is half-applied
        raise
    model.offline_buffer, model.pretrained_on = buffer, source
    if model.dataset is None:
        model.dataset = source  # what fine-tuning callbacks draw from
    set_statistics(model, buffer.dataset)


def set_statistics(model: Trainee, dataset: OfflineDataset | None = None) -> None:
    """
    Give a policy that normalises observations the statistics of a dataset, once. ``has_statistics`` of the model, which
    is saved with it, says whether it has them.

    :param model: the algorithm
    :param dataset: the constructor's by default
    :raises ValueError: if they are needed and there is no dataset, or ``VecNormalize`` normalises observations already
    """
    check_normalizers(model)
    if model.has_statistics or not needs_statistics(model.policy):
        return
    if dataset is None:
        if model.dataset is None:
            raise ValueError("normalize_observations=True needs the statistics of a dataset: pass dataset=…")
        dataset = load_dataset(model, model.dataset)
    set_observation_statistics(model.policy, *dataset.observation_stats())
    model.has_statistics = True


def check_normalizers(model: Trainee) -> None:
    """
    :param model: the algorithm
    :raises ValueError: if both its policy and ``VecNormalize`` would normalise observations
    """
    env = model.get_vec_normalize_env()
    if env is not None and env.norm_obs and needs_statistics(model.policy):
        raise ValueError(
            "normalize_observations=True and VecNormalize would both normalise observations, one by statistics that "
            "belong before the other: set normalize_observations=False, or norm_obs=False of VecNormalize."
        )


def _start(model: Trainee, callback: BaseCallback, start: int, total: int) -> None:
    model.online_counters = model.num_timesteps, model._total_timesteps, model._current_progress_remaining
    interrupted = model.call.interrupted
    # in what an objective trains first: no step has been made, and the run has begun
    has_begun = interrupted is not None and interrupted.offline and model.n_pretrain_steps == 0
    model.n_pretrain_steps = start
    model.phase_steps, model.finished_phases = {}, []  # another policy: what was made of the last one is over
    if start == 0 and not has_begun:
        model.begin_new_run()
    model.call.take(callback, offline=True, logger=model.logger)
    model.loop.watch.begin_call()
    model.hooks.deliver_to([*model.finetuning, *walk(callback)], offline=True)
    model.num_timesteps, model._total_timesteps = model.n_pretrain_steps, total
    model.start_time = time.time_ns()
    if model.ep_info_buffer is None:  # as ``learn`` does it: callbacks may write logs
        model.ep_info_buffer = deque(maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    model._num_timesteps_at_start = model.num_timesteps
    model.set_phase(PRETRAINING)


def _run(model: Trainee, callback: BaseCallback, total: int, log_interval: int) -> None:
    if not prepare_objective(model, log_interval):
        return
    for step in gradient_steps(model, model.n_pretrain_steps, total, anneal=True):
        model.n_pretrain_steps = model.num_timesteps = step
        if not callback.on_step():
            return
        if step % log_interval == 0 or step == total:
            _dump_logs(model)


def _dump_logs(model: Trainee) -> None:
    elapsed = max((time.time_ns() - model.start_time) / 1e9, 1e-9)
    model.loop.record("offline")
    # x-axis of the offline run: gradient steps
    model.logger.record("time/gradient_steps", model.n_pretrain_steps, exclude="tensorboard")
    n_made = model.n_pretrain_steps - model._num_timesteps_at_start
    model.logger.record("time/updates_per_second", n_made / elapsed)
    model.logger.dump(step=model.n_pretrain_steps)


def leave(model: Trainee) -> None:
    """
    Give ``num_timesteps`` back to environment steps.

    :param model: the algorithm, of a checkpoint from the middle of pre-training as well
    """
    if model.online_counters is not None:
        model.num_timesteps, model._total_timesteps, model._current_progress_remaining = model.online_counters
        model.online_counters = None
        model.loop.metrics.clear()  # of an interrupted interval; they are not online ones
