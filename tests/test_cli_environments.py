"""Which environment a command makes, from what the user, the recipe, the dataset and the source say about it."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import tiny
import yaml
from command_line import SHORT, SMALL, fails, succeeds

from sb3_o2o.data.collect import collect
from sb3_o2o.experiments.grid import read_grid
from sb3_o2o.experiments.plan import make_plan


def config_of(folder: str | Path) -> dict[str, Any]:
    """What the only run there was asked for."""
    (path,) = Path(folder).glob("*/config.yml")
    return dict(yaml.safe_load(path.read_text()))


class TestReading:
    """How a file is read may stand in the recipe."""

    @pytest.fixture
    def table(self, tmp_path: Path) -> Path:
        lines = ["x,time,push,gain,trial"]
        lines += [f"{step / 8},{step % 5 / 10},{step % 3 / 4},{-step},{step // 5}" for step in range(10)]
        (tmp_path / "log.csv").write_text("\n".join(lines))
        columns = "{observations: [x, time], actions: push, rewards: gain, episode: trial}"
        text = "{batch_size: 4, n_critics: 2, policy_kwargs: {net_arch: [4]}, buffer_size: 100"
        entry = f"{text}, dataset_kwargs: {{columns: {columns}}}, pretrain_steps: 2, n_timesteps: 10}}"
        (tmp_path / "reads.yml").write_text(f"about: {{algorithm: O2OSAC}}\n'Tiny*': {entry}\n")
        return tmp_path / "log.csv"

    def test_every_command_reads_it_so(self, table: Path) -> None:
        recipe = table.with_name("reads.yml")
        options = ["--recipe", recipe, "--env", tiny.BOX]
        succeeds("pretrain", table, *options, *SHORT, "--log-dir", "a")
        (run,) = Path("a").iterdir()
        succeeds("finetune", "--dataset", table, *options, *SHORT, "--log-dir", "b")
        # the source run's dataset is read as the run read it, whichever recipe comes next
        output = succeeds("finetune", run, "--recipe", "cql", "--steps", 10, *SMALL, *SHORT, "--log-dir", "c")
        assert config_of("c")["arguments"]["dataset_kwargs"]["columns"]["rewards"] == "gain"
        assert "tells no reference" not in output + succeeds("evaluate", run, "--episodes", 1)

    def test_a_setting_joins_the_recipes(self, table: Path) -> None:
        table.write_text(table.read_text().replace("gain", "profit"))
        options = ["--recipe", table.with_name("reads.yml"), "--env", tiny.BOX, *SHORT]
        assert "gain" in fails("pretrain", table, *options)
        succeeds("pretrain", table, *options, "--set", "dataset_kwargs.columns.rewards=profit")

    def test_the_command_that_a_study_prints(self, table: Path) -> None:
        options = ["--recipe", table.with_name("reads.yml"), "--dataset", table, "--env", tiny.BOX]
        study = ["--trials", 1, "--seeds", 1, "--steps", 10, "--evaluations", 1, "--eval-episodes", 1]
        output = succeeds("tune", *options, *study, "--tune", "gamma={low: 0.9, high: 0.99}")
        command = output.split("Run it: sb3-o2o ")[1]
        succeeds(*shlex.split(command), *SHORT)

    def test_a_grid(self, table: Path) -> None:
        text = f"datasets: [{{dataset: {table}, env: {tiny.BOX}}}]\nrecipes: [{table.with_name('reads.yml')}]\n"
        grid = read_grid(yaml.safe_load(f"name: grid\nseeds: [0]\n{text}"))
        assert [run.config.environment.id for run in make_plan(grid, Path("out")).runs] == [tiny.BOX] * 2


class TestSourcesOfRecipes:
    """A source run has an environment, and the recipe that comes next may want another."""

    def test_what_the_recipe_asks_for_is_not_left_out_in_silence(self, tiny_dataset: Callable[..., str]) -> None:
        succeeds("pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", 2, *SMALL, *SHORT, "--log-dir", "a")
        (run,) = Path("a").iterdir()
        shifted = "{tiny.Shifted: {by: 1.0}}"
        for name, entry in (("alike", "{}"), ("other", f"{{env_kwargs: {{start: 2.0}}, env_wrapper: [{shifted}]}}")):
            Path(f"{name}.yml").write_text(f"default: {entry}\n")
        options = ["--steps", 10, *SMALL[:6], *SHORT, "--trust"]
        assert "asks for" not in succeeds("finetune", run, "--recipe", "alike.yml", *options, "--log-dir", "b")
        output = succeeds("finetune", run, "--recipe", "other.yml", *options, "--log-dir", "c")
        assert (
            "asks for env_kwargs {'start': 2.0}, where the run has {}, and for env_wrapper [{'tiny.Shifted': " in output
        )
        assert config_of("c")["environment"]["kwargs"] == {}
        advised = ["--env", tiny.BOX]
        assert f"add {' '.join(advised)} for the recipe's" in output
        output = succeeds("finetune", run, "--recipe", "other.yml", *options, *advised, "--log-dir", "d")
        assert "asks for" not in output
        assert config_of("d")["environment"]["kwargs"] == {"start": 2.0}
        (made,) = Path("d").iterdir()
        assert "asks for" not in succeeds("finetune", made, "--recipe", "other.yml", *options, "--log-dir", "e")


class TestModules:
    """``module:id`` names an environment that is registered when its module is imported."""

    def test_it_is_the_same_environment_as_without(self) -> None:
        entry = "{gamma: 0.9, env_kwargs: {start: 0.4}}"
        Path("mine.yml").write_text(f"{{default: {{gamma: 0.5}}, 'TinyGoal*': {entry}}}\n")
        environment = gym.make(tiny.GOAL, max_episode_steps=7, continuing_task=False)
        collect(None, environment, "tests/short-v0", n_episodes=8, seed=0)
        for env in (tiny.GOAL, f"tiny_module:{tiny.GOAL}"):
            options = ["--recipe", "mine.yml", "--env", env, "--pretrain-steps", 4, "--steps", 8, "--log-dir", env]
            succeeds("finetune", "--dataset", "tests/short-v0", *options, *SMALL, *SHORT, "--trust")
            config = config_of(env)
            assert config["arguments"]["gamma"] == 0.9
            kwargs = {"continuing_task": False, "start": 0.4}
            assert config["environment"] == {"id": env, "kwargs": kwargs, "max_episode_steps": 7, "wrappers": []}

    def test_what_is_to_be_typed_next_finds_it(self) -> None:
        """In processes that have not imported the module yet."""

        def run(command: str) -> str:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
            whole = [sys.executable, "-m", "sb3_o2o", *shlex.split(command)]
            done = subprocess.run(whole, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        sizes = shlex.join(map(str, [*SMALL, *SHORT]))
        output = run(f"collect tiny_module:{tiny.BOX} tests/own-v0 --n-episodes 4")
        pretrain = output.split("Pre-train on it: sb3-o2o ")[1].strip()
        output = run(f"{pretrain} --recipe cql --gradient-steps 2 {sizes}")
        finetune = output.split("Fine-tune it: sb3-o2o ")[1].strip()
        output = run(f"{finetune} --steps 10 {sizes}")
        output = run(output.split("See it act: sb3-o2o ")[1].strip() + " --episodes 1")
        assert f"tiny_module:{tiny.BOX}, 1" in output
