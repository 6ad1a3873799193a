"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, overload

import typer

from sb3_o2o.cli.console import console

#: Where runs go unless said otherwise.
DEFAULT_LOG_DIR = Path("runs")

LogDir = Annotated[Path, typer.Option("--log-dir", help="Folder of all runs; each run makes a numbered one in it.")]
#: Largest seed: NumPy's have 32 bits, and evaluations and environments count on from it.
MAX_SEED = 2**31 - 1
Seed = Annotated[int, typer.Option(help="Seed of networks, batches and environments.", min=0, max=MAX_SEED)]
Device = Annotated[str, typer.Option(help="Torch device: auto, cpu, cuda, …")]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="DIR", help="Go on with the interrupted run in this folder; needs nothing else."),
]
Diagnostics = Annotated[
    bool,
    typer.Option(
        "--diagnostics", help="Log Q-values against returns, TD errors and drift as well; draw diagnostics.png."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A constructor argument instead of the recipe's, once for each. Nested ones with dots, as "
        "`recipes show` writes them: policy_kwargs.net_arch='[64, 64]', finetuning.Warmup.steps=1000. Values as in "
        "YAML.",
    ),
]
Episodes = Annotated[int, typer.Option("--eval-episodes", help="Episodes of each evaluation.", min=1)]
Evaluations = Annotated[int, typer.Option("--evaluations", help="Evaluations during each phase.", min=1)]
Checkpoints = Annotated[int, typer.Option("--checkpoints", help="Checkpoints during each phase.", min=0)]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="CPU threads. Default: $OMP_NUM_THREADS, else 1 for small networks, else what is measured to be fastest.",
        min=1,
    ),
]
ActingThreads = Annotated[
    int | None,
    typer.Option("--threads", help="CPU threads. Default: $OMP_NUM_THREADS, else 1.", min=1),
]


def _trust(ctx: typer.Context, trust: bool) -> bool:
    if trust:
        from sb3_o2o.plain.allowlist import trusting

        ctx.with_resource(trusting())
    return trust


Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        callback=_trust,
        help="Open files that may run any code, where they hold more than plain data: only of your own.",
    ),
]


def trusting_as_here(command: str, env_id: str = "") -> str:
    """
    :param command: that opens what this one has opened or written
    :param env_id: of the run that it opens: a module that a run names is imported with trust alone
    :return: the same, trusting where this one does, or where it has to
    """
    from sb3_o2o.plain.allowlist import is_trusted

    return f"{command} --trust" if is_trusted(False) or ":" in env_id else command


NEnvs = Annotated[
    int | None,
    typer.Option(
        "--n-envs",
        help="Environments side by side, with as many updates for each step as with one. Default: the recipe's.",
        min=1,
    ),
]


def acting_threads(asked: int | None) -> None:
    """
    Sets the number of threads for a policy that only acts, one observation at a time, and says it.

    :param asked: what the user said
    """
    from sb3_o2o.runs import threads

    chosen = threads.given_threads(asked) or threads.Threads(1, "enough for one observation at a time")
    threads.use_threads(chosen.count)
    console.print(str(chosen), markup=False, highlight=False, soft_wrap=True)


@overload
def comma_separated(option: str, given: str) -> list[str]: ...
@overload
def comma_separated(option: str, given: str | None) -> list[str] | None: ...
def comma_separated(option: str, given: str | None) -> list[str] | None:
    """
    :param option: its name
    :param given: what the user wrote; None where the option was left out
    :return: the names in it
    :raises ValueError: one of them is empty
    """
    if given is None:
        return None
    names = [each.strip() for each in given.split(",")]
    if not all(names):
        raise ValueError(f"{option} takes names with commas between them, got {given!r}.")
    return names
