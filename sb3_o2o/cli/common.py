"""What the commands share: errors for people, ``--set``, and shared options."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import yaml
from rich.console import Console
from typer.core import TyperGroup

if TYPE_CHECKING:
    from sb3_o2o.recipes import Recipe

console = Console()
error_console = Console(stderr=True)

#: Where runs go unless said otherwise.
DEFAULT_LOG_DIR = Path("runs")

_TRAINING_COMMANDS = ("demo", "pretrain", "finetune")

LogDir = Annotated[Path, typer.Option("--log-dir", help="Folder of all runs; each run makes a numbered one in it.")]
Seed = Annotated[int, typer.Option(help="Seed of networks, batches and environments.", min=0)]
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
        help="A constructor argument instead of the recipe's, once for each. Nested ones with dots: "
        "policy_kwargs.net_arch='[64, 64]'. Values as in YAML.",
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
NEnvs = Annotated[
    int | None,
    typer.Option(
        "--n-envs",
        help="Environments side by side, with as many updates for each step as with one. Default: the recipe's.",
        min=1,
    ),
]


def next_command(text: str, command: str) -> None:
    """Prints a command to copy: never broken over two lines, whatever the width of the terminal."""
    console.print(f"\n{text} [bold]{command}[/]", soft_wrap=True, highlight=False)


def acting_threads(asked: int | None) -> None:
    """
    Sets the number of threads for a policy that only acts, one observation at a time, and says it.

    :param asked: what the user said
    """
    from sb3_o2o.runs import threads

    chosen = threads.given_threads(asked) or threads.Threads(1, "enough for one observation at a time")
    threads.use_threads(chosen.count)
    console.print(str(chosen), markup=False, highlight=False, soft_wrap=True)


def stop(message: str) -> NoReturn:
    """
    End the command, as after Ctrl-C.

    :param message: what became of its work
    :raises typer.Exit: always
    """
    error_console.print(message, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(130)


class FriendlyGroup(TyperGroup):
    """Turns what a user can put right into one clear line and exit code 2; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                # Deprecations inside simulators and loggers are not the user's matter.
                warnings.filterwarnings("ignore", category=DeprecationWarning)
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeyboardInterrupt:
            when = " before training started" if ctx.invoked_subcommand in _TRAINING_COMMANDS else ""
            stop(f"Interrupted{when}: nothing was saved.")
        except (ValueError, OSError, ImportError) as error:
            if ctx.find_root().params.get("traceback"):
                raise
            error_console.print("[bold red]Error:[/]", end=" ")
            error_console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a sentence, without the line of code that it came from."""
    error_console.print("[bold yellow]Warning:[/]", end=" ")
    error_console.print(str(message), markup=False, highlight=False, soft_wrap=True)


def parse_settings(
    settings: Sequence[str] | None, recipe: "str | Recipe | None", env_id: str, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """
    Constructor arguments from ``--set NAME=VALUE``.

    :param settings: the options
    :param recipe: recipe whose nested arguments (``policy_kwargs``, …) a dotted name changes one entry of
    :param env_id: environment the recipe is for
    :param extra: arguments that other options stand for
    :return: keyword arguments
    :raises ValueError: another spelling, or an unknown argument (the nearest is named)
    """
    from sb3_o2o.algorithms import O2OSAC, algorithm_class
    from sb3_o2o.errors import check_keyword_arguments
    from sb3_o2o.recipes import load_recipe

    base: dict[str, Any] = {}
    algorithm: Any = O2OSAC
    if recipe is not None:
        loaded = load_recipe(recipe, env_id)
        base, algorithm = dict(loaded.arguments), algorithm_class(loaded.algorithm)
    overrides = _parsed(settings, base, extra)
    own_options = (
        "policy",
        "env",
        "seed",
        "device",
        "verbose",
        "tensorboard_log",
        "dataset",
        "pretrain_steps",
        "recipe",
    )
    check_keyword_arguments(
        "constructor argument", algorithm.__init__, overrides, skip=("_init_setup_model", *own_options)
    )
    return overrides


def dataset_settings(settings: Sequence[str] | None, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """
    What ``--set dataset_kwargs.NAME=VALUE`` says, before recipe and environment are known.

    :param settings: the options
    :param known: arguments of the dataset that hold unless they are set
    :return: keyword arguments of ``OfflineDataset.load``
    :raises ValueError: another spelling
    """
    chosen = [setting for setting in settings or () if setting.partition("=")[0].split(".")[0] == "dataset_kwargs"]
    return dict(_parsed(chosen, {"dataset_kwargs": known or {}}).get("dataset_kwargs", known) or {})


def _parsed(
    settings: Sequence[str] | None, base: dict[str, Any], extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    from sb3_o2o.recipes import PlainLoader

    overrides = dict(extra or {})
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes NAME=VALUE, got {setting!r}.")
        try:
            value = yaml.load(text, Loader=PlainLoader)
        except yaml.YAMLError as error:
            raise ValueError(f"The value of --set {name} is not YAML: {text!r}.") from error
        root, *nested = name.split(".")
        if nested:
            overrides[root] = _with_nested(overrides.get(root, copy.deepcopy(base.get(root))), nested, value, name)
        else:
            overrides[root] = value
    return overrides


def _with_nested(current: Any, path: Sequence[str], value: Any, name: str) -> dict[str, Any]:
    if current is not None and not isinstance(current, dict):
        raise ValueError(f"--set {name} goes into an argument that has no names inside: it is {current!r}.")
    current = dict(current or {})
    current[path[0]] = value if len(path) == 1 else _with_nested(current.get(path[0]), path[1:], value, name)
    return current
