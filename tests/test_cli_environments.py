"""Which environment a command makes, from what the user, the recipe, the dataset and the source say about it."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import tiny
import yaml
from command_line import SHORT, SMALL, succeeds

from sb3_o2o.data.collect import collect


def config_of(folder: str | Path) -> dict[str, Any]:
    """What the only run there was asked for."""
    (path,) = Path(folder).glob("*/config.yml")
    return dict(yaml.safe_load(path.read_text()))


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
