"""``sb3-o2o run``."""

import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sb3_o2o.cli.console import bold, console, next_command
from sb3_o2o.cli.shared_options import DEFAULT_LOG_DIR, LogDir, Trust, comma_separated, trusting_as_here

if TYPE_CHECKING:
    from sb3_o2o.experiments.grid_folder import Status
    from sb3_o2o.experiments.plan import Plan, PlannedRun
    from sb3_o2o.experiments.schedule import Launcher

LAUNCHERS = ("local", "ray", "slurm")

GridFile = Annotated[str, typer.Argument(help="YAML file: datasets, recipes and seeds.", show_default=False)]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Runs at the same time. Default: as many as there are cores. 0 makes them one after the other in this "
        "process, for debuggers.",
        min=0,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check all, list the runs, time a few updates; run nothing.")]
Datasets = Annotated[str | None, typer.Option(help="Of the grid, by name or Minari id, with commas: only their runs.")]
Recipes = Annotated[str | None, typer.Option(help="Likewise.")]
Seeds = Annotated[str | None, typer.Option(help="Likewise: 0,1.")]
Name = Annotated[str | None, typer.Option(help="Of the experiment and its folder. Default: the grid's.")]
LauncherName = Annotated[
    str,
    typer.Option(
        "--launcher",
        help="Where runs are made: local (processes), ray (tasks of a cluster) or slurm (jobs, by submitit).",
    ),
]
LaunchOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--launch",
        metavar="NAME=VALUE",
        help="What a run asks the cluster for, once for each: of ray.remote (num_cpus=2, num_gpus=1) or of submitit "
        "(timeout_min=120, cpus_per_task=2, slurm_partition=gpu). ray: address=… is the cluster's.",
    ),
]


def run(
    grid: GridFile,
    workers: Workers = None,
    dry_run: DryRun = False,
    datasets: Datasets = None,
    recipes: Recipes = None,
    seeds: Seeds = None,
    launcher: LauncherName = "local",
    launch: LaunchOptions = None,
    name: Name = None,
    log_dir: LogDir = DEFAULT_LOG_DIR,
    trust: Trust = False,
) -> None:
    """Run an experiment: every recipe on every dataset with every seed, several at the same time.

    `sb3-o2o run grid.yml --dry-run`

    Everything is checked before anything starts. A pre-training that several runs start from is made once.
    Ctrl-C saves every run; the same command goes on with what is not finished. --datasets, --recipes and --seeds make a
    part of it, in the same folder: the rest may follow, or be made elsewhere.

    On a cluster, whose nodes must see the experiment's folder and the datasets under the same paths:

    `sb3-o2o run grid.yml --launcher ray --launch num_cpus=2 --log-dir /shared/runs`
    """
    from sb3_o2o.errors import unknown
    from sb3_o2o.experiments.running import opened, planned
    from sb3_o2o.runs.threads import usable_cores

    if launcher not in LAUNCHERS:
        raise unknown("launcher", launcher, LAUNCHERS)
    options = _launch_options(launch, launcher)
    parts = (comma_separated("--datasets", datasets), comma_separated("--recipes", recipes))
    plan = planned(grid, log_dir, *parts, _whole_numbers("--seeds", seeds), name)
    workers = usable_cores() if workers is None else workers
    _check(plan)
    if dry_run:
        _show_plan(plan, workers)
        return
    with opened(plan, join(["sb3-o2o", *sys.argv[1:]])):
        _run(plan, _launcher(launcher, plan, workers, options, trust), grid)


def _whole_numbers(option: str, given: str | None) -> list[int] | None:
    names = comma_separated(option, given)
    if names is not None and not all(each.isdecimal() for each in names):
        raise ValueError(f"{option} takes whole numbers with commas between them, got {given!r}.")
    return None if names is None else [int(each) for each in names]


def _check(plan: "Plan") -> None:
    from sb3_o2o.experiments.check import check

    with console.status(f"Checking {len(plan.runs)} runs …"):
        check(plan)


def _launch_options(given: list[str] | None, launcher: str) -> dict[str, Any]:
    """Values as in YAML."""
    from sb3_o2o.cli.set_options import parse_value

    if given and launcher == "local":
        raise ValueError("--launch is for clusters: --launcher ray, or --launcher slurm.")
    options = {}
    for each in given or ():
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise ValueError(f"--launch takes NAME=VALUE, got {each!r}.")
        options[name] = parse_value(f"--launch {name}", text)
    return options


def _launcher(name: str, plan: "Plan", workers: int, options: dict[str, Any], trust: bool) -> "Launcher":
    from sb3_o2o.experiments.running import local_launcher

    if name == "ray":
        from sb3_o2o.experiments.ray_launcher import RayTasks

        return RayTasks(options.pop("address", None), options, trust)
    if name == "slurm":
        from sb3_o2o.experiments.slurm_launcher import SlurmJobs

        return SlurmJobs(plan.folder / "slurm", options, trust=trust)
    return local_launcher(workers, trust)


def _run(plan: "Plan", launcher: "Launcher", grid: str) -> None:
    """:raises typer.Exit: with 1 where a run failed, 130 where all were stopped"""
    from sb3_o2o.cli.experiment_display import ExperimentDisplay
    from sb3_o2o.experiments.grid_folder import BLOCKED, FAILED, INTERRUPTED
    from sb3_o2o.experiments.schedule import Schedule

    console.print(f"Experiment: {bold(plan.folder)}", soft_wrap=True, highlight=False)
    with ExperimentDisplay(console, plan) as display:
        schedule = Schedule(plan, launcher, display.show)
        statuses = schedule.run()
    for name, status in statuses.items():
        if status.state in (FAILED, BLOCKED):
            _say_failure(plan.folder / name, status)
    for error in schedule.table_errors:
        console.print("[bold red]Table not written:[/]", end=" ")
        console.print(error, markup=False, highlight=False, soft_wrap=True)
    states = [status.state for status in statuses.values()]
    _say_counts(states)
    console.print(f"Results: {bold(plan.folder / 'results.csv')}, runs.csv", soft_wrap=True, highlight=False)
    if INTERRUPTED in states and schedule.stops:
        next_command("Stopped and saved. Go on with:", join(["sb3-o2o", *sys.argv[1:]]))
        raise typer.Exit(130)
    if any(state in (FAILED, BLOCKED, INTERRUPTED) for state in states) or schedule.table_errors:
        raise typer.Exit(1)
    next_command("Report:", trusting_as_here(f"sb3-o2o report {quote(str(plan.folder))}"))


def _say_failure(path: Path, status: "Status") -> None:
    where = path / "error.txt"
    console.print(f"[bold red]{status.state}[/] {path.name}: ", end="", highlight=False)
    console.print(status.error, markup=False, highlight=False, soft_wrap=True, end="")
    console.print(f" ({where})" if where.is_file() else "", markup=False, highlight=False, soft_wrap=True)


def _say_counts(states: list[str]) -> None:
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()), highlight=False)


def _show_plan(plan: "Plan", workers: int) -> None:
    from sb3_o2o.experiments.check import share_of_cores
    from sb3_o2o.experiments.estimate import estimate, wall_time
    from sb3_o2o.experiments.grid_folder import Status, is_finished
    from sb3_o2o.progress import clock_text
    from sb3_o2o.runs.threads import usable_cores

    with console.status("Timing a few updates of each …"):
        estimates = estimate(plan, share_of_cores(workers, usable_cores()))
    console.print(f"{plan.grid.name}: {len(plan.runs)} runs", highlight=False)
    width = max(len(each.name) for each in plan.runs) + 2
    for each in _below_their_pretraining(plan):
        found, unit = estimates[each.name], "gradient" if each.phase == "offline" else "environment"
        name = f"  {each.name}" if each.needs else each.name
        notes = [f"for {len(plan.sharing(each.name))}"] if each.phase == "offline" else []
        if is_finished(plan.folder / each.name, each.phase):
            notes.append("finished")
        elif Status.read(plan.folder / each.name).attempts:
            notes.append("to go on with")
        steps = f"{each.config.steps(each.phase):>9,} {unit:<11} steps of {1e3 * found.step:6.1f} ms"
        line = f"{name:<{width}} {steps}  {clock_text(found.total):>8}  {', '.join(notes)}"
        console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
    everything = sum(each.total for each in estimates.values())
    console.print(
        f"About {clock_text(everything)} one after the other, {clock_text(wall_time(plan, estimates, workers))} with "
        f"{max(workers, 1)} at the same time, if each is as fast then as it was alone; evaluations with episodes of "
        "full length.",
        highlight=False,
        soft_wrap=True,
    )


def _below_their_pretraining(plan: "Plan") -> "Iterator[PlannedRun]":
    for each in plan.runs:
        if each.needs is None:
            yield each
            yield from plan.sharing(each.name)
