"""Scores, metrics, evaluation and the evaluation callback."""

import math
import random
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_o2o import O2OSAC
from sb3_o2o.evaluation import (
    NormalizedEvalCallback,
    ReferenceScore,
    cumulative_regret,
    drop_at_switch,
    evaluate,
    normalized_score,
    preserved_random_state,
    read_evaluations,
    reference_score,
    regret,
    steps_to_recover,
)

TINY = ReferenceScore(-10.0, 0.0, "by hand")


class Constant:
    """A policy that always does the same, and notes what it was asked."""

    def __init__(self, action: float = 0.0):
        self.action = action
        self.asked: list[bool] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        self.asked.append(deterministic)
        batch = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        return np.full((batch, 1), self.action, np.float32), state


class TestScores:
    @pytest.mark.parametrize(
        ("env_id", "minimum", "maximum"),
        [
            ("HalfCheetah-v5", -280.178953, 12135.0),
            ("Hopper-v2", -20.272305, 3234.3),
            ("Walker2d-v4", 1.629008, 4592.3),
            ("Ant-v3", -325.6, 3879.7),
            ("AntMaze_UMaze-v5", 0.0, 1.0),
            ("antmaze-large-diverse-v2", 0.0, 1.0),
            ("FrankaKitchen-v1", 0.0, 4.0),
            ("AdroitHandPen-v1", 96.262799, 3076.8331017826877),
            ("door-cloned-v1", -56.512833, 2880.5693087298737),
            ("maze2d-large-v1", 6.7, 273.99),
            ("maze2d-umaze-v1", 23.85, 161.86),
            ("maze2d-medium-v1", 13.13, 277.39),
            ("maze2d-open-v0", 0.01, 20.66),
            ("maze2d-open-dense-v0", 11.17817, 27.166538620695782),
            ("maze2d-umaze-dense-v1", 68.537689, 193.66285642381482),
            ("maze2d-medium-dense-v1", 44.264742, 297.4552547777125),
            ("maze2d-large-dense-v1", 30.569041, 303.4857382709002),
            ("hopper-medium-replay-v2", -20.272305, 3234.3),
            ("ant-random-v2", -325.6, 3879.7),
            ("kitchen-mixed-v0", 0.0, 4.0),
            ("AdroitHandHammer-v1", -274.856578, 12794.134825156867),
            ("relocate-human-v1", -6.425911, 4233.877797728884),
            ("hammer-expert-v1", -274.856578, 12794.134825156867),
            ("pen-human-v0", 96.262799, 3076.8331017826877),
            ("antmaze-umaze-v0", 0.0, 1.0),
            ("antmaze-umaze-diverse-v2", 0.0, 1.0),
            ("antmaze-medium-play-v1", 0.0, 1.0),
            ("halfcheetah-full-replay-v2", -280.178953, 12135.0),
            ("ant-random-expert-v0", -325.6, 3879.7),
            ("walker2d-medium-expert-v2", 1.629008, 4592.3),
            ("gymnasium_robotics:AntMaze_UMaze-v5", 0.0, 1.0),
        ],
    )
    def test_references(self, env_id: str, minimum: float, maximum: float) -> None:
        reference = reference_score(env_id)
        assert reference is not None
        assert (reference.minimum, reference.maximum) == (minimum, maximum)
        assert "D4RL" in reference.provenance
        assert normalized_score(env_id, [minimum, maximum]) == pytest.approx([0.0, 100.0])

    def test_what_d4rl_does_not_have_is_not_said_to_be_its(self) -> None:
        reference = reference_score("PointMaze_Medium-v3")
        assert reference is not None
        assert (reference.minimum, reference.maximum) == (0.0, 1.0)
        assert reference.provenance.startswith("a convention of sb3_o2o, D4RL has no references for it: success")
        assert "d4rl/infos.py" not in reference.provenance

    def test_mujoco_versions_are_told_apart(self) -> None:
        provenances = {version: reference_score(f"Hopper-v{version}").provenance for version in (2, 3, 4, 5)}
        assert len(set(provenances.values())) == 4
        assert "measured in this version" in provenances[2]
        assert "not with published D4RL tables" in provenances[5]

    @pytest.mark.parametrize(
        "env_id",
        [
            None,
            "Hopper-v1",
            "Hopper-v6",
            "HopperBulletEnv-v0",
            "AntMaze_UMazeDense-v4",
            "PointMaze_UMazeDense-v3",
            "maze2d-umaze-v0",
            "Swimmer-v5",
            "AdroitHandPenSparse-v1",
            # names of D4RL's kind, and other rewards: WSRL's hands, OGBench's mazes, DeepMind Control
            "pen-binary-v0",
            "door-binary-v0",
            "antmaze-large-v0",
            "antmaze-giant-singletask-v0",
            "dm_control/hopper-hop-v0",
        ],
    )
    def test_unknown_environments_have_none(self, env_id: str | None) -> None:
        assert reference_score(env_id) is None

    def test_the_error_says_what_to_do(self) -> None:
        with pytest.raises(ValueError, match=r"'Swimmer-v5'.*raw returns.*ReferenceScore"):
            normalized_score("Swimmer-v5", 3.0)

    @pytest.mark.parametrize(("minimum", "maximum"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
    def test_references_must_make_a_scale(self, minimum: float, maximum: float) -> None:
        with pytest.raises(ValueError, match=r"above the minimum|must be a finite number"):
            ReferenceScore(minimum, maximum, "")


class TestMetrics:
    STEPS = (0, 10, 20, 30, 40)
    SCORES = (50.0, 20.0, 30.0, 60.0, 45.0)

    def test_drop_at_switch(self) -> None:
        assert drop_at_switch(self.STEPS, self.SCORES, 50.0) == 30.0
        assert drop_at_switch(self.STEPS, self.SCORES, 50.0, window=5) == 0.0
        assert drop_at_switch(self.STEPS, self.SCORES, 10.0) == 0.0

    def test_steps_to_recover(self) -> None:
        assert steps_to_recover(self.STEPS, self.SCORES, 50.0) == 30.0
        assert steps_to_recover(self.STEPS, self.SCORES, 50.0, tolerance=20.0) == 20.0
        assert steps_to_recover(self.STEPS, self.SCORES, 15.0) == 0.0
        assert steps_to_recover(self.STEPS, self.SCORES, 99.0) == math.inf

    @given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(-100, 100))
    def test_no_drop_means_nothing_to_recover(self, scores: list[float], offline: float) -> None:
        steps = np.arange(len(scores))
        dropped = drop_at_switch(steps, scores, offline) > 0
        assert dropped == (steps_to_recover(steps, scores, offline) > 0 or min(scores) < offline)

    @pytest.mark.parametrize(
        ("steps", "scores", "message"),
        [
            ([], [], "at least one evaluation"),
            ([0, 1], [1.0], "equally long"),
            ([[0]], [[1.0]], "one-dimensional"),
            ([1, 1], [1.0, 2.0], "must increase"),
            ([0, 1], [1.0, math.nan], "scores must be finite, found nan"),
        ],
    )
    def test_rejections(self, steps: list, scores: list, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            drop_at_switch(steps, scores, 1.0)
        with pytest.raises(ValueError, match=message):
            steps_to_recover(steps, scores, 1.0)

    def test_window_and_tolerance_are_checked(self) -> None:
        with pytest.raises(ValueError, match="the first is at 10"):
            drop_at_switch([10], [1.0], 1.0, window=5)
        with pytest.raises(ValueError, match=r"tolerance of steps_to_recover must be .* at least 0, not -1"):
            steps_to_recover([10], [1.0], 1.0, tolerance=-1)

    def test_regret(self) -> None:
        assert regret([True, False, False, True]) == 0.5
        assert cumulative_regret([0, 1, 1, 1]).tolist() == pytest.approx([1.0, 0.5, 1 / 3, 0.25])
        for bad in ([], [[1]], [2.0], [math.nan]):
            with pytest.raises(ValueError, match="successes"):
                regret(bad)


class TestEvaluate:
    def test_counts_whole_episodes(self) -> None:
        policy = Constant()
        result = evaluate(policy, tiny.BOX, 4, seed=1)
        assert result.lengths.tolist() == [tiny.EPISODE] * 4
        # It stands still about 0.5 away from 0, for ten steps.
        assert result.returns == pytest.approx(-5.0, abs=3.0)
        assert all(policy.asked)
        assert result.successes is None
        assert result.normalized is None
        assert "No reference returns are known for TinyBox-v0" in result.note
        assert result.score == result.returns.mean()

    def test_normalises_by_a_given_reference(self) -> None:
        result = evaluate(Constant(), gym.make(tiny.BOX), 2, reference=TINY, seed=1)
        assert result.normalized is not None
        assert result.normalized == pytest.approx(TINY.normalize(result.returns))
        assert result.score == pytest.approx(result.normalized.mean())
        assert result.deviation == pytest.approx(result.normalized.std())
        assert "by hand" in result.note

    def test_success_at_any_step_counts(self) -> None:
        # Walking left passes the goal on the way: the last step reports no success.
        result = evaluate(Constant(-1.0), make_vec_env(tiny.GOAL, 2), 5, deterministic=False, seed=0)
        assert result.successes is not None
        assert result.successes.all()
        assert result.returns.max() < tiny.EPISODE
        never = evaluate(Constant(1.0), tiny.GOAL, 3, seed=0)
        assert never.successes is not None
        assert not never.successes.any()

    def test_the_seed_decides(self) -> None:
        returns = [evaluate(Constant(), tiny.BOX, 2, seed=seed).returns.tolist() for seed in (3, 3, 4)]
        assert returns[0] == returns[1] != returns[2]

    @pytest.mark.parametrize("n_envs", [1, 3])
    def test_every_episode_has_its_seed_wherever_the_monitor_is(self, n_envs: int) -> None:
        inside = evaluate(Constant(), make_vec_env(tiny.BOX, n_envs), 7, seed=3)
        outside = VecMonitor(DummyVecEnv([lambda: gym.make(tiny.BOX)] * n_envs))
        for _ in range(2):
            result = evaluate(Constant(), outside, 7, seed=3)
            assert result.returns == pytest.approx(inside.returns, abs=1e-5)  # it sums in float32

    def test_random_streams_are_left_alone(self) -> None:
        model = SAC("MlpPolicy", gym.make(tiny.BOX), policy_kwargs={"net_arch": [4]}, seed=0)
        states = [th.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()]
        evaluate(model, tiny.BOX, 2, deterministic=False, seed=0)
        assert th.equal(th.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1]).all()
        assert random.getstate() == states[2]

    def test_random_streams_come_back_after_an_error(self) -> None:
        before = th.get_rng_state(), random.getstate()

        def draw_and_fail() -> None:
            with preserved_random_state():
                th.rand(1), random.random(), np.random.rand()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            draw_and_fail()
        assert th.equal(th.get_rng_state(), before[0])
        assert random.getstate() == before[1]

    def test_no_episodes(self) -> None:
        with pytest.raises(ValueError, match="n_episodes of evaluate must be a whole number of at least 1, not 0"):
            evaluate(Constant(), tiny.BOX, 0)


class Counter(BaseCallback):
    def _on_step(self) -> bool:
        return self.n_calls < 2


class TestCallback:
    def learn(self, tmp_path: Path, steps: int = 25, env: Any = None, **kwargs: Any) -> NormalizedEvalCallback:
        env = make_vec_env(tiny.BOX) if env is None else env
        model = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, batch_size=4, learning_starts=5, seed=0)
        options = {"n_eval_episodes": 2, "eval_freq": 10, "log_path": str(tmp_path), "verbose": 0, "seed": 7}
        callback = NormalizedEvalCallback(
            kwargs.pop("eval_env", None) or make_vec_env(tiny.BOX), **{**options, **kwargs}
        )
        model.learn(steps, callback=callback)
        return callback

    def test_layout_is_stable_baselines(self, tmp_path: Path) -> None:
        self.learn(tmp_path, reference=TINY, best_model_save_path=str(tmp_path))
        with np.load(tmp_path / "evaluations.npz") as saved:
            assert set(saved) == {"timesteps", "results", "ep_lengths"}
            assert saved["timesteps"].tolist() == [0, 10, 20, 25]
            assert saved["results"].shape == saved["ep_lengths"].shape == (4, 2)
        steps, returns = read_evaluations(tmp_path)
        assert steps.tolist() == [0, 10, 20, 25]
        assert returns.dtype == np.float64
        assert (tmp_path / "best_model.zip").is_file()

    def test_successes_are_saved(self, tmp_path: Path) -> None:
        env = make_vec_env(tiny.GOAL, 1)
        model = SAC("MultiInputPolicy", env, policy_kwargs={"net_arch": [4]}, learning_starts=50, seed=0)
        callback = NormalizedEvalCallback(make_vec_env(tiny.GOAL), eval_freq=10, log_path=str(tmp_path), verbose=0)
        model.learn(10, callback=callback)
        with np.load(tmp_path / "evaluations.npz") as saved:
            assert saved["successes"].shape == (2, 5)

    def test_logs_the_score(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        callback = self.learn(tmp_path, reference=TINY, verbose=1)
        assert callback.last_evaluation.normalized is not None
        assert callback.last_mean_reward == pytest.approx(callback.last_evaluation.returns.mean())
        assert "Evaluation at step 25: normalised score" in capsys.readouterr().out

    def test_without_references_returns_stay_raw_and_it_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        callback = self.learn(tmp_path, verbose=1)
        said = capsys.readouterr().out
        assert callback.last_evaluation.normalized is None
        assert said.count("No reference returns are known for TinyBox-v0: raw returns.") == 1
        assert f"Evaluation at step 25: return {callback.last_mean_reward:.1f}" in said

    def test_the_start_can_be_left_out(self, tmp_path: Path) -> None:
        assert self.learn(tmp_path, at_start=False).evaluations_timesteps == [10, 20, 25]

    def test_training_is_the_same_with_and_without(self, tmp_path: Path) -> None:
        def parameters(callback: Any) -> th.Tensor:
            model = SAC("MlpPolicy", make_vec_env(tiny.BOX), policy_kwargs={"net_arch": [4]}, learning_starts=5, seed=0)
            model.learn(30, callback=callback)
            return th.cat([parameter.flatten() for parameter in model.policy.parameters()])

        looking = NormalizedEvalCallback(make_vec_env(tiny.BOX), eval_freq=3, deterministic=False, verbose=0)
        assert th.equal(parameters(None), parameters(looking))

    def test_nested_callbacks_can_stop_training(self, tmp_path: Path) -> None:
        callback = self.learn(tmp_path, steps=100, callback_after_eval=Counter())
        assert callback.evaluations_timesteps == [0, 10]
        callback = self.learn(tmp_path, callback_on_new_best=Counter(), at_start=False)
        assert callback.callback_on_new_best.n_calls >= 1

    def test_a_policy_that_is_good_enough_at_the_start_is_trained_no_further(self, tmp_path: Path) -> None:
        """Nothing may ever be better than it, and only a new best is asked whether it is good enough."""
        good_enough = StopTrainingOnRewardThreshold(-1e9)
        callback = self.learn(tmp_path, steps=100, callback_on_new_best=good_enough, seed=0)
        assert callback.evaluations_timesteps == [0]
        assert callback.num_timesteps == 1

    def test_normalisation_statistics_travel(self, tmp_path: Path) -> None:
        train, held_out = (VecNormalize(make_vec_env(tiny.BOX), norm_reward=False) for _ in range(2))
        held_out.training = False
        self.learn(tmp_path, env=train, eval_env=held_out)
        assert np.allclose(train.obs_rms.mean, held_out.obs_rms.mean, atol=0.2)
        assert held_out.obs_rms.count > 1

    def test_an_environment_without_normaliser_shows_what_was_trained_on(self, tmp_path: Path) -> None:
        """The statistics are the training's, or those that a model was saved with; rewards are the environment's."""
        env = VecNormalize(make_vec_env(tiny.BOX), training=False)
        env.obs_rms.mean, env.ret_rms.var = np.array([-40.0, 0.0]), np.array(400.0)
        model = O2OSAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, buffer_size=50, seed=0, device="cpu")
        wrapped = VecNormalize(make_vec_env(tiny.BOX), training=False, norm_reward=False)
        wrapped.obs_rms = env.obs_rms
        expected = evaluate(model, wrapped, 3, seed=1).returns
        plain = make_vec_env(tiny.BOX)
        np.testing.assert_allclose(evaluate(model, plain, 3, seed=1).returns, expected)
        model.save(tmp_path / "model")
        loaded = O2OSAC.load(tmp_path / "model", device="cpu")
        np.testing.assert_allclose(evaluate(loaded, plain, 3, seed=1).returns, expected)
        assert not np.allclose(evaluate(model.policy, plain, 3, seed=1).returns, expected, atol=1e-3)
        callback = NormalizedEvalCallback(plain, n_eval_episodes=3, eval_freq=0, seed=1, verbose=0)
        model.learning_starts = 100
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.learn(1, callback=callback)
        np.testing.assert_allclose(callback.evaluations_results[0], expected)

    def test_no_evaluations(self, tmp_path: Path) -> None:
        assert read_evaluations(tmp_path) is None
