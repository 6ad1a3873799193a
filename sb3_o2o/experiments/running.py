"""An experiment in one call."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from sb3_o2o.checked import checked
from sb3_o2o.experiments.check import check, share_of_cores
from sb3_o2o.experiments.grid import part_of, read_grid
from sb3_o2o.experiments.grid_folder import Status, open_experiment
from sb3_o2o.experiments.local import InThisProcess, LocalProcesses
from sb3_o2o.experiments.plan import Plan, make_plan
from sb3_o2o.experiments.schedule import Launcher, Schedule, Watcher
from sb3_o2o.files import locked
from sb3_o2o.kinds import NOTHING, CountFromZero, kind
from sb3_o2o.runs.threads import usable_cores

LAUNCHER = NOTHING | kind(
    "a launcher, such as LocalProcesses(2, 1)",
    lambda value: not isinstance(value, type) and all(hasattr(value, name) for name in ("start", "close", "workers")),
)


@checked
def run(
    grid: str | os.PathLike[str] | Mapping[str, Any],
    log_dir: str | os.PathLike[str] = "runs",
    workers: CountFromZero | None = None,
    launcher: Annotated[Launcher | None, LAUNCHER] = None,
    watcher: Watcher | None = None,
    datasets: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    seeds: Sequence[CountFromZero] | None = None,
) -> dict[str, Status]:
    """
    Make what is not finished of an experiment, as ``sb3-o2o run`` does.

    :param grid: path of a YAML file, or the same as a dictionary, with a ``name``
    :param log_dir: folder of all experiments
    :param workers: runs at the same time, >= 0, 0 for all in this process; default: one for each core
    :param launcher: where runs are made; default: processes of this machine
    :param watcher: is given the status of every run now and then
    :param datasets: of the grid, by name: only their runs, in the same folder; None for all
    :param recipes: likewise
    :param seeds: likewise
    :return: name of each run -> its status at the end: finished, failed, interrupted or blocked
    :raises ValueError: an argument is not what it may be, or something in the grid does not exist or does not fit,
        before anything starts; or another process is at this experiment
    """
    plan = planned(grid if isinstance(grid, Mapping) else Path(grid), Path(log_dir), datasets, recipes, seeds)
    check(plan)
    if launcher is None:
        launcher = local_launcher(usable_cores() if workers is None else workers)
    with opened(plan, "sb3_o2o.experiments.run"):
        return dict(Schedule(plan, launcher, watcher).run())


def planned(
    grid: str | Path | Mapping[str, Any],
    log_dir: Path,
    datasets: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    name: str | None = None,
) -> Plan:
    """
    :param grid: see :func:`run`
    :param log_dir: likewise
    :param datasets: likewise
    :param recipes: likewise
    :param seeds: likewise
    :param name: of the experiment; default: the grid's
    :return: the runs to make
    :raises ValueError: the grid is none, or has no such part
    """
    return make_plan(part_of(read_grid(grid, name), datasets, recipes, seeds), log_dir)


def local_launcher(workers: int, trust: bool = False) -> Launcher:
    """
    :param workers: runs at the same time; 0 for all in this process
    :param trust: whether files may run code
    :return: what makes runs on this machine, each with its share of the cores
    """
    return LocalProcesses(workers, share_of_cores(workers, usable_cores()), trust) if workers else InThisProcess()


@contextmanager
def opened(plan: Plan, command: str) -> Iterator[None]:
    """
    The experiment's folder, for this process alone.

    :param plan: what is to be made in it
    :param command: that makes it, for the folder's records
    :raises ValueError: another process is at it, or the folder holds another experiment
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder, ".experiment.lock"):
        open_experiment(plan, command)
        yield
