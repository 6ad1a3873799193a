"""Parity with the official CQL: gradients, losses, targets, weights of two updates. Run with ``-s`` for the table."""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from golden_runs import (
    CHANGES,
    INTERMEDIATES,
    WEIGHTS,
    Arrays,
    Spaces,
    Still,
    batch_of,
    critic_arrays,
    deviation,
    layers,
    put,
    read,
    recorded,
    relative,
)
from stable_baselines3.common.logger import Logger

from sb3_o2o import O2OSAC
from sb3_o2o.objectives import CQLObjective
from sb3_o2o.objectives import functional as F


@pytest.fixture(scope="module")
def golden() -> Arrays:
    return read("cql")


def build(golden: Arrays) -> O2OSAC:
    """A model with the recorded settings and weights, about to pre-train."""
    meta = json.loads(str(golden["meta"]))
    model = O2OSAC(
        "MlpPolicy",
        Spaces(),
        learning_rate=meta["lr"]["actor"],
        qf_learning_rate=meta["lr"]["critic"],
        ent_coef_learning_rate=meta["lr"]["temperature"],
        gamma=meta["gamma"],
        tau=meta["tau"],
        target_entropy=meta["target_entropy"],
        objective="cql",
        objective_kwargs={
            "cql_weight": meta["cql_alpha"],
            "n_actions": meta["n_actions"],
            "importance_sampling": meta["importance_sampling"],
            "temperature": meta["cql_temp"],
            "max_target_backup": meta["max_target_backup"],
            "entropy_backup": meta["backup_entropy"],
        },
        buffer_size=1,
        policy_kwargs={"net_arch": {"pi": [16, 16, 16], "qf": [16, 16]}},
        device="cpu",
    )
    put(golden, arrays_of(model))
    model.phase = "pretraining"
    model.set_logger(Logger(None, []))
    return model


def arrays_of(model: O2OSAC, gradient: bool = False) -> Iterator[tuple[str, th.Tensor]]:
    """Weights or gradients under the recorded names."""
    heads = {"mean": model.actor.mu, "log_std": model.actor.log_std}
    hidden = {f"hidden.{index}": layer for index, layer in enumerate(layers(model.actor.latent_pi))}
    for place, layer in {**hidden, **heads}.items():
        for kind in ("weight", "bias"):
            parameter = getattr(layer, kind)
            yield f"actor/{place}.{kind}", parameter.grad if gradient else parameter.detach()
    yield from critic_arrays(model.critic, "critic", gradient)
    if not gradient:
        yield from critic_arrays(model.critic_target, "target", gradient)
        assert model.log_ent_coef is not None
        yield "scalar/log_temperature", model.log_ent_coef.detach()[0]


def update(model: O2OSAC, golden: Arrays, number: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, th.Tensor]:
    """One update on a recorded batch without noise, and what was computed on the way."""
    batch = batch_of(golden, number, model.gamma)
    uniform = recorded(golden, f"batch{number}/random_actions")
    seen: dict[str, th.Tensor] = {}
    original = F.bellman_target

    def spied(*arguments: th.Tensor) -> th.Tensor:
        seen["td_target"] = original(*arguments)
        return seen["td_target"]

    with monkeypatch.context() as patch, th.no_grad():
        model.draws = Still(uniform)
        patch.setattr(F, "bellman_target", spied)
        seen["log_pi"] = model.actor.rsample(batch.observations, th.zeros(len(batch), 3))[1]
        with th.enable_grad():
            metrics = model.update(batch)
    seen["grad"] = dict(arrays_of(model, gradient=True))  # type: ignore[assignment]
    return {**seen, **metrics}


def compare(golden: Arrays, model: O2OSAC, seen: dict[str, Any], number: int) -> dict[str, dict[str, float]]:
    """Deviations by group and array."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    info = {name.partition("/")[2]: value for name, value in golden.items() if name.startswith(f"info{number}/")}
    gaps = seen["cql_gap_per_critic"]
    found = {
        "critic_loss": seen["critic_loss"],
        "actor_loss": seen["actor_loss"],
        "temperature_loss": seen["ent_coef_loss"],
        "temperature": seen["ent_coef"][0],
        "td_target": seen["td_target"],
        "log_pi": seen["log_pi"],
        "diff_0": gaps[0],
        "diff_1": gaps[1],
    }
    for name, value in found.items():
        table["losses, targets, gaps"][name] = deviation(info[name], value)
    for name, value in seen["grad"].items():
        table["gradients"][name] = deviation(golden[f"grad{number}/{name}"], value)
        table["gradients, by largest entry"][name] = relative(golden[f"grad{number}/{name}"], value)
    for name, value in arrays_of(model):
        after, before = golden[f"after{number}/{name}"], golden[f"before/{name}"]
        table["weights"][name] = deviation(after, value)
        table["changes, by largest entry"][name] = relative(after - before, value.double() - th.from_numpy(before))
    return table


def test_two_updates_are_those_of_the_official_code(golden: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(golden)
    assert isinstance(model.offline_objective, CQLObjective)
    limits = {
        "losses, targets, gaps": INTERMEDIATES,
        "gradients": INTERMEDIATES,
        "gradients, by largest entry": INTERMEDIATES,
        "weights": WEIGHTS,
        "changes, by largest entry": CHANGES,
    }
    for number in (1, 2):
        table = compare(golden, model, update(model, golden, number, monkeypatch), number)
        for group, deviations in table.items():
            print(f"update {number}, {group}")
            for name, value in deviations.items():
                print(f"  {name:28} {value:.1e}")
            worst = max(deviations, key=deviations.__getitem__)
            assert deviations[worst] <= limits[group], (
                f"update {number}: {worst} ({group}) is off by {deviations[worst]}"
            )


def test_comparison_notices_a_wrong_factor(golden: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(golden)
    assert isinstance(model.offline_objective, CQLObjective)
    model.offline_objective.critic_reduction = "half_sum"
    table = compare(golden, model, update(model, golden, 1, monkeypatch), 1)
    assert max(table["gradients"].values()) > 10 * INTERMEDIATES


def test_comparison_notices_a_missing_update(golden: Arrays) -> None:
    model = build(golden)
    untouched = dict(arrays_of(model))
    for name, value in untouched.items():
        change = golden[f"after1/{name}"] - golden[f"before/{name}"]
        assert relative(change, value.double() - th.from_numpy(golden[f"before/{name}"])) > 10 * CHANGES
