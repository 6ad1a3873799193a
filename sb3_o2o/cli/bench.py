"""``sb3-o2o bench``."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sb3_o2o.cli.console import FriendlyGroup, console, error_console
from sb3_o2o.cli.shared_options import comma_separated

bench_app = typer.Typer(
    cls=FriendlyGroup, no_args_is_help=True, help="How fast this machine is: updates beside other libraries', the loop."
)

Threads = Annotated[
    int | None,
    typer.Option("--threads", help="CPU threads of each contestant. Default: $OMP_NUM_THREADS, else 1.", min=1),
]
BenchDevice = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Precisions = Annotated[str, typer.Option("--precision", help="Of our matrix products, with commas: fp32, bf16.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder for the numbers (JSON) and the picture.")
]


@bench_app.command()
def speed(
    rows: Annotated[
        str | None,
        typer.Option("--rows", help="Rows by name, with commas: sac, wsrl, wsrl_all, td3_bc, iql, cql, calql."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="How often each contestant is asked.", min=1)] = 9,
    updates: Annotated[int, typer.Option("--updates", help="Updates per round.", min=1)] = 40,
    threads: Threads = None,
    device: BenchDevice = "cpu",
    precision: Precisions = "fp32",
    peers: Annotated[
        list[Path] | None,
        typer.Option(
            "--peers",
            metavar="PYTHON",
            help="Interpreter of an environment with SBX or d3rlpy, once for each. Peers beside us are found.",
        ),
    ] = None,
    out: Out = None,
) -> None:
    """Milliseconds per update: ours, Stable-Baselines3's, the peers', and those of the matrix products alone.

    `sb3-o2o bench speed --rows sac,wsrl --peers .venv-sbx/bin/python --peers .venv-d3rlpy/bin/python`

    Contestants are processes that are asked in turn, round by round; a time is the median over the rounds, a ratio the
    median of the ratios within a round. Batches are drawn within the time. What the rows are: benchmarks/README.md.
    """
    from sb3_o2o.benchmarking import report
    from sb3_o2o.benchmarking.contestants import own_competitors, peer_competitors
    from sb3_o2o.benchmarking.race import race
    from sb3_o2o.benchmarking.work import rows_by_name
    from sb3_o2o.runs.machine import describe_machine

    chosen = rows_by_name(comma_separated("--rows", rows))
    competitors = [*own_competitors(comma_separated("--precision", precision)), *peer_competitors(peers or ())]
    _check_device(device)
    _prepare_folder(out)
    threads = _threads(threads)
    machine = describe_machine(device)
    with _remarks() as say:
        results, versions = race(
            chosen, competitors, rounds=rounds, updates=updates, threads=threads, device=device, say=say
        )
    # nothing says how wide a file or a pipe is: the columns must not be broken for it
    wide = console if console.is_terminal else Console(width=160)
    wide.print(report.time_table(results))
    ratios = report.ratio_table(results)
    if ratios is not None:
        wide.print(ratios)
    console.print()
    for line in report.notes(results):
        console.print(line, markup=False, highlight=False)
    where = f"{machine.get('gpu', machine['processor'])}; threads: {threads}; rounds: {rounds}, of {updates} updates"
    console.print(where, markup=False, highlight=False)
    if out is not None:
        settings = {"rows": [work.name for work in chosen], "rounds": rounds, "updates": updates, "threads": threads}
        settings.update(device=device, precision=comma_separated("--precision", precision))
        about = _about(machine, settings, versions=versions)
        report.write_json(out / "speed.json", report.to_document(results, about))
        report.draw(out / "speed.png", results, where)
        console.print(f"\nNumbers: {out / 'speed.json'}   picture: {out / 'speed.png'}", markup=False, soft_wrap=True)


@bench_app.command()
def env(
    env_id: Annotated[str, typer.Option("--env", help="Gymnasium id.")] = "Hopper-v5",
    steps: Annotated[int, typer.Option("--steps", help="Environment steps of each round.", min=1)] = 500,
    rounds: Annotated[int, typer.Option("--rounds", help="How often each is measured.", min=1)] = 5,
    transitions: Annotated[
        int, typer.Option("--transitions", help="Size of the dataset that is sampled.", min=2000)
    ] = 1_000_000,
    threads: Threads = None,
    device: BenchDevice = "cpu",
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the updates.")] = False,
    out: Out = None,
) -> None:
    """What acting, storing and sampling cost beside an update of the WSRL kind (10 critics, 4 updates per step).

    With 1, 4 and 16 environments, beside stock SAC's loop; then sampling of a large dataset, and the memory it takes.
    """
    from sb3_o2o.benchmarking import environment_loop as loop
    from sb3_o2o.benchmarking import report
    from sb3_o2o.runs.machine import describe_machine

    _check_device(device)
    _check_environment(env_id)
    _prepare_folder(out)
    threads = _threads(threads)
    machine = describe_machine(device)
    with _remarks() as say:
        measured = loop.measure(
            env_id,
            steps=steps,
            rounds=rounds,
            transitions=transitions,
            threads=threads,
            device=device,
            compile_updates=compile_,
            say=say,
        )
    for table in loop.tables(measured):
        console.print(table)
        console.print()
    console.print(f"{machine['processor']}; threads: {threads}; medians of {rounds} rounds", highlight=False)
    if out is not None:
        settings = {"env": env_id, "steps": steps, "rounds": rounds, "threads": threads, "device": device}
        about = _about(machine, {**settings, "transitions": transitions, "compile": compile_})
        report.write_json(out / "env.json", {"format": report.FORMAT, **about, **measured})
        console.print(f"\nNumbers: {out / 'env.json'}", markup=False, soft_wrap=True)


@bench_app.command()
def run(
    runs: Annotated[str | None, typer.Option("--runs", help="Schedules by name, with commas: sac, wsrl.")] = None,
    env_id: Annotated[str, typer.Option("--env", help="Gymnasium id.")] = "Hopper-v5",
    n_envs: Annotated[int, typer.Option("--n-envs", help="Environments of each run.", min=1)] = 1,
    steps: Annotated[int, typer.Option("--steps", help="Environment steps of each run.", min=1)] = 10_000,
    eval_freq: Annotated[int, typer.Option("--eval-freq", help="Steps between two evaluations.", min=1)] = 1_000,
    eval_episodes: Annotated[int, typer.Option("--eval-episodes", help="Episodes of each evaluation.", min=1)] = 10,
    threads: Threads = None,
    device: BenchDevice = "cpu",
    precision: Precisions = "fp32",
    peers: Annotated[
        list[Path] | None,
        typer.Option(
            "--peers", metavar="PYTHON", help="Interpreter of an environment with SBX. One beside us is found."
        ),
    ] = None,
    out: Out = None,
) -> None:
    """Seconds of whole runs: environment, acting, updates, evaluation and the rest; ours, Stable-Baselines3's, SBX's.

    `sb3-o2o bench run --runs sac --peers .venv-sbx/bin/python`

    Every contestant learns from start to end, by one schedule. They advance in turn, from evaluation to evaluation.
    """
    from dataclasses import replace

    from sb3_o2o.benchmarking import report, whole_runs
    from sb3_o2o.runs.machine import describe_machine

    if steps % eval_freq or eval_freq % n_envs:
        raise ValueError(
            f"--steps {steps} must be a multiple of --eval-freq {eval_freq}, and that one of --n-envs {n_envs}: "
            "contestants advance from evaluation to evaluation."
        )
    _check_environment(env_id)
    changes: dict[str, Any] = {"env_id": env_id, "n_envs": n_envs, "steps": steps}
    changes.update(eval_freq=eval_freq, n_eval_episodes=eval_episodes)
    chosen = [replace(each, **changes) for each in whole_runs.runs_by_name(comma_separated("--runs", runs))]
    precisions = comma_separated("--precision", precision)
    contestants = whole_runs.competitors(peers or (), precisions)
    _check_device(device)
    _prepare_folder(out)
    threads = _threads(threads)
    machine = describe_machine(device)
    with _remarks() as say:
        results = whole_runs.race_runs(chosen, contestants, threads=threads, device=device, say=say)
    for each, found in results:
        console.print(whole_runs.table(each, found))
        for missing in (entry for entry in found if entry.missing):
            console.print(f"{missing.label}: {missing.missing}", markup=False, highlight=False)
        console.print()
    where = f"{machine.get('gpu', machine['processor'])}; threads: {threads}"
    console.print(where, markup=False, highlight=False)
    if out is not None:
        settings = {**changes, "threads": threads, "device": device, "runs": [each.name for each in chosen]}
        settings["precision"] = precisions
        report.write_json(out / "run.json", whole_runs.to_document(results, _about(machine, settings)))
        whole_runs.draw(out / "run.png", results, where)
        console.print(f"\nNumbers: {out / 'run.json'}   picture: {out / 'run.png'}", markup=False, soft_wrap=True)


@contextmanager
def _remarks() -> Iterator[Callable[[str], None]]:
    """Says what is being measured: in a line that changes in a terminal, in lines now and then elsewhere."""
    from sb3_o2o.progress import Remarks

    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield Remarks(error_console)


def _check_environment(env_id: str) -> None:
    from gymnasium import spaces

    from sb3_o2o.runs.environments import Environment, import_named

    import_named(env_id)
    env = Environment(env_id).make()
    env.close()
    if not isinstance(env.action_space, spaces.Box):
        raise ValueError(f"--env {env_id} has the action space {env.action_space}: only continuous actions are known.")
    if not isinstance(env.observation_space, spaces.Box):
        raise ValueError(f"--env {env_id} observes {env.observation_space}: a vector of numbers is needed here.")


def _threads(asked: int | None) -> int:
    """As other commands have it: what was asked for, or the machine's setting, and never all cores unasked."""
    from sb3_o2o.runs.threads import given_threads

    given = given_threads(asked)
    return 1 if given is None else given.count


def _check_device(device: str) -> None:
    from sb3_o2o.benchmarking.contestants import DEVICES
    from sb3_o2o.errors import unknown
    from sb3_o2o.runs.requests import check_device

    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    check_device(device)


def _prepare_folder(out: Path | None) -> None:
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)  # before minutes of measuring
        except OSError as error:
            raise ValueError(f"--out {out}: this cannot be a folder ({error.strerror or error}).") from error


def _about(machine: dict[str, Any], settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "command": shlex.join(["sb3-o2o", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "settings": settings,
        **more,
    }
