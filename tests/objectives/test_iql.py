"""IQL and TD3+BC beyond the recorded updates: V, the schedule, the hooks, and that better actions are preferred."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from toy_tasks import arrays, assert_same, dataset, differs, make, make_td3, state, vec

from sb3_o2o.finetuning import FineTuningCallback, Warmup
from sb3_o2o.objectives import IQLObjective

BUILDERS = [make, make_td3]


def of(model: Any) -> IQLObjective:
    assert isinstance(model.offline_objective, IQLObjective)
    return model.offline_objective


@pytest.mark.parametrize("build", BUILDERS)
def test_values_go_on_online_and_live_in_the_zip(build: Any, tmp_path: Path) -> None:
    model = build(objective="iql", online_objective="iql").pretrain(dataset(), 4)
    assert model.finetuning_objective is model.offline_objective
    before = [parameter.clone() for parameter in of(model).value.parameters()]
    model.save(tmp_path / "model")
    loaded = type(model).load_offline(tmp_path / "model", vec(), device="cpu", learning_starts=4)
    for own, wanted in zip(of(loaded).value.parameters(), before, strict=True):
        assert th.equal(own, wanted)
    assert of(loaded).optimizers["value"].state_dict()["state"]
    loaded.learn(8)
    assert any(not th.equal(own, was) for own, was in zip(of(loaded).value.parameters(), before, strict=True))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("kwargs", [None, {"beta": 1.0}])
def test_no_arguments_are_none_however_they_are_written(build: Any, kwargs: Any, tmp_path: Path) -> None:
    """V goes on with ``online_objective_kwargs={}`` too, in this model and in a saved one."""
    model = build(objective="iql", online_objective="iql", objective_kwargs=kwargs, online_objective_kwargs={})
    model.pretrain(dataset(), 4).learn(8)
    assert model.finetuning_objective is model.offline_objective
    assert {float(each["step"]) for each in of(model).optimizers["value"].state.values()} == {model._n_updates}
    model.save(tmp_path / "model")
    loaded = type(model).load_offline(tmp_path / "model", vec(), device="cpu")
    assert loaded.finetuning_objective is loaded.offline_objective
    other = build(objective="iql", online_objective="iql", online_objective_kwargs={"beta": 2.0})
    assert other.finetuning_objective is not other.offline_objective
    by_class = build(objective="iql", online_objective=type(of(model)))
    assert by_class.finetuning_objective is by_class.offline_objective


@pytest.mark.parametrize("build", BUILDERS)
def test_fresh_critics_come_with_a_fresh_v(build: Any, tmp_path: Path) -> None:
    build(objective="iql", online_objective="iql").pretrain(dataset(), 4).save(tmp_path / "model")
    algorithm = type(build())
    kept, no_critic, no_moments = (
        of(algorithm.load_offline(tmp_path / "model", vec(), device="cpu", **kwargs))
        for kwargs in ({}, {"load_critic": False}, {"load_optimizer": False})
    )
    pairs = zip(kept.value.parameters(), no_critic.value.parameters(), no_moments.value.parameters(), strict=True)
    assert all(not th.equal(own, fresh) and th.equal(own, same) for own, fresh, same in pairs)
    assert kept.optimizers["value"].state_dict()["state"]
    assert no_critic.optimizers["value"].state_dict()["state"] == {}
    assert no_moments.optimizers["value"].state_dict()["state"] == {}


@pytest.mark.parametrize("build", BUILDERS)
def test_v_reads_the_critics_features_and_leaves_them_alone(build: Any) -> None:
    model = build(objective="iql", normalize_observations=True, critic_layer_norm=True).pretrain(dataset(), 1)
    objective = of(model)
    batch = model.sample_batch(8)
    advantages = objective.advantages(batch)
    mean, std = (th.from_numpy(each) for each in dataset().observation_stats())
    obs = (batch.observations - mean) / (std + 1e-3)
    with th.no_grad():
        quality = th.cat(model.critic_target(batch.observations, batch.actions), dim=1).min(dim=1).values
        expected = quality - objective.value.layers(obs.float())[:, 0]
    assert th.allclose(advantages, expected, atol=1e-5)
    advantages.pow(2).sum().backward()
    assert all(parameter.grad is None for parameter in model.critic_target.parameters())
    assert any(type(layer) is th.nn.LayerNorm for layer in objective.value.layers)


def test_v_has_its_own_shape_and_rate() -> None:
    model = make(
        objective="iql",
        objective_kwargs={"value_net_arch": [7], "value_learning_rate": 0.5},
        qf_learning_rate=0.1,
        policy_kwargs={"net_arch": [16], "activation_fn": th.nn.Tanh},
    )
    objective = of(model)
    assert [type(layer).__name__ for layer in objective.value.layers] == ["Linear", "Tanh", "Linear"]
    assert objective.value.layers[0].out_features == 7
    assert objective.optimizers["value"].param_groups[0]["lr"] == 0.5
    assert of(make(objective="iql", qf_learning_rate=0.1)).optimizers["value"].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("build", BUILDERS)
def test_the_actors_rate_falls_along_a_cosine_offline_and_is_constant_online(build: Any) -> None:
    class Rates(FineTuningCallback):
        def after_update(self, batch: Any, metrics: Any) -> None:
            rates.append(rate(self.model))

        def on_gradient_step(self) -> None:
            rates.append(rate(self.model))

    def rate(model: Any) -> tuple[float, float]:
        return model.actor.optimizer.param_groups[0]["lr"], model.critic.optimizer.param_groups[0]["lr"]

    rates: list[tuple[float, float]] = []
    kwargs = {"actor_cosine": True}
    model = build(objective="iql", online_objective="iql", objective_kwargs=kwargs, learning_rate=0.01)
    model.pretrain(dataset(), 4, callback=Rates())
    expected = [0.005 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [actor for actor, _ in rates] == pytest.approx(expected)
    assert {critic for _, critic in rates} == {0.01}
    rates.clear()
    model.learn(8, callback=Rates())
    assert set(rates) == {(0.01, 0.01)}


def test_an_actor_with_a_batch_of_its_own() -> None:
    """Weighted by the advantages of its own transitions."""
    model = make(
        objective="iql",
        online_objective="iql",
        gradient_steps=4,
        policy_delay=4,
        actor_batch="block",
        learning_starts=8,
    )
    callback, seen = FineTuningCallback(), []
    callback.after_update = lambda batch, metrics: seen.append(metrics)  # type: ignore[method-assign]
    model.learn(9, callback=callback)
    assert model._n_updates == 4
    assert ["actor_loss" in metrics for metrics in seen] == [False, False, False, True]
    assert math.isfinite(seen[-1]["actor_loss"].item())


@pytest.mark.parametrize("actor_batch", ["minibatch", "block"])
def test_td3_does_not_delay_iql_online(actor_batch: str) -> None:
    """The actor steps at each of four updates, on the critics' transitions, and all target networks follow."""
    model = make_td3(online_objective="iql", gradient_steps=4, learning_starts=8, actor_batch=actor_batch)
    callback, seen = FineTuningCallback(), []
    callback.after_update = lambda batch, metrics: seen.append((state(model), metrics))  # type: ignore[method-assign]
    moved = [state(model)]
    model.learn(9, callback=callback)
    assert ["actor_loss" in metrics for _, metrics in seen] == [True] * 4
    moved += [after for after, _ in seen]
    for name in ("actor", "actor_target", "critic", "critic_target"):
        assert [differs(one, other, f"policy/{name}.") for one, other in pairwise(moved)] == [True] * 4
    once = make_td3(online_objective="iql", gradient_steps=4, learning_starts=8).learn(9)
    if actor_batch == "minibatch":
        assert_same(state(model), state(once))


@pytest.mark.parametrize("build", BUILDERS)
def test_penalties_reach_the_actor(build: Any) -> None:
    def learned(weight: float) -> dict[str, th.Tensor]:
        callback = FineTuningCallback()
        callback.actor_penalty = lambda actions, log_prob, batch: weight * actions.pow(2).sum(dim=1)  # type: ignore[assignment]
        return state(build(online_objective="iql", learning_starts=8, policy_delay=1).learn(9, callback=callback))

    assert differs(learned(0.0), learned(3.0), "policy/actor.")
    assert not differs(learned(0.0), learned(3.0), "policy/critic.")


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("hook", ["next_actions", "next_values", "actor_values"])
def test_callbacks_that_would_do_nothing_are_refused(build: Any, hook: str) -> None:
    class Changes(FineTuningCallback):
        pass

    setattr(Changes, hook, lambda self, first, *_: first)
    with pytest.raises(ValueError, match=f"Changes changes {hook}, which IQLObjective never asks for"):
        build(online_objective="iql").learn(6, callback=Changes())
    build(objective="iql", finetuning=[Changes(), Warmup(2)]).pretrain(dataset(), 1).learn(6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"expectile": 1.0}, r"expectile .* must be a number in \(0, 1\), not 1.0"),
        ({"beta": -1.0}, "beta .* of at least 0, not -1.0"),
        ({"max_weight": 0.0}, "max_weight .* above 0, not 0.0"),
        (
            {"policy_loss": "l1"},
            "policy_loss .argument of objective 'iql'. must be 'likelihood', 'mse' or None, not 'l1'",
        ),
        ({"action_clip": 1.0}, r"action_clip .* in \(0, 1\)"),
        ({"critic_reduction": "max"}, "critic_reduction .* must be"),
        ({"expektile": 0.5}, "Did you mean 'expectile'"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(objective="iql", objective_kwargs=kwargs)


def test_state_dependent_exploration_needs_the_squared_distance() -> None:
    with pytest.raises(ValueError, match="use policy_loss='mse'"):
        make(objective="iql", use_sde=True)
    make(objective="iql", objective_kwargs={"policy_loss": "mse"}, use_sde=True).pretrain(dataset(), 2)


# -- what they are for ---------------------------------------------------------------------------------------------


def bandit(n: int = 400) -> dict[str, Any]:
    """One step an episode, any action; half of [-1, 1] away from the best one costs most."""
    fields = arrays(n)
    rng = np.random.default_rng(1)
    scaled = rng.uniform(-1, 1, size=(n, 2))
    fields["actions"] = (scaled * 2 + [0, 1]).astype(np.float32)  # bounds [-2, 2] and [-1, 3]
    fields["rewards"] = -10 * np.abs(scaled - 0.6).sum(axis=1)
    fields["terminations"], fields["truncations"] = np.ones(n, bool), np.zeros(n, bool)
    return fields


@pytest.mark.parametrize(
    ("build", "objective", "kwargs"),
    [
        (make, "iql", {"beta": 1.0}),
        (make_td3, "iql", {"beta": 1.0}),
        (make_td3, "td3_bc", {"alpha": 1.0}),
    ],
)
def test_better_actions_are_preferred(build: Any, objective: str, kwargs: dict[str, Any]) -> None:
    """Cloning ends at the mean of the actions, 0; the best one is 0.6."""
    model = build(
        objective=objective,
        objective_kwargs=kwargs,
        learning_rate=0.01,
        batch_size=64,
        policy_kwargs={"net_arch": [32]},
        policy_delay=1,
    ).pretrain(bandit(), 300)
    with th.no_grad():
        actions = model.actor.mode(th.from_numpy(bandit()["observations"]))
    assert actions.mean(dim=0).tolist() == pytest.approx([0.6, 0.6], abs=0.3)


@pytest.mark.parametrize("build", BUILDERS)
def test_without_temperature_iql_clones(build: Any) -> None:
    """Weights of 1: the loss is that of cloning."""
    model = build(objective="iql", objective_kwargs={"beta": 0.0, "policy_loss": "mse"})
    model.pretrain(dataset(), 1)
    batch = model.sample_batch(8)
    losses, metrics = of(model).actor_losses(batch, th.randn(8), None)
    expected = (model.actor.mode(batch.observations) - batch.actions).pow(2).sum(dim=1).mean()
    assert losses["actor"].item() == pytest.approx(expected.item())
    assert metrics["advantage_weight"].item() == 1.0


def test_a_fresh_value_network_joins_a_model_without_one(tmp_path: Path) -> None:
    model = make(objective="cql").pretrain(dataset(), 3)
    model.save(tmp_path / "model")
    loaded = type(model).load_offline(
        tmp_path / "model", vec(), online_objective="iql", device="cpu", learning_starts=4
    )
    assert_same(
        {name: value for name, value in state(model).items() if name.startswith("policy/")},
        {name: value for name, value in state(loaded).items() if name.startswith("policy/")},
    )
    loaded.learn(8)
