"""Episodes side by side are the episodes one after the other."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_o2o import O2OSAC
from sb3_o2o.evaluation import NormalizedEvalCallback, evaluate
from sb3_o2o.evaluation.rollouts import play, seeds_of_episodes


class Walk(gym.Env):
    """A random walk; how long its episodes last and what they pay is drawn when they begin, and counted."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.n_steps = self.n_resets = 0
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.n_resets += 1
        self.seeds.append(seed)
        self.length = int(self.np_random.integers(1, 30))
        self.position, self.age = self.np_random.normal(), 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        self.n_steps += 1
        self.age += 1
        self.position += 0.1 * float(action[0]) + 0.1 * self.np_random.normal()
        ended = self.age >= self.length
        return self._observe(), self.position, ended and self.length % 2 == 0, ended, {"success": self.position > 1}

    def _observe(self) -> np.ndarray:
        return np.array([self.position, self.age / 30])


class Remembering:
    """Acts by the number of steps since the episode began, which it keeps for each environment."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        count = np.zeros(len(observation)) if state is None else state[0]
        count = np.where(episode_start, 0, count + 1)
        return np.sin(count)[:, None].astype(np.float32), (count,)


def table(episodes: Any) -> list[tuple[float, int, bool | None]]:
    return [(each.total, each.length, each.success) for each in episodes]


def by_hand(n_episodes: int, seed: int) -> list[tuple[float, int, bool | None]]:
    """One after the other, in a loop that anybody would write."""
    env, found = Walk(), []
    for each in np.random.SeedSequence(seed).generate_state(n_episodes):
        env.reset(seed=int(each))
        total, length, success, over = 0.0, 0, False, False
        while not over:
            _, reward, terminated, truncated, info = env.step(np.array([np.sin(length)], np.float32))
            total, length, success = total + float(np.float32(reward)), length + 1, success or bool(info["success"])
            over = terminated or truncated
        found.append((total, length, success))
    return found


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 5))
def test_any_number_of_environments(n_episodes: int, n_envs: int, seed: int) -> None:
    found = table(play(Remembering(), DummyVecEnv([Walk] * n_envs), n_episodes, seed=seed))
    expected = by_hand(n_episodes, seed)
    assert [each[1:] for each in found] == [each[1:] for each in expected]
    assert [each[0] for each in found] == pytest.approx([each[0] for each in expected], abs=1e-9)


def test_no_step_is_made_that_does_not_count() -> None:
    env = DummyVecEnv([Walk] * 4)
    episodes = play(Remembering(), env, 6, seed=0)
    assert sum(each.n_steps for each in env.envs) == sum(each.length for each in episodes)
    assert [each.n_resets for each in env.envs] == [2, 2, 1, 1]
    seeds = seeds_of_episodes(0, 6)
    assert [each.seeds for each in env.envs] == [[seeds[0], seeds[4]], [seeds[1], seeds[5]], [seeds[2]], [seeds[3]]]
    assert all(type(each) is Walk for each in env.envs)  # given back as they were


def test_the_environments_come_back_after_an_exception() -> None:
    class Breaking(Remembering):
        def predict(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no")

    env = DummyVecEnv([Walk] * 2)
    with pytest.raises(RuntimeError, match="no"):
        play(Breaking(), env, 2)
    assert all(type(each) is Walk for each in env.envs)


def test_first_seeds_do_not_depend_on_how_many_follow() -> None:
    assert seeds_of_episodes(3, 10)[:4] == seeds_of_episodes(3, 4)
    assert len(set(seeds_of_episodes(3, 100)) | set(seeds_of_episodes(4, 100))) == 200
    assert seeds_of_episodes(None, 2) == [None, None]


def test_short_episodes_count_no_more_than_long_ones() -> None:
    lengths = [each.length for each in play(Remembering(), DummyVecEnv([Walk] * 16), 400, seed=1)]
    # uniform on 1..29; the 400 that end first of endlessly many would have a mean of 10
    assert np.mean(lengths) == pytest.approx(15, abs=3 * math.sqrt(70 / 400))


class Lives(gym.Wrapper):
    """Three lives: the policy's episode ends with each, the monitor's with the last."""

    lives = 0

    def reset(self, **kwargs: Any) -> Any:
        if self.lives > 0:  # goes on
            return self.env.unwrapped._observe(), {}  # type: ignore[attr-defined]
        self.lives = 3
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self.lives = 0
        elif self.env.unwrapped.age % 4 == 0:  # type: ignore[attr-defined]
            self.lives = max(self.lives - 1, 1)
            terminated = True
        return observation, 100 * reward, terminated, truncated, info


@pytest.mark.parametrize("n_envs", [1, 3, 7])
def test_the_monitor_says_what_an_episode_is(n_envs: int) -> None:
    def make() -> gym.Env:
        return Lives(Monitor(Walk()))

    class Still(Remembering):
        def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
            return np.zeros((len(observation), 1), np.float32), None

    found = play(Still(), DummyVecEnv([make] * n_envs), 5, seed=2)
    plain = play(Still(), DummyVecEnv([Walk]), 5, seed=2)
    assert [each.length for each in found] == [each.length for each in plain]
    assert [each.total for each in found] == pytest.approx([each.total for each in plain], abs=1e-5)


def test_a_model_scores_the_same_in_one_as_in_ten() -> None:
    model = O2OSAC("MlpPolicy", Walk(), policy_kwargs={"net_arch": [8]}, seed=0, buffer_size=10)
    one, ten = (evaluate(model, Walk, 10, seed=4, n_envs=n) for n in (1, 10))
    np.testing.assert_array_equal(one.lengths, ten.lengths)
    np.testing.assert_allclose(one.returns, ten.returns, atol=1e-5)  # the rounding of a batch of ten
    assert one.successes is not None
    np.testing.assert_array_equal(one.successes, ten.successes)


def test_behind_vec_normalize() -> None:
    def normalised(n: int) -> VecNormalize:
        env = VecNormalize(make_vec_env(Walk, n), training=False, norm_reward=True)
        env.obs_rms.mean, env.obs_rms.var = np.array([0.5, 0.5]), np.array([4.0, 0.1])
        return env

    model = O2OSAC("MlpPolicy", Walk(), policy_kwargs={"net_arch": [8]}, seed=0, buffer_size=10)
    one, five = (evaluate(model, normalised(n), 5, seed=4) for n in (1, 5))
    np.testing.assert_allclose(one.returns, five.returns, atol=1e-5)


def test_other_processes_play_as_many_episodes() -> None:
    env = SubprocVecEnv([Walk] * 2, start_method="fork")
    try:
        first, again = (table(play(Remembering(), env, 5, seed=3)) for _ in range(2))
    finally:
        env.close()
    assert len(first) == 5
    assert first == again


def test_one_environment_scores_as_stable_baselines3_does() -> None:
    model = O2OSAC("MlpPolicy", Walk(), policy_kwargs={"net_arch": [8]}, seed=0, buffer_size=10)
    ours, theirs = Walk(), Walk()
    ours.reset(seed=5), theirs.reset(seed=5)
    returns, lengths = evaluate_policy(model, Monitor(theirs), 4, return_episode_rewards=True)
    result = evaluate(model, Monitor(ours), 4)
    assert result.returns.tolist() == returns
    assert result.lengths.tolist() == lengths


class TestCallback:
    @pytest.mark.parametrize("given", [Walk, "id"])
    def test_makes_environments(self, given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        if given == "id":
            given = "Walk-v0"
            monkeypatch.setitem(gym.registry, given, gym.envs.registration.EnvSpec(given, entry_point=Walk))
        state = th.get_rng_state()
        assert NormalizedEvalCallback(given).eval_env.num_envs == 5
        assert NormalizedEvalCallback(given, n_eval_episodes=40).eval_env.num_envs == 16
        assert NormalizedEvalCallback(given, n_eval_episodes=40, n_eval_envs=3).eval_env.num_envs == 3
        assert NormalizedEvalCallback(Walk()).eval_env.num_envs == 1
        assert th.equal(state, th.get_rng_state())

    def test_curves_are_the_same(self) -> None:
        curves = []
        for n in (1, 4):
            model = O2OSAC(
                "MlpPolicy", Walk(), policy_kwargs={"net_arch": [8]}, seed=0, buffer_size=100, learning_starts=5
            )
            callback = NormalizedEvalCallback(Walk, n_eval_episodes=4, n_eval_envs=n, eval_freq=10, seed=1, verbose=0)
            model.learn(30, callback=callback)
            curves.append(np.array(callback.evaluations_results))
        assert curves[0].shape == (4, 4)
        np.testing.assert_allclose(*curves, atol=1e-4)
        assert not np.allclose(curves[0][0], curves[0][-1])

    def test_copies_of_an_environment_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"n_envs=3 .*give its id"):
            NormalizedEvalCallback(Walk(), n_eval_envs=3)
        with pytest.raises(ValueError, match=r"n_envs .*at least 1 .*not 0"):
            evaluate(Remembering(), Walk, n_envs=0)
