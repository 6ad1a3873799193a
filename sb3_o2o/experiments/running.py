"""An experiment in one call."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from sb3_o2o.checked import checked
from sb3_o2o.experiments.check import check, share_of_cores
from sb3_o2o.experiments.grid import read_grid
from sb3_o2o.experiments.grid_folder import Status, open_experiment
from sb3_o2o.experiments.local import InThisProcess, LocalProcesses
from sb3_o2o.experiments.plan import make_plan
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
) -> dict[str, Status]:
    """
    Make what is not finished of an experiment, as ``sb3-o2o run`` does.

    :param grid: path of a YAML file, or the same as a dictionary, with a ``name``
    :param log_dir: folder of all experiments
    :param workers: runs at the same time, >= 0, 0 for all in this process; default: one for each core
    :param launcher: where runs are made; default: processes of this machine
    :param watcher: is given the status of every run now and then
    :return: name of each run -> its status at the end: finished, failed, interrupted or blocked
    :raises ValueError: an argument is not what it may be, or something in the grid does not exist or does not fit,
        before anything starts; or another process is at this experiment
    """
    plan = make_plan(read_grid(grid if isinstance(grid, Mapping) else Path(grid)), Path(log_dir))
    check(plan)
    if launcher is None:
        count = usable_cores() if workers is None else workers
        is_here = count == 0
        launcher = InThisProcess() if is_here else LocalProcesses(count, share_of_cores(count, usable_cores()))
    plan.folder.mkdir(parents=True, exist_ok=True)
    with locked(plan.folder, ".experiment.lock"):
        open_experiment(plan, "sb3_o2o.experiments.run")
        return dict(Schedule(plan, launcher, watcher).run())
