"""What the commands say, and how errors look to people."""

import warnings
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from sb3_o2o.errors import NonFiniteError

console = Console()
error_console = Console(stderr=True)

_TRAINING_COMMANDS = ("demo", "pretrain", "finetune")


def bold(text: object) -> str:
    """
    :param text: a path, say, which may have brackets in it
    :return: the same for ``console.print``, to which they would be markup
    """
    return f"[bold]{escape(str(text))}[/]"


def next_command(text: str, command: str) -> None:
    """Prints a command to copy: never broken over two lines, whatever the width of the terminal."""
    console.print(f"\n{text} {bold(command)}", soft_wrap=True, highlight=False)


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
        except (ValueError, OSError, ImportError, NonFiniteError) as error:
            # typer ends quietly where nobody reads on, as before head or a pager
            if isinstance(error, BrokenPipeError) or ctx.find_root().params.get("traceback"):
                raise
            error_console.print("[bold red]Error:[/]", end=" ")
            error_console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            # a run that fails by itself is no mistake of the command line
            raise typer.Exit(1 if isinstance(error, NonFiniteError) else 2) from error
        except Exception as error:
            if type(error).__name__ == "NoSuchOption":  # click's, of which Typer may bring its own
                _suggest_options(error)
            raise


def _suggest_options(error: Any) -> None:
    """Click suggests what is spelled alike; ``--gradient-steps`` is what ``--steps`` should have been all the same."""
    last = error.option_name.rpartition("-")[2]
    options = [name for parameter in error.ctx.command.params for name in parameter.opts]
    error.possibilities = [name for name in options if name.rpartition("-")[2] == last] or error.possibilities


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a sentence, without the line of code that it came from."""
    error_console.print("[bold yellow]Warning:[/]", end=" ")
    error_console.print(str(message), markup=False, highlight=False, soft_wrap=True)
