"""Training behind ``VecNormalize``: a new one begins with the statistics of the dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import FAST, assert_same, dataset, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.data import MixedReplayBuffer
from sb3_o2o.errors import NonFiniteError
from sb3_o2o.finetuning import DatasetReplay, FIFOReplay, PolicyReevaluation, SymmetricReplay

BUILD = [make, make_td3, make_ppo]


def fresh(n_envs: int = 1, **kwargs: Any) -> VecNormalize:
    return VecNormalize(vec(n_envs), **kwargs)


def fitted(env: VecNormalize, n_more: int = 0) -> bool:
    return env.obs_rms.count == pytest.approx(60 + n_more, abs=1e-3)


@pytest.mark.parametrize("build", BUILD)
def test_pretraining_sees_what_fine_tuning_will_see(build: Any, capsys: pytest.CaptureFixture[str]) -> None:
    env, data = fresh(), dataset()
    model = build(env=env, objective="bc", verbose=1)
    model.pretrain(data, 2)
    out = capsys.readouterr().out
    assert out.count("VecNormalize starts with the statistics of the observations and rewards of 'arrays' (60 tr") == 1
    assert fitted(env)
    assert np.allclose(env.obs_rms.mean, data.observations.mean(axis=0), atol=1e-6)
    assert env.ret_rms.count == pytest.approx(60, abs=1e-3)
    seen = model.offline_buffer.sample(400, env=env).observations
    assert np.allclose(seen.mean(axis=0), 0.0, atol=0.2)
    assert np.allclose(seen.std(axis=0), 1.0, atol=0.2)
    model.learn(8)
    assert fitted(env, n_more=9)  # an observation for each step, and that of the reset: they go on from there


def test_frozen_statistics_stay() -> None:
    """No update is made, so the policy answers as it did."""
    env = fresh(training=False, norm_reward=False)
    model = make(env=env, objective="bc").pretrain(dataset(), 20)
    seen = dataset().observations
    before = model.predict(env.normalize_obs(seen), deterministic=True)[0]
    model.learning_starts = 1000
    model.learn(30)
    assert fitted(env)
    assert np.array_equal(model.predict(env.normalize_obs(seen), deterministic=True)[0], before)


def test_running_statistics_move_slowly() -> None:
    """As many observations online as in the dataset, of the same kind, move the statistics less than a new one's."""
    found = []
    for source in (dataset(2000), None):
        env = fresh(norm_reward=False)
        model = make(env=env, objective="bc", seed=1)
        if source is not None:
            model.pretrain(source, 1)
        model.learning_starts = 1000
        model.learn(20)
        early = env.obs_rms.mean.copy()
        model.learn(40, reset_num_timesteps=False)
        found.append(np.abs(env.obs_rms.mean - early).max())
    assert found[0] < 0.3 * found[1]


@pytest.mark.parametrize("algorithm", [make, make_td3])
@pytest.mark.parametrize("callback", [SymmetricReplay, FIFOReplay, DatasetReplay, PolicyReevaluation])
@pytest.mark.parametrize("where", ["constructor", "learn", "own data"])
def test_callbacks_that_draw_from_the_dataset(algorithm: Any, callback: Any, where: str) -> None:
    """Without pre-training, before the environment gives its first observation."""
    env, data = fresh(norm_reward=False), dataset()
    given = {"gradient_steps": 1} if callback is PolicyReevaluation else {}
    made = callback(dataset=data if where == "own data" else None, **given)
    model = algorithm(
        env=env,
        dataset=None if where == "own data" else data,
        finetuning=[made] if where == "constructor" else [],
    )
    first: list[Any] = []

    class Look(BaseCallback):
        def _on_training_start(self) -> None:
            first.append((self.model._last_obs, env.normalize_obs(env.get_original_obs())))

        def _on_step(self) -> bool:
            return True

    model.learn(4, callback=[Look(), *([] if where == "constructor" else [made])])
    assert fitted(env, n_more=5)
    assert np.array_equal(*first[0])  # the policy never acts on anything else


def test_a_buffer_that_mixes_the_dataset_in() -> None:
    env, kwargs = fresh(), {"dataset": dataset()}
    make(env=env, replay_buffer_class=MixedReplayBuffer, replay_buffer_kwargs=kwargs).learn(4)
    assert fitted(env, n_more=5)


def test_a_dataset_that_nobody_draws_from_is_left_alone() -> None:
    env = fresh()
    make(env=env, dataset=dataset(), finetuning=[DatasetReplay("none")]).learn(4)
    assert env.obs_rms.count == pytest.approx(5, abs=1e-3)


def test_statistics_of_a_moment_are_warned_of() -> None:
    model = make(env=fresh()).learn(8)
    with pytest.warns(UserWarning, match="VecNormalize has seen 9 observations"):
        model.pretrain(dataset(), 1)


def test_a_frozen_identity_stays_one() -> None:
    """It is one by choice where the model has acted behind it."""
    env = fresh(training=False)
    model = make(env=env).learn(8)
    model.pretrain(dataset(), 1)
    assert env.obs_rms.count < 1


def test_a_dataset_that_does_not_fit_changes_nothing() -> None:
    env: Any = fresh()
    model = make(env=env)
    env.obs_rms.mean, env.obs_rms.var = np.zeros(6), np.ones(6)
    with pytest.raises(ValueError, match="wrap the environment in VecNormalize last"):
        model.pretrain(dataset(), 1)
    assert model.offline_buffer is None
    assert env.obs_rms.count < 1


@pytest.mark.parametrize("build", BUILD)
def test_statistics_of_the_dataset_travel_with_a_bundle(build: Any, tmp_path: Path) -> None:
    """Interrupted in the middle of pre-training, and gone on with behind a new VecNormalize, or none."""
    whole = build(env=fresh(), objective="bc").pretrain(dataset(), 6)
    half = build(env=fresh(), objective="bc").pretrain(dataset(), 3)
    half.save_resume(tmp_path / "bundle")
    for env in (fresh(), vec()):
        model = type(half).load_resume(tmp_path / "bundle", env=env)
        model.pretrain(dataset(), 3, reset_gradient_steps=False)
        own = model.get_vec_normalize_env()
        assert fitted(own)
        assert own.ret_rms.count == pytest.approx(60, abs=1e-3)
        assert_same(state(whole), state(model))


@pytest.mark.parametrize("build", BUILD)
def test_two_normalisers_are_one_too_many(build: Any) -> None:
    model = build(env=fresh(), normalize_observations=True, dataset=dataset())
    for call in (lambda: model.pretrain(dataset(), 1), lambda: model.learn(8)):
        with pytest.raises(ValueError, match="normalize_observations=True and VecNormalize would both normalise"):
            call()
    assert model.get_vec_normalize_env().obs_rms.count < 1
    build(env=fresh(norm_obs=False), normalize_observations=True).pretrain(dataset(), 1).learn(8)


def test_pretrained_by_load_offline() -> None:
    """A dataset as the source, behind the statistics of another run or behind its own."""
    own = fresh()
    O2OSAC.load_offline(dataset(), own, pretrain_steps=1, **FAST)
    assert fitted(own)
    given = fresh()
    O2OSAC.load_offline(dataset(), given, pretrain_steps=1, vec_normalize=own, **FAST)
    assert np.array_equal(given.obs_rms.mean, own.obs_rms.mean)
    with pytest.warns(UserWarning, match="wrapped"):
        model = O2OSAC.load_offline(dataset(), vec(), pretrain_steps=1, vec_normalize=own, **FAST)
    assert model.get_vec_normalize_env() is not None


def test_losses_are_those_of_a_dataset_that_was_normalised_before() -> None:
    """End to end: the same weights as from normalised data without VecNormalize."""
    from toy_tasks import Drift, arrays

    from sb3_o2o.data import OfflineDataset

    env, data = fresh(norm_reward=False, training=False), dataset()
    model = make(env=env, objective="iql").pretrain(data, 3)
    fields = arrays()
    for name in ("observations", "next_observations"):
        fields[name] = env.normalize_obs(fields[name])
    space = Drift()
    plain = OfflineDataset.load(fields, observation_space=space.observation_space, action_space=space.action_space)
    other = make(objective="iql").pretrain(plain, 3)
    for own, wanted in zip(model.policy.parameters(), other.policy.parameters(), strict=True):
        assert th.allclose(own, wanted, atol=1e-5)


def acts(model: Any) -> np.ndarray:
    return model.predict(dataset().observations[:9], deterministic=True)[0]


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("build", BUILD)
def test_statistics_come_with_parameters(build: Any, in_file: bool, tmp_path: Path) -> None:
    source = build(normalize_observations=True).pretrain(dataset(), 3)
    source.save(tmp_path / "source")
    parameters = tmp_path / "source.zip" if in_file else source.get_parameters()
    model = build(normalize_observations=True)
    model.set_parameters(parameters)
    assert np.array_equal(acts(model), acts(source))
    model.learn(4)  # needs no dataset
    others = build(normalize_observations=True, dataset=dataset(seed=5)).pretrain(None, 2)
    model = build(normalize_observations=True, dataset=dataset(seed=5))
    for each in (model, others):
        each.set_parameters(parameters)
        each.learn(0)
        assert np.array_equal(acts(each), acts(source))
    model.save(tmp_path / "again")
    again = type(model).load(tmp_path / "again", env=vec())
    assert np.array_equal(acts(again), acts(source))
    again.learn(4)


@pytest.mark.parametrize("build", BUILD)
def test_parameters_without_statistics_leave_them_to_the_dataset(build: Any) -> None:
    model = build(normalize_observations=True, dataset=dataset()).pretrain(None, 2)
    model.set_parameters(build(normalize_observations=True, seed=8).get_parameters())
    fresh = build(normalize_observations=True, seed=8, dataset=dataset())
    for each in (model, fresh):
        each.learn(0)
    assert np.array_equal(acts(model), acts(fresh))


@pytest.mark.parametrize("trained", [False, True])
def test_statistics_of_parameters_that_are_refused(trained: bool, tmp_path: Path) -> None:
    failed = make(normalize_observations=True).pretrain(dataset(seed=4), 2)
    with th.no_grad():
        next(failed.actor.mu.parameters()).fill_(float("nan"))
    failed.save(tmp_path / "failed", allow_nonfinite=True)
    model = make(normalize_observations=True, dataset=dataset())
    if trained:
        model.pretrain(None, 2)
    before = acts(model)
    with pytest.raises(NonFiniteError):
        model.set_parameters(tmp_path / "failed.zip")
    assert np.array_equal(acts(model), before)
    model.learn(0)
    assert np.array_equal(acts(model), before) == trained  # a dataset's statistics, which a new one is still given


def test_statistics_that_change_nothing_are_statistics(tmp_path: Path) -> None:
    model = make(normalize_observations=True).pretrain(dataset(), 2)
    for name, buffer in model.policy.named_buffers():
        if "extractor" in name:
            buffer.fill_(1.0 if "scale" in name else 0.0)
    model.save(tmp_path / "model")
    O2OSAC.load(tmp_path / "model", env=vec()).learn(4)
