"""The update, top to bottom: sample, prepare, steps, gradients, optimisers, targets, hooks."""

from __future__ import annotations

from itertools import chain

import torch as th
from stable_baselines3.common.utils import update_learning_rate

from sb3_o2o.errors import NonFiniteError
from sb3_o2o.networks.optimizers import set_gradients, step_all
from sb3_o2o.objectives import Objective
from sb3_o2o.objectives.batch import Batch, Step, reported
from sb3_o2o.updates.finite import TROUBLE, FiniteWatch
from sb3_o2o.updates.gradients import GradientFunctions
from sb3_o2o.updates.metrics import Metrics
from sb3_o2o.updates.sampling import sample
from sb3_o2o.updates.trainee import Trainee


class UpdateLoop:
    """
    Makes gradient updates of a model: whatever its active objective minimises, changed by whatever its callbacks hook
    into. All that it keeps over an interruption are the sums of :attr:`metrics`; graphs are compiled anew.

    :param model: the algorithm; it owns the networks, optimisers and counters
    """

    def __init__(self, model: Trainee):
        self.model = model
        self.metrics = Metrics()
        self.gradients = GradientFunctions(model.compile, model.verbose)
        self.watch = FiniteWatch(model)

    def forget_graphs(self) -> None:
        """Compile anew, as after networks changed their shapes."""
        self.gradients = GradientFunctions(self.model.compile, self.model.verbose)

    def run(self, gradient_steps: int, batch_size: int) -> None:
        """
        Make updates on sampled batches. Where the algorithm draws blocks, the transitions of all updates are sampled
        and converted at once; the actor then steps on its own minibatch or on the whole block.

        :param gradient_steps: updates to make
        :param batch_size: transitions per update
        """
        model = self.model
        if not model.policy.training:  # a walk through all modules, which a small update would notice
            model.policy.set_training_mode(True)
        self.update_learning_rates()
        block = sample(model, batch_size * gradient_steps) if model.draws_blocks(gradient_steps) else None
        for step in range(gradient_steps):
            self.watch.before_updates()
            batch = (
                sample(model, batch_size) if block is None else block.part(step * batch_size, (step + 1) * batch_size)
            )
            waits = model.active_objective.delayed and model.active_objective.actor_waits
            on_block = block is not None and model.actor_batch == "block" and waits
            actor_batch = block if on_block else batch
            try:
                self.metrics.add(self.update(batch, actor_batch, step))
            except TROUBLE as error:
                self.watch.answer(error, batch)  # raises unless the model has gone back to earlier weights

    def update(self, batch: Batch, actor_batch: Batch | None = None, step: int = 0) -> dict[str, th.Tensor]:
        """
        One update: a step of each optimiser whose turn it is, target networks, hooks.

        :param batch: transitions for the critics
        :param actor_batch: transitions for the actor; the same by default
        :param step: how many updates came before it since the last rollout
        :return: losses and metrics, detached, on the device
        """
        model = self.model
        model._n_updates += 1
        objective = model.active_objective
        is_actor_step = not objective.delayed or model.is_actor_step()
        steps_actor = (is_actor_step or not objective.actor_waits) and model.hooks.allow_actor_update()
        metrics = self.gradient_step(batch, (batch if actor_batch is None else actor_batch) if steps_actor else None)
        if objective.moves_targets and (not objective.delayed or model.is_target_step(step, is_actor_step)):
            model.update_targets()
        model.hooks.call("after_update", batch, metrics)
        model.hooks.call("on_gradient_step")
        return metrics

    def gradient_step(self, batch: Batch, actor_batch: Batch | None, prepare: bool = False) -> dict[str, th.Tensor]:
        """
        What steps optimisers in an update. Each step of the objective sees what the steps before it changed.

        :param batch: transitions for the critics
        :param actor_batch: transitions for the actor; None when it waits
        :param prepare: train what the objective needs before pre-training instead
        :return: losses and metrics, detached, on the device
        :raises NonFiniteError: if a loss is not finite; no optimiser has stepped on it
        """
        model, hooks = self.model, self.model.hooks
        objective = model.active_objective
        is_shared = actor_batch is batch
        batch = hooks.prepare(batch)
        if actor_batch is not None:
            actor_batch = batch if is_shared else hooks.prepare(actor_batch)
        optimizers = self.optimizers(objective)
        parameters = {name: parameters_of(optimizer) for name, optimizer in optimizers.items()}
        steps = (
            objective.preparation_steps(batch)
            if prepare
            else chain(hooks.critic_steps(batch), objective.steps(batch, actor_batch))
        )
        metrics: dict[str, th.Tensor] = {}
        for step in steps:
            losses, step_metrics, gradients = self.gradients(step, parameters)
            self.watch.check_losses(losses, batch)
            for name, values in zip(losses, gradients, strict=True):
                set_gradients(parameters[name], values, optimizers[name])
            if model.actor_max_grad_norm is not None and "actor" in losses:
                th.nn.utils.clip_grad_norm_(parameters["actor"], model.actor_max_grad_norm)
            step_all(optimizers[name] for name in losses)  # once all gradients of the step are formed
            metrics = reported(metrics, step_metrics, _who(step))
            for name, loss in losses.items():  # where several steps are of one optimiser, their sum
                key = f"{name}_loss"
                metrics[key] = metrics[key] + loss if key in metrics else loss
        return metrics

    def optimizers(self, objective: Objective) -> dict[str, th.optim.Optimizer]:
        """
        :param objective: what is minimised
        :return: the optimisers of an update, by the names of their losses: the algorithm's, the objective's and those
            of callbacks
        :raises ValueError: if a callback's has a name that another has
        """
        own = self.model.optimizers() | objective.optimizers
        return own | self.model.hooks.optimizers(own)

    def update_learning_rates(self) -> None:
        """Let optimisers follow their schedules."""
        model = self.model
        objective, schedules = model.active_objective, model.learning_rates()
        remaining, follows = model._current_progress_remaining, model.hooks.follows() | objective.follows
        for name, optimizer in self.optimizers(objective).items():
            schedule = schedules.get(follows.get(name, name))
            if schedule is not None:
                factor = objective.learning_rate_factor(name, remaining)
                update_learning_rate(optimizer, factor * schedule(remaining))

    def record(self, prefix: str) -> None:
        """
        Hand what has been summed to the logger, and begin a new interval.

        :param prefix: of the keys: ``train``, ``offline``, or ``finetune/`` and a phase
        """
        try:
            self.watch.read()
        except NonFiniteError as error:
            self.watch.roll_back(error)
        model, sums = self.model, self.metrics.sums
        for name, value in self.metrics.means().items():
            model.logger.record(f"{prefix}/{name}", value)
        if sums:
            optimizers = model.optimizers() | model.active_objective.optimizers
            trained = [name for name in optimizers if f"{name}_loss" in sums]
            # a delayed actor may have had no step since the last log, but some phases train none
            name = trained[0] if model.phase_in_progress is not None and "actor" not in trained else "actor"
            model.logger.record(f"{prefix}/learning_rate", optimizers[name].param_groups[0]["lr"])
        if self.gradients.compile:
            model.logger.record("time/compile_seconds", self.gradients.compile_seconds)
        self.metrics.clear()


def _who(step: Step) -> str:
    """Whose losses a step has."""
    return type(getattr(step.function, "__self__", step.function)).__name__


def parameters_of(optimizer: th.optim.Optimizer) -> list[th.nn.Parameter]:
    """
    :param optimizer: any
    :return: what it trains, in its order
    """
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
