"""Recipes that users write: any path is one, and what is wrong in it is said."""

from pathlib import Path

import gymnasium as gym
import pytest
import tiny

from sb3_o2o.recipes import build_model, load_recipe


class TestOwnRecipes:
    def write(self, folder: Path, text: str) -> str:
        path = folder / "mine.yml"
        path.write_text(text)
        return str(path)

    def test_a_path_is_a_recipe(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "default:\n  learning_rate: 1e-4\n  n_timesteps: 1e6\n'Tiny*':\n  gamma: 0.9\n")
        recipe = load_recipe(path)
        assert recipe.arguments == {"learning_rate": 1e-4}
        assert recipe.online_steps == 1_000_000
        assert load_recipe(path, tiny.BOX).arguments == {"gamma": 0.9}
        assert recipe.reference == path

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
            ("default:\n  gama: 0.9\n", r"Unknown key of entry 'default' in .*: 'gama'\. Did you mean 'gamma'"),
            ("default:\n  n_timestep: 9\n", "Did you mean 'n_timesteps'"),
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

    def test_missing_file(self) -> None:
        with pytest.raises(ValueError, match="no recipe file"):
            load_recipe("nowhere.yml")
