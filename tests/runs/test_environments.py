"""Environments from datasets and recipes."""

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sb3_o2o.demo_data import DEMO_DATASET
from sb3_o2o.runs.environments import Environment, _from_spec, check_registered, environment_of, with_recipe
from sb3_o2o.transfer.models import policy_for
from sb3_o2o.wrappers import EndAtSuccess, FlattenGoalObservation


def test_made_as_described() -> None:
    wrappers = ["sb3_o2o.wrappers.EndAtSuccess", {"sb3_o2o.wrappers.FlattenGoalObservation": {"keys": ["observation"]}}]
    env = Environment(tiny.GOAL, {"start": 2.0}, 7, wrappers).make()
    assert isinstance(env, FlattenGoalObservation)
    assert isinstance(env.env, EndAtSuccess)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (2,)
    assert abs(observation[0] - 2.0) < 1.0
    assert env.spec is not None
    assert env.spec.max_episode_steps == 7


def test_vectorised_copies_are_seeded_apart() -> None:
    env = Environment(tiny.BOX).make_vectorised(2, seed=3)
    first, second = env.reset()
    assert not np.array_equal(first, second)
    assert np.array_equal(first, Environment(tiny.BOX).make_vectorised(1, seed=3).reset()[0])


def test_of_a_minari_dataset(tiny_dataset: Callable[..., str]) -> None:
    assert environment_of(tiny_dataset(tiny.GOAL)) == Environment(tiny.GOAL)
    assert environment_of("nobody/nothing-v0") is None


def test_of_a_file(tmp_path: Path) -> None:
    assert environment_of(str(DEMO_DATASET)) == Environment("InvertedDoublePendulum-v5")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"broken\.npz"):
        environment_of(str(tmp_path / "broken.npz"))


def test_of_a_file_that_has_to_be_told_how_to_read(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("x,v,u,trial\n0,0,0.5,0\n1,0,0.5,0\n")
    columns = {"observations": ["x", "v"], "actions": "u", "episode": "trial"}
    kwargs = {"columns": columns, "reward": 0.0, "fraction": 0.5}
    assert environment_of(str(tmp_path / "log.csv"), kwargs) is None
    with pytest.raises(ValueError, match=r"log.csv .*no field 'rewards'"):
        environment_of(str(tmp_path / "log.csv"), {"columns": columns})


def test_endless_episodes_become_the_registered_ones() -> None:
    """Minari's D4RL point mazes: a million steps, and a goal that jumps when it is reached."""
    kwargs = {"continuing_task": True, "reset_target": True, "maze_map": [[1]]}
    spec = EnvSpec("PointMaze_UMaze-v3", entry_point="x:Y", max_episode_steps=1_000_000, kwargs=kwargs)
    assert _from_spec(spec) == Environment("PointMaze_UMaze-v3", {"continuing_task": False, "maze_map": [[1]]}, None)
    short = EnvSpec("PointMaze_UMaze-v3", entry_point="x:Y", max_episode_steps=300, kwargs=kwargs)
    assert _from_spec(short) == Environment("PointMaze_UMaze-v3", kwargs, 300)


def test_the_recipe_wins() -> None:
    known = Environment("X-v0", {"a": 1, "b": 2}, 5, ["inner.W"])
    assert with_recipe(known, {"b": 3}, ["outer.W"]) == Environment("X-v0", {"a": 1, "b": 3}, 5, ["inner.W", "outer.W"])


def test_policies_by_observations() -> None:
    assert policy_for(spaces.Box(-1, 1, (3,))) == "MlpPolicy"
    assert policy_for(spaces.Box(0, 255, (3, 36, 36), np.uint8)) == "CnnPolicy"
    assert policy_for(gym.make(tiny.GOAL).observation_space) == "MultiInputPolicy"


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Hoper-v5", "Did you mean 'Hopper-v5'"),
        ("Hopper-v9", "Hopper-v5"),
        ("qqqqqq", "Available: HalfCheetah-v5, Hopper-v5"),
    ],
)
def test_unknown_ids(env_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_registered(env_id)


def test_missing_robotics_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sb3_o2o.runs.environments.register_environments", lambda: None)
    with pytest.raises(ValueError, match=r"pip install 'sb3_o2o\[robotics\]'"):
        check_registered("AdroitHandNothing-v1")


@pytest.mark.parametrize("name", ["EndAtSuccess", "sb3_o2o.wrappers.Nothing"])
def test_unknown_wrappers(name: str) -> None:
    with pytest.raises(ValueError, match=f"no environment wrapper '{name}'"):
        Environment(tiny.BOX, wrappers=[name]).make()
