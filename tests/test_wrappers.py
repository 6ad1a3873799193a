"""Environment wrappers."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from sb3_o2o.wrappers import (
    EndAtSuccess,
    FlattenGoalObservation,
    NormalizedScore,
    RewardScaleShift,
    flatten_observations,
)


class Nested(gym.Env):
    """A kitchen's kind of observation: a dictionary in a dictionary."""

    observation_space = spaces.Dict(
        {
            "observation": spaces.Box(-1, 1, (2,), np.float64),
            "goal": spaces.Dict({"b": spaces.Box(0, 2, (1,)), "a": spaces.Box(0, 1, (1, 2))}),
        }
    )
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return {"observation": np.array([0.1, 0.2]), "goal": {"b": np.array([1.5]), "a": np.array([[0.3, 0.4]])}}, {}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: RewardScaleShift(gym.make(tiny.BOX), 10, -5),
        lambda: EndAtSuccess(gym.make(tiny.GOAL)),
        lambda: FlattenGoalObservation(gym.make(tiny.GOAL)),
        lambda: NormalizedScore(gym.make(tiny.BOX), -10, 0),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # unbounded observations, and that a wrapper is no raw environment
def test_gymnasium_accepts_them(wrapped) -> None:
    check_env(wrapped(), skip_render_check=True)


def test_their_arguments_are_part_of_the_specification() -> None:
    """Minari stores specifications: an environment recorded through a wrapper can be made again."""
    env = RewardScaleShift(gym.make(tiny.BOX), scale=10, shift=-5)
    copy = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(copy, RewardScaleShift)
    assert (copy.scale, copy.shift) == (10.0, -5.0)


def test_rewards_are_scaled_and_the_raw_ones_kept() -> None:
    env, raw = RewardScaleShift(gym.make(tiny.BOX), scale=10, shift=-5), gym.make(tiny.BOX)
    env.reset(seed=3), raw.reset(seed=3)
    _, reward, _, _, info = env.step(np.array([0.5], np.float32))
    _, expected, _, _, _ = raw.step(np.array([0.5], np.float32))
    assert reward == 10 * expected - 5
    assert info["raw_reward"] == expected


@pytest.mark.parametrize(("scale", "shift"), [(0, 0), (float("nan"), 0), (1, float("inf"))])
def test_reward_scale_must_be_a_number(scale: float, shift: float) -> None:
    with pytest.raises(ValueError, match=r"(scale|shift) of RewardScaleShift must be a finite number"):
        RewardScaleShift(gym.make(tiny.BOX), scale, shift)


def test_episodes_end_at_success() -> None:
    env = EndAtSuccess(gym.make(tiny.GOAL))
    env.reset(seed=0)
    for _ in range(tiny.EPISODE):
        _, reward, terminated, truncated, info = env.step(np.array([-1.0], np.float32))
        assert terminated == bool(info["is_success"]) == (reward == 1.0)
        if terminated:
            break
    assert terminated
    assert not truncated


def test_success_keys_can_be_named() -> None:
    env = EndAtSuccess(gym.make(tiny.GOAL), success_keys=["other"])
    env.reset(seed=0)
    steps = [env.step(np.array([-0.3], np.float32)) for _ in range(tiny.EPISODE)]
    assert not any(terminated for _, _, terminated, _, _ in steps)
    for bad in ("success", []):
        with pytest.raises(ValueError, match=r"success_keys .*must be a .*list"):
            EndAtSuccess(gym.make(tiny.GOAL), success_keys=bad)


class TestFlatten:
    def test_order_is_by_name_unless_said(self) -> None:
        env = gym.make(tiny.GOAL)
        observation, _ = env.reset(seed=0)
        parts = [observation[key] for key in ("achieved_goal", "desired_goal", "observation")]
        flat, _ = FlattenGoalObservation(gym.make(tiny.GOAL)).reset(seed=0)
        assert flat == pytest.approx(np.concatenate(parts))
        assert flat.dtype == np.float32
        chosen = FlattenGoalObservation(gym.make(tiny.GOAL), keys=["observation", "desired_goal"])
        flat, _ = chosen.reset(seed=0)
        assert flat == pytest.approx(np.concatenate([parts[2], parts[1]]))
        assert chosen.observation_space.shape == (3,)

    def test_nested_dictionaries(self) -> None:
        env = FlattenGoalObservation(Nested())
        flat, _ = env.reset()
        assert flat == pytest.approx([0.3, 0.4, 1.5, 0.1, 0.2])
        assert env.observation_space.high == pytest.approx([1, 1, 2, 1, 1])

    def test_a_dataset_is_flattened_alike(self) -> None:
        env = FlattenGoalObservation(gym.make(tiny.GOAL))
        rows = [gym.make(tiny.GOAL).reset(seed=seed)[0] for seed in range(4)]
        batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        expected = np.stack([env.reset(seed=seed)[0] for seed in range(4)])
        assert flatten_observations(batch, env.keys, batch_dimensions=1) == pytest.approx(expected)

    def test_rejections(self) -> None:
        with pytest.raises(ValueError, match="needs dictionary observations"):
            FlattenGoalObservation(gym.make(tiny.BOX))
        with pytest.raises(ValueError, match="No observation is named 'goal'; this environment has"):
            FlattenGoalObservation(gym.make(tiny.GOAL), keys=["goal"])
        env = Nested()
        env.observation_space = spaces.Dict({"x": spaces.Dict({"y": spaces.Discrete(3)})})
        with pytest.raises(ValueError, match=r"'x\.y' is Discrete"):
            FlattenGoalObservation(env)


class TestNormalizedScore:
    def test_the_last_step_has_the_score(self) -> None:
        env = NormalizedScore(gym.make(tiny.BOX), minimum=-10, maximum=0)
        for seed in (0, 1):  # the second episode must not count the first
            env.reset(seed=seed)
            total = 0.0
            for step in range(tiny.EPISODE):
                _, reward, _, truncated, info = env.step(np.zeros(1, np.float32))
                total += reward
                assert ("normalized_score" in info) == truncated == (step == tiny.EPISODE - 1)
            assert info["normalized_score"] == pytest.approx(100 * (total + 10) / 10)

    def test_the_table_is_the_default(self) -> None:
        assert NormalizedScore(gym.make("HalfCheetah-v5")).reference.maximum == 12135.0

    @pytest.mark.parametrize("given", [{}, {"minimum": 0.0}, {"maximum": 1.0}])
    def test_incomplete_references(self, given: dict) -> None:
        with pytest.raises(ValueError, match="give both minimum= and maximum="):
            NormalizedScore(gym.make(tiny.BOX), **given)


def test_they_pickle() -> None:
    env = NormalizedScore(RewardScaleShift(EndAtSuccess(tiny.TinyGoal()), 2, 1), -1, 1)
    copy = pickle.loads(pickle.dumps(env))
    assert copy.reference.maximum == 1
    assert copy.env.scale == 2
