"""Parity with the official O2SAC: re-evaluation, alignment and constrained updates. ``-s`` prints the table."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from golden_runs import (
    INTERMEDIATES,
    Arrays,
    Spaces,
    Still,
    assert_within,
    batch_of,
    compare,
    critic_arrays,
    put,
    read,
    recorded,
)
from stable_baselines3.common.logger import Logger
from torch import nn

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import ConstrainedFineTuning
from sb3_o2o.networks import frozen_copy
from sb3_o2o.networks.ensemble import EnsembleCritic, EnsembleLayerNorm
from sb3_o2o.objectives import Batch, Objective, ReevaluationObjective, StochasticAlignmentObjective
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.objectives import functional as F

Named = Iterator[tuple[str, th.Tensor]]


def gaussian_arrays(actor: Any, name: str, gradient: bool = False) -> Named:
    """Weights or gradients of a tanh-Gaussian policy under the recorded names."""
    hidden = [layer for layer in actor.latent_pi if isinstance(layer, nn.Linear)]
    places = [(f"hidden.{index}", layer) for index, layer in enumerate(hidden)]
    for place, layer in [*places, ("mean", actor.mu), ("log_std", actor.log_std)]:
        for kind in ("weight", "bias"):
            parameter = getattr(layer, kind)
            yield f"{name}/{place}.{kind}", parameter.grad if gradient else parameter.detach()


def normalised_critic_arrays(net: EnsembleCritic, name: str, gradient: bool = False) -> Named:
    """The same for critics with layer normalisation."""
    yield from critic_arrays(net, name, gradient)
    norms = [layer for layer in net.ensemble.modules() if isinstance(layer, EnsembleLayerNorm)]
    for index, norm in enumerate(norms):
        for kind in ("weight", "bias"):
            parameter = getattr(norm, kind)
            values = parameter.grad if gradient else parameter.detach()
            for member in range(net.n_critics):
                yield f"{name}.{member}/norm.{index}.{kind}", values[member, 0]


def build(golden: Arrays, reference_acts: bool = False, **kwargs: Any) -> tuple[O2OSAC, Any]:
    """
    :param reference_acts: the policy is the recorded reference, as while it is evaluated
    :return: a model with the recorded settings and weights, and its frozen reference policy
    """
    meta = json.loads(str(golden["meta"]))
    assert meta["target_entropy"] == -Spaces.action_space.shape[0]
    model = O2OSAC(
        "MlpPolicy",
        Spaces(),
        learning_rate=meta["lr"]["actor"],
        qf_learning_rate=meta["lr"]["critic"],
        ent_coef_learning_rate=meta["lr"]["temperature"],
        ent_coef=f"auto_{meta['temperature0']}",
        gamma=meta["gamma"],
        tau=meta["tau"],
        critic_layer_norm=True,
        online_objective_kwargs={"critic_reduction": "sum", "simultaneous": True},
        buffer_size=1,
        policy_kwargs={"net_arch": {"pi": [16, 16, 16], "qf": [16, 16]}},
        device="cpu",
        **kwargs,
    )
    reference = frozen_copy(model.actor)
    put(golden, gaussian_arrays(model.actor, "reference" if reference_acts else "actor"))
    put(golden, gaussian_arrays(reference, "reference"))
    put(golden, normalised_critic_arrays(model.critic, "critic"))
    put(golden, normalised_critic_arrays(model.critic_target, "target"))
    model.set_logger(Logger(None, []))
    return model, reference


def update(
    model: O2OSAC, golden: Arrays, number: int, monkeypatch: pytest.MonkeyPatch, spies: dict[str, str]
) -> dict[str, th.Tensor]:
    """One update of the model's own loop on a recorded batch without noise; metrics, and what formulas returned."""
    batch, seen = batch_of(golden, number, model.gamma), {}

    def spy(function: Any, name: str) -> Any:
        def spied(*arguments: Any) -> Any:
            seen[name] = function(*arguments)
            return seen[name]

        return spied

    with monkeypatch.context() as patch:
        for formula, name in spies.items():
            owner = F if hasattr(F, formula) else FF
            patch.setattr(owner, formula, spy(getattr(owner, formula), name))
        model.draws = Still()
        metrics = model.update(batch)
    return {**metrics, **seen}


def in_phase(model: O2OSAC, objective: Objective) -> O2OSAC:
    model.phase_in_progress = objective, None  # type: ignore[assignment]  # batches are given
    return model


def critics_of(model: O2OSAC) -> Named:
    yield from normalised_critic_arrays(model.critic, "critic")
    yield from normalised_critic_arrays(model.critic_target, "target")


def arrays_of(model: O2OSAC) -> Named:
    yield from gaussian_arrays(model.actor, "actor")
    yield from critics_of(model)


def gradients_of(model: O2OSAC) -> dict[str, th.Tensor]:
    return {
        **dict(gaussian_arrays(model.actor, "actor", gradient=True)),
        **dict(normalised_critic_arrays(model.critic, "critic", gradient=True)),
    }


def test_reevaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read("o2sac_ope")
    model, _ = build(golden, reference_acts=True)
    in_phase(model, ReevaluationObjective(model))
    policy = {name: value.clone() for name, value in model.actor.state_dict().items()}
    for number in (1, 2):
        seen = update(model, golden, number, monkeypatch, {"bellman_target": "td_target"})
        values = {name: seen[name] for name in ("critic_loss", "td_target")}
        gradients = dict(normalised_critic_arrays(model.critic, "critic", gradient=True))
        assert_within(compare(golden, number, values, gradients, critics_of(model)), number)
    assert all(th.equal(value, policy[name]) for name, value in model.actor.state_dict().items())
    assert model.current_ent_coef().item() == pytest.approx(0.2)


def test_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read("o2sac_align")
    model, reference = build(golden)
    in_phase(model, StochasticAlignmentObjective(model, reference))
    for number in (1, 2):
        seen = update(model, golden, number, monkeypatch, {"aligned_values": "align_target"})
        values = {name: seen[name] for name in ("critic_loss", "actor_loss", "align_target")}
        values |= {"fixed_loss": seen["anchored_loss"], "predicted_loss": seen["aligned_loss"]}
        assert_within(compare(golden, number, values, gradients_of(model), arrays_of(model)), number)
    assert model.current_ent_coef().item() == pytest.approx(0.2)


def constrained(golden: Arrays, **changes: Any) -> tuple[O2OSAC, ConstrainedFineTuning]:
    meta = json.loads(str(golden["meta"]))
    constraint = ConstrainedFineTuning(
        **{
            "threshold": meta["threshold"]["start"],
            "end_threshold": meta["threshold"]["end"],
            "anneal_steps": meta["threshold"]["steps"],
            "multiplier": meta["multiplier0"],
            "multiplier_learning_rate": meta["lr"]["multiplier"],
            "expectile": meta["expectile"],
            "log_prob_floor": meta["log_prob_floor"],
            "action_clip": 1 - meta["action_clamp"],
            "reference": "interval",
            **changes,
        }
    )
    model, reference = build(golden)
    constraint.init_callback(model)
    constraint.policy = reference
    model.hooks.deliver_to([constraint])
    constraint.on_training_start({}, {})
    return model, constraint


def test_constrained_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read("o2sac_update")
    model, constraint = constrained(golden)
    spies = {"bellman_target": "td_target", "asymmetric_slack": "multiplier_weight"}
    for number in (1, 2):
        constraint.multiplier.optimizer.is_due = True
        before = model.current_ent_coef()
        seen = update(model, golden, number, monkeypatch, spies)
        values = {name: seen[name] for name in ("critic_loss", "actor_loss", "td_target", "multiplier_weight")}
        values |= {name: seen[name] for name in ("multiplier_loss", "multiplier", "threshold")}
        values["temperature_loss"] = seen["ent_coef_loss"]
        table = compare(golden, number, values, gradients_of(model), arrays_of(model))
        for name, own in {
            "log_temperature": model.log_ent_coef.detach().reshape(()),  # type: ignore[union-attr]
            "log_multiplier": constraint.multiplier.logarithm.detach(),
        }.items():
            expected = golden[f"after{number}/scalar/{name}"]
            table["weights"][name] = float(np.abs(expected - own.double().numpy()) / (1 + np.abs(expected)))
        assert_within(table, number)
        assert float(before) == pytest.approx(float(golden[f"info{number}/temperature"]), rel=1e-5) or number == 2


@pytest.mark.parametrize("change", [{"log_prob_floor": -1.0}, {"multiplier": 1.0}])
def test_the_comparison_notices_another_constraint(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read("o2sac_update")
    model, _ = constrained(golden, **change)
    update(model, golden, 1, monkeypatch, {})
    table = compare(golden, 1, {}, gradients_of(model), iter(()))
    assert max(table["gradients, by largest entry"].values()) > 10 * INTERMEDIATES


def test_the_comparison_notices_a_critic_that_stepped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = read("o2sac_update")
    model, _ = constrained(golden)
    model.finetuning_objective.simultaneous = False  # type: ignore[assignment]
    update(model, golden, 1, monkeypatch, {})
    table = compare(golden, 1, {}, dict(gaussian_arrays(model.actor, "actor", gradient=True)), iter(()))
    assert max(table["gradients, by largest entry"].values()) > 10 * INTERMEDIATES


def test_saturated_actions_are_scored_with_a_floor() -> None:
    """An action at the bound is all but impossible under a reference that does the opposite."""
    golden = read("o2sac_update")
    model, constraint = constrained(golden)
    with th.no_grad():
        constraint.policy.mu.weight.zero_()
        constraint.policy.mu.bias.fill_(-8.0)
        constraint.policy.log_std.weight.zero_()
        constraint.policy.log_std.bias.fill_(-3.0)
    batch: Batch = batch_of(golden, 1, model.gamma)
    actions = th.ones_like(batch.actions).requires_grad_()
    penalty = constraint.actor_penalty(actions, th.zeros(len(batch)), batch)
    assert th.allclose(penalty.values, th.full((len(batch),), 1.3 * 50.0))
    (gradient,) = th.autograd.grad(penalty.values.sum(), actions, allow_unused=True)
    assert gradient is None or not gradient.any()
    assert recorded(golden, "before/scalar/log_multiplier").exp().item() == pytest.approx(1.3)
