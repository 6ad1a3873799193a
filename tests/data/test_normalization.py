"""Statistics of ``VecNormalize`` from a dataset: those that it would have if it had been shown the dataset."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from toy_tasks import Drift, arrays, dataset, vec

from sb3_o2o.data.normalization import Normalizer, fit, is_fresh, same_observations, same_rewards


class Replay(gym.Env[Any, Any]):
    """Plays the episodes of a dataset again, whatever is done."""

    def __init__(self, fields: dict[str, Any]):
        self.fields, self.at = fields, 0
        self.observation_space, self.action_space = Drift().observation_space, Drift().action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.fields["observations"][self.at % len(self.fields["rewards"])], {}

    def step(self, action: Any) -> Any:
        at, fields = self.at, self.fields
        self.at += 1
        ended = bool(fields["terminations"][at]), bool(fields["truncations"][at])
        return fields["next_observations"][at], float(fields["rewards"][at]), *ended, {}


def shown(fields: dict[str, Any], **kwargs: Any) -> VecNormalize:
    """After it has seen each observation of the recorded episodes once."""
    env = VecNormalize(DummyVecEnv([lambda: Replay(fields)]), **kwargs)
    env.reset()
    for _ in range(len(fields["rewards"]) - 1):
        env.step(np.zeros((1, 2)))
    return env


@pytest.mark.parametrize("gamma", [0.99, 0.5])
def test_as_if_it_had_been_shown(gamma: float) -> None:
    expected, env = shown(arrays(), gamma=gamma), VecNormalize(vec(), gamma=gamma)
    data = dataset()
    assert fit(env, data) == ["observations", "rewards"]
    assert np.allclose(env.obs_rms.mean, expected.obs_rms.mean, atol=1e-6)
    assert np.allclose(env.obs_rms.var, expected.obs_rms.var, rtol=1e-5)
    assert env.obs_rms.count == pytest.approx(expected.obs_rms.count) == pytest.approx(60, abs=1e-3)
    # the last reward is given with an observation that the recording does not begin with
    expected._update_reward(np.float32([arrays()["rewards"][-1]]))
    assert env.ret_rms.var == pytest.approx(expected.ret_rms.var, rel=1e-5)
    assert env.ret_rms.mean == pytest.approx(expected.ret_rms.mean, abs=1e-6)
    assert env.ret_rms.count == pytest.approx(60, abs=1e-3)


def test_keys_that_are_normalised() -> None:
    env, data = VecNormalize(vec(dictionary=True), norm_obs_keys=["place"]), dataset(dictionary=True)
    fit(env, data)
    assert list(env.obs_rms) == ["place"]
    assert np.allclose(env.obs_rms["place"].mean, data.observations["place"].mean(axis=0), atol=1e-6)  # type: ignore[call-overload]
    seen: Any = env.normalize_obs(data.observations)
    assert np.allclose(seen["place"].std(axis=0), 1.0, atol=1e-2)
    assert np.array_equal(seen["goal"], data.observations["goal"])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "touch",
    [
        lambda env: env.reset(),
        lambda env: env.obs_rms.mean.__setitem__(0, 2.0),
        lambda env: env.obs_rms.var.__setitem__(0, 2.0),
    ],
)
def test_statistics_that_exist_stay(touch: Any) -> None:
    env = VecNormalize(vec(), norm_reward=False, training=True)
    touch(env)
    assert not is_fresh(env)
    before = Normalizer.of(env)
    with pytest.warns(UserWarning, match=r"VecNormalize has seen \d+ observations: the dataset is normalised by these"):
        assert fit(env, dataset()) == []
    assert np.array_equal(env.obs_rms.mean, before.obs_rms.mean)  # type: ignore[union-attr]


@pytest.mark.filterwarnings("error")
def test_what_is_not_normalised_is_not_fitted() -> None:
    off = VecNormalize(vec(), norm_obs=False, norm_reward=False)
    assert fit(off, dataset()) == []
    rewards = VecNormalize(vec(), norm_obs=False)
    assert fit(rewards, dataset()) == ["rewards"]
    observations = VecNormalize(vec(), norm_reward=False)
    assert fit(observations, dataset()) == ["observations"]
    assert observations.ret_rms.count < 1
    assert fit(observations, dataset()) == []  # once
    frozen = VecNormalize(vec(), training=False)
    assert fit(frozen, dataset()) == ["observations", "rewards"]
    frozen.reset()
    assert frozen.obs_rms.count == pytest.approx(60, abs=1e-3)


def test_statistics_of_other_shapes() -> None:
    env: Any = VecFrameStack(VecNormalize(vec()), 2)
    data = dataset()
    stacked = VecNormalize(VecFrameStack(vec(), 2))
    with pytest.raises(ValueError, match=r"the shape \(6,\), the dataset 'arrays' has the shape \(3,\): wrap"):
        fit(stacked, data)
    assert is_fresh(stacked)
    assert stacked.ret_rms.count < 1
    assert fit(env.venv, data)


def test_a_normaliser_apart_from_its_environment() -> None:
    """What it gives is what ``VecNormalize`` gives, and it stays as it was."""
    env = VecNormalize(vec(), clip_obs=1.0)
    fit(env, dataset())
    apart: Any = Normalizer.of(env)
    seen = dataset().observations
    assert np.array_equal(apart.normalize_obs(seen), env.normalize_obs(seen))
    assert apart.reward_scale == pytest.approx(float(env.normalize_reward(np.float32([0.1]))[0]) / 0.1, rel=1e-6)
    kept = apart.obs_rms.mean.copy()
    env.obs_rms.update(np.full((50, 3), 7.0))
    assert np.array_equal(apart.obs_rms.mean, kept)
    assert apart.wrap(vec()).clip_obs == 1.0
    assert Normalizer.of(None) is None


def test_which_normalisers_are_the_same_to_a_network() -> None:
    one = VecNormalize(vec())
    fit(one, dataset())
    plain, other = Normalizer.of(one), Normalizer.of(one)
    off = Normalizer.of(VecNormalize(vec(), norm_obs=False, norm_reward=False))
    assert same_observations(plain, other)
    assert same_rewards(plain, other)
    assert same_observations(None, off)
    assert same_rewards(None, off)
    assert not same_observations(plain, None)
    assert not same_rewards(plain, off)
    one.obs_rms.mean[1] += 0.2
    one.ret_rms.var *= 1.5
    assert not same_observations(plain, Normalizer.of(one))
    assert not same_rewards(plain, Normalizer.of(one))


def test_images_are_normalised_by_pixels() -> None:
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)

    class Picture(gym.Env[Any, Any]):
        observation_space, action_space = space, Drift().action_space

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20, *space.shape), np.uint8)  # type: ignore[misc]
    fields = {**arrays(20), "observations": pictures, "next_observations": pictures}
    from sb3_o2o.data import OfflineDataset

    data = OfflineDataset.load(fields, observation_space=space, action_space=Drift().action_space)
    env = VecNormalize(DummyVecEnv([Picture]), norm_reward=False)
    fit(env, data)
    assert np.allclose(env.obs_rms.mean, pictures.mean(axis=0), atol=1e-3)
