"""What a grid may say, and what it may not: all of it is said before anything starts."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from command_line import fails

from experiments.grids import SMALL, grid, plan_of
from sb3_o2o.experiments.grid import part_of, read_grid
from sb3_o2o.experiments.plan import make_plan


def test_a_file_names_the_experiment_and_what_lies_beside_it(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "mine.yml").write_text("about: {algorithm: O2OSAC}\ndefault: {objective: cql, batch_size: 8}\n")
    (folder / "hopper.yml").write_text(yaml.safe_dump({"datasets": [tiny_dataset()], "recipes": ["mine.yml"]}))
    found = read_grid(str(folder / "hopper.yml"))
    assert (found.name, found.seeds) == ("hopper", [0])
    assert found.datasets[0].name == "tinybox-v0-random-v0"
    assert (found.recipes[0].name, found.recipes[0].source) == ("mine", str(folder / "mine.yml"))
    assert read_grid(str(folder / "hopper.yml"), "other").name == "other"


def test_a_part_by_names_or_by_what_the_grid_says(tiny_dataset: Callable[..., str]) -> None:
    """A name is one entry; a source that nothing is called by is every entry of it, in the grid's order."""
    name = tiny_dataset()
    document = grid(name, datasets=[name, {"dataset": name, "name": "again"}])
    whole = read_grid(document)
    first = whole.datasets[0].name
    assert [entry.name for entry in part_of(whole, datasets=[name]).datasets] == [first, "again"]
    assert [entry.name for entry in part_of(whole, datasets=["again"]).datasets] == ["again"]
    assert [entry.name for entry in part_of(whole, recipes=["sac", "cql"]).recipes] == ["cql", "scratch"]
    with pytest.raises(ValueError, match=r"'agian'\. Did you mean 'again'"):
        part_of(whole, datasets=["agian"])


def test_what_is_closer_wins(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    name = tiny_dataset()
    document = grid(
        name,
        datasets=[{"dataset": name, "name": "tiny", "steps": 30, "set": {"batch_size": 5, "n_critics": 3}}],
        recipes=["cql", {"recipe": "cql", "name": "long", "steps": 40, "set": {"batch_size": 6}}],
    )
    first, second = (run.config for run in plan_of(document, tmp_path).runs if run.phase == "online")
    assert (first.online_steps, second.online_steps) == (30, 40)
    assert (first.overrides["batch_size"], second.overrides["batch_size"]) == (5, 6)
    assert first.overrides["n_critics"] == second.overrides["n_critics"] == 3
    assert first.overrides["policy_kwargs"]["net_arch"] == [4]


def test_a_name_of_a_callback_changes_one_of_its_arguments(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    recipes = [{"recipe": "wsrl", "set": {"finetuning.Warmup.steps": 7}}]
    (run,) = (run for run in plan_of(grid(tiny_dataset(), recipes=recipes), tmp_path).runs if run.needs)
    assert run.config.overrides["finetuning"] == [{"Warmup": {"steps": 7}}]


def test_an_environment_without_a_dataset(tmp_path: Path) -> None:
    document = grid("", datasets=[{"env": tiny.BOX}], recipes=["sac"])
    (run,) = plan_of(document, tmp_path).runs
    assert (run.name, run.config.dataset, run.needs) == ("TinyBox-v0-sac-s0", None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": []}, "datasets must be a list of at least one"),
        ({"recipes": "cql"}, "recipes must be a list of at least one"),
        ({"recipes": [3]}, "each is a text or a mapping, not 3"),
        ({"recipes": [{"name": "x"}]}, "a mapping with `recipe`"),
        ({"recipes": ["cql", "cql"]}, "2 recipes are called 'cql': give each a `name` of its own"),
        ({"datasets": ["a/b/c", {"dataset": "x", "name": "b-c"}]}, "2 datasets are called 'b-c'"),
        ({"recipes": [{"recipe": "cql", "name": "../up"}]}, "is not '../up'"),
        ({"recipes": [{"recipe": "cql", "name": "pretraining"}]}, "is not 'pretraining'"),
        ({"recipes": [{"recipe": "cql", "stesp": 4}]}, "Unknown key in The grid, recipes, cql: 'stesp'. Did you mean"),
        ({"step": 4}, "Unknown key in The grid: 'step'. Did you mean 'steps'?"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"eval_episodes": True}, "eval_episodes must be a whole number"),
        ({"recipes": [{"recipe": "cql", "bundle_seconds": 3}]}, "Unknown key in The grid, recipes, cql"),
        ({"seeds": 0}, "seeds must be how many"),
        ({"seeds": [1, 1]}, "list of different whole numbers"),
        ({"seeds": [-1]}, "list of different whole numbers"),
        ({"set": ["a=b"]}, "set must be"),
        ({"name": "a b"}, "an experiment needs a name"),
    ],
)
def test_spelling(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("?", r"\?")):
        read_grid(grid("any", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": ["clq"]}, "dataset 'tiny' with recipe 'clq': Unknown recipe 'clq'. Did you mean"),
        ({"set": {**SMALL, "n_critcs": 3}}, "with recipe 'cql': Unknown constructor argument 'n_critcs'"),
        ({"set": {**SMALL, "gamma": 2.0}}, "gamma"),
        ({"set": {**SMALL, "seed": 2}}, "set cannot change seed"),
        ({"set": {**SMALL, "dataset_kwargs.columns": 3}}, "columns"),
        ({"recipes": ["mine.yml"], "steps": None}, "each run of a grid fine-tunes"),
        ({"recipes": [{"recipe": "cql", "set": {"critic_subset": 9}}]}, "critic_subset must lie in"),
    ],
)
def test_everything_is_checked(
    changes: dict[str, Any], message: str, tiny_dataset: Callable[..., str], tmp_path: Path
) -> None:
    Path("mine.yml").write_text("about: {algorithm: O2OSAC}\ndefault: {batch_size: 8}\n")
    with pytest.raises(ValueError, match=message):
        plan_of(grid(tiny_dataset(), **changes), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_dataset_that_does_not_fit_its_environment(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    document = grid("", datasets=[{"dataset": tiny_dataset(), "name": "tiny", "env": "Pendulum-v1"}])
    with pytest.raises(ValueError, match=r"dataset 'tiny' with recipe 'cql, warm': .*observations"):
        plan_of(document, tmp_path)


def test_a_grid_imports_no_module_without_trust(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset 'up' .*the module antigravity .*--trust"):
        plan_of(grid("", datasets=[{"env": "antigravity:Up-v0", "name": "up"}], recipes=["sac"]), tmp_path)
    assert "antigravity" not in sys.modules


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    """Whatever part of the grid is asked for: the other would go on in its folders."""
    datasets = [{"env": tiny.BOX, "name": "tiny"}, {"env": tiny.BOX, "name": "tiny-low"}]
    recipes = [{"recipe": "sac", "name": "low-sac"}, {"recipe": "sac", "name": "sac", "set": {"gamma": 0.5}}]
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(grid("", datasets=datasets, recipes=recipes, seeds=[3])))
    for options in ((), ("--recipes", "sac"), ("--dry-run",)):
        assert (
            "small.yml: dataset and recipe 'tiny' with 'low-sac', and 'tiny-low' with 'sac', would both have runs "
            "called 'tiny-low-sac-s3': give one of them another `name`."
        ) in fails("run", path, *options)
    assert not Path("runs").exists()


def test_names_do_not_depend_on_where_a_grid_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "there"
    (folder / "data" / "steps.d").mkdir(parents=True)
    (folder / "data" / "robot.npz").touch()
    datasets = [{"dataset": f"data/{name}", "env": tiny.BOX} for name in ("robot.npz", "steps.d", "none.npz")]
    (folder / "small.yml").write_text(yaml.safe_dump({"datasets": datasets, "recipes": ["cql"]}))
    names = []
    for place, file in ((folder, "small.yml"), (tmp_path, "there/small.yml"), (Path.home(), folder / "small.yml")):
        monkeypatch.chdir(place)
        names.append([entry.name for entry in read_grid(str(file)).datasets])
    assert names == [["robot", "steps", "data-none.npz"]] * 3


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no grid at"):
        read_grid("nowhere.yml")
    (tmp_path / "bad.yml").write_text("a: [1")
    with pytest.raises(ValueError, match="it is not YAML"):
        read_grid(str(tmp_path / "bad.yml"))
    (tmp_path / "text.yml").write_text("just text")
    with pytest.raises(ValueError, match="it needs datasets, recipes and seeds"):
        read_grid(str(tmp_path / "text.yml"))


def test_the_plan_is_the_same_from_a_file(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    document = grid(tiny_dataset())
    (tmp_path / "small.yml").write_text(yaml.safe_dump(document))
    ours, from_file = (make_plan(read_grid(each), tmp_path) for each in (document, str(tmp_path / "small.yml")))
    assert ours.runs == from_file.runs
