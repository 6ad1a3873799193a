"""
Parity with the official IQL: losses, targets, advantages, gradients, weights of two updates. ``-s`` prints the table.

The official policy is a Gaussian with a squashed mean and one standard deviation for all states: SAC's with
``policy_kwargs={"squash": "mean", "state_dependent_std": False}``.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from golden_runs import (
    INTERMEDIATES,
    Arrays,
    Spaces,
    assert_within,
    batch_of,
    compare,
    critic_arrays,
    mlp_arrays,
    put,
    read,
    recorded,
)
from stable_baselines3.common.logger import Logger
from torch import nn

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.networks.sac_policies import O2OActor
from sb3_o2o.objectives import IQLObjective
from sb3_o2o.objectives import functional as F

#: the actor of the official code
OFFICIAL = {"squash": "mean", "state_dependent_std": False}


@pytest.fixture(scope="module")
def golden() -> Arrays:
    return read("iql")


def build(golden: Arrays, algorithm: type[O2OSAC] | type[O2OTD3] = O2OSAC, **objective_kwargs: Any) -> Any:
    """A model with the recorded settings and weights, about to pre-train; O2OSAC has the official kind of actor."""
    meta = json.loads(str(golden["meta"]))
    model: Any = algorithm(
        "MlpPolicy",
        Spaces(),
        learning_rate=meta["lr"]["actor"],
        qf_learning_rate=meta["lr"]["critic"],
        gamma=meta["gamma"],
        tau=meta["tau"],
        policy_delay=1,
        objective="iql",
        objective_kwargs={
            "expectile": meta["expectile"],
            "beta": meta["beta"],
            "max_weight": meta["exp_adv_max"],
            "value_learning_rate": meta["lr"]["value"],
            **objective_kwargs,
        },
        buffer_size=1,
        policy_kwargs={"net_arch": [16, 16], **(OFFICIAL if algorithm is O2OSAC else {})},
        device="cpu",
    )
    put(golden, arrays_of(model))
    model.phase = "pretraining"
    model.set_logger(Logger(None, []))
    return model


def arrays_of(model: Any, gradient: bool = False) -> Iterator[tuple[str, th.Tensor]]:
    yield from critic_arrays(model.critic, "critic", gradient)
    yield from mlp_arrays(model.offline_objective.value, "value", gradient)
    if isinstance(model.actor, O2OActor):
        yield from mlp_arrays(nn.Sequential(model.actor.latent_pi, model.actor.mu), "actor", gradient)
        log_std = model.actor.log_std
        yield "actor/log_std", log_std.grad if gradient else log_std.detach()
    elif not gradient:
        yield from mlp_arrays(model.actor.mu, "actor", gradient)
    if not gradient:
        yield from critic_arrays(model.critic_target, "target", gradient)


def update(model: Any, golden: Arrays, number: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, th.Tensor]:
    """One update on a recorded batch, and what was computed on the way."""
    batch, seen = batch_of(golden, number, model.gamma), {}

    def spy(patch: pytest.MonkeyPatch, function: str, name: str) -> None:
        original = getattr(F, function)

        def spied(*arguments: Any) -> Any:
            seen[name] = original(*arguments)
            return seen[name]

        patch.setattr(F, function, spied)

    with monkeypatch.context() as patch:
        spy(patch, "bellman_target", "td_target")
        spy(patch, "advantage_weights", "weights")
        metrics = model.update(batch)
    return {**seen, **metrics}


NAMES = ("value_loss", "td_target", "critic_loss", "weights")


def test_two_updates_are_those_of_the_official_code(golden: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(golden)
    assert isinstance(model.offline_objective, IQLObjective)
    for number in (1, 2):
        seen = update(model, golden, number, monkeypatch)
        values = {name: seen[name] for name in (*NAMES, "actor_loss")}
        gradients = dict(arrays_of(model, gradient=True))
        assert_within(compare(golden, number, values, gradients, arrays_of(model)), number)
        assert seen["advantage"].item() == pytest.approx(golden[f"info{number}/advantage"].mean(), abs=1e-5)


def test_values_and_critics_are_the_same_with_a_deterministic_actor(
    golden: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its loss is the weighted squared distance, as in the official deterministic variant."""
    model = build(golden, O2OTD3)
    for number in (1, 2):
        batch = batch_of(golden, number, model.gamma)
        distance = (model.actor(batch.observations) - batch.actions).pow(2).sum(dim=1).detach()
        seen = update(model, golden, number, monkeypatch)
        expected = (recorded(golden, f"info{number}/weights") * distance).mean()
        assert seen["actor_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
        weights = [(name, value) for name, value in arrays_of(model) if not name.startswith("actor/")]
        gradients = dict(arrays_of(model, gradient=True))
        assert_within(compare(golden, number, {name: seen[name] for name in NAMES}, gradients, iter(weights)), number)


@pytest.mark.parametrize("change", [{"critic_reduction": "sum"}, {"expectile": 0.6}, {"beta": 2.5}])
def test_comparison_notices_a_wrong_factor(
    change: dict[str, Any], golden: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(golden, **change)
    update(model, golden, 1, monkeypatch)
    table = compare(golden, 1, {}, dict(arrays_of(model, gradient=True)), iter(()))
    assert max(table["gradients, by largest entry"].values()) > 10 * INTERMEDIATES
