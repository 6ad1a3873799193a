"""Writes the pages of the documentation that say what the code says: recipes, commands, what goes with what."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
import yaml

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.cli import app
from sb3_o2o.recipes import list_recipes, load_recipe

ALGORITHMS: tuple[Any, ...] = (O2OSAC, O2OTD3, O2OPPO)


def write_all(folder: Path) -> None:
    """
    :param folder: where the pages go; what an earlier version has left there is removed
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "recipes").mkdir(parents=True)
    for name in list_recipes():
        (folder / "recipes" / f"{name}.md").write_text("\n".join(recipe_page(name)) + "\n")
    (folder / "recipes.md").write_text("\n".join(recipes_page()) + "\n")
    (folder / "commands.md").write_text("\n".join(commands_page()) + "\n")
    (folder / "objectives.md").write_text("\n".join(objectives_page()) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """
    :param header: of the columns
    :param rows: cells
    :return: lines of a Markdown table
    """
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(_cell(value) for value in row) + " |"
    yield ""


def _cell(value: Any) -> str:
    return str(value).replace("|", r"\|").replace("\n", " ")


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


# -- recipes -----------------------------------------------------------------------------------------------------------


def recipes_page() -> Iterator[str]:
    """The list of all recipes."""
    yield "# Recipes"
    yield ""
    yield "A recipe is a YAML file in RL Zoo's keys: a paper's settings by environment, each constant with its source."
    yield "`sb3-o2o recipes show NAME --env ENV` prints the entry for an environment."
    yield ""
    found = [load_recipe(name) for name in list_recipes()]
    yield from table(
        ("recipe", "what it is", "class", "updates before", "steps online"),
        [
            (
                f"[`{each.name}`](recipes/{each.name}.md)",
                each.title,
                f"`{each.algorithm}`",
                *(f"{steps:,}" for steps in (each.pretrain_steps, each.online_steps)),
            )
            for each in found
        ],
    )
    yield "```{toctree}\n:hidden:\n"
    yield from (f"recipes/{each.name}" for each in found)
    yield "```"


def recipe_page(name: str) -> Iterator[str]:
    """
    :param name: of a recipe
    :return: lines of its page
    """
    recipe = load_recipe(name)
    yield f"# `{name}`"
    yield ""
    yield f"{recipe.title}. {recipe.description}"
    yield ""
    for label, source in recipe.sources.items():
        yield f"- {label}: {source}"
    yield ""
    if recipe.notes:
        yield "**What differs.** " + " ".join(recipe.notes)
        yield ""
    document = yaml.safe_load(recipe.text)
    for pattern in (key for key in document if key != "about"):
        yield f"## {'Default entry' if pattern == 'default' else pattern}"
        yield ""
        entry = load_recipe(name, None if pattern == "default" else _example_of(pattern))
        if entry.pattern != pattern:
            yield "Environments whose ids match; `sb3-o2o recipes show` prints it."
            yield ""
            continue
        same = {} if pattern == "default" else recipe.flat_constants()
        rows = [
            (f"`{key}`", f"`{_shown(value)}`", _comment(entry.comments, key))
            for key, value in entry.flat_constants().items()
            if key not in same or same[key] != value
        ]
        if pattern != "default":
            yield "What differs from the default entry:"
            yield ""
        yield from table(("constant", "value", "source"), rows)


def _example_of(pattern: str) -> str:
    """An id that an entry's pattern matches."""
    return pattern.replace("*", "")


def _comment(comments: Any, key: str) -> str:
    while key not in comments and "." in key:
        key = key.rpartition(".")[0]
    return str(comments.get(key, ""))


# -- commands ----------------------------------------------------------------------------------------------------------


def commands_page() -> Iterator[str]:
    """What every command takes."""
    yield "# Commands"
    yield ""
    program = typer.main.get_command(app)
    for name, command in _commands(program, "sb3-o2o"):
        yield f"## `{name}`"
        yield ""
        yield (command.help or "").split("\f")[0].strip()
        yield ""
        rows = [_parameter(each) for each in command.params if each.name != "help"]
        if rows:
            yield from table(("", ""), rows)


def _parameter(parameter: Any) -> tuple[str, str]:
    """How it is written, and what it is."""
    text = getattr(parameter, "help", None) or ""
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`", text
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    shown = parameter.default
    if callable(shown) or shown is None or isinstance(shown, bool) or "efault" in text:
        return names, text
    return names, f"{text} Default: {shown}."


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for key, child in children.items():
        yield from _commands(child, f"{name} {key}")


# -- what goes with what -----------------------------------------------------------------------------------------------


def objectives_page() -> Iterator[str]:
    """Which objective which algorithm has."""
    names = sorted({name for algorithm in ALGORITHMS for name in algorithm.available_objectives})
    yield "# Objectives by algorithm"
    yield ""
    rows = []
    for name in names:
        owners = [algorithm.available_objectives.get(name) for algorithm in ALGORITHMS]
        first = next(owner for owner in owners if owner is not None)
        summary = (first.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        rows.append((f"`{name}`", *("yes" if owner else "" for owner in owners), _plain(summary)))
    yield from table(("objective", *(f"`{each.__name__}`" for each in ALGORITHMS), "what it minimises"), rows)


def _plain(text: str) -> str:
    """reStructuredText's roles and literals as Markdown's code."""
    text = re.sub(r":\w+:`~?([^`]*)`", lambda match: f"`{match[1].rpartition('.')[2]}`", text)
    return re.sub(r"\s+", " ", text.replace("``", "`"))
