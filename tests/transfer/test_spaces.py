"""Sources whose environment had other spaces, and objects of a saved model that cannot be read."""

import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC, TD3
from toy_tasks import FAST, FAST_PPO, Drift, arrays, dataset, make, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3, UntrustedError
from sb3_o2o.data import OfflineDataset

ALGORITHMS = [O2OSAC, O2OTD3]


class Unbounded(gym.ObservationWrapper):
    """Says nothing about the bounds, in double precision."""

    def __init__(self, env: Any):
        super().__init__(env)
        self.observation_space = _unbounded(env.observation_space)

    def observation(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return {key: value.astype(np.float64) for key, value in observation.items()}
        return observation.astype(np.float64)


def _unbounded(space: Any) -> spaces.Space:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _unbounded(each) for key, each in space.items()})
    return spaces.Box(-np.inf, np.inf, space.shape, np.float64)


class Weak(gym.ActionWrapper):
    """Takes actions of a quarter of the size."""

    def __init__(self, env: Any):
        super().__init__(env)
        inner = env.action_space
        self.action_space = spaces.Box(inner.low / 4, inner.high / 4, inner.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        return action


def stock(algorithm: Any = SAC, env: Any = None, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    rest = FAST_PPO if algorithm is PPO else FAST
    arguments = {"policy_kwargs": {"net_arch": [16]}, **rest, **kwargs}
    return algorithm(policy, Drift() if env is None else env, **arguments)


def given(source: Any, saved: bool, folder: Path) -> Any:
    if not saved:
        return source
    source.save(folder / "theirs")
    return folder / "theirs.zip"


# -- observations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bounds_and_data_types_of_observations_may_differ(
    algorithm: Any, dictionary: bool, saved: bool, tmp_path: Path
) -> None:
    """Within the family of SAC as from it to TD3."""
    source = stock(env=Drift(dictionary), policy="MultiInputPolicy" if dictionary else "MlpPolicy").learn(8)
    env = Unbounded(Drift(dictionary))
    model = algorithm.load_offline(given(source, saved, tmp_path), env=env, **FAST)
    seen = dataset(dictionary=dictionary).observations
    expected = source.predict(seen, deterministic=True)[0]
    assert np.allclose(model.predict(seen, deterministic=True)[0], expected, atol=1e-6)
    assert model.observation_space == env.observation_space
    seen, actions = model.policy.obs_to_tensor(seen)[0], th.rand(60, 2)
    for own, other in zip(model.critic(seen, actions), source.critic(seen, actions), strict=True):
        assert th.allclose(own, other, atol=1e-5)
    stored = model.learn(6).replay_buffer.observations
    assert {array.dtype for array in (stored.values() if dictionary else [stored])} == {np.dtype(np.float64)}


def test_the_same_for_ppo(tmp_path: Path) -> None:
    source = stock(PPO)
    for each in (source, given(source, True, tmp_path)):
        model = O2OPPO.load_offline(each, env=Unbounded(Drift()), device="cpu")
        seen = dataset().observations
        assert np.allclose(model.predict(seen, deterministic=True)[0], source.predict(seen, deterministic=True)[0])
        model.learn(8)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_other_shapes_are_refused_before_anything_is_trained(algorithm: Any, saved: bool, tmp_path: Path) -> None:
    class Longer(gym.ObservationWrapper):
        def __init__(self, env: Any):
            super().__init__(env)
            self.observation_space = spaces.Box(-10.0, 10.0, (5,), np.float32)

        def observation(self, observation: np.ndarray) -> np.ndarray:
            return np.append(observation, [0.0, 0.0]).astype(np.float32)

    source = given(stock(env=Longer(Drift())), saved, tmp_path)
    with pytest.raises(ValueError, match=r"differ in their observations: the shapes are \(5,\) and \(3,\)"):
        algorithm.load_offline(source, env=Drift(), dataset=dataset(), pretrain_steps=1, **FAST)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_other_keys_are_refused(algorithm: Any) -> None:
    class Renamed(gym.ObservationWrapper):
        def __init__(self, env: Any):
            super().__init__(env)
            self.observation_space = spaces.Dict(
                aim=env.observation_space["goal"], place=env.observation_space["place"]
            )

        def observation(self, observation: Any) -> Any:
            return {"aim": observation["goal"], "place": observation["place"]}

    source = stock(env=Renamed(Drift(True)), policy="MultiInputPolicy")
    with pytest.raises(ValueError, match=r"observations: the keys are \['aim', 'place'\] and \['goal', 'place'\]"):
        algorithm.load_offline(source, env=Drift(True), dataset=dataset(dictionary=True), pretrain_steps=1, **FAST)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, O2OPPO])
def test_a_policy_without_its_model_is_compared_as_well(algorithm: Any) -> None:
    rest = FAST_PPO if algorithm is O2OPPO else FAST
    policy = stock(PPO, Drift(True), "MultiInputPolicy").policy
    with pytest.raises(ValueError, match="one is a Dict, the other a Box"):
        algorithm.load_offline(policy, env=Drift(), dataset=dataset(), pretrain_steps=1, **rest)


# -- actions -------------------------------------------------------------------------------------------------------


def weak_data() -> OfflineDataset:
    env, fields = Weak(Drift()), arrays(200)
    fields["actions"] = fields["actions"] / 4
    return OfflineDataset.load(fields, observation_space=env.observation_space, action_space=env.action_space)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(("algorithm", "build"), [(O2OSAC, SAC), (O2OTD3, SAC), (O2OSAC, TD3), (O2OTD3, TD3)])
def test_networks_are_not_copied_between_other_bounds(algorithm: Any, build: Any, saved: bool, tmp_path: Path) -> None:
    """What is an action of 2 there would be one of 0.5 here, and its value that of another action."""
    source, data = stock(build).learn(12), weak_data()
    kwargs: dict[str, Any] = {**FAST, "policy_kwargs": {"net_arch": [16]}, "learning_rate": 1e-2}
    with pytest.warns(UserWarning, match=r"lie in \[-2, -1\] to \[2, 3\], the environment's in \[-0\.5, -0\.25\] to"):
        model = algorithm.load_offline(
            given(source, saved, tmp_path), env=Weak(Drift()), dataset=data, pretrain_steps=300, **kwargs
        )
    report: Any = model.clone_report
    assert report.copied == ()
    seen, space = data.observations, model.action_space
    wanted = np.clip(source.predict(seen, deterministic=True)[0], space.low, space.high)
    found = np.linalg.norm(2 * (model.predict(seen, deterministic=True)[0] - wanted) / (space.high - space.low), axis=1)
    assert report.action_distance == pytest.approx(found.mean(), rel=1e-3)
    assert report.action_distance < 0.3
    fresh = algorithm("MlpPolicy", Weak(Drift()), **{**kwargs, "dataset": data})
    for own, other in zip(model.critic.parameters(), fresh.critic.parameters(), strict=True):
        assert own.shape == other.shape
    model.learn(6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bounds_are_named_where_there_is_nothing_to_clone_on(algorithm: Any) -> None:
    with pytest.raises(ValueError, match=r"\[-2, -1\] to \[2, 3\], the environment's in .*: pass dataset="):
        algorithm.load_offline(stock(), env=Weak(Drift()), **FAST)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_precision_of_bounds_does_not_matter(algorithm: Any) -> None:
    env = Drift()
    inner = env.action_space
    env.action_space = spaces.Box(inner.low.astype(np.float64), inner.high.astype(np.float64), dtype=np.float64)
    source = stock().learn(8)
    model = algorithm.load_offline(source, env=env, **FAST)
    seen = dataset().observations
    expected = source.predict(seen, deterministic=True)[0]
    assert np.allclose(model.predict(seen, deterministic=True)[0], expected, atol=1e-6)
    assert algorithm is O2OSAC or model.clone_report.copied == ("actor", "critics")


def test_actions_of_another_shape_are_refused() -> None:
    source = stock(env=vec())
    env = Drift()
    env.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    for algorithm in ALGORITHMS:
        with pytest.raises(ValueError, match=r"differ in their actions: the shapes are \(2,\) and \(3,\)"):
            algorithm.load_offline(source, env=env, dataset=dataset(), pretrain_steps=1, **FAST)


# -- state-dependent exploration -----------------------------------------------------------------------------------


def wide() -> dict[str, Any]:
    """gSDE clips the mean, which TD3's actor does not: so far out that it does not matter."""
    return {"net_arch": [16], "clip_mean": 100.0}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(("build", "algorithm"), [(TQC, O2OSAC), (SAC, O2OTD3), (TQC, O2OTD3), (TD3, O2OSAC)])
def test_actors_with_state_dependent_exploration_are_copied(
    build: Any, algorithm: Any, saved: bool, tmp_path: Path
) -> None:
    source = stock(build, **({} if build is TD3 else {"use_sde": True, "policy_kwargs": wide()})).learn(12)
    target: dict[str, Any] = {"use_sde": True, "policy_kwargs": wide()} if build is TD3 else {}
    model = algorithm.load_offline(given(source, saved, tmp_path), env=vec(), **target, **FAST)
    assert model.clone_report.copied[0] == "actor"
    assert model.clone_report.action_distance < 1e-5
    seen = dataset().observations
    expected = source.predict(seen, deterministic=True)[0]
    assert np.allclose(model.predict(seen, deterministic=True)[0], expected, atol=1e-5)
    if build is TQC and algorithm is O2OSAC:
        assert model.use_sde
        assert th.equal(model.actor.log_std, source.actor.log_std)
    model.learn(6)


def test_a_mean_that_is_clipped_is_no_copy() -> None:
    source = stock(TQC, use_sde=True, policy_kwargs={"net_arch": [16], "clip_mean": 0.01})
    with pytest.raises(ValueError, match="The networks of TQC do not fit O2OTD3: pass dataset="):
        O2OTD3.load_offline(source, env=vec(), **FAST)


# -- objects that cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [SAC, TQC])
def test_custom_objects_reach_what_opens_the_zip(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("gone_tomorrow")
    exec("class Noise:\n    pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "gone_tomorrow", module)
    source = stock(build)
    source.ep_success_buffer = module.Noise()
    source.save(tmp_path / "theirs")
    monkeypatch.delitem(sys.modules, "gone_tomorrow")
    with pytest.raises(UntrustedError, match=r"'ep_success_buffer', needs gone_tomorrow\.Noise"):
        O2OSAC.load_offline(tmp_path / "theirs", env=Drift(), **FAST)
    with pytest.raises(ValueError, match="No module named 'gone_tomorrow'"):
        O2OSAC.load_offline(tmp_path / "theirs", env=Drift(), trust=True, **FAST)
    objects = {"ep_success_buffer": None}
    model = O2OSAC.load_offline(tmp_path / "theirs", env=Drift(), custom_objects=objects, **FAST)
    seen = dataset().observations
    assert np.allclose(
        model.predict(seen, deterministic=True)[0], source.predict(seen, deterministic=True)[0], atol=1e-6
    )
    assert objects == {"ep_success_buffer": None}


def test_spaces_that_cannot_be_read_are_given(tmp_path: Path) -> None:
    """What replaces a saved space is compared in its place."""
    stock().save(tmp_path / "theirs")
    space = spaces.Box(-10.0, 10.0, (4,), np.float32)
    with pytest.raises(ValueError, match=r"the shapes are \(4,\) and \(3,\)"):
        O2OSAC.load_offline(tmp_path / "theirs", env=Drift(), custom_objects={"observation_space": space}, **FAST)


def test_a_zip_of_ours_keeps_its_critics_in_other_bounds_of_observations(tmp_path: Path) -> None:
    make(objective="iql", n_critics=3).pretrain(dataset(), 3).save(tmp_path / "ours")
    model = O2OSAC.load_offline(tmp_path / "ours", env=Unbounded(Drift()), device="cpu")
    loaded = O2OSAC.load(tmp_path / "ours", device="cpu")
    for own, other in zip(model.critic.parameters(), loaded.critic.parameters(), strict=True):
        assert th.equal(own, other)
    assert model.n_critics == 3
