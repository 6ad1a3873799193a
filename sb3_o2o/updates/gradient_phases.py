"""Phases of updates without environment steps, and where they can be interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator

from sb3_o2o.data import OfflineReplayBuffer
from sb3_o2o.objectives import Objective
from sb3_o2o.updates.bars import PhaseProgressBar
from sb3_o2o.updates.finite import TROUBLE
from sb3_o2o.updates.phases import PRETRAINING
from sb3_o2o.updates.sampling import sample
from sb3_o2o.updates.trainee import Trainee


def gradient_steps(
    model: Trainee, start: int, total: int, batch_size: int | None = None, anneal: bool = False
) -> Iterator[int]:
    """
    Updates without environment steps, until all are made or a stop is asked for.

    :param model: the algorithm
    :param start: updates made before
    :param total: updates at the end
    :param batch_size: transitions per update; what offline phases draw by default
    :param anneal: schedules of learning rates follow this count; otherwise they stay where they are
    :return: after each update, how many have been made
    """
    for step in range(start, total):
        if model.call.clean_point():
            return
        if anneal:
            model._update_current_progress_remaining(step, total)
        model.loop.run(1, batch_size or model.offline_batch_size)
        yield step + 1


def run_phase(
    model: Trainee,
    name: str,
    objective: Objective,
    n_steps: int,
    buffer: OfflineReplayBuffer,
    log_interval: int,
    batch_size: int | None,
) -> bool:
    """
    See ``gradient_phase`` of the algorithms. ``phase_steps`` and ``finished_phases`` of the model say how far its
    phases are; both are saved with it.
    """
    outer, loop = model.phase, model.loop
    start = model.phase_steps.setdefault(name, 0)
    model.hooks.deliver_to(model.call.callbacks, offline=True)
    model.phase_in_progress = objective, buffer
    model.set_phase(name)
    bar = PhaseProgressBar(start, n_steps, name) if model.call.shows_progress else None
    is_watched = bar is not None or bool(model.hooks.defined("on_phase_step"))
    try:
        for step in gradient_steps(model, start, n_steps, batch_size):
            model.phase_steps[name] = step
            is_logged = step % log_interval == 0 or step == n_steps
            metrics = loop.metrics.means() if is_watched and (is_logged or step % 100 == 0) else {}
            if bar is not None:
                bar.update(metrics)
            model.hooks.call("on_phase_step", name, step, n_steps, metrics)
            if is_logged:
                loop.record(f"finetune/{name}")
                model.logger.dump(step)  # x-axis of these keys: gradient steps
    finally:
        if bar is not None:
            bar.close()
        model.phase_in_progress = None
        model.hooks.deliver_to(model.call.callbacks)
    if model.phase_steps[name] < n_steps:
        model.call.request_stop()  # for those who wait for the end of this phase
        return False
    model.loop.watch.check_weights()
    model.finished_phases.append(name)
    if outer not in (None, PRETRAINING, *model.phase_steps):  # a warm-up, which is still to come
        model.set_phase(str(outer))
    return True


def may_collect(model: Trainee) -> bool:
    """
    Let callbacks run their gradient-only phases before a rollout.

    :param model: the algorithm
    :return: False where a stop was asked for
    """
    if model.call.begins_episodes:
        model.call.begins_episodes = False
        model.hooks.call("on_new_episodes")
    if model.call.clean_point():
        return False
    hooks = ("before_rollout",) if model.call.is_collecting else ("before_collecting", "before_rollout")
    for hook in hooks:
        for method in model.hooks.defined(hook):
            method()
            if model.call.clean_point():
                return False
        model.call.is_collecting = True
    return True


def prepare_objective(model: Trainee, log_interval: int) -> bool:
    """
    Make the gradient steps that the offline objective needs before the first of pre-training, such as those of SPOT's
    density model. They count by themselves, no callback sees an ``on_step``, and an interrupted phase goes on where it
    was: what has been trained says how far it is.

    :param model: in its pre-training phase
    :param log_interval: gradient steps between two logs
    :return: whether pre-training may follow; False if the run was stopped
    """
    objective, started, metrics = model.offline_objective, time.time_ns(), model.loop.metrics
    done, total = objective.preparation_progress()
    first = done
    if done < total:
        model.policy.set_training_mode(True)
    while done < total:
        if model.call.clean_point():
            return False
        model.loop.watch.before_updates()
        batch = sample(model, model.offline_batch_size)
        try:
            metrics.add(model.loop.gradient_step(batch, None, prepare=True))
        except TROUBLE as error:
            model.loop.watch.answer(error, batch)  # raises unless the model has gone back
            done, total = objective.preparation_progress()
            continue
        done += 1
        if done % log_interval == 0 or done == total:
            for name, value in metrics.means().items():
                model.logger.record(f"offline/{name}", value)
            metrics.clear()
            elapsed = max((time.time_ns() - started) / 1e9, 1e-9)
            model.logger.record("time/preparation_steps", done, exclude="tensorboard")
            model.logger.record("time/updates_per_second", (done - first) / elapsed)
            model.logger.dump(step=done)
        model.hooks.call("on_preparation_step", objective.preparation, done, total)
    return True
