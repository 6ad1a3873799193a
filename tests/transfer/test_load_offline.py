"""Weights in and out: stock models, other families, datasets and foreign policies."""

import io
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from toy_tasks import FAST, Drift, assert_same, dataset, dataset_file, differs, make, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import Warmup
from sb3_o2o.networks import NormalizedExtractor


class Linear(BaseFeaturesExtractor):
    """A features extractor that learns."""

    def __init__(self, space: Any):
        super().__init__(space, 4)
        self.linear = th.nn.Linear(3, 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(observations)


def small() -> dict[str, Any]:
    """A new one each time: stock models write into theirs."""
    return {"net_arch": [16]}


class Actions(BaseCallback):
    """Remembers what was done, and what the policy would have done with the same random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.taken.append(self.locals["actions"].copy())
        return True


def stock(dictionary: bool = False, steps: int = 12, **kwargs: Any) -> SAC:
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    arguments = {"policy_kwargs": small(), **FAST, **kwargs}
    return SAC(policy, vec(dictionary=dictionary), **arguments).learn(steps)


def go_on(model: SAC, steps: int = 8) -> SAC:
    """Continue both in the same way: the same environment, buffer and random numbers."""
    model.set_random_seed(21)
    model.learning_starts = 4
    return model.learn(steps)


# -- stock models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("how", ["load a zip", "load_offline a zip", "load_offline a live model"])
def test_stock_models_come_in_and_go_on_as_they_would(how: str, dictionary: bool, tmp_path: Path) -> None:
    theirs = stock(dictionary, policy_kwargs={"net_arch": [16], "n_critics": 3})
    theirs.save(tmp_path / "stock")
    env = vec(dictionary=dictionary)
    if how == "load a zip":
        ours = O2OSAC.load(tmp_path / "stock", env=env, device="cpu")
    else:
        source = theirs if how.endswith("live model") else str(tmp_path / "stock.zip")
        ours = O2OSAC.load_offline(source, env=env, device="cpu")
    assert ours.n_critics == 3
    assert ours.log_ent_coef is not None
    assert theirs.log_ent_coef is not None
    assert th.equal(ours.log_ent_coef, theirs.log_ent_coef)
    reference = SAC.load(tmp_path / "stock", env=vec(dictionary=dictionary), device="cpu")
    go_on(reference)
    go_on(ours)
    assert_same(state(reference), state(ours.to_sb3()), tolerance=1e-5)


def test_a_fixed_temperature_comes_along(tmp_path: Path) -> None:
    theirs = stock(ent_coef=0.37)
    ours = O2OSAC.load_offline(theirs, env=vec(), device="cpu")
    assert ours.log_ent_coef is None
    assert ours.current_ent_coef().item() == pytest.approx(0.37)
    assert ours.to_sb3().ent_coef_tensor.item() == pytest.approx(0.37)  # type: ignore[attr-defined]


def test_an_argument_cannot_restart_the_trained_temperature() -> None:
    with pytest.warns(UserWarning, match=r"ent_coef: 'auto_0\.1' wanted, 'auto' trained"):
        ours = O2OSAC.load_offline(stock(), env=vec(), device="cpu", ent_coef="auto_0.1")
    assert ours.log_ent_coef is not None


def test_a_number_stops_the_tuning_of_the_temperature(tmp_path: Path) -> None:
    ours = O2OSAC.load_offline(stock(), env=vec(), device="cpu", ent_coef=0.2)
    assert (ours.log_ent_coef, ours.ent_coef_optimizer) == (None, None)
    ours.learn(6).save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu")
    assert loaded.ent_coef == 0.2
    assert loaded.learn(6).current_ent_coef().item() == pytest.approx(0.2)


# -- part of an ensemble -------------------------------------------------------------------------------------------


def test_the_first_members_of_an_ensemble(tmp_path: Path) -> None:
    """Critics, target critics and moments; the actor and its moments stay whole. It trains, saves and loads on."""
    model = make(objective="edac", n_critics=5, critic_layer_norm=True).pretrain(dataset(), 4)
    model.save(tmp_path / "model")
    part = O2OSAC.load_offline(tmp_path / "model", env=vec(), device="cpu", n_critics=3)
    assert (part.n_critics, part.critic.n_critics, part.critic_target.n_critics) == (3, 3, 3)
    whole, kept = state(model), state(part)
    assert whole.keys() == kept.keys()
    n_cut = 0
    for name, value in kept.items():
        cut = whole[name][:3] if value.shape != whole[name].shape else whole[name]
        assert th.equal(value, cut), name
        n_cut += value.shape != whole[name].shape
    n_parameters = len(list(model.critic.ensemble.parameters()))
    assert n_cut == 4 * n_parameters  # critics, targets, two moments
    part.learn(6).save(tmp_path / "part")
    assert_same(state(part), state(O2OSAC.load(tmp_path / "part", env=vec(), device="cpu")))
    assert part.to_sb3().critic.n_critics == 3 if part.policy.is_stock else True


def test_a_part_trains_as_members_do_alone(tmp_path: Path) -> None:
    """With targets of their own, the first two of four critics step as if they had been two all along."""
    make(n_critics=4).pretrain(dataset(), 3).save(tmp_path / "model")
    kwargs = {"online_objective_kwargs": {"target_reduction": "none"}, "ent_coef": 0.1}
    models = [O2OSAC.load_offline(tmp_path / "model", env=vec(), device="cpu", n_critics=n, **kwargs) for n in (2, 4)]
    batch = models[0].to_batch(models[0].open_offline_buffer(dataset()).sample(8))
    for model in models:
        th.manual_seed(0)
        model.set_phase("finetuning")
        model.loop.gradient_step(batch, None)
    for one, other in zip(models[0].critic.ensemble.parameters(), models[1].critic.ensemble.parameters(), strict=True):
        assert th.allclose(one, other[:2], atol=1e-6)


def test_a_stock_ensemble_named_as_stock_names_it() -> None:
    ours = O2OSAC.load_offline(stock(policy_kwargs={**small(), "n_critics": 3}), env=vec(), device="cpu", n_critics=2)
    assert ours.policy_kwargs["n_critics"] == ours.n_critics == 2
    ours.learn(6)
    assert ours.to_sb3().critic.n_critics == 2  # type: ignore[attr-defined]


def test_more_members_than_there_are(tmp_path: Path) -> None:
    make(n_critics=3).save(tmp_path / "model")
    with pytest.raises(ValueError, match="The ensemble has 3 critics, so n_critics=4 cannot be kept"):
        O2OSAC.load_offline(tmp_path / "model", env=vec(), device="cpu", n_critics=4)


def test_fewer_members_than_are_drawn(tmp_path: Path) -> None:
    make(n_critics=4, critic_subset=3).save(tmp_path / "model")
    with pytest.raises(ValueError, match="n_critics=2 is too few: critic_subset needs 3"):
        O2OSAC.load_offline(tmp_path / "model", env=vec(), device="cpu", n_critics=2)
    kwargs = {"n_actions": 2, "critic_subset": 3}
    make(n_critics=4, objective="cql", objective_kwargs=kwargs).save(tmp_path / "model")
    with pytest.raises(ValueError, match="n_critics=2 is too few: the offline objective's critic_subset needs 3"):
        O2OSAC.load_offline(tmp_path / "model", env=vec(), device="cpu", n_critics=2)


def test_a_recipe_takes_the_part_that_it_wants(tmp_path: Path) -> None:
    kwargs = {"objective": "edac", "n_critics": 12, "finetuning": []}
    make(**kwargs).pretrain(dataset(), 2).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="'so2' has 10 critics: the first 10 of the 12 trained ones go on"):
        model = O2OSAC.load_offline(tmp_path / "model", env=vec(), recipe="so2", dataset=dataset(), device="cpu")
    assert (model.n_critics, model.log_ent_coef, model.ent_coef) == (10, None, 0.2)
    assert model.finetuning_objective.target_reduction == "none"
    assert [type(callback).__name__ for callback in model.finetuning] == ["Warmup", "FIFOReplay", "PerturbedTargets"]
    assert (model.gradient_steps, model.policy_delay, model.batch_size) == (10, 10, 2560)


def test_from_a_stream() -> None:
    theirs, stream = stock(), io.BytesIO()
    theirs.save(stream)
    stream.seek(0)
    ours = O2OSAC.load(stream, env=vec(), device="cpu")
    obs = np.array([1.0, 2.0, 0.5], np.float32)
    assert np.allclose(ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0], atol=1e-6)


@pytest.mark.parametrize("dictionary", [False, True])
def test_to_sb3_is_loaded_by_stock_sac(dictionary: bool, tmp_path: Path) -> None:
    ours = make(dictionary=dictionary, n_critics=3).learn(12)
    ours.to_sb3().save(tmp_path / "exported")
    theirs = SAC.load(tmp_path / "exported", env=vec(dictionary=dictionary), device="cpu")
    assert type(theirs) is SAC
    assert type(theirs.policy).__module__.startswith("stable_baselines3.")
    obs = vec(dictionary=dictionary).reset()
    assert np.array_equal(ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0])
    # and back again, without a loss
    assert_same(state(ours), state(O2OSAC.load(tmp_path / "exported", device="cpu")))
    ours.replay_buffer.reset()  # type: ignore[union-attr]
    go_on(theirs)
    go_on(ours)
    assert_same(state(theirs), state(ours.to_sb3()), tolerance=1e-5)


def test_to_sb3_keeps_what_stock_sac_does_not_have(tmp_path: Path) -> None:
    ours = make(critic_layer_norm=True, normalize_observations=True).pretrain(dataset(), 3)
    theirs = ours.to_sb3()
    theirs.save(tmp_path / "exported")
    loaded = SAC.load(tmp_path / "exported", env=vec(), device="cpu")
    obs = np.array([1.0, 2.0, 0.5], np.float32)
    assert np.array_equal(ours.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    loaded.learn(12)


def test_to_sb3_changes_nothing() -> None:
    ours, twin = make().learn(12), make().learn(12)
    for model, exported in ((ours, True), (twin, False)):
        model.set_random_seed(5)
        if exported:
            model.to_sb3()
        model.learn(6, reset_num_timesteps=False)
    assert_same(state(ours), state(twin))


def test_to_sb3_of_a_model_that_learned_with_returns() -> None:
    ours = make(objective="calql", online_objective="calql").pretrain(dataset(), 2)
    theirs = ours.to_sb3()
    theirs.learn(12)


# -- what is kept --------------------------------------------------------------------------------------------------


def trained(tmp_path: Path, **kwargs: Any) -> str:
    make(**kwargs).pretrain(dataset(), 5).save(tmp_path / "offline")
    return str(tmp_path / "offline")


def test_targets_moments_and_temperature_are_kept(tmp_path: Path) -> None:
    path = trained(tmp_path)
    saved, model = O2OSAC.load(path, device="cpu"), O2OSAC.load_offline(path, env=vec(), device="cpu")
    assert_same(state(saved), state(model))
    assert differs(
        state(saved), {**state(saved), **{f"policy/critic_target.{k}": v for k, v in saved.critic.state_dict().items()}}
    )


def test_a_saved_model_is_found_with_and_without_ending(tmp_path: Path) -> None:
    path = trained(tmp_path)
    for name in (path, path + ".zip", Path(path), Path(path + ".zip")):
        assert O2OSAC.load_offline(name, env=vec(), device="cpu").n_pretrain_steps == 5


def test_fresh_critics(tmp_path: Path) -> None:
    path = trained(tmp_path)
    kept, fresh = (O2OSAC.load_offline(path, env=vec(), device="cpu", load_critic=on) for on in (True, False))
    assert differs(state(kept), state(fresh), "policy/critic.")
    assert not differs(state(kept), state(fresh), "policy/actor.")
    assert not differs(state(kept), state(fresh), "actor.optimizer")
    assert fresh.critic.optimizer.state_dict()["state"] == {}
    for own, target in zip(fresh.critic.parameters(), fresh.critic_target.parameters(), strict=True):
        assert th.equal(own, target)
    fresh.learn(6)


def test_fresh_critics_keep_the_normaliser(tmp_path: Path) -> None:
    model = O2OSAC.load_offline(
        trained(tmp_path, normalize_observations=True), env=vec(), device="cpu", load_critic=False
    )
    expected = dataset().observations.mean(axis=0)
    for module in (model.actor, model.critic, model.critic_target):
        assert isinstance(module.features_extractor, NormalizedExtractor)
        assert np.allclose(module.features_extractor.mean.numpy(), expected, atol=1e-6)


def test_fresh_critics_leave_a_shared_extractor_alone(tmp_path: Path) -> None:
    kwargs = {"net_arch": [16], "features_extractor_class": Linear, "share_features_extractor": True}
    make(policy_kwargs=kwargs).pretrain(dataset(), 3).save(tmp_path / "shared")
    kept, fresh = (
        O2OSAC.load_offline(tmp_path / "shared", vec(), device="cpu", load_critic=on, trust=True)
        for on in (True, False)
    )
    assert not differs(state(kept), state(fresh), "policy/actor.")
    assert fresh.critic.features_extractor is fresh.actor.features_extractor
    assert differs(state(kept), state(fresh), "policy/critic.ensemble")


def test_fresh_optimisers(tmp_path: Path) -> None:
    path = trained(tmp_path)
    kept, fresh = (O2OSAC.load_offline(path, env=vec(), device="cpu", load_optimizer=on) for on in (True, False))
    assert not differs(state(kept), state(fresh), "policy/")
    assert kept.actor.optimizer.state_dict()["state"]
    for optimizer in fresh.optimizers().values():
        assert optimizer.state_dict()["state"] == {}
    fresh.learn(6)


# -- recipes -------------------------------------------------------------------------------------------------------


def test_a_recipe_sets_what_was_not_trained_and_warns_about_the_rest(tmp_path: Path) -> None:
    path = trained(tmp_path, n_critics=3)
    with pytest.warns(UserWarning, match="What was trained wins") as caught:
        model = O2OSAC.load_offline(path, env=vec(), recipe="wsrl", device="cpu")
    message = next(str(each.message) for each in caught if "What was trained wins" in str(each.message))
    assert "'wsrl'" in message
    assert "n_critics: 10 wanted, 3 trained" in message
    assert "critic_layer_norm: True wanted, False trained" in message
    assert "[16] trained" in message
    assert (model.n_critics, model.critic_layer_norm, model.policy.net_arch) == (3, False, [16])
    assert (model.gradient_steps, model.policy_delay, model.actor_batch) == (4, 4, "block")
    assert (model.critic_subset, model.subset_replacement, model.entropy_backup) == (2, True, False)
    assert [type(callback) for callback in model.finetuning] == [Warmup]
    assert model.learning_starts == 0


def test_arguments_win_over_the_recipe(tmp_path: Path) -> None:
    path = trained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = O2OSAC.load_offline(
            path, env=vec(), recipe="wsrl", device="cpu", finetuning=[Warmup(7)], policy_delay=2, gamma=0.9
        )
    assert (model.policy_delay, model.gamma, model.gradient_steps) == (2, 0.9, 4)
    assert [callback.steps for callback in model.finetuning] == [7]


def test_a_recipe_that_wants_what_was_trained_does_not_warn(tmp_path: Path) -> None:
    path = trained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        O2OSAC.load_offline(path, env=vec(), device="cpu", n_critics=2)


# -- acting after load_offline -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["ours", "stock", "dataset", "same object"])
def test_a_pretrained_policy_acts_by_itself_from_the_first_step(source: str, tmp_path: Path) -> None:
    """However many random steps the source's ``learning_starts`` asked for."""
    if source == "ours":
        model = O2OSAC.load_offline(trained(tmp_path, learning_starts=50), env=vec(), device="cpu")
    elif source == "stock":
        model = O2OSAC.load_offline(stock(learning_starts=50), env=vec(), device="cpu")
    elif source == "dataset":
        model = O2OSAC.load_offline(dataset(), vec(), pretrain_steps=3, policy_kwargs=small(), **without_starts())
    else:
        model = O2OSAC("MlpPolicy", vec(), policy_kwargs=small(), **without_starts()).pretrain(dataset(), 3)
    assert model.learning_starts == 0
    with th.no_grad():  # a policy with almost no noise: whatever else acts would show
        model.actor.log_std.weight.zero_()
        model.actor.log_std.bias.fill_(-20.0)
    model.gradient_steps = 0
    actions = Actions()
    model.learn(5, callback=actions)
    obs = model.replay_buffer.observations[:5, 0]  # type: ignore[union-attr]
    expected = model.predict(obs, deterministic=True)[0]
    assert np.allclose(np.concatenate(actions.taken), expected, atol=1e-4)


def without_starts() -> dict[str, Any]:
    return {name: value for name, value in FAST.items() if name != "learning_starts"}


def test_random_steps_only_where_they_are_asked_for(tmp_path: Path) -> None:
    path = trained(tmp_path)
    assert O2OSAC.load_offline(path, env=vec(), device="cpu", learning_starts=11).learning_starts == 11
    assert make(learning_starts=9).pretrain(dataset(), 2).learning_starts == 9


def test_fine_tuning_counts_from_zero(tmp_path: Path) -> None:
    make().pretrain(dataset(), 5).learn(12).save(tmp_path / "later")
    model = O2OSAC.load_offline(tmp_path / "later", env=vec(), device="cpu")
    assert model.num_timesteps == 0
    model.learn(6, reset_num_timesteps=False)
    assert model.num_timesteps == 6


# -- datasets ------------------------------------------------------------------------------------------------------


def test_a_dataset_is_pretrained_on(tmp_path: Path) -> None:
    path = dataset_file(tmp_path)
    model = O2OSAC.load_offline(path, vec(), objective="cql", pretrain_steps=4, policy_kwargs=small(), **FAST)
    same = make(objective="cql").pretrain(path, 4)
    assert (model.n_pretrain_steps, model.phase) == (4, "pretraining")
    assert_same(state(model), state(same))
    assert model.learn(6).phase == "finetuning"


def test_a_minari_dataset_brings_its_environment(tiny_dataset: Any) -> None:
    name = tiny_dataset(tiny.BOX)
    model = O2OSAC.load_offline(name, pretrain_steps=2, policy_kwargs=small(), **FAST)
    assert model.env is not None
    assert model.env.get_attr("spec")[0].id == tiny.BOX


def test_a_dataset_needs_a_number_of_steps_and_an_environment() -> None:
    with pytest.raises(ValueError, match="pretrain_steps"):
        O2OSAC.load_offline(dataset(), vec(), policy_kwargs=small(), **FAST)
    with pytest.raises(ValueError, match="needs env="):
        O2OSAC.load_offline(dataset(), pretrain_steps=2)


# -- other families ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("dictionary", [False, True])
def test_tqc_brings_its_actor(saved: bool, dictionary: bool, tmp_path: Path) -> None:
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    theirs = TQC(policy, vec(dictionary=dictionary), policy_kwargs={"net_arch": [16], "n_critics": 3}, **FAST).learn(12)
    source: Any = theirs
    if saved:
        theirs.save(tmp_path / "tqc")
        source = str(tmp_path / "tqc.zip")
    model = O2OSAC.load_offline(source, env=vec(dictionary=dictionary), **FAST)
    obs = vec(dictionary=dictionary).reset()
    assert np.array_equal(model.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0])
    model.learn(6)


def test_tqc_decides_the_networks_and_not_the_recipe() -> None:
    theirs = TQC("MlpPolicy", vec(), policy_kwargs=small(), **FAST).learn(6)
    with pytest.warns(UserWarning, match=r"What was trained wins over recipe 'wsrl'.*actor_layer_norm"):
        model = O2OSAC.load_offline(theirs, env=vec(), recipe="wsrl", **FAST)
    obs = np.array([1.0, 2.0, 0.5], np.float32)
    assert np.allclose(model.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0], atol=1e-6)
    assert model.n_critics == 10  # the critics are fresh, so the recipe says how many


def constant(observations: Any) -> np.ndarray:
    return np.tile(np.array([1.0, 2.0], np.float32), (len(observations), 1))


class Constant(th.nn.Module):
    """A policy of somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.actions = th.nn.Parameter(th.tensor([1.0, 2.0]))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.actions.expand(len(observations), 2)


@pytest.mark.parametrize("kind", ["callable", "module"])
def test_other_policies_are_cloned(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = constant if kind == "callable" else Constant()
    model = O2OSAC.load_offline(
        source,
        vec(),
        dataset=dataset(),
        pretrain_steps=200,
        learning_rate=0.01,
        policy_kwargs=small(),
        verbose=1,
        **without_starts(),
    )
    obs = dataset().observations
    assert np.abs(model.predict(obs, deterministic=True)[0] - [1.0, 2.0]).mean() < 0.1
    assert "cloned" in capsys.readouterr().out
    assert (model.n_pretrain_steps, model.learning_starts) == (0, 0)
    assert model.objective == "sac"
    model.learn(6)


def test_cloning_puts_rewards_on_the_training_scale_once() -> None:
    model = O2OSAC.load_offline(
        constant, vec(), dataset=dataset(), pretrain_steps=2, policy_kwargs=small(), reward_scale=10.0, **FAST
    )
    assert np.allclose(model.open_offline_buffer().dataset.rewards, 10 * dataset().rewards)


def test_the_environment_comes_from_a_live_model() -> None:
    theirs = TQC("MlpPolicy", vec(), policy_kwargs=small(), **FAST)
    assert O2OSAC.load_offline(theirs, **FAST).env is theirs.get_env()


def test_a_gym_environment_will_do(tmp_path: Path) -> None:
    model = O2OSAC.load_offline(trained(tmp_path), env=Drift(), device="cpu")
    model.learn(6)
    assert isinstance(model.env.envs[0].unwrapped, gym.Env)  # type: ignore[union-attr]


@pytest.mark.parametrize("build", [make, lambda: SAC("MlpPolicy", vec(), policy_kwargs=small(), **FAST)])
def test_a_live_model_brings_its_environment(build: Any) -> None:
    source = build()
    model = O2OSAC.load_offline(source)
    assert model.get_env() is source.get_env()
    model.learn(8)


def test_a_live_model_without_an_environment_leaves_it_so() -> None:
    stream = io.BytesIO()
    make().save(stream)
    stream.seek(0)
    assert O2OSAC.load_offline(O2OSAC.load(stream)).get_env() is None


def test_a_name_that_is_no_models_is_not_taken_for_a_dataset_without_a_word(tmp_path: Path) -> None:
    """What is asked for next is the model's name, and not how long to pre-train."""
    make().save(tmp_path / "offline_model")
    with pytest.raises(ValueError, match=r"Cannot load .*Did you mean '.*offline_model\.zip'\?"):
        O2OSAC.load_offline(str(tmp_path / "ofline_model"), vec())
    with pytest.raises(ValueError, match="Cannot load ''"):
        O2OSAC.load_offline("", vec())


@pytest.mark.parametrize("load", [O2OSAC.load_offline, O2OSAC.load])
def test_a_folder_of_a_run_names_the_model_in_it(load: Any, tmp_path: Path) -> None:
    make().save(tmp_path / "offline" / "model")
    with pytest.raises(ValueError, match=r"is a folder with saved models.*The newest is .*offline/model\.zip"):
        load(tmp_path, vec())
