"""How long an experiment will take, from a few timed updates of each of its parts."""

import copy
import inspect
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_o2o.evaluation import evaluate
from sb3_o2o.experiments.check import one_of_each
from sb3_o2o.experiments.plan import Plan, PlannedRun, naming
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.recipes import load_recipe
from sb3_o2o.runs.folder import RunConfig
from sb3_o2o.runs.settings import arguments_over
from sb3_o2o.runs.threads import use_threads
from sb3_o2o.runs.training import Prepared, prepare

#: Updates that are timed, after as many that are not.
TIMED = 10
#: Arguments of fine-tuning callbacks that say how long a phase of theirs lasts.
_DURATIONS = ("steps", "collect_steps", "gradient_steps")


@dataclass(frozen=True)
class Estimate:
    """
    What a run will take.

    :param step: seconds of a gradient step offline, or of an environment step with its updates online
    :param training: seconds of all of them, phases of callbacks included
    :param evaluation: seconds of its evaluations, with episodes of full length
    """

    step: float
    training: float
    evaluation: float

    @property
    def total(self) -> float:
        """Seconds of the run."""
        return self.training + self.evaluation


def estimate(plan: Plan, threads: int) -> dict[str, Estimate]:
    """
    Time what differs in more than its seed. Writes nothing.

    :param plan: the runs
    :param threads: CPU threads of each
    :return: for each run what it will take alone on this machine
    :raises ValueError: something does not fit together, as :func:`~sb3_o2o.experiments.check.check` says
    """
    measured: dict[str, Estimate] = {}
    for run in one_of_each(plan):
        use_threads(run.config.threads or threads)
        with naming(plan.grid, run.dataset, run.recipe):
            offline = measured.get(run.needs or "")
            measured[run.name] = _of_run(run.config, None if offline is None else offline.step)
    ending = f"-s{plan.grid.seeds[0]}"
    return {run.name: measured[run.name.removesuffix(f"-s{run.config.seed}") + ending] for run in plan.runs}


def _of_run(config: RunConfig, update: float | None) -> Estimate:
    short, phase_steps = _shortened(config)
    prepared = prepare(short)
    if update is not None:  # what it starts from has learned what its objective needs
        prepared.model.pretrain(config.dataset, 1)
    if config.last_phase == "offline":
        step = _offline(prepared, config)
        training = step * config.pretrain_steps
    else:
        step = _online(prepared)
        training = step * config.online_steps + phase_steps * (step if update is None else update)
    seconds = _evaluation_step(prepared) * _episode_steps(prepared) * config.n_eval_episodes
    evaluations = config.evaluations(config.last_phase)
    return Estimate(step, training, seconds * (evaluations + 1))


def _shortened(config: RunConfig) -> tuple[RunConfig, int]:
    """The run with phases of one step each, and how many gradient steps were left out."""
    recipe = None if config.recipe is None else load_recipe(config.recipe, config.environment.id)
    arguments = arguments_over(recipe, config.overrides)
    overrides, left_out = dict(copy.deepcopy(config.overrides)), 0
    specs = []
    for each in arguments.get("finetuning") or ():
        name, given = (each, {}) if isinstance(each, str) else next(iter(each.items()))
        left_out += int((given or {}).get("gradient_steps", 0))
        options = {key: 1 if key in _DURATIONS else value for key, value in (given or {}).items()}
        if _follows_evaluations(name, options):  # of which there are none while updates are timed
            options["reference"] = "interval"
        specs.append({name: options})
    overrides["finetuning"] = specs
    if "density_steps" in (arguments.get("objective_kwargs") or {}):
        overrides["objective_kwargs"] = {**arguments["objective_kwargs"], "density_steps": 1}
    algorithm = recipe.algorithm if recipe else "O2OSAC"
    if algorithm == "O2OPPO":  # as many updates for each transition as with longer rollouts
        overrides["n_steps"] = max(int(arguments.get("batch_size", 64)) // config.n_envs, 2)
    else:
        overrides["learning_starts"] = 0
    return replace(config, source=None, overrides=overrides), left_out


def _follows_evaluations(name: str, options: Mapping[str, Any]) -> bool:
    callback = FineTuningCallback.registry.get(name)
    reference = None if callback is None else inspect.signature(callback).parameters.get("reference")
    return reference is not None and options.get("reference", reference.default) == "best"


def _offline(prepared: Prepared, config: RunConfig) -> float:
    """Seconds of a gradient step."""
    model: Any = prepared.model
    buffer = model.open_offline_buffer(config.dataset)
    model.set_phase("pretraining")
    started = 0.0
    for number in range(2 * TIMED):
        if number == TIMED:
            started = time.perf_counter()
        model.update(model.to_batch(buffer.sample(model.batch_size)))
    return (time.perf_counter() - started) / TIMED


class _Timer(BaseCallback):
    """Notes when each step of all environments was made."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def _on_step(self) -> bool:
        self.times.append(time.perf_counter())
        return True


def _online(prepared: Prepared) -> float:
    """Seconds of an environment step, updates included."""
    model, n_envs, timer = prepared.model, prepared.config.n_envs, _Timer()
    rollout = getattr(model, "n_steps", 1) if prepared.config.overrides.get("n_steps") else 1
    calls = max(2 * TIMED, 2 * rollout)
    started = time.perf_counter()
    model.learn(calls * n_envs, callback=timer)
    ended = time.perf_counter()
    if rollout > 1:  # updates come after each rollout
        return (ended - started) / len(timer.times) / n_envs
    half = len(timer.times) // 2
    return (timer.times[-1] - timer.times[half]) / (len(timer.times) - 1 - half) / n_envs


def _evaluation_step(prepared: Prepared) -> float:
    started = time.perf_counter()
    result = evaluate(prepared.model, prepared.eval_env, 1, seed=0)
    return (time.perf_counter() - started) / max(int(result.lengths.sum()), 1)


def _episode_steps(prepared: Prepared) -> int:
    spec = prepared.eval_env.get_attr("spec")[0]
    return getattr(spec, "max_episode_steps", None) or 1000


def wall_time(plan: Plan, estimates: Mapping[str, Estimate], workers: int) -> float:
    """
    :param plan: the runs
    :param estimates: of each
    :param workers: runs at the same time
    :return: seconds until the last run ends, if each starts as soon as a worker is free and its pre-training is there
    """
    ends: dict[str, float] = {}
    free: list[float] = [0.0] * max(workers, 1)
    waiting: list[PlannedRun] = list(plan.runs)
    while waiting:
        run = min(waiting, key=lambda each: _ready(each, ends))
        waiting.remove(run)
        worker = free.index(min(free))
        free[worker] = max(free[worker], _ready(run, ends)) + estimates[run.name].total
        ends[run.name] = free[worker]
    return max(ends.values(), default=0.0)


def _ready(run: PlannedRun, ends: Mapping[str, float]) -> float:
    return 0.0 if run.needs is None else ends.get(run.needs, float("inf"))
