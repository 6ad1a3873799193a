"""Writes the pages of the documentation that say what the code says: recipes, commands, what goes with what."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
import yaml

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3, kinds
from sb3_o2o.cli import app
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.recipes import list_recipes, load_recipe
from sb3_o2o.updates.hooks import refuse_conflicts

#: what ``make combinations`` has asked of the code, and the tests ask of parts of it: empty, or why it is refused
COMBINATIONS: Mapping[str, Mapping[str, Mapping[str, str]]] = json.loads(
    (Path(__file__).parent / "combinations.json").read_text()
)
SETTINGS = ("Box", "Dict", "images", "several environments", "gSDE", "compile", "resume")
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
    (folder / "combinations.md").write_text("\n".join(combinations_page()) + "\n")
    (folder / "kinds.md").write_text("\n".join(kinds_table()) + "\n")


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
    yield from _where(name)
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


def _where(recipe: str) -> Iterator[str]:
    """In a sentence where a recipe can be used, and in what words it is refused."""
    found = COMBINATIONS["recipes"].get(recipe, {})
    works = [name for name in SETTINGS if found.get(name) == ""]
    yield f"**Can be used with:** {', '.join(works)} ([all recipes](../combinations.md#recipes))."
    yield ""
    for name in SETTINGS:
        if found.get(name):
            yield f"- not with {name}: {found[name]}"
    yield ""


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


def kinds_table() -> Iterator[str]:
    """The names that stand for types in signatures, and what they allow."""
    named = {name: each for name, each in vars(kinds).items() if get_origin(each) is Annotated}
    yield from table(
        ("name", "what the argument must be"),
        [(f"`{name}`", str(each.__metadata__[0])) for name, each in named.items()],
    )


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


def combinations_page() -> Iterator[str]:
    """Which objective goes with which callback, and where objectives and recipes can be used."""
    reasons = Reasons()
    yield "# What goes with what"
    yield ""
    yield "Each cell is a tiny run: both phases, and the policy has moved; or it is refused, with the words below."
    yield "`make combinations` asks all of it of the code again, and the tests ask a part of it each time."
    yield ""
    yield "## Objectives and callbacks"
    yield ""
    yield "The objective is minimised before and online (PPO has its own rule online)."
    yield ""
    for algorithm in ALGORITHMS:
        family = algorithm.stock_class.__name__.lower()
        rows = {
            row.partition("/")[2]: each
            for row, each in COMBINATIONS["callbacks"].items()
            if row.startswith(f"{family}/")
        }
        yield f"### `{algorithm.__name__}`"
        yield ""
        callbacks = sorted(next(iter(rows.values())))
        yield from table(
            ("", *(f"`{name}`" for name in rows)),
            [(f"`{callback}`", *(reasons.cell(each[callback]) for each in rows.values())) for callback in callbacks],
        )
    yield "## Callbacks beside each other"
    yield ""
    yield "Each is given once, and one of each of these groups; all other pairs work together:"
    yield ""
    yield from table(("callbacks", "what only one can decide"), list(_exclusive_pairs()))
    yield "## Where objectives can be used"
    yield ""
    yield "`compile`: updates are traced into graphs. `resume`: a resume bundle in the middle of fine-tuning, with the"
    yield "dataset in a file."
    yield ""
    yield from table(
        ("objective", *SETTINGS),
        [
            (f"{_owner(row)} `{row.partition('/')[2]}`", *(reasons.cell(each[name]) for name in SETTINGS))
            for row, each in COMBINATIONS["objectives"].items()
        ],
    )
    yield "## Recipes"
    yield ""
    yield "The recipe's default entry with small networks."
    yield ""
    yield from table(
        ("recipe", *SETTINGS),
        [
            (f"[`{name}`](recipes/{name}.md)", *(reasons.cell(each[setting]) for setting in SETTINGS))
            for name, each in COMBINATIONS["recipes"].items()
        ],
    )
    yield "## In which words"
    yield ""
    yield from (f"{number}. {words}" for words, number in reasons.numbers.items())


class Reasons:
    """Numbers for the words in which something is refused."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def cell(self, words: str) -> str:
        """
        :param words: of a refusal; empty where there is none
        :return: what stands in a table
        """
        return f"no ({self.numbers.setdefault(words, len(self.numbers) + 1)})" if words else "yes"


def _owner(row: str) -> str:
    family = row.partition("/")[0]
    return next(f"`{each.__name__}`" for each in ALGORITHMS if each.stock_class.__name__.lower() == family)


def _exclusive_pairs() -> Iterator[tuple[str, str]]:
    """Groups of callbacks of which a run has one, and what they decide."""
    classes = {name: FineTuningCallback.registry[name] for name in next(iter(COMBINATIONS["callbacks"].values()))}
    groups: dict[str, set[str]] = {}
    for pair in combinations(sorted(classes), 2):
        try:
            refuse_conflicts([classes[name]() for name in pair])
        except ValueError as error:
            what = str(error).partition("both decide ")[2].partition(", which only")[0]
            groups.setdefault(what, set()).update(pair)
    for what, names in sorted(groups.items()):
        yield ", ".join(f"`{name}`" for name in sorted(names)), what


def _plain(text: str) -> str:
    """reStructuredText's roles and literals as Markdown's code."""
    text = re.sub(r":\w+:`~?([^`]*)`", lambda match: f"`{match[1].rpartition('.')[2]}`", text)
    return re.sub(r"\s+", " ", text.replace("``", "`"))
