"""The folder of an experiment: which runs it has, how far each is, and that another grid does not mix with it.

::

    runs/hopper/                           named after the grid
      grid.yml                             as it was given last
      results.csv, runs.csv                a row for each evaluation, a row for each run; .parquet with pyarrow
      pretraining/medium-v0-cql-1a2b3c-s0/ a run folder, as `sb3-o2o pretrain` leaves one
      medium-v0-wsrl-s0/                   a run folder, as `sb3-o2o finetune` leaves one, with two files more:
        job.json                           what the grid asks of it
        status.json                        how far it is, and what it took
        log.txt, error.txt                 what its process said; the traceback of a run that failed
"""

import json
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sb3_o2o.experiments.plan import Plan, PlannedRun
from sb3_o2o.files import write_whole
from sb3_o2o.runs.folder import RunConfig, RunFolder, plain

#: States of a run. ``blocked``: its pre-training failed.
WAITING, RUNNING, FINISHED, FAILED, INTERRUPTED, BLOCKED = (
    *("waiting", "running", "finished", "failed", "interrupted", "blocked"),
)


@dataclass
class Status:
    """
    How far a run is, and what it took.

    :param state: one of this module's states
    :param phase: ``offline`` or ``online``
    :param step: of the phase
    :param total: length of the phase
    :param score: of the last evaluation, normalised where references are known
    :param unit: ``score`` or ``return``
    :param speed: steps per second of the last minutes, evaluations included
    :param seconds: that the run took so far, without what was lost by interruptions
    :param attempts: how often it was started
    :param error: why it failed, in one line
    :param host: machine of the last attempt
    :param pid: process of the last attempt
    :param times: phase -> step of each evaluation -> seconds after the run's start
    :param episodes: training episodes that reported success or failure
    :param successes: of these, the successful ones
    :param reference: minimum, maximum and provenance of scores
    :param versions: of what it ran with
    :param machine: processor and cores
    """

    state: str = WAITING
    phase: str = ""
    step: int = 0
    total: int = 0
    score: float | None = None
    unit: str = "return"
    speed: float | None = None
    seconds: float = 0.0
    attempts: int = 0
    error: str = ""
    host: str = ""
    pid: int = 0
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    episodes: int = 0
    successes: int = 0
    reference: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float | None:
        """Of the phase, at the present speed."""
        return None if not self.speed or self.state != RUNNING else (self.total - self.step) / self.speed

    @classmethod
    def read(cls, path: Path) -> "Status":
        """
        :param path: folder of the run
        :return: its status; a waiting one where nothing, or nothing whole, was written yet
        """
        try:
            known = json.loads((path / "status.json").read_text())
            return cls(**{each.name: known[each.name] for each in fields(cls) if each.name in known})
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        """
        :param path: folder of the run
        :raises OSError: it cannot be written
        """
        write_whole(path / "status.json", json.dumps(asdict(self)))


@dataclass(frozen=True)
class Job:
    """
    What a grid asks of a run: all that the process needs to know that makes it, beside ``config.yml``.

    :param name: of the run
    :param dataset: name of the grid's entry
    :param recipe: likewise
    :param needs: name of the pre-training that it starts from
    :param asked: all that decides its numbers, in plain types
    :param command: that started the experiment
    :param commit: of the code that was in the present folder then
    :param bundle_seconds: between two resume bundles; None for the default
    :param arguments: all constructor arguments that it has by its recipe, as that was when the experiment was started;
        empty where that was not noted
    """

    name: str
    dataset: str
    recipe: str
    needs: str | None
    asked: dict[str, Any]
    command: str = ""
    commit: str = ""
    bundle_seconds: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def check_arguments(self, now: Mapping[str, Any], where: str) -> None:
        """
        :param now: what the recipe gives now
        :param where: it stands
        :raises ValueError: that is something else: its seeds would not be seeds of one method
        """
        differing = _differences(self.arguments, json.loads(json.dumps(plain(now)))) if self.arguments else []
        if differing:
            raise ValueError(
                f"{where} was edited since this experiment was started: {'; '.join(differing[:5])}. Undo that, and run "
                "the experiment again; or start one of another --name."
            )

    @classmethod
    def read(cls, path: Path) -> "Job":
        """
        :param path: folder of the run
        :return: its job
        :raises ValueError: there is none
        """
        try:
            return cls(**json.loads((path / "job.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} is no run of an experiment: its job.json cannot be read ({error})."
            ) from error


def experiment_of(run: Path, job: Job) -> Path:
    """
    :param run: folder of a run
    :param job: its job
    :return: folder of the experiment
    """
    return run.resolve().parents[len(Path(job.name).parts) - 1]


def is_finished(path: Path, phase: str) -> bool:
    """
    :param path: folder of a run
    :param phase: its last one
    :return: whether that is complete
    """
    return (path / phase / "model.zip").is_file() and not RunFolder(path).resume_bundle.is_dir()


def finished_status(path: Path, phase: str) -> Status | None:
    """
    What is known of a run that is complete. Where its own last word was lost, on a full disk or killed in that moment,
    it is written now.

    :param path: folder of a run
    :param phase: its last one
    :return: its status; None where it is not complete
    """
    if not is_finished(path, phase):
        return None
    status = Status.read(path)
    if status.state != FINISHED:
        status.state, status.error, status.speed = FINISHED, "", None
        with suppress(OSError):  # the next one who asks writes it
            status.write(path)
    return status


def open_experiment(plan: Plan, command: str) -> None:
    """
    Make the folders of a plan, or go on in those of an earlier one. What decides no number, such as threads, is what
    the grid says now for all runs that have yet to begin.

    :param plan: the runs
    :param command: that was typed
    :raises ValueError: a run of that name was made with other settings, which are named; nothing is written then
    :raises OSError: nothing can be written there
    """
    for run in plan.runs:
        check_same(plan.folder / run.name, run)
    commit = git_commit(Path.cwd())
    write_whole(plan.folder / "grid.yml", plan.grid.text)
    for run in plan.runs:
        path = plan.folder / run.name
        if (path / "job.json").is_file() and Status.read(path).attempts:
            continue
        path.mkdir(parents=True, exist_ok=True)
        every = plan.grid.options.bundle_seconds
        arguments = dict(plain(run.arguments))
        job = Job(run.name, run.dataset, run.recipe, run.needs, dict(run.asked), command, commit, every, arguments)
        write_whole(RunFolder(path).config_file, run.config.to_yaml())
        write_whole(path / "job.json", json.dumps(asdict(job), indent=1))


def check_same(path: Path, run: PlannedRun) -> None:
    """
    :param path: folder of a run, which need not exist
    :param run: what is asked of it now
    :raises ValueError: it was made with other settings, which are named, or holds something else
    """
    if not (path / "job.json").is_file():
        if path.exists() and any(path.iterdir()):
            raise ValueError(
                f"{path} holds something else than a run of this grid: choose another --name or --log-dir."
            )
        return
    now = json.loads(json.dumps(run.asked))
    before = {**_absent_then(now), **Job.read(path).asked}
    differing = list(_differences(before, now))
    if differing:
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(differing[:5])}. Choose another --name or --log-dir, or "
            "delete it."
        )


def _absent_then(names: Iterable[str]) -> dict[str, Any]:
    """Options that are newer than a folder did nothing in it: they were what their defaults are."""
    known = [each for each in fields(RunConfig) if each.name in names]
    made = {each.name: each.default_factory() for each in known if each.default_factory is not MISSING}
    return {**{each.name: each.default for each in known if each.default is not MISSING}, **made}


def _differences(before: Any, now: Any, name: str = "") -> "list[str]":
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            text
            for key in sorted({*before, *now})
            for text in _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if before == now else [f"{name} is {before} there, not {now}"]


def git_commit(folder: Path) -> str:
    """
    :param folder: perhaps inside a repository
    :return: its commit, with ``+changes`` where files differ from it; empty elsewhere
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return ""
