"""
The pages of ``docs/``: blocks run in the order of their page, commands are understood, links lead somewhere. Fragments,
which are marked ``py``, are shown and not run.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from public_api import PACKAGES, Public
from public_api import public as callables
from reader import GENERATED, ROOT, blocks, commands, parse, paste

import sb3_o2o.advice
import sb3_o2o.algorithms
import sb3_o2o.data
import sb3_o2o.diagnostics
import sb3_o2o.evaluation
import sb3_o2o.finetuning
import sb3_o2o.objectives
import sb3_o2o.objectives.finetuning_functional
import sb3_o2o.objectives.functional
from sb3_o2o.recipes import list_recipes
from sb3_o2o.updates.trainee import Trainee

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not GENERATED & set(path.parts))
NAMES = [str(path.relative_to(DOCS)) for path in PAGES]


@pytest.mark.parametrize("name", [name for name in NAMES if blocks((DOCS / name).read_text(), "python")])
def test_blocks_run(name: str, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is read from top to bottom: what one block defines, the next one finds."""
    text = (DOCS / name).read_text()
    if "wsrl_hopper" in text and not (reader / "wsrl_hopper.zip").is_file() and name != "index.md":
        paste(blocks((DOCS / "index.md").read_text(), "python")[0])
    for service in ("wandb", "mlflow"):  # which are not installed, and would want to send something
        monkeypatch.setitem(sys.modules, service, MagicMock())
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(text, "python"):
        paste(block, names)
        if ".learn(" in block and "model" in names:  # what it trains has stepped
            assert names["model"].num_timesteps >= 4


@pytest.mark.parametrize(
    ("name", "command"),
    [(name, line) for name in NAMES for line in commands((DOCS / name).read_text()) if line.startswith("sb3-o2o ")],
)
def test_commands_are_understood(name: str, command: str) -> None:
    parse(command)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = DOCS / name
    for target in re.findall(r"\]\((?!http|#)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        path = (page.parent / target).resolve()
        assert path.is_file() or "generated" in path.parts, f"{name} links to {target}"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = set()
    for page in PAGES:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.M | re.S):
            entries = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            listed |= {(page.parent / f"{entry}.md").resolve() for entry in entries}
    assert [str(page) for page in PAGES if page not in listed and page.name != "index.md"] == []


def test_every_method_has_a_page() -> None:
    """Recipes' names appear on the pages of methods."""
    text = "\n".join(path.read_text() for path in (DOCS / "methods").glob("*.md"))
    assert [name for name in list_recipes() if f"`{name}`" not in text] == []


METHODS = [name for name in NAMES if name.startswith("methods/") and not name.endswith(("index.md", "smoke.md"))]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_all_of_it(name: str) -> None:
    text = (DOCS / name).read_text()
    idea, *sections = re.split(r"^## ", text, flags=re.M)
    assert re.search(r"\]\(https://arxiv\.org|, ICML", idea)
    assert "$" in idea
    parts = ["Arguments", "When to use it", "What differs from paper and code", "Can I use it?", "Numbers"]
    assert [part.partition("\n")[0] for part in sections if part.partition("\n")[0] in parts] == parts
    assert "**Yes:** " in text
    assert "**No:** " in text


def test_tables_of_methods_say_what_runs_recipes_and_the_code_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """``make tables`` writes them; here nothing is left for it to write."""
    monkeypatch.syspath_prepend(str(DOCS))
    tables = importlib.import_module("method_tables")
    assert [path.name for path in tables.PAGES if tables.rewritten(path.read_text()) != path.read_text()] == []
    iql = (DOCS / "methods" / "iql.md").read_text()
    assert "| `objective_kwargs.expectile` | `0.7` |" in iql
    assert tables.rewritten(iql.replace("`0.7`", "`0.8`")) == iql
    shown = [
        name
        for path in tables.PAGES
        for names in re.findall("<!-- runs: (.*) -->", path.read_text())
        for name in names.split()
    ]
    assert sorted([*shown, "sac", "td3"]) == sorted(list_recipes())


def test_everything_public_is_in_the_reference() -> None:
    """What users import, by the packages that have a list of it, and the modules of formulas."""
    text = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto(?:module|class|exception):: sb3_o2o\.([\w.]+)$", text, re.M))
    assert {package[1:] for package in PACKAGES if package} - documented <= {"algorithms"}
    assert set(sb3_o2o.algorithms.__all__) & {"O2OSAC", "O2OTD3", "O2OPPO"} <= documented
    rooms = (importlib.import_module(f"sb3_o2o.{room}") for room in documented if room.islower())
    assert set(sb3_o2o.__all__) - {name for room in rooms for name in dir(room)} - documented == {"__version__"}


def public() -> list[tuple[str, Any]]:
    rooms = (
        *(sb3_o2o.advice, sb3_o2o.algorithms, sb3_o2o.data, sb3_o2o.diagnostics, sb3_o2o.evaluation),
        *(sb3_o2o.finetuning, sb3_o2o.objectives),
    )
    found = {f"{room.__name__}.{name}": getattr(room, name) for room in rooms for name in room.__all__}
    functions = {
        f"{module.__name__}.{name}": value
        for module in (sb3_o2o.objectives.functional, sb3_o2o.objectives.finetuning_functional)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    return [(name, value) for name, value in {**found, **functions}.items() if callable(value)]


@pytest.mark.parametrize(("name", "value"), public(), ids=[name for name, _ in public()])
def test_arguments_are_documented_and_documented_arguments_exist(name: str, value: Any) -> None:
    documentation = inspect.getdoc(value) or ""
    assert documentation, f"{name} has no docstring"
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return
    variadic = any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in parameters.values())
    own = {
        key
        for key, each in parameters.items()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) and not key.startswith("_") and key != "self"
    }
    documented = {key for key in re.findall(r"^:param (\w+):", documentation, re.M) if not key.startswith("_")}
    assert documented - own == set() or variadic, f"{name} documents what it does not take"
    if documented:
        assert own - documented == set(), f"{name} takes what it does not document"


#: where the rest of the arguments stands
ELSEWHERE = re.compile(
    r"\bSee |[Bb]eside its arguments|[Aa]rguments as |same arguments|Policy` for |Baselines3's|SB3's|`env`"
)
CALLABLES = [each for each in callables() if each.parameters]


def documentation(each: Public) -> str:
    is_constructor = each.owner is not None and each.name == each.owner.__name__
    return inspect.getdoc(each.owner if is_constructor else each.function) or ""


@pytest.mark.parametrize("each", CALLABLES, ids=[each.name for each in CALLABLES])
def test_so_are_those_of_methods_and_constructors(each: Public) -> None:
    text = documentation(each)
    documented = set(re.findall(r"^:param (\w+):", text, re.M))
    assert documented - set(inspect.signature(each.function).parameters) == set()
    # or the update loop calls it, and says what it hands over
    if not ELSEWHERE.search(text) and not hasattr(Trainee, each.function.__name__):
        assert set(each.parameters) - documented == set()
