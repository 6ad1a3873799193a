"""Arguments that hold while pre-training, and what is handed over where those of fine-tuning take their place."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from gymnasium.envs.registration import EnvSpec
from toy_tasks import FAST, assert_same, dataset, dataset_file, differs, make, make_td3, state, vec

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.finetuning import FineTuningCallback, PolicyReevaluation, ValueAlignment
from sb3_o2o.networks.ensemble import EnsembleLayerNorm

BUILDERS = [make, make_td3]
#: two plain critics while pre-training, five with layer normalisation and other layers afterwards
APART: dict[str, Any] = {
    "n_critics": 5,
    "critic_layer_norm": True,
    "critic_subset": 4,
    "learning_rate": 1e-3,
    "qf_learning_rate": 2e-3,
    "policy_kwargs": {"net_arch": {"pi": [16], "qf": [8, 4]}},
    "pretrain_kwargs": {
        "n_critics": 2,
        "critic_layer_norm": False,
        "critic_subset": None,
        "learning_rate": 1e-4,
        "qf_learning_rate": 2e-4,
        "batch_size": 4,
        "policy_kwargs": {"net_arch": {"qf": [16]}},
    },
}


def has_offline_critics(model: Any) -> bool:
    """Checked in the modules and in what they compute, and that the arguments say so."""
    batch = th.zeros(3, 3), th.zeros(3, 2)
    values = [critic.q_values(*batch).shape for critic in (model.critic, model.critic_target)]
    norms = [layer for layer in model.critic.ensemble.layers if isinstance(layer, EnsembleLayerNorm)]
    found = (model.n_critics, model.critic_layer_norm, model.critic_subset, model.policy.net_arch["qf"], len(norms))
    offline, online = (2, False, None, [16], 0), (5, True, 4, [8, 4], 2)
    assert found in (offline, online)
    assert values == [(found[0], 3)] * 2
    assert model.policy.critic is model.critic
    return found == offline


def rates(model: Any) -> tuple[float, float]:
    return model.actor.optimizer.param_groups[0]["lr"], model.critic.optimizer.param_groups[0]["lr"]


class AtStart(FineTuningCallback):
    """Remembers the model as fine-tuning finds it, before an update."""

    def _on_training_start(self) -> None:
        self.found = state(self.model)


@pytest.mark.parametrize("build", BUILDERS)
def test_each_phase_has_its_own(build: Any) -> None:
    model = build(**APART)
    assert has_offline_critics(model)
    sizes: list[int] = []
    original = model.loop.gradient_step
    model.loop.gradient_step = lambda batch, actor: (sizes.append(len(batch)), original(batch, actor))[1]
    model.pretrain(dataset(), 4)
    assert has_offline_critics(model)
    assert rates(model) == pytest.approx((1e-4, 2e-4))
    before, watch = state(model), AtStart()
    model.learn(10, callback=watch)
    assert not has_offline_critics(model)
    assert rates(model) == pytest.approx((1e-3, 2e-3))
    assert sizes == [4] * 4 + [8] * (len(sizes) - 4)
    # handed over: the policy with all that belongs to it; critics as new ones are
    kept = [key for key in before if key.startswith(("policy/actor", "actor.optimizer", "log_ent", "ent_coef"))]
    assert any("exp_avg" in key for key in kept)
    for key in kept:
        assert th.equal(before[key], watch.found[key]), key
    assert not any(key.startswith("critic.optimizer") for key in watch.found)
    for key in [key for key in watch.found if key.startswith("policy/critic.")]:
        assert th.equal(watch.found[key], watch.found[key.replace("critic.", "critic_target.", 1)])
    assert differs(watch.found, state(model), "policy/critic.")
    assert differs(watch.found, state(model), "policy/actor.")


def test_what_is_frozen_stays_frozen() -> None:
    model = make(**APART).pretrain(dataset(), 3)
    model.actor.latent_pi.requires_grad_(False)
    before = state(model)
    model.learn(12)
    after = state(model)
    assert not has_offline_critics(model)
    assert not differs(before, after, "policy/actor.latent_pi.")
    assert differs(before, after, "policy/actor.mu.")


def test_it_happens_once() -> None:
    model = make(**APART).pretrain(dataset(), 3).learn(6)
    before = state(model)
    watch = AtStart()
    model.learn(6, callback=watch, reset_num_timesteps=False)
    assert_same(before, watch.found)
    with pytest.warns(UserWarning, match="pre-trains with the arguments of that: pretrain_kwargs held until then"):
        model.pretrain(dataset(), 2)
    assert not has_offline_critics(model)


def test_without_pretraining_fine_tuning_has_its_own() -> None:
    assert not has_offline_critics(make(**APART).learn(6))


def test_learn_pretrains_first_where_it_is_asked_to() -> None:
    """RL Zoo knows only the constructor and ``learn``."""
    model = make(**APART, dataset=dataset(), pretrain_steps=3, verbose=0).learn(8)
    assert model.n_pretrain_steps == 3
    assert not has_offline_critics(model)


def test_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    make(**APART, verbose=1).pretrain(dataset(), 2).learn(4)
    expected = "Fine-tuning begins with fresh critics: 5 of [8, 4] units, with layer normalisation"
    assert capsys.readouterr().out.count(expected) == 1


@pytest.mark.parametrize("build", BUILDERS)
def test_critics_of_one_architecture_go_on(build: Any) -> None:
    """Other rates alone change nothing that was learned."""
    arguments = {"objective": "iql", "online_objective": "iql", "qf_learning_rate": 2e-3}
    model = build(**arguments, pretrain_kwargs={"qf_learning_rate": 1e-4, "tau": 0.1, "actor_critics": "mean"})
    model.pretrain(dataset(), 5)
    assert (rates(model)[1], model.tau) == (1e-4, 0.1)
    before, watch = state(model), AtStart()
    model.learn(8, callback=watch)
    assert_same(before, watch.found)
    assert any(key.startswith("offline_objective.optimizers.value") and "exp_avg" in key for key in before)
    assert (rates(model)[1], model.tau) == (2e-3, 0.005)
    assert model.offline_objective.optimizers["value"].param_groups[0]["lr"] == 2e-3


def test_an_objective_that_goes_on_has_the_arguments_of_fine_tuning() -> None:
    arguments: dict[str, Any] = {"objective": "cql", "objective_kwargs": {"lagrange_gap": 1.0, "n_actions": 2}}
    model = make(**arguments, online_objective="cql", pretrain_kwargs={"actor_critics": "mean"}).pretrain(dataset(), 5)
    assert model.offline_objective.actor_reduction == "mean"  # type: ignore[attr-defined]
    before, watch = state(model), AtStart()
    model.learn(6, callback=watch)
    assert model.finetuning_objective is model.offline_objective
    assert model.finetuning_objective.actor_reduction == "min"  # type: ignore[attr-defined]
    assert_same(before, watch.found)  # the multiplier and its moments as well


def test_objectives_that_only_one_phase_allows() -> None:
    """More critics are drawn, or compared, than the other phase has."""
    online = {"online_objective": "cql", "online_objective_kwargs": {"critic_subset": 3, "n_actions": 2}}
    arguments = {"n_critics": 4, "pretrain_kwargs": {"n_critics": 1}}
    model = make(**online, **arguments).pretrain(dataset(), 2)
    assert model.critic.n_critics == 1
    assert model.learn(6).critic.n_critics == 4
    with pytest.raises(ValueError, match="n_critics to at least 2, not 1"):
        make(objective="edac", **arguments)


def test_stock_names_its_number_of_critics_in_the_policys_arguments() -> None:
    model = make(policy_kwargs={"net_arch": [16], "n_critics": 3}, pretrain_kwargs={"n_critics": 2})
    assert model.critic.n_critics == model.n_critics == 2
    model.pretrain(dataset(), 2).learn(6)
    assert model.critic.n_critics == model.n_critics == model.policy_kwargs["n_critics"] == 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gamma": 0.9}, "Unknown key of pretrain_kwargs 'gamma'"),
        ({"n_critic": 2}, "Unknown key of pretrain_kwargs 'n_critic'. Did you mean 'n_critics'"),
        ({"policy_kwargs": {"net_arch": {"pi": [8]}}}, "for the actor goes on as it is"),
        ({"policy_kwargs": {"net_arch": [8]}}, "for the actor goes on as it is"),
        ({"policy_kwargs": {"activation_fn": th.nn.Tanh}}, "for the actor goes on as it is"),
        ({"critic_subset": 3}, r"critic_subset must lie in \[1, n_critics=2\], not 3"),
        ([("tau", 0.1)], "pretrain_kwargs must be a dictionary"),
    ],
)
def test_what_cannot_be_another_one(kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(pretrain_kwargs=kwargs)


def test_fine_tunings_arguments_are_checked_before_pretraining() -> None:
    with pytest.raises(ValueError, match=r"critic_subset must lie in \[1, n_critics=2\], not 5"):
        make(critic_subset=5, pretrain_kwargs={"critic_subset": None})
    with pytest.raises(ValueError, match="net_arch of pretrain_kwargs needs one in policy_kwargs"):
        make(policy_kwargs={}, pretrain_kwargs={"policy_kwargs": {"net_arch": {"qf": [8]}}})


# -- saved, loaded, resumed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDERS)
def test_saved_in_either_phase(build: Any, tmp_path: Path) -> None:
    model = build(**APART).pretrain(dataset(), 4)
    model.save(tmp_path / "offline")
    again = type(model).load(tmp_path / "offline", env=vec(), device="cpu")
    assert has_offline_critics(again)
    assert_same(state(model), state(again))
    again.pretrain(dataset(), 2, reset_gradient_steps=False)
    assert rates(again) == pytest.approx((1e-4, 2e-4))
    again.learn(8).save(tmp_path / "online")
    assert not has_offline_critics(again)
    tuned = type(model).load(tmp_path / "online", env=vec(), device="cpu")
    assert not has_offline_critics(tuned)
    assert_same(state(again), state(tuned))


def test_an_argument_of_load_holds_in_both_phases(tmp_path: Path) -> None:
    make(**APART).save(tmp_path / "model")
    model = O2OSAC.load(tmp_path / "model", env=vec(), device="cpu", learning_rate=5e-4).pretrain(dataset(), 2)
    assert rates(model) == pytest.approx((5e-4, 2e-4))
    assert rates(model.learn(8)) == pytest.approx((5e-4, 2e-3))
    with pytest.raises(ValueError, match="pretrain_kwargs are applied when a model is built"):
        O2OSAC.load(tmp_path / "model", device="cpu", pretrain_kwargs={"tau": 0.1})


class StopAt(FineTuningCallback):
    """Writes a bundle and stops after so many gradient steps."""

    def __init__(self, step: int, path: Path):
        super().__init__()
        self.step, self.path, self.count = step, path, 0

    def on_gradient_step(self) -> None:
        self.count += 1
        if self.count == self.step:
            self.model.save_resume(self.path)  # type: ignore[attr-defined]
            self.model.request_stop()  # type: ignore[attr-defined]


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("build", BUILDERS)
def test_interrupted_equals_uninterrupted(build: Any, offline: bool, tmp_path: Path) -> None:
    data, stop = dataset_file(tmp_path), StopAt(3, tmp_path / "bundle")
    straight = build(**APART, dataset=data).pretrain(None, 5)
    straight.learn(12)
    model = build(**APART, dataset=data).pretrain(None, 5, callback=stop if offline else None)
    if not offline:
        model.learn(12, callback=stop)
    resumed = type(model).load_resume(tmp_path / "bundle", vec(), device="cpu")
    if offline:
        assert has_offline_critics(resumed)
        resumed.pretrain(None, 5 - resumed.n_pretrain_steps, reset_gradient_steps=False)
        resumed.learn(12)
    else:
        assert not has_offline_critics(resumed)
        resumed.learn(12 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(state(straight), state(resumed))


# -- load_offline --------------------------------------------------------------------------------------------------


def test_load_offline_hands_over_as_learn_does(tmp_path: Path) -> None:
    model = make(**APART).pretrain(dataset(), 4)
    model.save(tmp_path / "offline")
    taken = O2OSAC.load_offline(tmp_path / "offline", vec(), device="cpu")
    assert not has_offline_critics(taken)
    assert (taken.learning_rate, taken.qf_learning_rate, taken.batch_size) == (1e-3, 2e-3, 8)
    for prefix in ("policy/actor", "actor.optimizer"):
        assert not differs(state(model), state(taken), prefix)
    assert taken.critic.optimizer.state_dict()["state"] == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no pretrain_kwargs any more
        taken.pretrain(dataset(), 1)
    with pytest.warns(UserWarning, match="n_critics: 5 wanted, 2 trained") as caught:
        kept = O2OSAC.load_offline(tmp_path / "offline", vec(), device="cpu", load_critic=True, critic_subset=None)
    assert "critic_layer_norm: True wanted, False trained" in str(caught[0].message)
    assert has_offline_critics(kept)
    assert_same(state(model), state(kept))
    assert kept.learning_rate == 1e-3
    other = O2OSAC.load_offline(tmp_path / "offline", vec(), device="cpu", n_critics=3, critic_subset=None)
    assert (other.critic.n_critics, other.critic_layer_norm) == (3, True)


def test_load_offline_of_one_architecture_keeps_the_critics(tmp_path: Path) -> None:
    model = make(qf_learning_rate=2e-3, pretrain_kwargs={"qf_learning_rate": 1e-4}).pretrain(dataset(), 4)
    model.save(tmp_path / "offline")
    taken = O2OSAC.load_offline(tmp_path / "offline", vec(), device="cpu")
    assert_same(state(model), state(taken))
    assert taken.qf_learning_rate == 2e-3


def test_load_offline_on_a_dataset() -> None:
    arguments = {**FAST, **APART}
    taken = O2OSAC.load_offline(dataset(), vec(), pretrain_steps=3, **arguments)
    assert not has_offline_critics(taken)
    with pytest.warns(UserWarning, match="n_critics: 5 wanted, 2 trained"):
        kept = O2OSAC.load_offline(
            dataset(), vec(), pretrain_steps=3, load_critic=True, **{**arguments, "critic_subset": None}
        )
    assert kept.critic.n_critics == 2


def test_sources_that_are_not_pretrained_on() -> None:
    for source in (make(), make_td3(), lambda observations: observations):
        with pytest.raises(ValueError, match="pretrain_kwargs say how to pre-train on a dataset"):
            O2OSAC.load_offline(source, vec(), pretrain_kwargs={"tau": 0.1})


# -- recipes -------------------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {"buffer_size": 200, "batch_size": 8, "seed": 0, "device": "cpu"}


def named(env_id: str) -> Any:
    env = vec()
    env.envs[0].unwrapped.spec = EnvSpec(env_id, entry_point="toy_tasks:Drift")
    return env


def reconstruction() -> list[Any]:
    return [PolicyReevaluation(2), ValueAlignment(2)]


def norms(model: Any) -> int:
    return sum(isinstance(layer, EnsembleLayerNorm) for layer in model.critic.ensemble.layers)


@pytest.mark.parametrize(
    ("recipe", "env_id", "offline", "online"),
    [
        # rates of actor, critics and temperature, critics, normalisations in them
        ("o2sac", "Hopper-v5", (3e-5, 3e-4, 3e-5, 2, 0), (1e-4, 3e-4, 3e-4, 2, 3)),
        ("o2sac_expert", "Hopper-v5", (3e-5, 3e-4, 3e-5, 2, 0), (1e-4, 3e-4, 3e-4, 2, 3)),
        ("o2sac_expert_interval", "Hopper-v5", (3e-5, 3e-4, 3e-5, 2, 0), (1e-4, 3e-4, 3e-4, 2, 3)),
        ("o2sac_utd10", "Hopper-v5", (3e-5, 3e-4, 3e-5, 2, 0), (1e-4, 3e-4, 3e-4, 2, 3)),
        ("o2sac", "AntMaze_Medium-v5", (1e-4, 3e-4, 1e-4, 2, 0), (1e-4, 3e-4, 3e-4, 1, 5)),
        ("o2sac", "AntMaze_UMaze-v5", (1e-4, 3e-4, 1e-4, 2, 0), (1e-4, 3e-4, 3e-4, 1, 5)),
        ("o2td3", "Hopper-v5", (3e-4, 3e-4, None, 2, 0), (1e-4, 3e-4, None, 2, 2)),
        ("o2td3_expert_interval", "Hopper-v5", (3e-4, 3e-4, None, 2, 0), (1e-4, 3e-4, None, 2, 2)),
        ("o2td3_expert", "Hopper-v5", (3e-4, 3e-4, None, 2, 0), (1e-4, 3e-4, None, 2, 2)),
        ("o2td3", "AntMaze_UMaze-v5", (3e-4, 3e-4, None, 2, 0), (1e-4, 3e-4, None, 2, 0)),
    ],
)
def test_the_papers_critics_come_after_the_offline_methods_own(
    recipe: str, env_id: str, offline: tuple[Any, ...], online: tuple[Any, ...], tmp_path: Path
) -> None:
    """In one object, from a saved model with the recipe, and from a plain model of the offline method."""
    algorithm: Any = O2OSAC if "sac" in recipe else O2OTD3

    def facts(model: Any) -> tuple[Any, ...]:
        rate = model.ent_coef_lr_schedule(1.0) if algorithm is O2OSAC else None
        return (model.lr_schedule(1.0), model.qf_lr_schedule(1.0), rate, model.critic.n_critics, norms(model))

    start: dict[str, Any] = {**SHORT, "dataset": dataset(), "dataset_kwargs": {}, "finetuning": reconstruction()}
    model = algorithm("MlpPolicy", named(env_id), recipe=recipe, **start)
    assert facts(model) == offline
    model.pretrain(None, 1).save(tmp_path / "offline")
    actor = state(model)
    watch = AtStart()
    model.learn(2, callback=watch)
    assert facts(model) == online
    assert not differs(actor, watch.found, "policy/actor.")
    assert model.finished_phases == ["reevaluation", "alignment"]

    plain = algorithm(
        "MlpPolicy",
        named(env_id),
        recipe="cql" if algorithm is O2OSAC else "td3_bc",
        **{**SHORT, "dataset_kwargs": {}, "finetuning": []},
    )
    plain.pretrain(dataset(), 1).save(tmp_path / "plain")
    for name, source in (("offline", model), ("plain", plain)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            taken = algorithm.load_offline(tmp_path / name, named(env_id), recipe=recipe, **start)
        assert facts(taken) == online
        expected = actor if name == "offline" else state(source)
        assert not differs(expected, state(taken), "policy/actor.")
        assert not differs(expected, state(taken), "actor.optimizer")
        assert taken.critic.optimizer.state_dict()["state"] == {}
        assert taken.learn(2).finished_phases == ["reevaluation", "alignment"]


@pytest.mark.parametrize("recipe", ["so2", "so2_paper"])
def test_edac_pretrains_with_a_temperature_that_so2_fixes(recipe: str, tmp_path: Path) -> None:
    arguments = {"buffer_size": 500, "seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [8]}, "finetuning": []}
    model = O2OSAC("MlpPolicy", vec(), recipe=recipe, **arguments)
    assert (model.batch_size, model.learning_rate, model.log_ent_coef is None) == (256, 3e-4, False)
    model.pretrain(dataset(), 3).save(tmp_path / "edac")
    before, watch = state(model), AtStart()
    model.learn(3, callback=watch)
    assert not differs(before, watch.found, "policy/")  # the same critics go on
    assert not differs(before, watch.found, "critic.optimizer")
    assert (model.batch_size, model.learning_rate, model.log_ent_coef, model.ent_coef) == (2560, 1e-3, None, 0.2)
    assert model.current_ent_coef().item() == pytest.approx(0.2)
    taken = O2OSAC.load_offline(tmp_path / "edac", vec(), device="cpu")
    assert (taken.batch_size, taken.learning_rate, taken.log_ent_coef, taken.ent_coef) == (2560, 1e-3, None, 0.2)


@pytest.mark.parametrize("recipe", ["so2", "so2_paper", "so2_pex"])
def test_critics_of_other_layers_than_the_recipes_go_on(recipe: str, tmp_path: Path) -> None:
    """What pre-training has of its own are rates and a temperature, not critics: what was trained wins."""
    arguments: dict[str, Any] = {**SHORT, "policy_kwargs": {"net_arch": [8]}, "n_critics": 2}
    model = O2OSAC("MlpPolicy", vec(), recipe=recipe, **arguments).pretrain(dataset(), 3)
    model.save(tmp_path / "edac")
    with pytest.warns(UserWarning, match=r"What was trained wins over recipe .*, \[8\] trained; n_critics: 10 wanted"):
        taken = O2OSAC.load_offline(tmp_path / "edac", vec(), recipe=recipe, device="cpu")
    assert not differs(state(model), state(taken), "policy/")
    assert not differs(state(model), state(taken), "critic.optimizer")
    assert (taken.batch_size, taken.learning_rate, taken.ent_coef) == (2560, 1e-3, 0.2)


def test_what_the_user_gives_holds_in_both_phases() -> None:
    arguments = {**SHORT, "policy_kwargs": {"net_arch": [8]}, "learning_rate": 1e-3, "critic_layer_norm": True}
    model = O2OSAC("MlpPolicy", vec(), recipe="o2sac", finetuning=[], **arguments)
    assert model.pretrain_kwargs == {
        "qf_learning_rate": 3e-4,
        "ent_coef_learning_rate": 3e-5,
        "ent_coef": "auto_1.0",
        "n_critics": 2,
        "entropy_backup": False,
    }
    assert (model.learning_rate, norms(model)) == (1e-3, 1)
    model.pretrain(dataset(), 1)
    before, watch = state(model), AtStart()
    model.learn(3, callback=watch)
    assert not differs(before, watch.found, "policy/")
    own = O2OSAC("MlpPolicy", vec(), recipe="o2sac", finetuning=[], pretrain_kwargs={"tau": 0.1}, **SHORT)
    assert (own.pretrain_kwargs, own.critic_layer_norm, own.learning_rate) == ({"tau": 0.1}, True, 1e-4)


@pytest.mark.parametrize(("recipe", "source"), [("o2sac", make_td3), ("o2td3", make)])
def test_across_families_nothing_of_the_offline_phase_is_built(
    recipe: str, source: Callable[..., Any], tmp_path: Path
) -> None:
    """Only what acts comes from the source, and the recipe's critics are those of fine-tuning."""
    algorithm: Any = O2OSAC if recipe == "o2sac" else O2OTD3
    theirs = source().pretrain(dataset(), 2)
    model = algorithm.load_offline(theirs, vec(), recipe=recipe, dataset=dataset(), **SHORT)
    assert (model.learning_rate, model.critic_layer_norm, model.clone_report.copied) == (1e-4, True, ("actor",))
    model.save(tmp_path / "taken")
    loaded = algorithm.load(tmp_path / "taken", env=vec(), device="cpu")
    assert (loaded.learning_rate, norms(loaded)) == (1e-4, norms(model))


@pytest.mark.parametrize("build", BUILDERS)
def test_a_gradient_may_be_clipped_online_alone(build: Callable[..., Any]) -> None:
    offline = []
    for online, before in ((1e-6, None), (None, None), (None, 1e-6)):
        model = build(actor_max_grad_norm=online, pretrain_kwargs={"actor_max_grad_norm": before})
        offline.append(state(model.pretrain(dataset(), 2)))
        model.learn(1)
        assert model.actor_max_grad_norm == online
    assert_same(offline[0], offline[1])
    assert differs(offline[1], offline[2], "policy/actor.")


@pytest.mark.parametrize(
    ("before", "afterwards", "start"), [(0.7, "auto", 0.7), (0.7, 0.2, 0.2), ("auto", 0.2, 0.2), (0.0, "auto", 1.0)]
)
def test_stock_models_go_on_with_the_arguments_of_fine_tuning(
    before: Any, afterwards: Any, start: float, tmp_path: Path
) -> None:
    apart = {**APART["pretrain_kwargs"], "ent_coef": before}
    model = make(**{**APART, "ent_coef": afterwards, "pretrain_kwargs": apart}).pretrain(dataset(), 3)
    stock = model.to_sb3()
    assert (stock.learning_rate, stock.batch_size, stock.ent_coef) == (1e-3, FAST["batch_size"], afterwards)
    assert (stock.log_ent_coef is None) == (afterwards == 0.2)
    found = stock.ent_coef_tensor if stock.log_ent_coef is None else stock.log_ent_coef.detach().exp()
    assert found.item() == pytest.approx(start)
    assert len(stock.critic.q_networks) == 2  # those that were trained
    observations = dataset().observations[:5]
    expected = model.predict(observations, deterministic=True)[0]
    assert th.allclose(*(th.as_tensor(each) for each in (stock.predict(observations, deterministic=True)[0], expected)))
    stock.save(tmp_path / "stock")
    assert type(stock).load(tmp_path / "stock").batch_size == FAST["batch_size"]
    stock.learn(12)
    assert {optimizer.param_groups[0]["lr"] for optimizer in (stock.actor.optimizer, stock.critic.optimizer)} == {1e-3}
    assert has_offline_critics(model)  # and has its own arguments still
    assert model.learning_rate == 1e-4


def test_what_stands_for_an_attribute_holds_in_both_phases(tmp_path: Path) -> None:
    make(**APART).pretrain(dataset(), 3).save(tmp_path / "model")
    objects = {"learning_rate": 1e-5, "batch_size": 13}
    model = O2OSAC.load(tmp_path / "model", vec(), custom_objects=objects)
    model.learn(12)
    assert (model.learning_rate, model.batch_size) == (1e-5, 13)
    assert model.actor.optimizer.param_groups[0]["lr"] == 1e-5
    assert not has_offline_critics(model)
