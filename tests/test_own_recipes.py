"""Recipes that users write: any path is one, and what is wrong in it is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import tiny
import yaml
from typer.testing import CliRunner

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.cli import app
from sb3_o2o.recipes import PlainLoader, load_recipe, recipe_folder
from sb3_o2o.recipes.building import build_model
from sb3_o2o.recipes.recipe_files import read_yaml


class TestOwnRecipes:
    def write(self, folder: Path, text: str) -> str:
        path = folder / "mine.yml"
        path.write_text(text)
        return str(path)

    def test_brackets_are_shown(self, tmp_path: Path) -> None:
        """They are markup to what draws the terminal."""
        (tmp_path / "[old]").mkdir()
        about = (
            "about: {title: 'mine [draft]', description: 'see [notes]', sources: {p: 'a [paper]'}, notes: ['b [/c]']}"
        )
        path = self.write(tmp_path / "[old]", f"{about}\ndefault:\n  gamma: 0.9  # [paper], table 3\n")
        result = CliRunner().invoke(app, ["recipes", "show", path], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        for text in (
            "mine [draft]",
            "see [notes]",
            "p: a [paper]",
            "Note: b [/c]",
            "[paper], table 3",
            "[old]/mine.yml",
        ):
            assert text in result.output.replace("\n", ""), text

    def test_a_path_is_a_recipe(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "default:\n  learning_rate: 1e-4\n  n_timesteps: 1e6\n'Tiny*':\n  gamma: 0.9\n")
        recipe = load_recipe(path)
        assert recipe.arguments == {"learning_rate": 1e-4}
        assert recipe.online_steps == 1_000_000
        assert load_recipe(path, tiny.BOX).arguments == {"gamma": 0.9}
        assert recipe.reference == path

    def test_an_environment_with_its_module_has_its_entry(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "default: {}\n'Tiny*': {gamma: 0.9}\n'other_module:Tiny*': {gamma: 0.8}\n")
        assert load_recipe(path, f"tiny_module:{tiny.BOX}").arguments == {"gamma": 0.9}
        assert load_recipe(path, f"other_module:{tiny.BOX}").arguments == {"gamma": 0.8}
        assert load_recipe("wsrl", "gymnasium_robotics:AntMaze_UMaze-v5").pattern == "AntMaze*"

    def test_evaluations_fall_back_to_the_default_entrys(self, tmp_path: Path) -> None:
        text = "default: {}\n'Tiny*': {}\n'TinyB*': {}\nevaluation:\n  default: {eval_freq: 1e3} # seen\n"
        path = self.write(tmp_path, text + "  'Tiny*': {n_eval_episodes: 7}\n")
        default, box, goal = (load_recipe(path, env_id) for env_id in (None, tiny.BOX, tiny.GOAL))
        assert [(each.eval_freq, each.n_eval_episodes) for each in (default, box)] == [(1000, None)] * 2
        assert (goal.eval_freq, goal.n_eval_episodes) == (None, 7)
        assert box.comments["eval_freq"] == "seen"

    def test_the_constructor_takes_it(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "default:\n  gamma: 0.5\n  tau: 0.1\n")
        model = build_model(path, gym.make(tiny.BOX), tau=0.2)
        assert (model.gamma, model.tau, model.recipe) == (0.5, 0.2, path)

    def test_a_recipe_is_for_those_who_derive_from_its_algorithm(self, tmp_path: Path) -> None:
        class Mine(O2OSAC):
            """A user's own."""

        path = self.write(tmp_path, "algorithm: O2OSAC\ndefault:\n  gamma: 0.5\n")
        model = Mine("MlpPolicy", gym.make(tiny.BOX), recipe=path, policy_kwargs={"net_arch": [4]})
        assert (type(model), model.gamma) == (Mine, 0.5)
        model.save(tmp_path / "mine")
        assert Mine.load_offline(tmp_path / "mine", gym.make(tiny.BOX), recipe=path).gamma == 0.5
        with pytest.raises(ValueError, match="is for O2OSAC, not for O2OTD3"):
            O2OTD3("MlpPolicy", gym.make(tiny.BOX), recipe=path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("- a\n- b\n", "is not a recipe"),
            ("default: [", "not YAML"),
            ("'Hopper*':\n  gamma: 0.9\n", "no entry for 'TinyBox-v0'"),
            ("default: 3\nx:\n  a: 1\n", "must hold arguments"),
            ("default:\n  n_timesteps: many\n", "n_timesteps .* whole number"),
            ("default:\n  pretrain_steps: -1\n", "pretrain_steps .* at least 0"),
            ("default:\n  n_timesteps: .inf\n", "n_timesteps .* whole number"),
            ("default:\n  eval_freq: 5\n", r"belongs outside: evaluation: \{'default': \{eval_freq"),
            ("default: {}\nevaluation:\n  default: {eval_frq: 5}\n", "'eval_frq'. Did you mean 'eval_freq'"),
            ("default: {}\nevaluation:\n  default: {eval_freq: 0}\n", "eval_freq .* at least 1"),
            ("default: {}\nevaluation:\n  defaut: {eval_freq: 5}\n", "'defaut'. Did you mean 'default'"),
            ("default: {}\nevaluation: 5\n", "evaluation .* must be written as"),
        ],
    )
    def test_rejections(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_recipe(self.write(tmp_path, text), tiny.BOX)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("default:\n  gama: 0.9\n", r"Unknown key of entry 'default' in .*: 'gama'\. Did you mean 'gamma'"),
            ("default:\n  n_timestep: 9\n", "Did you mean 'n_timesteps'"),
            ("default:\n  recipe: wsrl\n", "Unknown key of entry 'default' in .*: 'recipe'"),
        ],
    )
    def test_keys_that_the_constructor_does_not_take(self, tmp_path: Path, text: str, message: str) -> None:
        path, env = self.write(tmp_path, text), gym.make(tiny.BOX)
        O2OSAC("MlpPolicy", env, buffer_size=10, policy_kwargs={"net_arch": [4]}).save(tmp_path / "model")
        asked = (
            lambda: build_model(path, env),
            lambda: O2OSAC("MlpPolicy", env, recipe=path),
            lambda: O2OSAC("MlpPolicy", env, recipe=load_recipe(path)),
            lambda: O2OSAC.load_offline(tmp_path / "model", env, recipe=path),
        )
        for ask in asked:
            with pytest.raises(ValueError, match=message):
                ask()

    def test_missing_file(self) -> None:
        with pytest.raises(ValueError, match="no recipe file"):
            load_recipe("nowhere.yml")


class TestReadOnce:
    """The file is read where the user names it, and never again."""

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> str:
        path = tmp_path / "mine.yml"
        path.write_text(
            "default: {objective: cql, objective_kwargs: {n_actions: 2}, pretrain_steps: 3, n_timesteps: 6, "
            "batch_size: 4, buffer_size: 30, n_critics: 2, policy_kwargs: {net_arch: [4]}} # my own\n"
            "evaluation: {default: {eval_freq: 3, n_eval_episodes: 1}}\n"
        )
        return str(path)

    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        found: list[Path] = []
        read_text = Path.read_text

        def noted(path: Path, *args: Any, **kwargs: Any) -> str:
            if path.name == "mine.yml":
                found.append(path)
            return read_text(path, *args, **kwargs)

        monkeypatch.setattr(Path, "read_text", noted)
        return found

    def test_by_a_model(self, recipe: str, reads: list[Path], tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
        model = O2OSAC("MlpPolicy", gym.make(tiny.BOX), recipe=recipe, dataset=tiny_dataset())
        model.pretrain()  # knows for how long
        assert (len(reads), model.n_pretrain_steps) == (1, 3)
        model.save(tmp_path / "model")
        again = O2OSAC.load(tmp_path / "model", gym.make(tiny.BOX))
        again.pretrain()
        assert (len(reads), again.n_pretrain_steps, again.recipe) == (1, 3, recipe)

    @pytest.mark.parametrize("kind", ["dataset", "model", "zip", "policy"])
    def test_by_load_offline(
        self, kind: str, recipe: str, reads: list[Path], tiny_dataset: Callable[..., str], tmp_path: Path
    ) -> None:
        dataset, small = tiny_dataset(), {"buffer_size": 30, "policy_kwargs": {"net_arch": [4]}}
        source: Any = dataset
        if kind != "dataset":
            source = O2OSAC("MlpPolicy", gym.make(tiny.BOX), dataset=dataset, **small)  # type: ignore[arg-type]
            source.save(tmp_path / "model")
        source = {"zip": tmp_path / "model", "policy": getattr(source, "policy", None)}.get(kind, source)
        model = O2OSAC.load_offline(source, gym.make(tiny.BOX), recipe=recipe, dataset=dataset, pretrain_steps=2)
        assert len(reads) == 1
        assert model.recipe == recipe
        read = load_recipe(recipe, tiny.BOX)
        O2OSAC.load_offline(source, gym.make(tiny.BOX), recipe=read, dataset=dataset, pretrain_steps=2)
        assert len(reads) == 2  # the one above

    @pytest.mark.parametrize("command", ["pretrain", "finetune --dataset"])
    def test_by_a_command(
        self,
        command: str,
        recipe: str,
        reads: list[Path],
        tiny_dataset: Callable[..., str],
        tmp_path: Path,
    ) -> None:
        options = ["--recipe", recipe, "--evaluations", "1", "--checkpoints", "0", "--log-dir", str(tmp_path / "runs")]
        result = CliRunner().invoke(app, [*command.split(), tiny_dataset(), *options])
        assert result.exit_code == 0, result.output
        assert len(reads) == 1

    def test_to_be_shown(self, recipe: str, reads: list[Path]) -> None:
        result = CliRunner().invoke(app, ["recipes", "show", recipe], env={"COLUMNS": "200"})
        assert "my own" in result.output
        assert len(reads) == 1


class TestReading:
    """By C code where PyYAML has it, with what Python's would give and say."""

    GRIDS = sorted((recipe_folder().parent / "benchmarks" / "suite").glob("*.yml"))

    @pytest.mark.parametrize("path", [*sorted(recipe_folder().glob("*.yml")), *GRIDS], ids=lambda path: path.stem)
    def test_as_python_reads_it(self, path: Path) -> None:
        text = path.read_text()
        assert repr(read_yaml(text)) == repr(yaml.load(text, Loader=PlainLoader))

    @pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML is without C code")
    def test_without_pythons_own_scanner(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "mine.yml"
        path.write_text("default:\n  gamma: 1e-1 # low\n")
        monkeypatch.setattr("yaml.scanner.Scanner.check_token", None)
        recipe = load_recipe(str(path))
        assert (recipe.arguments, recipe.comments) == ({"gamma": 0.1}, {"gamma": "low"})

    def test_the_place_of_a_mistake_is_shown(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yml"
        path.write_text("default:\n  gamma: [0.9\n  tau: 0.1\n")
        with pytest.raises(ValueError, match=r"(?s)not YAML .*line 3, column 6:\n      tau: 0.1\n         \^"):
            load_recipe(str(path))
