"""``sb3-o2o recipes``."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from sb3_o2o.cli.console import FriendlyGroup, bold, console
from sb3_o2o.cli.set_options import shown
from sb3_o2o.errors import warn

recipes_app = typer.Typer(cls=FriendlyGroup, no_args_is_help=True, help="The papers' settings: list them, show one.")


@recipes_app.command("list")
def list_() -> None:
    """All recipes, one line each."""
    from sb3_o2o.recipes import list_recipes, load_recipe

    table = Table(box=None, pad_edge=False)
    for column in ("recipe", "what it is", "pre-training", "online"):
        table.add_column(column)
    for name in list_recipes():
        recipe = load_recipe(name)
        table.add_row(name, recipe.title, f"{recipe.pretrain_steps:,}", f"{recipe.online_steps:,}")
    console.print(table)
    console.print("\nSteps are those of the default entry. See all constants: [bold]sb3-o2o recipes show NAME[/]")


@recipes_app.command()
def show(
    name: Annotated[str, typer.Argument(help="Recipe, or path of your own .yml.")],
    env: Annotated[
        str | None, typer.Option("--env", help="Gymnasium id; the recipe's entry for it is shown. Default: `default`.")
    ] = None,
) -> None:
    """One recipe with all its constants, and where each comes from."""
    from sb3_o2o.recipes import load_recipe
    from sb3_o2o.recipes.building import check_recipe
    from sb3_o2o.runs.environments import check_registered

    recipe = check_recipe(load_recipe(name, env))
    if env is not None:
        try:
            check_registered(env)
        except ValueError as error:  # an environment of one's own may be registered elsewhere
            warn(f"{error} Shown is the entry that its name would have.")
    console.print(f"{bold(recipe.title)}\n{escape(recipe.description)}\n")
    for label, source in recipe.sources.items():
        console.print(f"{label}: {source}", markup=False, highlight=False)
    title = escape(f"\nEntry {recipe.pattern!r} for {recipe.algorithm}")
    table = Table(title=title, title_justify="left", box=None)
    for column in ("constant", "value", "source"):
        table.add_column(column, overflow="fold")
    group = ""
    for key, value in recipe.flat_constants().items():
        above, _, name = key.rpartition(".")
        if above and above != group:
            table.add_row(f"{above}:")
        group = above
        texts = (f"  {name}" if above else name, shown(value), _comment(recipe.comments, key))
        table.add_row(*map(escape, texts))
    console.print(table)
    for note in recipe.notes:
        console.print(f"\nNote: {note}", markup=False, highlight=False)
    console.print(f"\nFile: {recipe.path}", markup=False, highlight=False)


def _comment(comments: Any, key: str) -> str:
    """The comment beside a constant, or beside what it is part of."""
    while key not in comments and "." in key:
        key = key.rpartition(".")[0]
    return comments.get(key, "")
