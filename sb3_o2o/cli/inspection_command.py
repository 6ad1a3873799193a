"""``sb3-o2o inspect``: what is in a file, without opening it."""

from typing import Annotated

import typer

from sb3_o2o.cli.console import console


def inspect(
    file: Annotated[
        str,
        typer.Argument(
            help="A saved model (ours or stock), a run folder, a resume bundle, a replay buffer or VecNormalize .pkl, "
            "a dataset."
        ),
    ],
) -> None:
    """Say what is in a file, and whether opening it needs --trust. Nothing in it is run.

    `sb3-o2o inspect sac_hopper.zip`
    """
    from rich.markup import escape
    from rich.table import Table

    from sb3_o2o.runs.inspection import inspect as inspect_file

    found = inspect_file(file)
    console.print(f"{file}: {found.kind}", markup=False, highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None)
    for name, value in found.facts.items():
        table.add_row(escape(str(name)), escape(str(value)))
    if found.names:
        table.add_row("names", escape(", ".join(found.names)))
    console.print(table, highlight=False)
    if found.needs_trust:
        console.print("Opening it needs --trust (trust=True), because of:", style="bold")
        for each in found.needs_trust:
            console.print(f"  {each}", markup=False, highlight=False, soft_wrap=True)
    else:
        console.print("It opens without running code.", style="bold")
