"""
Every objective with every callback, and every recipe wherever it may be used, works, or is refused by name with what to
do. ``docs/combinations.json`` says which; a part of it is asked of the code here, in which every row and every column
occurs, and all of it where expensive tests run.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import combinations
import pytest
import torch as th
from combinations import FAMILIES, NEEDS, SETTINGS, SMALL, TABLE, cells, objectives, quick_compiler

from sb3_o2o.recipes import list_recipes

CELLS = list(cells())
WRITTEN: dict[str, dict[str, dict[str, str]]] = json.loads(TABLE.read_text())
#: of how many cells one is asked in every run of the tests
PARTS = {"callbacks": 5, "objectives": 3, "recipes": 9}


def is_of_the_part(place: tuple[str, str, str]) -> bool:
    """A diagonal of each table, without what waits for a compiler. Box, Dict and environments: see test_recipes.py."""
    kind, row, column = place
    if column == "compile":
        return False
    rows, columns = list(WRITTEN[kind]), list(SMALL if kind == "callbacks" else SETTINGS)
    return (rows.index(row) + columns.index(column)) % PARTS[kind] == 0


PART = [cell for cell in CELLS if is_of_the_part(cell[0])]


def test_the_table_is_of_what_there_is() -> None:
    written = {
        (kind, row, column) for kind, rows in WRITTEN.items() for row, columns in rows.items() for column in columns
    }
    assert {place for place, _ in CELLS} == written, "make combinations writes it anew"
    assert set(WRITTEN["recipes"]) == set(list_recipes())
    for kind, rows in WRITTEN.items():
        part = {place for place, _ in PART if place[0] == kind}
        columns = set(SMALL if kind == "callbacks" else SETTINGS) - {"compile"}
        assert {column for _, _, column in part} == columns
        if kind != "recipes":
            assert {row for _, row, _ in part} == set(rows)


def answer(place: tuple[str, str, str], ask: Callable[[Path], str], folder: Path) -> None:
    kind, row, column = place
    assert ask(folder) == WRITTEN[kind][row][column], "make combinations writes the table anew"


@pytest.mark.parametrize(("place", "ask"), PART, ids=["-".join(place) for place, _ in PART])
def test_a_part_is_as_written(place: tuple[str, str, str], ask: Callable[[Path], str], tmp_path: Path) -> None:
    answer(place, ask, tmp_path / "bundle")


@pytest.mark.expensive
@pytest.mark.parametrize(("place", "ask"), CELLS, ids=["-".join(place) for place, _ in CELLS])
def test_all_is_as_written(
    place: tuple[str, str, str],
    ask: Callable[[Path], str],
    tmp_path: Path,
    fresh_compiler: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(th, "compile", quick_compiler())
    answer(place, ask, tmp_path / "bundle")


@pytest.mark.parametrize(("family", "objective"), [("sac", "calql"), ("td3", "rebrac")])
def test_a_compiled_update_is_one_graph(
    family: str, objective: str, fresh_compiler: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    compiler = quick_compiler()

    def compile_(function: Any, **kwargs: Any) -> Any:
        asked.append(kwargs.get("fullgraph"))
        return compiler(function, **kwargs)

    monkeypatch.setattr(th, "compile", compile_)
    assert combinations.combination(family, objective, None, SETTINGS["compile"], tmp_path) == ""
    assert asked
    assert all(asked)


# -- what is written follows from what the methods are -------------------------------------------------------------

#: PPO evaluates no actions and keeps no transitions
OF_PPO = {"AuxiliaryAdvantage", "PolicyReevaluation"}
#: these evaluate no policy, or maximise no values, or are pessimistic where re-evaluation is optimistic
REFUSED: dict[str, set[str]] = {
    "awac": {"ActorCriticAlignment", "DualCritic", "OnlinePretraining", "PolicyReevaluation"},
    "bc": {
        *("ActorCriticAlignment", "AdaptiveBC", "ConstrainedFineTuning", "DualCritic", "OnlinePretraining"),
        *("PerturbedTargets", "PolicyReevaluation", "TrustRegion"),
    },
    "iql": {"ActorCriticAlignment", "ConstrainedFineTuning", "PerturbedTargets", "PolicyReevaluation", "TrustRegion"},
    "cql": {"PolicyReevaluation"},
    "calql": {"PolicyReevaluation"},
}
#: gSDE has no density that could be scored, nor several actions of one state, and TD3 has none of it
WITHOUT_GSDE = {
    *(f"sac/{name}" for name in ("awac", "bc", "calql", "cql", "iql", "sac_ml")),
    *(f"{family}/{name}" for family in ("td3", "ppo") for name in objectives(family)),
}


@pytest.mark.parametrize("row", WRITTEN["callbacks"])
def test_which_callbacks_an_objective_refuses(row: str) -> None:
    family, objective = row.split("/")
    found = {name: words for name, words in WRITTEN["callbacks"][row].items() if words}
    if family == "ppo":
        assert set(found) == set(SMALL) - OF_PPO
    else:
        deterministic = {"ActorCriticAlignment"} if family == "td3" else set()
        assert set(found) == {"AuxiliaryAdvantage", *deterministic, *REFUSED.get(objective, set())}
    for name, words in found.items():
        assert name in words or NEEDS.get(name, name) in words, words


def test_where_an_objective_is_refused() -> None:
    found = {column: {row for row, columns in WRITTEN["objectives"].items() if columns[column]} for column in SETTINGS}
    spot = {"td3/spot"}
    assert found == {**{name: set() for name in SETTINGS}, "gSDE": WITHOUT_GSDE, "Dict": spot, "images": spot}
    assert set(WRITTEN["objectives"]) == {f"{family}/{name}" for family in FAMILIES for name in objectives(family)}


def test_recipes_run_compiled_on_several_environments_and_go_on() -> None:
    for column in ("Box", "several environments", "compile", "resume"):
        assert {name: each[column] for name, each in WRITTEN["recipes"].items() if each[column]} == {}


def test_refusals_say_what_to_do() -> None:
    words = {each for rows in WRITTEN.values() for columns in rows.values() for each in columns.values() if each}
    assert len(words) > 10
    for each in words:
        assert re.search(r": |, (use|which)|instead|^Unknown argument of O2OTD3 'use_sde'", each), each
