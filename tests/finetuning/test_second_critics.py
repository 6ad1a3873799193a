"""OPT's meta-adaptation objective against closed forms and a double backward pass written out by hand."""

from typing import Any

import pytest
import torch as th
from toy_tasks import dataset, make, make_td3

from sb3_o2o.finetuning.online_pretraining import OnlinePretraining, OnlinePretrainingObjective
from sb3_o2o.finetuning.second_critics import SecondCritics
from sb3_o2o.objectives import Batch
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.updates.gradients import losses_and_gradients

RATE = 0.05
MODES = ["second_order", "first_order", "none"]


def squared_error(inputs: th.Tensor, targets: th.Tensor) -> Any:
    return lambda parameters: (inputs @ parameters["psi"] - targets).pow(2).mean()


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("meta", MODES)
def test_a_linear_critic_in_closed_form(meta: str, weighted: bool) -> None:
    """``grad = g_off(psi) + w (I - a H_off) g_on(psi')`` with ``g = 2/B X'(X psi - y)`` and ``H = 2/B X'X``."""
    th.manual_seed(0)
    offline, online = th.randn(2, 5, 3, dtype=th.float64)
    y_off, y_on = th.randn(2, 5, dtype=th.float64) * th.tensor([[1.0], [3.0]])
    psi = th.randn(3, dtype=th.float64, requires_grad=True)
    losses = squared_error(offline, y_off), squared_error(online, y_on)
    loss, metrics = FF.meta_adaptation_loss(*losses, {"psi": psi}, rate=RATE, meta=meta, weighted=weighted)
    (gradient,) = th.autograd.grad(loss, [psi])

    with th.no_grad():
        g_off = 2 / 5 * offline.T @ (offline @ psi - y_off)
        adapted = psi if meta == "none" else psi - RATE * g_off
        g_on = 2 / 5 * online.T @ (online @ adapted - y_on)
        l_off, l_on = (offline @ psi - y_off).pow(2).mean(), (online @ adapted - y_on).pow(2).mean()
        weight = min(l_off, l_on) / l_on if weighted else th.tensor(1.0)
        hessian = 2 / 5 * offline.T @ offline
        pulled_back = g_on - RATE * hessian @ g_on if meta == "second_order" else g_on
        expected = g_off + weight * pulled_back
    assert weighted is False or 0 < weight < 1
    assert th.allclose(gradient, expected, rtol=1e-12, atol=1e-12)
    assert th.allclose(loss, l_off + weight * l_on)
    assert [metrics[name].item() for name in ("offline_loss", "online_loss", "gradient_weight")] == pytest.approx(
        [l_off.item(), l_on.item(), weight.item()]
    )


def test_the_weight_of_a_perfect_online_fit_is_finite() -> None:
    psi = th.ones(2, requires_grad=True)
    zero = th.zeros(3, 2)
    losses = squared_error(th.eye(2), th.zeros(2)), squared_error(zero, th.zeros(3))
    loss, metrics = FF.meta_adaptation_loss(*losses, {"psi": psi}, rate=RATE)
    assert metrics["gradient_weight"] == 0
    assert th.isfinite(th.autograd.grad(loss, [psi])[0]).all()


# -- the second critics of a model ---------------------------------------------------------------------------------


def ready(build: Any, meta: str, **kwargs: Any) -> tuple[Any, Batch, Batch, OnlinePretrainingObjective]:
    """A model in the phase, two batches, and its objective."""
    model = build(learning_starts=100, **kwargs).learn(1)
    model.second_critics = SecondCritics(model.finetuning_objective)
    offline, online = (model.to_batch(model.open_offline_buffer(dataset(seed=seed)).sample(8)) for seed in (0, 1))
    model.phase_steps["opt"], model.phase = 0, "opt"
    objective = OnlinePretrainingObjective(
        model,
        model.second_critics,
        lambda size: online,
        OnlinePretraining(
            meta=meta, inner_learning_rate=RATE, learning_rate=1e-3, gradient_weight=True, target_interval=2
        ),
    )
    return model, offline, online, objective


def gradients(model: Any, objective: OnlinePretrainingObjective, offline: Batch) -> tuple[Any, list[th.Tensor]]:
    """The arguments of the step, and the gradients that the algorithm forms of it."""
    step = next(iter(objective.steps(offline, None)))
    parameters = {
        name: [each for group in optimizer.param_groups for each in group["params"]]
        for name, optimizer in model.second_critics.optimizers.items()
    }
    _, _, formed = losses_and_gradients(step.function, parameters, step.arguments)
    return step.arguments, [gradient for group in formed for gradient in group]  # type: ignore[misc]


def two_layers(weights: list[th.Tensor], batch: Batch) -> th.Tensor:
    """Q of a pair of critics with one hidden ReLU layer, written out."""
    first, first_bias, last, last_bias = weights
    inputs = th.cat([batch.observations, batch.actions], dim=1)
    hidden = (th.einsum("bi,nih->nbh", inputs, first) + first_bias).clamp(min=0)
    return (th.einsum("nbh,nho->nbo", hidden, last) + last_bias).squeeze(2)


@pytest.mark.parametrize("meta", MODES)
@pytest.mark.parametrize("build", [make_td3, make])
def test_gradients_are_those_of_a_double_backward_pass_by_hand(build: Any, meta: str) -> None:
    model, offline, online, objective = ready(build, meta)
    (_, draws_off, _, draws_on), formed = gradients(model, objective, offline)
    second, source = model.second_critics, model.finetuning_objective
    weights = list(second.critic.parameters())
    reduction = {make_td3: 1.0, make: 0.5}[build]

    def td_error(parameters: list[th.Tensor], batch: Batch, draws: Any) -> th.Tensor:
        with th.no_grad():
            if build is make_td3:
                noise = (0.2 * draws[0]).clamp(-0.5, 0.5)
                actions = (model.actor_target(batch.next_observations) + noise).clamp(-1, 1)
                entropy = th.zeros(8)
            else:
                actions, log_prob = model.actor.rsample(batch.next_observations, draws[0])
                entropy = -draws[2] * log_prob
            then = Batch(**{**batch._asdict(), "observations": batch.next_observations, "actions": actions})
            values = two_layers(list(second.critic_target.parameters()), then).amin(dim=0) + entropy
            target = batch.rewards + (1 - batch.dones) * 0.99 * values
        return reduction * (two_layers(parameters, batch) - target).pow(2).mean(dim=1).sum()

    l_off = td_error(weights, offline, draws_off)
    inner = th.autograd.grad(l_off, weights, create_graph=True)
    adapted = [w - RATE * (g if meta == "second_order" else g.detach()) for w, g in zip(weights, inner, strict=True)]
    l_on = td_error(weights if meta == "none" else adapted, online, draws_on)
    weight = min(l_off.item(), l_on.item()) / l_on.item()
    expected = th.autograd.grad(l_off + weight * l_on, weights)
    assert len(formed) == 4
    for ours, by_hand in zip(formed, expected, strict=True):
        assert (ours - by_hand).abs().max() < 1e-6 * max(1.0, by_hand.abs().max().item())
    assert source.second_losses(second, offline, *draws_off)[0]["second_critic"].item() == pytest.approx(l_off.item())


@pytest.mark.parametrize("build", [make_td3, make])
@pytest.mark.parametrize("kwargs", [{}, {"online_objective": "iql"}, {"critic_layer_norm": True}])
def test_the_orders_differ_and_meet_where_the_inner_step_vanishes(build: Any, kwargs: dict[str, Any]) -> None:
    found = {}
    for meta in MODES:
        for rate in (0.0, RATE):
            model, offline, _, objective = ready(build, meta, **kwargs)
            objective.settings.inner_learning_rate = rate
            th.manual_seed(1)
            found[meta, rate] = th.cat([each.flatten() for each in gradients(model, objective, offline)[1]])
    for meta in MODES[:2]:
        assert th.allclose(found[meta, 0.0], found["none", 0.0], atol=1e-6)
        assert not th.allclose(found[meta, RATE], found["none", RATE], atol=1e-4)
    assert not th.allclose(found["first_order", RATE], found["second_order", RATE], atol=1e-5)
    assert th.equal(found["none", 0.0], found["none", RATE])


def test_iql_trains_both_networks_by_the_sum_of_their_losses() -> None:
    model, offline, _, objective = ready(make_td3, "none", online_objective="iql")
    objective.settings.gradient_weight = False
    _, formed = gradients(model, objective, offline)
    second, source = model.second_critics, model.finetuning_objective
    online = objective.online_batch(8)
    total = sum(sum(source.second_losses(second, batch)[0].values()) for batch in (offline, online))
    parameters = [*second.critic.parameters(), *second.value.parameters()]
    for ours, expected in zip(formed, th.autograd.grad(total, parameters), strict=True):
        assert th.allclose(ours, expected, atol=1e-6)


def test_one_step_of_adam_and_of_the_target_networks() -> None:
    """The second critics alone move; their targets follow at every second update."""
    model, _, _, objective = ready(make_td3, "second_order")
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    targets = [value.clone() for value in model.second_critics.critic_target.parameters()]
    critics = [value.clone() for value in model.second_critics.critic.parameters()]
    model.call.callbacks, model.phase = [], "finetuning"
    model.phase_steps.clear()
    buffer = model.open_offline_buffer(dataset())
    assert model.gradient_phase("opt", objective, 1, buffer)
    second = model.second_critics
    assert all(th.equal(value, model.policy.state_dict()[name]) for name, value in before.items())
    assert all(th.equal(*pair) for pair in zip(targets, second.critic_target.parameters(), strict=True))
    moved = max((new - old).abs().max().item() for new, old in zip(second.critic.parameters(), critics, strict=True))
    assert moved == pytest.approx(1e-3, rel=1e-2)  # Adam's first step is the learning rate
    assert model.gradient_phase("opt", objective, 2, buffer)
    for old, target, new in zip(targets, second.critic_target.parameters(), second.critic.parameters(), strict=True):
        assert th.allclose(target, 0.995 * old + 0.005 * new, atol=1e-7)
    assert all(th.equal(value, model.policy.state_dict()[name]) for name, value in before.items())
