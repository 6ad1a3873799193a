"""A pre-training is shared where it would come out the same, and only there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.utils import set_random_seed

from experiments.grids import SMALL, grid, plan_of
from sb3_o2o.experiments.plan import PRETRAINING
from sb3_o2o.runs.training import prepare


def shared(document: dict[str, Any], log_dir: Path) -> list[list[str]]:
    """The recipes that start from each pre-training of seed 0."""
    plan = plan_of(document, log_dir)
    first = [each.name for each in plan.runs if each.phase == "offline" and each.config.seed == 0]
    return [sorted(each.recipe for each in plan.sharing(name)) for name in first]


def test_each_dataset_and_seed_has_its_own(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    name = tiny_dataset()
    datasets = [{"dataset": name, "name": "one"}, {"dataset": name, "name": "two"}]
    plan = plan_of(grid(name, datasets=datasets, seeds=2), tmp_path)
    pretrainings = [each for each in plan.runs if each.phase == "offline"]
    assert len(plan.runs) == 4 + 2 * 3 * 2
    assert [each.name[: len(PRETRAINING) + 4] for each in pretrainings] == [
        *("pretraining/one", "pretraining/two", "pretraining/one", "pretraining/two")
    ]
    seeds = [each.config.seed for each in plan.runs]
    assert seeds == sorted(seeds), "what was stopped half-way has all recipes of the first seed"
    for each in pretrainings:
        assert {run.config.seed for run in plan.sharing(each.name)} == {each.config.seed}
        assert {run.dataset for run in plan.sharing(each.name)} == {each.dataset}


@pytest.mark.parametrize(
    "difference",
    [{"batch_size": 5}, {"objective_kwargs.cql_weight": 1.0}, {"objective": "calql"}, {"reward_scale": 2.0}],
)
def test_other_arguments_are_another_pretraining(
    difference: dict[str, Any], tiny_dataset: Callable[..., str], tmp_path: Path
) -> None:
    recipes = ["cql", {"recipe": "cql", "name": "other", "set": difference}]
    assert shared(grid(tiny_dataset(), recipes=recipes), tmp_path) == [["cql"], ["other"]]


def test_other_lengths_are_another_pretraining(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    recipes = ["cql", {"recipe": "cql", "name": "other", "pretrain_steps": 9}, {"recipe": "cql", "name": "third"}]
    assert shared(grid(tiny_dataset(), recipes=recipes), tmp_path) == [["cql", "third"], ["other"]]


@pytest.mark.parametrize("recipes", [["cql", "opt_sac"], ["cql", "o2sac"], ["iql", "opt_iql"], ["td3_bc", "o2td3"]])
def test_recipes_that_share_would_have_pretrained_the_same(
    recipes: list[str], tiny_dataset: Callable[..., str], tmp_path: Path
) -> None:
    """Weights are equal before fine-tuning and after it, whichever recipe pre-trained."""
    entries: list[dict[str, Any]] = [{"recipe": each, "set": short_phases(each)} for each in recipes]
    settings = {"policy_kwargs.net_arch": [4], "batch_size": 4, "buffer_size": 200}
    document = grid(tiny_dataset(), recipes=entries, set=settings, pretrain_steps=4)
    assert shared(document, tmp_path) == [sorted(recipes)]
    saved = []
    for entry in entries:
        first, online = plan_of({**document, "recipes": [entry]}, tmp_path).runs
        model = prepare(first.config).model
        model.pretrain(None, 4)
        model.save(tmp_path / f"{entry['recipe']}.zip")
        saved.append((model.policy.state_dict(), online.config))
    (pretrained, _), (also, config) = saved
    assert_equal(pretrained, also)
    ours, theirs = (prepare(replace(config, source=str(tmp_path / f"{each}.zip"))).model for each in recipes)
    for model in (ours, theirs):
        set_random_seed(0)
        model.learn(12)
    assert_equal(ours.policy.state_dict(), theirs.policy.state_dict())


def assert_equal(one: dict[str, th.Tensor], other: dict[str, th.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(th.equal(one[name], other[name]) for name in one)


def short_phases(recipe: str) -> dict[str, Any]:
    if recipe in ("o2td3", "o2sac"):
        phases = ("PolicyReevaluation.gradient_steps", "ValueAlignment.gradient_steps", "Warmup.steps")
        reference = {"finetuning.ConstrainedFineTuning.reference": "interval"}
        return {f"finetuning.{each}": 3 for each in phases} | reference
    durations = ("collect_steps", "gradient_steps") if recipe.startswith("opt") else ()
    return {f"finetuning.OnlinePretraining.{each}": 3 for each in durations}


def test_recipes_without_pretraining_stay_without(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    recipes = ["sac", {"recipe": "sac", "name": "pretrained", "pretrain_steps": 3, "set": {"objective": "cql"}}]
    plan = plan_of(grid(tiny_dataset(), recipes=recipes, set=SMALL), tmp_path)
    assert [bool(each.needs) for each in plan.runs if each.phase == "online"] == [False, True]
