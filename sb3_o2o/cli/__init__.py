"""The command line, ``sb3-o2o``. Heavy imports wait inside the commands, so that ``--help`` answers at once."""

from typing import Annotated

import typer

from sb3_o2o.cli.advice_command import advise
from sb3_o2o.cli.bench import bench_app
from sb3_o2o.cli.console import FriendlyGroup
from sb3_o2o.cli.data import collect
from sb3_o2o.cli.demo import demo
from sb3_o2o.cli.experiments import run
from sb3_o2o.cli.inspection_command import inspect
from sb3_o2o.cli.policies import evaluate, select
from sb3_o2o.cli.recipes import recipes_app
from sb3_o2o.cli.reports import report
from sb3_o2o.cli.train import finetune, pretrain
from sb3_o2o.cli.tune import tune
from sb3_o2o.version import __version__

app = typer.Typer(
    name="sb3-o2o",
    cls=FriendlyGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with **sb3-o2o demo**. Each command explains itself: **sb3-o2o finetune --help**.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sb3_o2o {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    """Offline-to-online reinforcement learning for Stable-Baselines3.

    A policy is first trained on a dataset (**pretrain**), then made better in the environment
    (**finetune**). Every run writes one folder: configuration, TensorBoard logs, evaluations in
    Stable-Baselines3's layout, checkpoints and a learning curve. Ctrl-C is safe: it saves, and says how to go on.
    """


app.command()(demo)
app.command()(advise)
app.command()(pretrain)
app.command()(finetune)
app.command()(evaluate)
app.command()(select)
app.command()(tune)
app.command()(run)
app.command()(report)
app.command()(collect)
app.command()(inspect)
app.add_typer(recipes_app, name="recipes")
app.add_typer(bench_app, name="bench")

__all__ = ["app"]
