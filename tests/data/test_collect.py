"""Rolling a policy out into a new Minari dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_o2o import O2OSAC
from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.collect import collect

from .toys import WalkEnv

FORWARD = np.array([2.0, 0.0], np.float32)


def forward(observation: Any) -> np.ndarray:
    """Arrives in two steps: 0.6 each, from within 0.1 of zero."""
    return FORWARD


def still(observation: Any) -> np.ndarray:
    """Never arrives."""
    return np.zeros(2)


def test_a_function(tmp_path: Path) -> None:
    dataset = collect(forward, WalkEnv(), "me/walk-v0", n_episodes=3, seed=0)
    assert dataset.source == "me/walk-v0"
    assert len(dataset) == 6
    np.testing.assert_array_equal(dataset.rewards, [0, 1] * 3)
    np.testing.assert_array_equal(dataset.terminations, [False, True] * 3)
    # Bounds [-2, 2] and [-1, 3]
    np.testing.assert_allclose(dataset.actions, [[1 - 1e-5, -0.5]] * 6, atol=1e-7)
    observations, following = dataset.observations, dataset.next_observations
    assert isinstance(observations, np.ndarray)
    assert isinstance(following, np.ndarray)
    np.testing.assert_allclose(following[:, 0] - observations[:, 0], [0.6] * 6, rtol=1e-5)
    np.testing.assert_array_equal(observations[:, 1], [0, 1] * 3)
    assert (tmp_path / "minari" / "me" / "walk-v0" / "data" / "main_data.hdf5").is_file()
    # As any other Minari dataset
    assert minari.load_dataset("me/walk-v0").total_steps == 6
    assert minari.load_dataset("me/walk-v0").storage.metadata["algorithm_name"] == "forward"


def test_the_last_episode_is_cut_and_truncated() -> None:
    dataset = collect(still, WalkEnv(limit=4), "me/walk-v0", n_steps=6)
    np.testing.assert_array_equal(dataset.truncations, [False, False, False, True, False, True])
    assert not dataset.terminations.any()
    exact = collect(forward, WalkEnv(), "me/exact-v0", n_steps=2)
    np.testing.assert_array_equal(exact.terminations, [False, True])
    np.testing.assert_array_equal(exact.truncations, [False, False])


@pytest.mark.parametrize("dictionary", [False, True])
def test_random_actions_repeat_with_the_seed(dictionary: bool) -> None:
    names = ["me/first-v0", "me/second-v0", "me/third-v0"]
    datasets = [
        collect(None, WalkEnv(dictionary), name, n_steps=20, seed=seed)
        for name, seed in zip(names, (0, 0, 1), strict=True)
    ]
    assert datasets[0].fingerprint == datasets[1].fingerprint != datasets[2].fingerprint
    assert isinstance(datasets[0].observations, dict) == dictionary
    assert np.abs(datasets[0].actions).max() <= 1.0
    assert np.abs(datasets[0].actions).mean() == pytest.approx(0.5, abs=0.2)


def test_a_model_of_sb3() -> None:
    model = SAC("MlpPolicy", WalkEnv(), seed=0, device="cpu", buffer_size=10, policy_kwargs={"net_arch": [8]})
    dataset = collect(model, WalkEnv(), "me/mean-v0", n_steps=5, deterministic=True, seed=3)
    expected = model.predict(dataset.observations, deterministic=True)[0]
    np.testing.assert_allclose(dataset.actions, model.policy.scale_action(expected), atol=1e-5)
    state = th.get_rng_state()
    sampled = [collect(model, WalkEnv(), f"me/sampled-v{seed}", n_steps=5, seed=seed) for seed in (3, 4)]
    assert th.equal(th.get_rng_state(), state)
    assert sampled[0].fingerprint != dataset.fingerprint
    assert sampled[0].fingerprint != sampled[1].fingerprint
    assert sampled[0].fingerprint == collect(model, WalkEnv(), "me/again-v0", n_steps=5, seed=3).fingerprint


def test_a_model_sees_observations_as_it_did_in_training() -> None:
    env = VecNormalize(DummyVecEnv([WalkEnv]), training=False)
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, 5.0]), np.array([4.0, 9.0])
    model = SAC("MlpPolicy", env, seed=0, device="cpu", buffer_size=10, policy_kwargs={"net_arch": [8]})
    dataset = collect(model, WalkEnv(), "me/normalised-v0", n_steps=5, deterministic=True, seed=0)
    expected = model.predict(env.normalize_obs(dataset.observations), deterministic=True)[0]
    np.testing.assert_allclose(dataset.actions, model.policy.scale_action(expected), atol=1e-5)


def test_a_saved_model_of_ours_sees_them_without_its_environment(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([WalkEnv]), training=False)
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, 5.0]), np.array([4.0, 9.0])
    O2OSAC("MlpPolicy", env, seed=0, device="cpu", buffer_size=10, policy_kwargs={"net_arch": [8]}).save(tmp_path / "m")
    model = O2OSAC.load(tmp_path / "m", device="cpu")
    dataset = collect(model, WalkEnv(), "me/saved-v0", n_steps=5, deterministic=True, seed=0)
    expected = model.predict(env.normalize_obs(dataset.observations), deterministic=True)[0]
    np.testing.assert_allclose(dataset.actions, model.policy.scale_action(expected), atol=1e-5)


def printed_summary(dataset: OfflineDataset, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``summary`` prints."""
    dataset.summary()
    return capsys.readouterr().out


def test_an_environment_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = collect(
        None,
        "Pendulum-v1",
        "me/pendulum-v0",
        n_steps=12,
        seed=0,
        env_kwargs={"g": 5.0, "max_episode_steps": 5},
        ref_min_score=-1000.0,
        ref_max_score=-100.0,
        description="a few random steps",
        algorithm_name="uniform",
    )
    assert dataset.env_id == "Pendulum-v1"
    np.testing.assert_array_equal(dataset.episode_lengths, [5, 5, 2])
    assert "environment Pendulum-v1" in printed_summary(dataset, capsys)
    assert (dataset.ref_min_score, dataset.ref_max_score) == (-1000.0, -100.0)
    metadata = minari.load_dataset("me/pendulum-v0").storage.metadata
    assert metadata["description"] == "a few random steps"
    assert metadata["algorithm_name"] == "uniform"
    assert minari.load_dataset("me/pendulum-v0").recover_environment().unwrapped.g == 5.0


def test_observations_that_the_environment_overwrites() -> None:
    class Overwriting(WalkEnv):
        """Returns the same array every time."""

        array = np.zeros(2)

        def _observe(self) -> np.ndarray:
            self.array[:] = super()._observe()
            return self.array

    dataset = collect(still, Overwriting(limit=4), "me/walk-v0", n_episodes=1)
    np.testing.assert_array_equal(dataset.observations[:, 1], [0, 1, 2, 3])


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_o2o.progress.HEARTBEAT", 0.0)
    collect(still, WalkEnv(limit=4), "me/steps-v0", n_steps=6, progress_bar=True)
    assert "collecting         5 of 6 steps, " in capsys.readouterr().err
    collect(still, WalkEnv(limit=4), "me/episodes-v0", n_episodes=2, progress_bar=True)
    assert "collecting         2 of 2 episodes in " in capsys.readouterr().err
    collect(still, WalkEnv(limit=4), "me/silent-v0", n_episodes=2)
    assert capsys.readouterr().err == ""


def test_what_exists_is_kept_unless_told_otherwise(two_episodes: str) -> None:
    before = OfflineDataset.load(two_episodes).fingerprint
    with pytest.raises(ValueError, match=r"There is a dataset 'test/two-v0' already.*force=True"):
        collect(still, WalkEnv(), two_episodes, n_steps=3)
    assert OfflineDataset.load(two_episodes).fingerprint == before
    assert len(collect(still, WalkEnv(), two_episodes, n_steps=3, force=True)) == 3
    assert len(OfflineDataset.load(two_episodes)) == 3


def test_a_failure_restores_what_was_there(two_episodes: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = OfflineDataset.load(two_episodes, cache=False).fingerprint

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(minari.dataset.minari_storage.MinariStorage, "update_metadata", fail)
    with pytest.raises(OSError, match="disk full"):
        collect(still, WalkEnv(), two_episodes, n_steps=3, force=True)
    with pytest.raises(OSError, match="disk full"):
        collect(still, WalkEnv(), "test/new-v0", n_steps=3)
    monkeypatch.undo()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert OfflineDataset.load(two_episodes, cache=False).fingerprint == before
    assert sorted(minari.list_local_datasets()) == [two_episodes]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of n_steps and n_episodes"),
        ({"n_steps": 3, "n_episodes": 1}, "exactly one of n_steps and n_episodes"),
        ({"n_steps": 0}, "n_steps of collect must be a whole number of at least 1 or None, not 0"),
        ({"n_steps": 3, "ref_max_score": 1.0}, "make sense only together"),
        ({"n_steps": 3, "env_kwargs": {"limit": 4}}, "env_kwargs are for an environment that is given by its id"),
        ({"n_steps": 3, "dataset_id": "no version"}, "'no version' is not a Minari id: .*'me/mine-v0'"),
        ({"n_steps": 3, "dataset_id": "no-version"}, "'no-version' is not a Minari id"),
        ({"n_steps": 3, "policy": 3}, "policy of collect must be an SB3 model, a function or None, not 3"),
        (
            {"n_steps": 3, "policy": lambda observation: np.zeros(3)},
            r"action of shape \(3,\), the environment wants \(2,\)",
        ),
        (
            {"n_steps": 3, "policy": lambda observation: np.full(2, 2.5)},
            r"outside of the environment's bounds.*clip or",
        ),
        ({"n_steps": 3, "policy": lambda observation: np.full(2, np.nan)}, "outside of the environment's bounds"),
        ({"n_steps": 3, "env": "CartPole-v1"}, "only continuous actions"),
        ({"n_steps": 3, "env": DummyVecEnv([WalkEnv])}, "needs a single environment, not a vectorised one"),
    ],
)
def test_bad_requests_write_nothing(arguments: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {"policy": None, "env": WalkEnv(), "dataset_id": "me/walk-v0", **arguments}
    with pytest.raises(ValueError, match=message):
        collect(**request)
    assert minari.list_local_datasets() == {}


@pytest.mark.parametrize("own", [False, True])
def test_only_its_own_environment_is_closed(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Closing(gym.Wrapper[Any, Any, Any, Any]):
        def close(self) -> None:
            closed.append(True)

    make: Callable[..., Any] = lambda *args, **kwargs: Closing(WalkEnv())  # noqa: E731
    monkeypatch.setattr(gym, "make", make)
    collect(still, "anything" if own else make(), "me/walk-v0", n_steps=2)
    assert closed == ([True] if own else [])


def test_one_dimensional_boxes_of_any_shape() -> None:
    class Square(WalkEnv):
        """Actions and observations are matrices."""

        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Box(-np.inf, np.inf, (2, 1), np.float64)
            self.action_space = spaces.Box(-2.0, 2.0, (2, 2), np.float32)

        def _observe(self) -> np.ndarray:
            return super()._observe()[:, None]

        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return super().step(action.reshape(-1)[:2])

    dataset = collect(lambda observation: np.ones((2, 2)), Square(), "me/square-v0", n_steps=3)
    np.testing.assert_array_equal(dataset.actions, np.full((3, 4), 0.5))
    assert dataset.observations.shape == (3, 2, 1)
