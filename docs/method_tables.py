"""
Writes the tables on the pages of methods and of evidence again, from stored runs, from the recipes and from what the
code was asked: ``make tables``.

Such a table stands between two comments, the first of which says what it is: ``<!-- runs: iql -->`` … ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "benchmarks" / "suite")]

from generate import COMBINATIONS, SETTINGS, table  # noqa: E402
from smoke_table import COLUMNS, rows  # noqa: E402
from suite_tables import kept, overview, plateau, suite  # noqa: E402

from sb3_o2o.recipes import load_recipe  # noqa: E402

SMOKE = ROOT / "benchmarks" / "results" / "smoke"
PAGES = [*sorted((ROOT / "docs" / "methods").glob("*.md")), ROOT / "docs" / "evidence.md"]
BLOCK = re.compile(r"^<!-- ([a-z]+):([^\n]*) -->\n.*?^<!-- end -->$", re.M | re.S)
#: constants that say what a method is; all others are the task's or the networks'
TELLING = re.compile(
    r"(objective|online_objective|pretrain)_kwargs\.(?!policy_kwargs)|finetuning\."
    r"|(n_critics|critic_subset|gradient_steps|policy_delay|batch_size)$"
)


def constants(*recipes: str) -> Iterator[str]:
    """
    :param recipes: names
    :return: a table for each: what the method's own constants are in its default entry, and where they come from
    """
    for name in recipes:
        recipe = load_recipe(name)
        entry = {key: value for key, value in recipe.flat_constants().items() if TELLING.match(key)}
        lines = []
        for key, value in entry.items():
            twin = key.removeprefix("online_")
            if twin == key or entry.get(twin) != value:
                shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
                lines.append((f"`{key}`", f"`{shown}`", source(recipe.comments, key)))
        yield from table((f"`{name}`", "value", "source"), lines)


def source(comments: Mapping[str, str], key: str) -> str:
    """
    :param comments: of a recipe's entry
    :param key: of a constant
    :return: the comment beside it, or beside what it is part of
    """
    while key not in comments and "." in key:
        key = key.rpartition(".")[0]
    return comments.get(key, "")


def differs(*recipes: str) -> Iterator[str]:
    """
    :param recipes: names
    :return: in what each differs from its source, as its notes have it
    """
    for name in recipes:
        if len(recipes) > 1:
            yield f"`{name}`:"
            yield ""
        yield from (f"- {note}" for note in load_recipe(name).notes)
        yield ""


def settings(*recipes: str) -> Iterator[str]:
    """
    :param recipes: names
    :return: where each can be used
    """
    asked = COMBINATIONS["recipes"]
    cells = [
        (f"`{name}`", *("no" if asked[name][setting] else "yes" for setting in SETTINGS))
        for name in recipes
        if name in asked
    ]
    yield from table(("", *SETTINGS), cells)
    yield "Where it says no, [these are the reasons](../generated/combinations.md#recipes)."


def runs(*recipes: str) -> Iterator[str]:
    """
    :param recipes: names; none means all of the grid, with the seconds that they took
    :return: what one small run of each came to; a recipe that has not been run yet has no line
    """
    made = {row[0].strip("`"): row for row in rows(SMOKE)}
    finished = [name for name in recipes or made if name in made and made[name][1]]
    if not recipes:
        yield from table(COLUMNS, [made[name] for name in finished])
        missing = [f"`{name}`" for name in made if name not in finished]
        if missing:
            yield f"**Not made yet:** {', '.join(missing)}."
        return
    if not finished:
        yield "[Each recipe, once and small](smoke.md): not made yet."
        return
    yield "[Each recipe, once and small](smoke.md), to see that it does something: `hopper/medium`, 5,000 updates and"
    yield "then 5,000 environment steps, two hidden layers of 64, seed 0, `sb3-o2o run benchmarks/suite/smoke.yml`."
    yield "Scores at the switch, the lowest, and at the end, each of 5 episodes; one thread of a two-core AMD EPYC:"
    yield ""
    yield from table(("", "at the switch", "lowest", "after 5,000 steps"), [made[name][:4] for name in finished])


KINDS: Mapping[str, Callable[..., Iterator[str]]] = {
    "constants": constants,
    "differs": differs,
    "settings": settings,
    "runs": runs,
    "suite": suite,
    "overview": overview,
    "kept": kept,
    "plateau": plateau,
}


def rewritten(text: str) -> str:
    """
    :param text: of a page
    :return: the page with every table as it is now
    """

    def block(found: re.Match[str]) -> str:
        lines = "\n".join(KINDS[found[1]](*found[2].split())).rstrip()
        return f"<!-- {found[1]}:{found[2]} -->\n\n{lines}\n\n<!-- end -->"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text()))
