"""What an objective trains on the dataset before pre-training begins."""

from __future__ import annotations

import time

from sb3_o2o.updates.gradient_phases import UpdatePhases


def prepare_objective(model: UpdatePhases, log_interval: int) -> bool:
    """
    Make the gradient steps that the offline objective needs before the first of pre-training, such as those of SPOT's
    density model. They count by themselves, no callback sees an ``on_step``, and an interrupted phase goes on where it
    was: what has been trained says how far it is.

    :param model: in its pre-training phase
    :param log_interval: gradient steps between two logs
    :return: whether pre-training may follow; False if the run was stopped
    """
    objective, started = model.offline_objective, time.time_ns()
    done, total = objective.preparation_progress()
    first = done
    if done < total:
        model.policy.set_training_mode(True)
    while done < total:
        if model._clean_point():
            return False
        model._accumulate(model._gradient_step(model._sample(model._offline_batch_size), None, prepare=True))
        done += 1
        if done % log_interval == 0 or done == total:
            for name, value in model._mean_metrics().items():
                model.logger.record(f"offline/{name}", value)
            model._metric_sums = {}
            elapsed = max((time.time_ns() - started) / 1e9, 1e-9)
            model.logger.record("time/preparation_steps", done, exclude="tensorboard")
            model.logger.record("time/updates_per_second", (done - first) / elapsed)
            model.logger.dump(step=done)
        model.hooks.call("on_preparation_step", objective.preparation, done, total)
    return True
