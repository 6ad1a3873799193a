"""Before anything starts: every model of an experiment is built once, every dataset is opened."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from sb3_o2o.experiments.grid_folder import check_same
from sb3_o2o.experiments.plan import Plan, PlannedRun, naming
from sb3_o2o.experiments.results import check_tables
from sb3_o2o.runs.training import Prepared, prepare


def check(plan: Plan, each: Callable[[PlannedRun, Prepared], None] | None = None) -> None:
    """
    Build every model of an experiment for one seed, on its dataset and its environment. Writes nothing.

    :param plan: the runs
    :param each: is given each run and what was made of it, before that is let go
    :raises ValueError: a dataset that does not fit its environment, an argument out of range, a run that was made with
        other settings, or tables of another version, naming the entries of the grid
    """
    check_tables(plan.folder)
    for run in plan.runs:
        check_same(plan.folder / run.name, run)
    for run in one_of_each(plan):
        with naming(plan.grid, run.dataset, run.recipe):
            prepared = prepare(replace(run.config, source=None))
            if each is not None:
                each(run, prepared)
            prepared.close()


def one_of_each(plan: Plan) -> Iterator[PlannedRun]:
    """
    :param plan: the runs
    :return: of the runs that differ in nothing but their seed the first
    """
    seed = plan.grid.seeds[0]
    return (run for run in plan.runs if run.config.seed == seed)


def share_of_cores(workers: int, cores: int) -> int:
    """
    :param workers: processes side by side
    :param cores: of the machine
    :return: CPU threads that each may have
    """
    return max(cores // max(workers, 1), 1)
