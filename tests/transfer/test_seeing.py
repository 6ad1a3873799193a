"""Policies that act behind ``VecNormalize``: their statistics go along, are read from files, or are asked for."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import FAST, FAST_PPO, dataset, make, make_ppo, make_td3, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3

OBS = dataset().observations


def normalized(env: Any = None, mean: Any = (0.3, -0.2, 0.5), scale: float = 0.5, **kwargs: Any) -> VecNormalize:
    """Statistics that nothing but this environment knows."""
    env = VecNormalize(vec() if env is None else env, **{"norm_reward": False, "training": False, **kwargs})
    for key, rms in (env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}).items():
        rms.mean, rms.var = np.array(mean if key != "goal" else mean[:1]), np.full(rms.mean.shape, scale**2)
        rms.count = 5000.0
    env.ret_rms.var, env.ret_rms.count = np.array(9.0), 5000.0
    return env


def fresh(**kwargs: Any) -> VecNormalize:
    return VecNormalize(vec(), **{"norm_reward": False, **kwargs})


def stock(algorithm: Any = SAC, env: Any = None, steps: int = 8, **kwargs: Any) -> Any:
    rest = FAST_PPO if algorithm is PPO else FAST
    arguments = {"policy_kwargs": {"net_arch": [16]}, **rest, **kwargs}
    return algorithm("MlpPolicy", vec() if env is None else env, **arguments).learn(steps)


def acts(model: Any, observations: Any = OBS) -> np.ndarray:
    """As in its own environment."""
    env = model.get_vec_normalize_env()
    return model.predict(observations if env is None else env.normalize_obs(observations), deterministic=True)[0]


BUILD = {O2OSAC: make, O2OTD3: make_td3, O2OPPO: make_ppo}
REST = {O2OSAC: FAST, O2OTD3: FAST, O2OPPO: FAST_PPO}


# -- statistics that go along --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["a new VecNormalize", "none"])
@pytest.mark.parametrize("algorithm", BUILD)
@pytest.mark.parametrize("to", BUILD)
def test_a_zip_of_ours_brings_its_statistics(algorithm: Any, to: Any, how: str, tmp_path: Path) -> None:
    """Within a family, and where networks are copied across; where they are cloned, source and clone act alike."""
    theirs = BUILD[algorithm](env=normalized(training=True)).learn(8)
    theirs.save(tmp_path / "theirs")
    copies = algorithm is to or O2OPPO not in (algorithm, to)
    kwargs: dict[str, Any] = {"dataset": dataset(200), "pretrain_steps": 1, "verbose": 0, **REST[to]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = to.load_offline(tmp_path / "theirs", env=fresh() if how != "none" else vec(), **kwargs)
    said = " ".join(str(each.message) for each in caught)
    assert ("is wrapped in one with its statistics" in said) == (copies and how == "none")
    if not copies:
        assert (model.get_vec_normalize_env() is None) == (how == "none")
        return
    own, known = model.get_vec_normalize_env(), theirs.get_vec_normalize_env()
    assert np.array_equal(own.obs_rms.mean, known.obs_rms.mean)
    assert own.obs_rms.count == known.obs_rms.count
    assert np.allclose(acts(model), acts(theirs), atol=1e-5)
    assert algorithm is to or model.clone_report.action_distance < 1e-4
    model.learn(8)


def test_a_live_model_is_asked_by_its_environment() -> None:
    theirs = stock(env=normalized())
    for algorithm in (O2OSAC, O2OTD3):
        model = algorithm.load_offline(theirs, env=fresh(), **FAST)
        assert np.allclose(acts(model), acts(theirs), atol=1e-5)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
def test_the_statistics_of_a_stock_run(algorithm: Any, as_file: bool, tmp_path: Path) -> None:
    """Its zip does not hold them."""
    theirs = stock(env=normalized(clip_obs=1.5))
    theirs.save(tmp_path / "theirs")
    statistics: Any = theirs.get_vec_normalize_env()
    if as_file:
        statistics.save(str(tmp_path / "vecnormalize.pkl"))
        statistics = tmp_path / "vecnormalize.pkl"
    model = algorithm.load_offline(tmp_path / "theirs", env=fresh(), vec_normalize=statistics, **FAST)
    assert np.allclose(acts(model), acts(theirs), atol=1e-5)
    assert model.get_vec_normalize_env().clip_obs == 1.5
    with pytest.raises(ValueError, match=r"nothing says by which statistics SAC saw .* vec_normalize=False"):
        algorithm.load_offline(tmp_path / "theirs", env=fresh(), **FAST)
    with pytest.warns(UserWarning, match="is wrapped in one with its statistics"):
        model = algorithm.load_offline(tmp_path / "theirs", env=vec(), vec_normalize=statistics, **FAST)
    assert np.allclose(acts(model), acts(theirs), atol=1e-5)
    assert np.allclose(acts(model), model.predict(model.get_env().normalize_obs(OBS), deterministic=True)[0])


@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
def test_an_environment_with_statistics_says_what_a_stock_zip_saw(algorithm: Any, tmp_path: Path) -> None:
    """As Stable-Baselines3's users give it: ``VecNormalize.load`` before ``load``."""
    theirs = stock(env=normalized())
    theirs.save(tmp_path / "theirs")
    env = normalized()
    model = algorithm.load_offline(tmp_path / "theirs", env=env, **FAST)
    assert model.get_vec_normalize_env() is env
    assert np.allclose(acts(model), acts(theirs), atol=1e-5)


def test_a_saved_model_comes_back_with_its_statistics(tmp_path: Path) -> None:
    theirs = make(env=normalized(norm_reward=True)).pretrain(dataset(), 2)
    theirs.save(tmp_path / "theirs")
    env = fresh(norm_reward=True)
    model = O2OSAC.load(tmp_path / "theirs", env=env)
    assert np.allclose(acts(model), acts(theirs), atol=1e-6)
    assert env.ret_rms.var == 9.0
    acting = O2OSAC.load(tmp_path / "theirs")
    acting.set_env(other := fresh())
    assert np.array_equal(other.obs_rms.mean, env.obs_rms.mean)
    acting.save(tmp_path / "again")
    own = normalized(mean=(9.0, 9.0, 9.0))
    assert O2OSAC.load(tmp_path / "again", env=own).get_vec_normalize_env().obs_rms.mean[0] == 9.0  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="was trained behind VecNormalize, and its environment has none"):
        O2OSAC.load(tmp_path / "theirs", env=vec())


def test_a_model_that_only_acts_keeps_them(tmp_path: Path) -> None:
    make(env=normalized()).save(tmp_path / "theirs")
    O2OSAC.load(tmp_path / "theirs").save(tmp_path / "again")
    env = fresh()
    O2OSAC.load_offline(tmp_path / "again", env=env, **FAST)
    assert env.obs_rms.mean[0] == 0.3


# -- networks that would read something else -----------------------------------------------------------------------

MISFITS: dict[str, tuple[Any, Any, str]] = {
    "other statistics": (normalized, lambda: normalized(mean=(2.0, 2.0, 2.0)), "by other statistics than the"),
    "none": (vec, fresh, "saw observations as they are, and the environment's VecNormalize changes them"),
    "none but some": (vec, normalized, "saw observations as they are, and the environment's VecNormalize changes them"),
    "switched off": (normalized, lambda: fresh(norm_obs=False), "by other statistics than the environment's"),
}


@pytest.mark.parametrize(("algorithm", "saved"), [(O2OSAC, True), (O2OTD3, False)])
@pytest.mark.parametrize("name", MISFITS)
def test_other_statistics_make_a_clone(name: str, algorithm: Any, saved: bool, tmp_path: Path) -> None:
    build, env, message = MISFITS[name]
    theirs: Any = make(env=build()).learn(8)
    source = theirs
    if saved:
        theirs.save(tmp_path / "theirs")
        source = tmp_path / "theirs"
    with pytest.raises(ValueError, match=rf"{message}.*: pass dataset="):
        algorithm.load_offline(source, env=env(), **FAST)
    kwargs: dict[str, Any] = {"dataset": dataset(400), "pretrain_steps": 150, "learning_rate": 1e-2, "batch_size": 64}
    with pytest.warns(UserWarning, match=f"{message}.*: the policy is cloned and the critics are fresh"):
        model = algorithm.load_offline(source, env=env(), **{**FAST, "policy_kwargs": {"net_arch": [32]}, **kwargs})
    assert model.clone_report.copied == ()
    check_report(model, theirs)


def check_report(model: Any, theirs: Any) -> None:
    """The distance is that of what acts: each in its own way, on the environment's observations."""
    seen = dataset(400).observations
    found = np.linalg.norm((acts(model, seen) - acts(theirs, seen)) / 2, axis=1).mean()
    assert model.clone_report.action_distance == pytest.approx(found, rel=1e-3)
    assert found < 0.2


def test_statistics_that_have_moved_a_little_are_the_same(tmp_path: Path) -> None:
    """A checkpoint of the model, and statistics of a moment later."""
    theirs = make(env=normalized()).learn(8)
    theirs.save(tmp_path / "theirs")
    later = normalized(mean=(0.31, -0.21, 0.5))
    for algorithm in (O2OSAC, O2OTD3):
        model = algorithm.load_offline(tmp_path / "theirs", env=later, **FAST)
        assert np.allclose(model.predict(OBS, deterministic=True)[0], theirs.predict(OBS, deterministic=True)[0])
    assert 1e-4 < model.clone_report.action_distance < 0.05  # type: ignore[union-attr]


@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
def test_critics_of_other_rewards_are_fresh(algorithm: Any) -> None:
    theirs = make(env=normalized(norm_reward=True), seed=8).learn(8)
    same = algorithm.load_offline(theirs, env=fresh(norm_reward=True), **FAST)
    assert th.allclose(q(same), q(theirs), atol=1e-5)
    assert same.get_vec_normalize_env().ret_rms.var == theirs.get_vec_normalize_env().ret_rms.var  # type: ignore[union-attr]
    with pytest.warns(
        UserWarning, match="divides the environment's rewards otherwise than those of SAC, so the critics"
    ):
        other = algorithm.load_offline(theirs, env=fresh(norm_reward=False), **FAST)
    assert not th.allclose(q(other), q(theirs), atol=1e-2)
    assert np.allclose(acts(other), acts(theirs), atol=1e-5)
    kept = algorithm.load_offline(theirs, env=fresh(norm_reward=False), load_critic=True, **FAST)
    assert th.allclose(q(kept), q(theirs), atol=1e-5)


def q(model: Any) -> th.Tensor:
    return th.cat(model.critic(th.from_numpy(OBS), th.zeros(len(OBS), 2)))


# -- clones --------------------------------------------------------------------------------------------------------


class Source:
    """Acts on the first observation that it is shown."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        shown = observation["place"] if isinstance(observation, dict) else observation
        return np.clip(np.asarray(shown)[:, :2], [-2.0, -1.0], [2.0, 3.0]), None


def clone(source: Any, env: Any, algorithm: Any = O2OSAC, **kwargs: Any) -> Any:
    arguments = {
        **{"dataset": dataset(400), "pretrain_steps": 200, "learning_rate": 2e-2, "policy_kwargs": {"net_arch": [32]}},
        **{**REST[algorithm], "batch_size": 64},
        **({"pretrain_learning_rate": 2e-2, "pretrain_batch_size": 64, "batch_size": 8} if algorithm is O2OPPO else {}),
    }
    return algorithm.load_offline(source, env, **{**arguments, **kwargs})


def distance(model: Any, wanted: np.ndarray, observations: Any) -> float:
    return float(np.linalg.norm((acts(model, observations) - wanted) / 2, axis=1).mean())


@pytest.mark.parametrize("algorithm", BUILD)
def test_a_source_acts_on_what_the_environment_gives(algorithm: Any) -> None:
    env, seen = normalized(), dataset(400).observations
    model = clone(Source(), env, algorithm)
    wanted = Source().predict(env.normalize_obs(seen))[0]
    found = distance(model, wanted, seen)
    assert found < 0.1
    assert model.clone_report.action_distance == pytest.approx(found, rel=1e-3)
    assert env.obs_rms.count == 5000.0


def test_nobody_was_trained_behind_statistics_that_did_not_exist() -> None:
    """A new VecNormalize is fitted to the dataset, and the source sees observations as they are."""
    env, data = fresh(), dataset(400)
    model = clone(Source(), env)
    assert env.obs_rms.count == pytest.approx(400, abs=1e-3)
    assert np.allclose(env.obs_rms.mean, data.observations.mean(axis=0), atol=1e-5)
    found = distance(model, Source().predict(data.observations)[0], data.observations)
    assert found < 0.1
    assert model.clone_report.action_distance == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("asked", [False, "statistics"])
def test_how_a_source_saw_can_be_said(asked: Any) -> None:
    other = normalized(mean=(-0.5, 0.5, 0.0), scale=2.0)
    seen = dataset(400).observations
    model = clone(Source(), normalized(), vec_normalize=other if asked else False)
    wanted = Source().predict(other.normalize_obs(seen) if asked else seen)[0]
    found = distance(model, wanted, seen)
    assert found < 0.1
    assert model.clone_report.action_distance == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("saved", [False, True])
def test_a_model_is_asked_by_its_own_statistics(saved: bool, tmp_path: Path) -> None:
    theirs, seen = stock(PPO, normalized()), dataset(400).observations
    source: Any = theirs
    kwargs: dict[str, Any] = {}
    if saved:
        theirs.save(tmp_path / "theirs")
        theirs.get_vec_normalize_env().save(str(tmp_path / "vecnormalize.pkl"))
        source, kwargs = tmp_path / "theirs", {"vec_normalize": str(tmp_path / "vecnormalize.pkl")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = clone(source, vec(), **kwargs)
    found = distance(model, acts(theirs, seen), seen)
    assert model.clone_report.action_distance == pytest.approx(found, rel=1e-3)
    assert found < 0.1
    assert model.get_vec_normalize_env() is None  # a clone learns on what there is


def test_a_saved_policy_of_no_known_statistics(tmp_path: Path) -> None:
    stock(PPO, normalized()).save(tmp_path / "theirs")
    with pytest.warns(UserWarning, match="othing says by which statistics PPO saw its observations"):
        clone(tmp_path / "theirs", fresh(), pretrain_steps=1)


def test_scores_of_both_are_of_what_acts() -> None:
    """In the same episodes, a copy has its source's return, and rewards are the environment's."""
    theirs = stock(TQC, normalized(norm_reward=True))
    with pytest.warns(UserWarning, match="is wrapped in one"):
        model = O2OSAC.load_offline(theirs, env=vec(), report_episodes=40, **FAST)
    report: Any = model.clone_report
    assert report.own_return == pytest.approx(report.source_return, abs=1.5)
    assert report.source_return < -1.5  # not divided


# -- dictionaries --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
def test_some_keys_of_a_dictionary(algorithm: Any, tmp_path: Path) -> None:
    env = normalized(vec(dictionary=True), norm_obs_keys=["place"])
    theirs = make(env=env, dictionary=True).learn(8)
    theirs.save(tmp_path / "theirs")
    own = VecNormalize(vec(dictionary=True), norm_reward=False)
    model = algorithm.load_offline(tmp_path / "theirs", env=own, **FAST)
    assert own.norm_obs_keys == ["place"]
    seen = dataset(dictionary=True).observations
    assert np.allclose(acts(model, seen), acts(theirs, seen), atol=1e-5)
    model.learn(6)


def test_a_clone_of_dictionaries() -> None:
    env, data = normalized(vec(dictionary=True), norm_obs_keys=["place"]), dataset(400, dictionary=True)
    model = clone(Source(), env, dataset=data)
    wanted = Source().predict(env.normalize_obs(data.observations))[0]
    assert distance(model, wanted, data.observations) < 0.1


# -- what is no statistics -----------------------------------------------------------------------------------------


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "text.pkl").write_text("no pickle")
    make(env=vec(dictionary=True), dictionary=True).save(tmp_path / "goals")
    statistics = normalized(vec(dictionary=True))
    stock().save(tmp_path / "theirs")
    for given, error, message in (
        (tmp_path / "absent.pkl", FileNotFoundError, "absent"),
        (tmp_path / "text.pkl", ValueError, "cannot be unpickled"),
        (3, ValueError, "vec_normalize must be a VecNormalize.*, not 3"),
        (True, ValueError, "not True"),
        (statistics, ValueError, "goal \\(1,\\), place \\(3,\\), the environment's are"),
    ):
        with pytest.raises(error, match=message):
            O2OSAC.load_offline(tmp_path / "theirs", env=fresh(), vec_normalize=given, **FAST)
