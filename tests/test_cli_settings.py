"""``--set NAME=VALUE``: as ``recipes show`` writes it, and one clear line for what cannot be meant."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from command_line import SHORT, SMALL, fails, succeeds

from sb3_o2o.cli.set_options import parse_settings
from sb3_o2o.recipes import Recipe, list_recipes, load_recipe


def parsed(settings: list[str], recipe: str | Recipe | None, env_id: str, extra: Any = None) -> dict[str, Any]:
    """Onto a recipe's entry; None for O2OSAC alone."""
    if recipe is None:
        return parse_settings(settings, {}, "O2OSAC", extra)
    loaded = load_recipe(recipe, env_id)
    return parse_settings(settings, loaded.arguments, loaded.algorithm, extra)


class TestSettings:
    def test_values_are_yaml(self) -> None:
        settings = ["learning_rate=1e-4", "n_critics=3", "compile=true", "policy_kwargs={net_arch: [8]}"]
        expected = {"learning_rate": 1e-4, "n_critics": 3, "compile": True, "policy_kwargs": {"net_arch": [8]}}
        assert parsed(settings, None, tiny.BOX) == expected

    def test_a_dotted_name_keeps_the_recipes_neighbours(self) -> None:
        settings = [
            "policy_kwargs.net_arch=[8]",
            "policy_kwargs.last_hidden_gain=null",
            "objective_kwargs.cql_weight=1",
        ]
        given = parsed(settings, "wsrl", "Hopper-v5")
        assert given["policy_kwargs"] == {"net_arch": [8], "orthogonal_gain": 2**0.5, "last_hidden_gain": None}
        assert given["objective_kwargs"]["cql_weight"] == 1
        assert given["objective_kwargs"]["max_target_backup"] is True

    @pytest.mark.parametrize("backwards", [False, True])
    def test_arguments_of_another_objective_do_not_join_the_recipes(self, backwards: bool) -> None:
        settings = ["objective=iql", "objective_kwargs.expectile=0.8"]
        given = parsed(settings[::-1] if backwards else settings, "cql", tiny.BOX)
        assert given == {"objective": "iql", "objective_kwargs": {"expectile": 0.8}}
        assert parsed(["objective=iql"], "cql", tiny.BOX) == {"objective": "iql"}
        extra = {"objective": "iql", "objective_kwargs": {"expectile": 0.8}}
        given = parsed(["objective=cql", "objective_kwargs.cql_weight=2"], "calql", tiny.BOX, extra=extra)
        assert given == {"objective": "cql", "objective_kwargs": {"cql_weight": 2}}

    def test_later_ones_win_over_options(self) -> None:
        assert parsed(["n_critics=4"], "wsrl", tiny.BOX, extra={"n_critics": 2}) == {"n_critics": 4}

    @pytest.mark.parametrize(("text", "value"), [("5,000", 5000), ("1e6", 1_000_000), ("1e-3", 0.001), ("-1", -1)])
    def test_counts_may_be_written_as_people_write_them(self, text: str, value: float) -> None:
        name = "gradient_steps" if isinstance(value, int) else "learning_rate"
        given = parsed([f"{name}={text}"], None, tiny.BOX)[name]
        assert (given, type(given)) == (value, type(value))


class TestCallbacks:
    """``finetuning`` is a list, and its callbacks are named like any other argument."""

    def test_one_argument_of_one_callback(self) -> None:
        given = parsed(["finetuning.Warmup.steps=100"], "so2", "Hopper-v5")["finetuning"]
        expected = [dict(each) for each in load_recipe("so2", "Hopper-v5").arguments["finetuning"]]
        (warmup,) = [each["Warmup"] for each in expected if "Warmup" in each]
        assert warmup["steps"] != 100
        warmup["steps"] = 100
        assert given == expected

    def test_two_arguments(self) -> None:
        settings = ["finetuning.PerturbedTargets.sigma=0.1", "finetuning.PerturbedTargets.clip=0.2"]
        given = parsed(settings, "so2", "Hopper-v5")["finetuning"]
        assert {"PerturbedTargets": {"sigma": 0.1, "clip": 0.2}} in given

    def test_one_that_the_recipe_lacks_is_added(self) -> None:
        assert parsed(["finetuning.Warmup.steps=100"], None, tiny.BOX) == {"finetuning": [{"Warmup": {"steps": 100}}]}

    def test_it_reaches_the_run(self, tiny_dataset: Callable[..., str]) -> None:
        options = ["--set", "finetuning.Warmup.steps=5", "--pretrain-steps", "2", "--steps", "8", *SMALL, *SHORT]
        succeeds("finetune", "--dataset", tiny_dataset(), "--recipe", "td3_bc", *options)
        config = yaml.safe_load(Path("runs/td3_bc-TinyBox-v0_1/config.yml").read_text())
        assert {"Warmup": {"steps": 5}} in config["arguments"]["finetuning"]


@pytest.mark.parametrize("recipe", list_recipes())
def test_everything_that_a_recipe_shows_can_be_set(recipe: str) -> None:
    """Each constant as it is shown, by its name as it is shown, gives the recipe again, or names the option."""
    loaded = load_recipe(recipe)
    output = succeeds("recipes", "show", recipe)
    for name, value in loaded.flat_constants().items():
        assert f" {name.rpartition('.')[2]} " in output
        root, is_count = name.split(".")[0], type(value) is int
        text = f"{value:,}" if is_count else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n")
        if root in loaded.arguments:
            assert parsed([f"{name}={text.strip()}"], loaded, "Nothing-v0") == {root: loaded.arguments[root]}
        else:
            with pytest.raises(ValueError, match=f"cannot change {root}: "):
                parsed([f"{name}={text}"], loaded, "Nothing-v0")


class TestWhatCannotBeMeant:
    """One line that names what was probably meant, or what kind of value belongs there; no folder is made."""

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("finetuning.Warmpu.steps=3", "Unknown fine-tuning callback 'Warmpu'. Did you mean 'Warmup'?"),
            ("finetuning.Warmup.step=3", "Unknown argument of Warmup 'step'. Did you mean 'steps'?"),
            ("finetuning.DatasetReplay.mod=all", "Unknown argument of DatasetReplay 'mod'. Did you mean 'mode'?"),
            ("finetuning.DatasetReplay.mode.x=1", "has no names inside: it is 'all'"),
            (
                "finetuning.Warmup.steps=abc",
                "steps (argument of Warmup) must be a whole number of at least 0, not 'abc'.",
            ),
            ("finetuning=3", "finetuning must be a list, in brackets, of callbacks"),
            ("online_objective_kwargs.cql_wait=1", "Did you mean 'cql_weight'?"),
            ("objective_kwargs=3", "objective_kwargs must be a dictionary {argument: value} or None, not 3"),
            ("objective_kwargs.cql_weight=abc", "cql_weight (argument of objective 'cql') must be a"),
            ("policy_kwargs.net_arc=[4]", "Unknown policy argument 'net_arc'. Did you mean 'net_arch'?"),
            (
                "policy_kwargs.net_arch=[a]",
                "net_arch (policy argument) must be a list, each a whole number, a dictionary",
            ),
            ("policy_kwargs.net_arch=[0]", "need at least one unit, not 0"),
            ("policy_kwargs.activation_fn=ReLU", "must be a class derived from Module, not 'ReLU'"),
            (
                "policy_kwargs.optimizer_kwargs.beta=1",
                "Unknown argument of the optimiser 'beta'. Did you mean 'betas'?",
            ),
            ("replay_buffer_kwargs.foo=1", "Unknown argument of the replay buffer 'foo'"),
            ("dataset_kwargs.fractio=0.5", "Unknown dataset argument 'fractio'. Did you mean 'fraction'?"),
            ("dataset_kwargs=3", "Give each dataset argument as {name: value}, not 3."),
            (
                "pretrain_kwargs.batch_size=x",
                "batch_size of pretrain_kwargs must be a whole number of at least 1, not",
            ),
            ("batch_size=2.5", "batch_size must be a whole number of at least 1, not 2.5"),
            ("batch_size=0", "batch_size must be a whole number of at least 1, not 0"),
            ("tau=5", "tau must be a number in [0, 1], not 5"),
            ("learning_rate=[1]", "learning_rate must be a finite number of at least 0 or a schedule, not [1]"),
            ("critic_layer_norm=5", "critic_layer_norm must be True or False, not 5"),
            (
                "ent_coef=foo",
                "the same as a text, 'auto' or a text like 'auto_0.5', not 'foo'",
            ),
            (
                "target_entropy=foo",
                "target_entropy must be a finite number, the same as a text, 'auto' or",
            ),
            ("train_freq=[1,day]", "train_freq must be a whole number of at least 1 or a tuple like (1, 'episode')"),
            ("n_timesteps=5", "cannot change n_timesteps: use --steps"),
            ("policy_kwargs..a=3", "takes NAME=VALUE"),
        ],
    )
    def test_it_is_refused(self, setting: str, message: str, tiny_dataset: Callable[..., str]) -> None:
        options = ["--recipe", "cql", "--gradient-steps", "2", *SMALL, *SHORT]
        assert message in fails("pretrain", tiny_dataset(), *options, "--set", setting)
        assert not Path("runs").exists()

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            (
                "{batch_size: abc}",
                "batch_size of entry 'default' in mine.yml must be a whole number of at least 1",
            ),
            ("{policy_kwargs: {net_arc: [4]}}", "Unknown policy argument 'net_arc'"),
        ],
    )
    def test_nor_in_a_recipe_of_ones_own(self, entry: str, message: str, tiny_dataset: Callable[..., str]) -> None:
        Path("mine.yml").write_text(f"default: {entry}\n")
        output = fails("pretrain", tiny_dataset(), "--recipe", "mine.yml", "--gradient-steps", "2", *SHORT)
        assert message in re.sub(r"in \S+mine.yml", "in mine.yml", output)
        assert not Path("runs").exists()
