"""The weights after an update are those of torch's plain Adam on the same gradients, whatever trains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch as th
from toy_tasks import dataset, differs, make, make_ppo, make_td3, state

from sb3_o2o import finetuning
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.objectives import PPO_OBJECTIVES, SAC_OBJECTIVES, TD3_OBJECTIVES, Batch, SACObjective, Step
from sb3_o2o.updates.gradients import GradientFunctions

RATE = 0.01
#: one step of Adam moves a weight by about RATE; between the kernels lies rounding
TOLERANCE = 1e-3 * RATE
BUILDERS: dict[str, Callable[..., Any]] = {"sac": make, "td3": make_td3, "ppo": make_ppo}
#: two hidden layers of different widths: a gradient that is mistaken for its transpose fits nowhere
NETWORK = {"net_arch": [16, 8]}
KWARGS: dict[str, Any] = {
    "cql": {"n_actions": 2, "lagrange_gap": 0.5},
    "calql": {"n_actions": 2},
    "edac": {"eta": 5.0},
    "spot": {"density_steps": 2, "density_net_arch": [8, 6]},
}
OBJECTIVES = [
    (family, name)
    for family, names in (("sac", SAC_OBJECTIVES), ("td3", TD3_OBJECTIVES), ("ppo", PPO_OBJECTIVES))
    for name in names
]
PHASE = {"gradient_steps": 2}
REFERENCE = {"reference": "interval", "interval": 2}
OPT: dict[str, Any] = {"collect_steps": 6, "gradient_steps": 2}
#: families, fine-tuning callbacks, and further arguments
CALLBACKS: dict[str, tuple[list[str], list[Any], dict[str, Any]]] = {
    "ActorCriticAlignment": (["sac"], ["ActorCriticAlignment"], {}),
    "AdaptiveBC": (["sac", "td3"], [{"AdaptiveBC": {"references": [-10.0, 0.0]}}], {}),
    "AsynchronousUpdates": (["sac", "td3"], [{"AsynchronousUpdates": {"max_lag": 0}}], {}),
    "AuxiliaryAdvantage": (["ppo"], [{"AuxiliaryAdvantage": REFERENCE}], {}),
    "BalancedReplay": (["sac", "td3"], ["BalancedReplay"], {}),
    "ChampionChallenger": (["sac", "td3"], ["ChampionChallenger"], {}),
    "ConstrainedFineTuning": (["sac", "td3"], [{"ConstrainedFineTuning": REFERENCE}], {}),
    "DatasetReplay": (["sac", "td3"], ["DatasetReplay"], {}),
    "DualCritic": (["sac", "td3"], ["DualCritic"], {}),
    "DualCritic with IQL": (["sac", "td3"], ["DualCritic"], {"online_objective": "iql"}),
    "FIFOReplay": (["sac", "td3"], ["FIFOReplay"], {}),
    "JumpStart": (["sac", "td3"], [{"JumpStart": {"mean_steps": 3}}], {}),
    "OnlinePretraining": (["sac", "td3"], [{"OnlinePretraining": OPT}, "DualCritic"], {}),
    "OnlinePretraining with IQL": (
        ["sac", "td3"],
        [{"OnlinePretraining": OPT}, "DualCritic"],
        {"online_objective": "iql"},
    ),
    "PerturbedTargets": (["sac", "td3"], ["PerturbedTargets"], {}),
    "PolicyExpansion": (["sac", "td3"], ["PolicyExpansion"], {}),
    "PolicyReevaluation": (["sac", "td3", "ppo"], [{"PolicyReevaluation": PHASE}], {}),
    "SymmetricReplay": (["sac", "td3"], ["SymmetricReplay"], {}),
    "TrustRegion": (["sac", "td3"], [{"TrustRegion": {"tau": 0.5}}], {}),
    "ValueAlignment": (["sac", "td3"], [{"ValueAlignment": PHASE}], {}),
    "Warmup": (["sac", "td3"], [{"Warmup": {"steps": 2}}], {}),
}


def build(family: str, **kwargs: Any) -> Any:
    arguments: dict[str, Any] = {"learning_rate": RATE, "policy_kwargs": dict(NETWORK), "dataset": dataset(), **kwargs}
    if family == "sac":
        arguments = {"n_critics": 3, **arguments}
    return BUILDERS[family](**arguments)


@contextmanager
def plain_adam() -> Iterator[None]:
    """torch's own step, which is not fused, in place of ours."""

    def step(optimizer: Any, closure: Any = None) -> Any:
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=False)
        return th.optim.Adam.step(optimizer, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedAdam, "step", step)
        patch.setattr(FusedAdam, "_quick_groups", lambda _: None)
        yield


@contextmanager
def turned_gradients() -> Iterator[None]:
    """All gradients of an update have the same values as ever, and lie in memory the other way round."""
    formed = GradientFunctions.__call__

    def turn(values: Any) -> Any:
        if values is None:
            return None
        axes = tuple(reversed(range(values.dim())))
        return values.permute(axes).contiguous().permute(axes)

    def call(self: Any, step: Step, parameters: Any) -> Any:
        losses, metrics, gradients = formed(self, step, parameters)
        return losses, metrics, [[turn(each) for each in values] for values in gradients]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientFunctions, "__call__", call)
        yield


def weights(model: Any) -> dict[str, th.Tensor]:
    """Everything that an optimiser steps, and its moments: the model's, and what callbacks train."""
    found = state(model)
    for callback in model.finetuning:
        parts = [getattr(callback, "multiplier", None), getattr(getattr(callback, "ratio", None), "network", None)]
        for part in filter(None, parts):
            found.update({f"callback/{name}": value.clone() for name, value in part.state_dict().items()})
    return found


def assert_as_plain_adam(train: Callable[[], Any]) -> None:
    """Train twice from the same weights, with our steps and with torch's plain ones."""
    ours = weights(train())
    with plain_adam():
        expected = weights(train())
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        difference = float((ours[name] - value).abs().max()) if value.numel() else 0.0
        assert difference < TOLERANCE, f"{name} differs by {difference}"


def pretrained(family: str, name: str, steps: int = 1, **kwargs: Any) -> Any:
    model = build(family, objective=name, objective_kwargs=KWARGS.get(name), **kwargs)
    before = state(model)
    model.pretrain(dataset(), steps)
    assert differs(before, state(model))
    return model


@pytest.mark.parametrize(("family", "name"), OBJECTIVES)
def test_pretraining(family: str, name: str) -> None:
    """One update, whose step is torch's, as gradients come; and two updates with all gradients turned."""
    assert_as_plain_adam(lambda: pretrained(family, name))
    with turned_gradients():
        assert_as_plain_adam(lambda: pretrained(family, name, steps=2))


@pytest.mark.parametrize(("family", "name"), [case for case in OBJECTIVES if case[0] != "ppo"])
def test_fine_tuning(family: str, name: str) -> None:
    """One update of the actor and of all critics."""

    def train() -> Any:
        online = {"objective": name, "online_objective": name, "objective_kwargs": KWARGS.get(name)}
        model = build(family, **online, learning_starts=11, policy_delay=1)
        if name == "spot":
            model.pretrain(dataset(), 1)
            model.learning_starts = 11
        before = state(model)
        model.learn(12)  # the first episode that can be sampled whole ends before
        assert differs(before, state(model))
        return model

    assert_as_plain_adam(train)


@pytest.mark.parametrize("turned", [False, True], ids=["as they come", "turned"])
@pytest.mark.parametrize(("family", "name"), [(f, name) for name, each in CALLBACKS.items() for f in each[0]])
def test_callbacks(family: str, name: str, turned: bool) -> None:
    _, callbacks, kwargs = CALLBACKS[name]

    def train() -> Any:
        model = build(family, finetuning=callbacks, **kwargs)
        model.learning_starts = 6  # of those who wait for it: two updates follow
        before = weights(model)
        model.learn(8)
        assert differs(before, {**before, **weights(model)}, "")
        return model

    if turned:
        with turned_gradients():
            assert_as_plain_adam(train)
    else:
        assert_as_plain_adam(train)


def test_every_callback_is_here() -> None:
    ours = {name for name in finetuning.__all__ if name in FineTuningCallback.registry}
    assert {name.split()[0] for name in CALLBACKS} == ours - {"FineTuningCallback"}


class Smooth(SACObjective):
    """Critics that also pay for the slope of their values, as a user may write it."""

    def critic_losses(self, batch: Batch, *draws: Any) -> Any:
        losses, metrics = super().critic_losses(batch, *draws)
        slope = self.model.critic.action_gradients(batch.observations, batch.actions).pow(2).mean()
        return {"critic": losses["critic"] + 10.0 * slope}, metrics


OPTIMIZERS: list[tuple[Any, dict[str, Any]]] = [
    (th.optim.Adam, {"eps": 1e-5}),
    (th.optim.AdamW, {}),
    (th.optim.SGD, {"momentum": 0.9}),
]


@pytest.mark.parametrize(("kind", "kwargs"), OPTIMIZERS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("objective", ["edac", "user's"])
def test_optimisers_that_a_user_gives(objective: str, kind: Any, kwargs: dict[str, Any]) -> None:
    found = []
    for fused in (True, False):
        optimizer = {"optimizer_class": kind, "optimizer_kwargs": {**kwargs, "fused": fused}}
        model = build("sac", policy_kwargs={**NETWORK, **optimizer})
        made = model.available_objectives["edac"] if objective == "edac" else Smooth
        model.offline_objective = made(model)
        before = state(model)
        model.pretrain(dataset(), 2)
        assert differs(before, state(model))
        found.append(model.policy.state_dict())
    for name, value in found[1].items():
        assert th.allclose(found[0][name], value, atol=TOLERANCE), name


def test_ppo_with_an_optimiser_that_a_user_gives() -> None:
    """Online its gradients are autograd's own, offline ours."""
    found = []
    for fused in (True, False):
        optimizer = {"optimizer_class": th.optim.Adam, "optimizer_kwargs": {"eps": 1e-5, "fused": fused}}
        model = build("ppo", policy_kwargs={**NETWORK, **optimizer}, n_epochs=1).learn(8)
        found.append(model.policy.state_dict())
    for name, value in found[1].items():
        assert th.allclose(found[0][name], value, atol=TOLERANCE), name
