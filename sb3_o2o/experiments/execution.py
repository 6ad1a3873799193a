"""One run of an experiment, in this process: from its folder to its rows in the tables."""

import os
import platform
import socket
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from sb3_o2o.evaluation import Evaluation, NormalizedEvalCallback
from sb3_o2o.evaluation.curve_metrics import ended_successes
from sb3_o2o.experiments.grid_folder import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    Job,
    Status,
    experiment_of,
    finished_status,
    is_finished,
)
from sb3_o2o.experiments.results import add_to_tables
from sb3_o2o.files import locked, remove_leftovers, write_whole
from sb3_o2o.plain.allowlist import trusting
from sb3_o2o.progress import Pace
from sb3_o2o.recipes import Recipe, load_recipe
from sb3_o2o.resume import ResumeBundle, newest_bundle
from sb3_o2o.runs.folder import RunConfig, RunFolder
from sb3_o2o.runs.machine import describe_machine
from sb3_o2o.runs.settings import arguments_over
from sb3_o2o.runs.threads import choose_threads, given_threads, use_threads
from sb3_o2o.runs.training import Interrupted, Prepared, RunListener, prepare, train
from sb3_o2o.version import __version__

#: Seconds between two words about how far a run is.
EVERY = 1.0
#: Seconds that a run waits for another process that is at it.
PATIENCE = 60.0


class _Stopwatch:
    """Seconds since it was asked last. Not part of a callback's state: a run that goes on begins with a new one."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        passed, self._since = now - self._since, now
        return passed


class StatusListener(RunListener):
    """
    Writes how far a run is. What it counts comes back from the bundle of an interrupted run, so that seconds and
    episodes that were lost are not counted; where nothing is left to train, from the status.

    :param folder_path: of the run
    :param status: of the run so far
    """

    def __init__(self, folder_path: Path, status: Status):
        super().__init__()
        self.folder_path = folder_path
        self.status = status
        self.stopwatch = _Stopwatch()
        self.pace = Pace()
        # what an interruption keeps
        self.seconds, self.times = status.seconds, {phase: dict(times) for phase, times in status.times.items()}
        self.episodes, self.successes = status.episodes, status.successes
        self.num_timesteps = status.step
        self.running: dict[int, bool] = {}

    def begin_phase(self, phase: str, done: int, total: int, evaluation: NormalizedEvalCallback) -> None:
        super().begin_phase(phase, done, total, evaluation)
        self.status.phase, self.status.step, self.status.total = phase, done, total
        self.pace = Pace(done)

    def evaluated(self, step: int, result: Evaluation) -> None:
        self.seconds += self.stopwatch.lap()
        self.times.setdefault(self.status.phase, {})[str(step)] = round(self.seconds, 2)
        self.status.score = result.score
        self.status.unit = "return" if result.normalized is None else "score"
        self.write(step)

    def on_preparation_step(self, name: str, done: int, total: int) -> None:
        """
        How far is what an objective trains before pre-training.

        :param name: what it is
        :param done: steps made
        :param total: steps to be made
        """
        self.on_phase_step(name, done, total, {})

    def on_phase_step(self, name: str, done: int, total: int, metrics: dict[str, float]) -> None:
        """
        How far is a phase of fine-tuning that makes no environment steps.

        :param name: what it is
        :param done: updates made
        :param total: updates to be made
        :param metrics: its losses
        """
        self.seconds += self.stopwatch.lap()
        if self.pace.silent_for() >= EVERY:
            self.pace, self.status.speed = Pace(self.pace.step), None
            shown = replace(self.status, phase=name, step=done, total=total, seconds=round(self.seconds, 2))
            shown.write(self.folder_path)

    def _on_step(self) -> bool:
        self.seconds += self.stopwatch.lap()
        if self.status.phase == "online":
            ended = ended_successes(self.running, self.locals["infos"], self.locals["dones"])
            self.episodes += len(ended)
            self.successes += sum(ended)
        if self.pace.silent_for() >= EVERY:
            self.write(self.num_timesteps)
        return super()._on_step()

    def write(self, step: int) -> None:
        """
        :param step: of the phase
        """
        status = self.status
        self.pace.reached(step)
        status.speed = self.pace.speed
        self.note(step)
        status.write(self.folder_path)

    def note(self, step: int) -> None:
        """
        :param step: of the phase
        """
        status = self.status
        status.step = step
        status.seconds, status.times = round(self.seconds, 2), self.times
        status.episodes, status.successes = self.episodes, self.successes


def execute(path: Path, threads: int | None = None, trust: bool = False) -> str:
    """
    Make a run, or go on with it. Whatever happens is in its folder afterwards: ``status.json``, and ``error.txt`` with
    the traceback of one that failed.

    :param path: folder of the run, with ``job.json`` and ``config.yml``
    :param threads: CPU threads that it may have at most; None for all
    :param trust: whether its files may name modules to be imported
    :return: its state: finished, failed or interrupted
    :raises ValueError: there is no run, or another process is at it
    """
    path = path.resolve()
    job = Job.read(path)
    config = RunFolder(path).read_config()
    with ExitStack() as own:
        if trust:
            own.enter_context(trusting())
        _wait_for(path, own)
        if finished_status(path, config.last_phase) is not None:
            return FINISHED
        status = Status.read(path)
        status = replace(
            status, state=RUNNING, error="", attempts=status.attempts + 1, host=socket.gethostname(), pid=os.getpid()
        )
        status.versions, status.machine, status.speed = versions(), describe_machine(), None
        try:
            status.write(path)
            (path / "error.txt").unlink(missing_ok=True)
            _train(path, job, config, status, threads)
            status.state = FINISHED
        except Interrupted:
            status.state = INTERRUPTED
        except KeyboardInterrupt:
            status.state, status.error = INTERRUPTED, "stopped at once"
        except Exception as error:
            status.state, status.error = FAILED, _in_one_line(error)
            with suppress(OSError):  # a full disk: the launcher says at least that it failed
                write_whole(path / "error.txt", traceback.format_exc())
        status.speed = None
        with suppress(OSError):
            status.write(path)
    with suppress(OSError):  # likewise: whoever started it tries again, and says so
        add_to_tables(experiment_of(path, job), [path])
    return status.state


def _wait_for(path: Path, own: ExitStack) -> None:
    """A worker whose parent was killed takes a moment to save itself."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            own.enter_context(locked(path))
            return
        except ValueError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _train(path: Path, job: Job, config: RunConfig, status: Status, threads: int | None) -> None:
    folder = RunFolder(path)
    remove_leftovers(path)
    found = newest_bundle(folder.resume_bundle)
    resume_from = None if found is None else found[0]
    if resume_from is None:
        _begin_anew(folder, job, config)
        status.step, status.seconds, status.times = 0, 0.0, {}
        status.episodes = status.successes = 0
    prepared = _prepared(config, resume_from, _recipe(config, job) if resume_from is None else None, threads)
    reference = prepared.reference
    status.reference = None if reference is None else asdict(reference)
    if resume_from is None:
        folder.write_start(prepared.config, prepared.arguments(), job.command)
    listener = StatusListener(path, status)
    try:
        train(prepared, folder, listener, _bundles(folder, job))
    finally:
        listener.note(listener.num_timesteps)


def _bundles(folder: RunFolder, job: Job) -> ResumeBundle | None:
    """As often as the grid says; None for the default."""
    if job.bundle_seconds is None:
        return None
    return ResumeBundle(folder.resume_bundle, min_seconds=job.bundle_seconds, max_share=None)


def _begin_anew(folder: RunFolder, job: Job, config: RunConfig) -> None:
    """What an attempt without a bundle has left would mix with this one's."""
    folder.forget_progress(config)
    if job.needs is None:
        return
    source = experiment_of(folder.path, job) / job.needs
    if not is_finished(source, "offline"):
        raise ValueError(f"The pre-training in {source} is not finished.")
    folder.take_over_offline(source, config.diagnostics)


def _recipe(config: RunConfig, job: Job) -> Recipe | None:
    """Of a run that begins, hours after it was planned perhaps: what was planned then is what is made."""
    if config.recipe is None:
        return None
    recipe = load_recipe(config.recipe, config.environment.id)
    job.check_arguments(arguments_over(recipe, config.overrides), f"Recipe {config.recipe!r}")
    return recipe


def _prepared(config: RunConfig, resume_from: Path | None, recipe: Recipe | None, threads: int | None) -> Prepared:
    """A checked run, in a process that has its number of threads, which its configuration says afterwards."""
    given = given_threads(config.threads)
    count = None if given is None else given.count
    if config.threads is None and threads is not None:
        count = threads if threads == 1 else count
    use_threads(count or 1)
    prepared = prepare(config, resume_from, recipe)
    if count is None:
        count = choose_threads(prepared.model).count
        count = count if threads is None else min(count, threads)
        use_threads(count)
    prepared.config = replace(config, threads=count)
    return prepared


def versions() -> dict[str, str]:
    """:return: of what a run's numbers depend on"""
    import gymnasium
    import numpy
    import stable_baselines3
    import torch

    modules: dict[str, Any] = {"torch": torch, "stable_baselines3": stable_baselines3, "gymnasium": gymnasium}
    known = {
        "sb3_o2o": __version__,
        **{name: str(module.__version__) for name, module in modules.items()},
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
    with suppress(metadata.PackageNotFoundError):
        known["mujoco"] = metadata.version("mujoco")  # returns differ between a simulator's versions
    return known
