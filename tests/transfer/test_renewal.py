"""One part of a source is kept, the other is made anew, with an architecture of its own."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from toy_tasks import FAST, assert_same, dataset, dataset_file, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.finetuning import PolicyReevaluation, ValueAlignment
from sb3_o2o.networks import NormalizedExtractor
from sb3_o2o.networks.ensemble import EnsembleLayerNorm

OBS = th.from_numpy(dataset().observations)
ACTIONS = th.linspace(-0.9, 0.9, 2 * len(OBS)).reshape(-1, 2)
#: critics as WSRL and RLPD have them
OTHER_CRITICS: dict[str, Any] = {
    "n_critics": 5,
    "critic_layer_norm": True,
    "policy_kwargs": {"net_arch": {"qf": [8, 4]}},
}


@contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def stock(algorithm: Any) -> Any:
    return algorithm("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST).learn(12)


def check_other_critics(model: Any) -> None:
    """Critics of the architecture above: in the modules, in what they compute, in optimiser and target."""
    assert (model.n_critics, model.critic.n_critics, model.critic_target.n_critics) == (5, 5, 5)
    shapes = [tuple(parameter.shape) for parameter in model.critic.ensemble.parameters()]
    weights, norms = [(5, 5, 8), (5, 8, 4), (5, 4, 1)], [(5, 1, 8), (5, 1, 8)]
    assert [shape for shape in shapes if shape[1] != 1] == weights
    assert shapes.count(norms[0]) >= 2
    values = model.critic.q_values(OBS, ACTIONS)
    assert values.shape == (5, len(OBS))
    # a forward pass by hand: linear, normalised, rectified
    hidden = model.critic.features(OBS)
    hidden = th.cat([hidden, ACTIONS], dim=1).expand(5, -1, -1)
    layers = list(model.critic.ensemble.layers)
    assert [type(layer) for layer in layers].count(EnsembleLayerNorm) == 2
    for index in (0, 3):
        hidden = th.baddbmm(layers[index].bias, hidden, layers[index].weight)
        hidden = th.relu(th.nn.functional.layer_norm(hidden, hidden.shape[-1:]))
    hidden = th.baddbmm(layers[6].bias, hidden, layers[6].weight)
    assert th.allclose(values, hidden.squeeze(-1), atol=1e-5)
    for own, target in zip(model.critic.parameters(), model.critic_target.parameters(), strict=True):
        assert th.equal(own, target)
    trained = {id(each) for group in model.critic.optimizer.param_groups for each in group["params"]}
    assert trained == {id(each) for each in model.critic.parameters()}
    assert model.critic.optimizer.state_dict()["state"] == {}


def check_goes_on(model: Any, tmp_path: Path) -> None:
    """It learns, and what is saved of it is what it is."""
    before = state(model)
    assert_same(before, state(type(model).load(_saved(model, tmp_path), env=vec(), device="cpu")))
    model.learn(10)
    assert differs(before, state(model), "policy/actor.")
    assert differs(before, state(model), "policy/critic.")
    assert_same(state(model), state(type(model).load(_saved(model, tmp_path), env=vec(), device="cpu")))


def _saved(model: Any, tmp_path: Path) -> Path:
    model.save(tmp_path / "went_on")
    return tmp_path / "went_on.zip"


WITHIN: dict[str, tuple[Callable[[], Any], Any]] = {
    "ours": (lambda: make().pretrain(dataset(), 5), O2OSAC),
    "stock SAC": (lambda: stock(SAC), O2OSAC),
    "ours TD3": (lambda: make_td3().pretrain(dataset(), 6), O2OTD3),
    "stock TD3": (lambda: stock(TD3), O2OTD3),
}
ACROSS: dict[str, tuple[Callable[[], Any], Any]] = {
    "SAC to TD3": (lambda: stock(SAC), O2OTD3),
    "ours to TD3": (lambda: make().pretrain(dataset(), 5), O2OTD3),
    "TD3 to SAC": (lambda: stock(TD3), O2OSAC),
    "TQC to SAC": (lambda: stock(TQC), O2OSAC),
    "TQC to TD3": (lambda: stock(TQC), O2OTD3),
}


# -- the policy alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", [*WITHIN, *ACROSS])
def test_fresh_critics_of_another_architecture(name: str, saved: bool, tmp_path: Path) -> None:
    build, algorithm = (WITHIN | ACROSS)[name]
    theirs = build()
    if saved:
        theirs.save(tmp_path / "theirs")
    source = tmp_path / "theirs.zip" if saved else theirs
    with no_warnings():
        model = algorithm.load_offline(source, vec(), load_critic=False, device="cpu", **FAST_START, **OTHER_CRITICS)
    check_other_critics(model)
    assert model.policy.net_arch == {"pi": [16], "qf": [8, 4]}
    obs = OBS.numpy()
    assert model.predict(obs, deterministic=True)[0] == pytest.approx(
        theirs.predict(obs, deterministic=True)[0], abs=1e-5
    )
    check_goes_on(model, tmp_path)


FAST_START: dict[str, Any] = {"buffer_size": 500, "batch_size": 8, "seed": 3}


@pytest.mark.parametrize("name", ["ours", "ours TD3"])
def test_the_actors_weights_and_moments_stay(name: str, tmp_path: Path) -> None:
    build, algorithm = WITHIN[name]
    build().save(tmp_path / "theirs")
    kept = algorithm.load_offline(tmp_path / "theirs", vec(), device="cpu")
    fresh = algorithm.load_offline(tmp_path / "theirs", vec(), device="cpu", load_critic=False, **OTHER_CRITICS)
    of_actor = [
        key for key in state(kept) if key.startswith(("policy/actor", "actor.optimizer", "ent_coef", "log_ent"))
    ]
    assert any("exp_avg" in key for key in of_actor)
    for key in of_actor:
        assert th.equal(state(kept)[key], state(fresh)[key]), key
    without = algorithm.load_offline(
        tmp_path / "theirs", vec(), device="cpu", load_critic=False, load_optimizer=False, **OTHER_CRITICS
    )
    assert without.actor.optimizer.state_dict()["state"] == {}
    assert not differs(state(fresh), state(without), "policy/actor.")


def test_a_recipe_says_what_fresh_critics_are_like(tmp_path: Path) -> None:
    """WSRL's "policy only" start."""
    make().pretrain(dataset(), 3).save(tmp_path / "plain")
    with pytest.warns(UserWarning, match="What was trained wins over recipe 'wsrl'") as caught:
        model = O2OSAC.load_offline(tmp_path / "plain", vec(), recipe="wsrl", load_critic=False, device="cpu")
    text = next(str(each.message) for each in caught if "wins" in str(each.message))
    assert "actor_layer_norm: True wanted, False trained" in text
    assert "n_critics" not in text
    assert "critic_layer_norm" not in text
    assert (model.n_critics, model.critic_layer_norm, model.actor_layer_norm) == (10, True, False)
    assert model.policy.net_arch == {"pi": [16], "qf": [256, 256]}
    # drawn as the recipe says: orthogonal, the last hidden layer small
    first = model.critic.ensemble.layers[0].weight[0]
    assert th.allclose(first @ first.T, 2 * th.eye(5), atol=1e-5)
    assert (model.critic_subset, model.gradient_steps) == (2, 4)


def test_what_a_recipe_leaves_out_is_the_default_and_without_one_it_stays(tmp_path: Path) -> None:
    make(n_critics=4, critic_layer_norm=True).pretrain(dataset(), 2).save(tmp_path / "model")
    path = tmp_path / "bare.yml"
    path.write_text("about: {algorithm: O2OSAC}\ndefault: {gamma: 0.9}\n")
    bare = O2OSAC.load_offline(tmp_path / "model", vec(), recipe=str(path), load_critic=False, device="cpu")
    assert (bare.n_critics, bare.critic_layer_norm, bare.gamma) == (2, False, 0.9)
    same = O2OSAC.load_offline(tmp_path / "model", vec(), load_critic=False, device="cpu")
    assert (same.n_critics, same.critic_layer_norm, same.policy.net_arch) == (4, True, [16])


def test_stock_names_its_number_of_critics_in_the_policys_arguments() -> None:
    theirs = SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16], "n_critics": 3}, **FAST).learn(8)
    for arguments in ({"n_critics": 5}, {"policy_kwargs": {"n_critics": 5}}):
        model = O2OSAC.load_offline(theirs, vec(), load_critic=False, device="cpu", **arguments)
        assert (model.n_critics, model.critic.n_critics) == (5, 5)
        assert model.learn(6).to_sb3().critic.n_critics == 5  # type: ignore[attr-defined]


def test_settings_that_only_the_new_critics_allow(tmp_path: Path) -> None:
    """Fewer critics were trained than are to be drawn, or than the new objective compares."""
    make(n_critics=1).pretrain(dataset(), 2).save(tmp_path / "model")
    start: dict[str, Any] = {"load_critic": False, "device": "cpu"}
    model = O2OSAC.load_offline(
        tmp_path / "model", vec(), n_critics=4, critic_subset=2, online_objective="edac", **start
    )
    assert (model.critic_subset, model.critic.n_critics) == (2, 4)
    with pytest.raises(ValueError, match=r"critic_subset must lie in \[1, n_critics=1\]"):
        O2OSAC.load_offline(tmp_path / "model", vec(), critic_subset=2, device="cpu")


def test_warnings_name_what_is_kept_alone(tmp_path: Path) -> None:
    make().pretrain(dataset(), 2).save(tmp_path / "model")
    arguments = {
        **OTHER_CRITICS,
        "actor_layer_norm": True,
        "policy_kwargs": {"net_arch": [8], "activation_fn": th.nn.Tanh},
    }
    with pytest.warns(UserWarning, match="What was trained wins over the arguments") as caught:
        model = O2OSAC.load_offline(tmp_path / "model", vec(), load_critic=False, device="cpu", **arguments)
    text = str(caught[0].message)
    for expected in ("actor_layer_norm: True wanted", "net_arch: [8] wanted", "activation_fn: 'Tanh' wanted, 'ReLU'"):
        assert expected in text
    assert "n_critics" not in text
    assert model.policy.net_arch == {"pi": [16], "qf": [8]}


def test_an_argument_that_no_policy_takes() -> None:
    with pytest.raises(ValueError, match=r"Unknown argument of O2OSACPolicy 'net_arhc'\. Did you mean 'net_arch'"):
        O2OSAC.load_offline(make(), vec(), load_critic=False, policy_kwargs={"net_arhc": {"qf": [8]}})


class Linear(BaseFeaturesExtractor):
    """A features extractor that learns."""

    def __init__(self, space: Any):
        super().__init__(space, 4)
        self.linear = th.nn.Linear(3, 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(observations)


@pytest.mark.parametrize("part", ["load_critic", "load_actor"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("build", [make, make_td3])
def test_extractors_and_statistics(build: Any, shared: bool, part: str, tmp_path: Path) -> None:
    """A shared extractor goes on with what is kept; the dataset's statistics are everywhere."""
    kwargs = {"net_arch": [16], "features_extractor_class": Linear, "share_features_extractor": shared}
    source = build(policy_kwargs=kwargs, normalize_observations=True).pretrain(dataset(), 4)
    source.save(tmp_path / "source")
    model = type(source).load_offline(tmp_path / "source", vec(), device="cpu", trust=True, **{part: False})
    mean = source.actor.features_extractor.mean
    found = [module for module in model.policy.modules() if isinstance(module, NormalizedExtractor)]
    assert len(found) >= (2 if shared else 3)
    assert all(th.equal(module.mean, mean) for module in found)
    assert (model.critic.features_extractor is model.actor.features_extractor) is shared
    anew, kept = (model.critic, model.actor) if part == "load_critic" else (model.actor, model.critic)
    of_kept = source.actor if part == "load_critic" else source.critic
    assert_same(of_kept.state_dict(), kept.state_dict())
    of_anew = (source.critic if part == "load_critic" else source.actor).features_extractor.extractor.linear.weight
    assert th.equal(of_anew, anew.features_extractor.extractor.linear.weight) is shared
    if shared or part == "load_actor":  # the target lags behind, as it did
        of_target = source.critic_target.features_extractor.extractor.linear.weight
        assert th.equal(of_target, model.critic_target.features_extractor.extractor.linear.weight)
    model.learn(8)


# -- the values alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", [*WITHIN, "SAC to TD3", "ours to TD3", "TD3 to SAC"])
def test_a_fresh_policy_on_kept_critics(name: str, saved: bool, tmp_path: Path) -> None:
    build, algorithm = (WITHIN | ACROSS)[name]
    theirs = build()
    if saved:
        theirs.save(tmp_path / "theirs")
    source = tmp_path / "theirs.zip" if saved else theirs
    arguments = {"actor_layer_norm": True, "policy_kwargs": {"net_arch": {"pi": [8, 4]}}}
    with no_warnings():
        model = algorithm.load_offline(
            source, vec(), load_actor=False, device="cpu", learning_starts=4, **FAST_START, **arguments
        )
    assert model.policy.net_arch == {"pi": [8, 4], "qf": [16]}
    norms = [module for module in model.actor.modules() if isinstance(module, th.nn.LayerNorm)]
    assert len(norms) == 2
    assert model.predict(OBS.numpy())[0].shape == (len(OBS), 2)
    assert model.actor.optimizer.state_dict()["state"] == {}
    for mine, other in ((model.critic, theirs.critic), (model.critic_target, theirs.critic_target)):
        for value, wanted in zip(mine(OBS, ACTIONS), other(OBS, ACTIONS), strict=True):
            assert th.allclose(value, wanted, atol=1e-5)
    if algorithm is O2OTD3:
        for own, target in zip(model.actor.parameters(), model.actor_target.parameters(), strict=True):
            assert th.equal(own, target)
    if name in WITHIN:
        moments = model.critic.optimizer.state_dict()["state"]
        assert len(moments) == len(list(model.critic.parameters()))
        assert all(float(each["step"]) > 0 for each in moments.values())
    else:
        assert model.clone_report.copied == ("critics",)
        assert str(model.clone_report).endswith("the policy is fresh")
    check_goes_on(model, tmp_path)


def test_moments_of_the_values_stay_and_those_of_the_policy_go(tmp_path: Path) -> None:
    make(objective="cql", objective_kwargs={"lagrange_gap": 1.0}).pretrain(dataset(), 5).save(tmp_path / "model")
    kept = O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu")
    fresh = O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu", load_actor=False)
    assert not differs(state(kept), state(fresh), "policy/critic")
    assert not differs(state(kept), state(fresh), "critic.optimizer")
    assert not differs(state(kept), state(fresh), "offline_objective")
    assert differs(state(kept), state(fresh), "policy/actor.")
    assert fresh.log_ent_coef is not None
    assert kept.log_ent_coef is not None
    assert th.equal(fresh.log_ent_coef, kept.log_ent_coef)  # the values hold the entropy on this scale
    assert fresh.ent_coef_optimizer is not None
    assert fresh.ent_coef_optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("build", [make, make_td3])
def test_v_goes_with_the_critics(build: Any, tmp_path: Path) -> None:
    arguments = {"objective": "iql", "online_objective": "iql"}
    build(**arguments).pretrain(dataset(), 5).save(tmp_path / "iql")
    algorithm = type(build())

    def loaded(**kwargs: Any) -> Any:
        return algorithm.load_offline(tmp_path / "iql", vec(), device="cpu", **kwargs)

    kept, values, policy = loaded(), loaded(load_actor=False), loaded(load_critic=False, **OTHER_CRITICS)
    assert values.finetuning_objective is values.offline_objective
    assert not differs(state(kept), state(values), "offline_objective")
    assert state(values)["offline_objective.optimizers.value/state/0/exp_avg"].abs().sum() > 0
    assert next(policy.offline_objective.value.parameters()).shape == (8, 3)
    assert policy.offline_objective.optimizers["value"].state_dict()["state"] == {}
    for model in (values, policy):
        model.learn(8)


def test_a_fresh_policy_has_random_steps_where_they_are_asked_for(tmp_path: Path) -> None:
    make(learning_starts=9).save(tmp_path / "model")
    assert O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu", load_actor=False).learning_starts == 9
    assert O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu").learning_starts == 0


def test_values_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="load_actor=False and load_critic=False keep nothing"):
        O2OSAC.load_offline(make(), vec(), load_actor=False, load_critic=False)
    for source in (stock(TQC), make_ppo(), lambda observations: observations):
        with pytest.raises(ValueError, match=r"takes over values alone, and those of .* do not fit"):
            O2OSAC.load_offline(source, vec(), load_actor=False, **FAST_START)


# -- other sources, and what comes after ---------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["load_critic", "load_actor"])
def test_a_dataset_is_pretrained_on_and_one_part_kept(part: str) -> None:
    arguments = {"pretrain_steps": 4, "policy_kwargs": {"net_arch": [16]}, **FAST}
    whole = O2OSAC.load_offline(dataset(), vec(), **arguments)
    model = O2OSAC.load_offline(dataset(), vec(), **{part: False}, **arguments)
    kept, anew = ("actor", "critic") if part == "load_critic" else ("critic", "actor")
    assert not differs(state(whole), state(model), f"policy/{kept}.")
    assert differs(state(whole), state(model), f"policy/{anew}.")
    assert getattr(model, anew).optimizer.state_dict()["state"] == {}
    assert not differs(state(whole), state(model), f"{kept}.optimizer")
    model.learn(6)


def test_moments_after_a_dataset() -> None:
    arguments = {"pretrain_steps": 4, "policy_kwargs": {"net_arch": [16]}, **FAST}
    model = O2OSAC.load_offline(dataset(), vec(), load_optimizer=False, **arguments)
    assert all(each.state_dict()["state"] == {} for each in model.optimizers().values())


@pytest.mark.parametrize("part", ["load_critic", "load_actor"])
def test_values_of_ppo(part: str, tmp_path: Path) -> None:
    """One Adam for both: each parameter's moments follow it, whatever place it has."""
    make_ppo().learn(16).save(tmp_path / "model")
    layers = {"vf": [8, 4]} if part == "load_critic" else {"pi": [8, 4]}
    kept = O2OPPO.load_offline(tmp_path / "model", vec(), device="cpu")
    arguments: dict[str, Any] = {part: False, "policy_kwargs": {"net_arch": layers}}
    with no_warnings():
        model = O2OPPO.load_offline(tmp_path / "model", vec(), device="cpu", **arguments)
    assert model.policy.net_arch == {"pi": [16], "vf": [16], **layers}
    theirs = dict(kept.policy.named_parameters())
    for name, parameter in model.policy.named_parameters():
        moments = model.policy.optimizer.state.get(parameter)
        if model.policy.is_of_values(name) == (part == "load_critic"):
            assert moments is None, name
        else:
            assert th.equal(parameter, theirs[name]), name
            assert moments is not None
            assert th.equal(moments["exp_avg"], kept.policy.optimizer.state[theirs[name]]["exp_avg"])
    model.learn(8).save(tmp_path / "again")
    assert_same(state(model), state(O2OPPO.load(tmp_path / "again", env=vec(), device="cpu")))


def test_a_callback_that_throws_the_critics_away_need_not_get_them(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    make(gamma=0.9, dataset=data).pretrain(None, 3).save(tmp_path / "model")
    start: dict[str, Any] = {"dataset": data, "device": "cpu", "critic_layer_norm": True}

    def loaded(source: str = "model", **kwargs: Any) -> Any:
        return O2OSAC.load_offline(tmp_path / source, vec(), **{**start, **kwargs})

    with no_warnings():
        model = loaded(finetuning=[PolicyReevaluation(2), ValueAlignment(2)])
    assert model.critic_layer_norm
    model.learn(6).save(tmp_path / "made")
    assert model.critic_layer_norm
    assert model.phase_steps == {"reevaluation": 2, "alignment": 2}
    with pytest.warns(UserWarning, match="critic_layer_norm: True wanted, False trained"):
        assert not loaded(finetuning=[PolicyReevaluation(2, fresh_critics=False)]).critic_layer_norm
    with pytest.warns(UserWarning, match="critic_layer_norm: True wanted, False trained"):
        assert not loaded(finetuning=[PolicyReevaluation(2)], load_critic=True).critic_layer_norm
    # a phase that lies behind a model throws nothing away
    made = loaded("made", finetuning=[PolicyReevaluation(2)])
    assert not differs(state(made), state(model), "policy/")
    assert made.finished_phases == ["reevaluation", "alignment"]


def test_what_was_made_of_a_part_goes_with_it(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    make(dataset=data, finetuning=[PolicyReevaluation(2)]).learn(4).save(tmp_path / "model")
    for part in ("load_actor", "load_critic"):
        model = O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu", **{part: False})
        assert (model.phase_steps, model.finished_phases) == ({}, [])


@pytest.mark.parametrize("build", [make, make_td3])
def test_interrupted_equals_uninterrupted(build: Any, tmp_path: Path) -> None:
    build().pretrain(dataset(), 4).save(tmp_path / "model")

    def start() -> Any:
        return type(build()).load_offline(tmp_path / "model", vec(), load_critic=False, device="cpu", **OTHER_CRITICS)

    straight, model = start().learn(12), start().learn(6)
    model.save_resume(tmp_path / "bundle")
    resumed = type(model).load_resume(tmp_path / "bundle", vec(), device="cpu")
    assert_same(state(straight), state(resumed.learn(6, reset_num_timesteps=False)))
