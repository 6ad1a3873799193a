"""Parity with the official TD3+BC: losses, targets, gradients, weights of four updates. ``-s`` prints the table."""

import json
from collections.abc import Iterator
from typing import Any

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
    mlp_arrays,
    put,
    read,
)
from stable_baselines3.common.logger import Logger

from sb3_o2o import O2OTD3
from sb3_o2o.objectives import TD3BCObjective
from sb3_o2o.objectives import functional as F


@pytest.fixture(scope="module")
def golden() -> Arrays:
    return read("td3_bc")


def build(golden: Arrays, **objective_kwargs: Any) -> O2OTD3:
    """A model with the recorded settings and weights, about to pre-train."""
    meta = json.loads(str(golden["meta"]))
    model = O2OTD3(
        "MlpPolicy",
        Spaces(),
        learning_rate=meta["lr"]["actor"],
        qf_learning_rate=meta["lr"]["critic"],
        gamma=meta["gamma"],
        tau=meta["tau"],
        policy_delay=meta["policy_delay"],
        target_policy_noise=meta["policy_noise"],
        target_noise_clip=meta["noise_clip"],
        objective="td3_bc",
        objective_kwargs={"alpha": meta["alpha"], **objective_kwargs},
        buffer_size=1,
        policy_kwargs={"net_arch": [16, 16]},
        device="cpu",
    )
    put(golden, arrays_of(model))
    model.phase = "pretraining"
    model.set_logger(Logger(None, []))
    model.loop.update_learning_rates()
    return model


def arrays_of(model: O2OTD3) -> Iterator[tuple[str, th.Tensor]]:
    yield from mlp_arrays(model.actor.mu, "actor", gradient=False)
    yield from mlp_arrays(model.actor_target.mu, "target_actor", gradient=False)
    yield from critic_arrays(model.critic, "critic", gradient=False)
    yield from critic_arrays(model.critic_target, "target", gradient=False)


def update(
    model: O2OTD3, golden: Arrays, number: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
    """One update of the model's own loop on a recorded batch without noise; what was computed, and the gradients."""
    batch, seen = batch_of(golden, number, model.gamma), {}
    original = F.bellman_target

    def spied(*arguments: th.Tensor) -> th.Tensor:
        seen["td_target"] = original(*arguments)
        return seen["td_target"]

    with monkeypatch.context() as patch:
        patch.setattr(F, "bellman_target", spied)
        model.draws = Still()
        seen.update(model.update(batch))
    is_actor_step = number % 2 == 0
    assert ("actor_loss" in seen) == is_actor_step
    gradients = dict(critic_arrays(model.critic, "critic", gradient=True))
    if is_actor_step:
        gradients.update(mlp_arrays(model.actor.mu, "actor", gradient=True))
    return seen, gradients


def test_four_updates_are_those_of_the_official_code(golden: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(golden)
    assert isinstance(model.offline_objective, TD3BCObjective)
    for number in (1, 2, 3, 4):
        seen, gradients = update(model, golden, number, monkeypatch)
        names = ("critic_loss", "td_target", "actor_loss", "q_weight")
        values = {name: seen[name] for name in names if name in seen}
        assert_within(compare(golden, number, values, gradients, arrays_of(model)), number)


@pytest.mark.parametrize("change", [{"critic_reduction": "mean"}, {"alpha": 2.0}])
def test_comparison_notices_a_wrong_factor(
    change: dict[str, Any], golden: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(golden, **change)
    update(model, golden, 1, monkeypatch)
    _, gradients = update(model, golden, 2, monkeypatch)
    table = compare(golden, 2, {}, gradients, iter(()))
    assert max(table["gradients, by largest entry"].values()) > 10 * INTERMEDIATES
