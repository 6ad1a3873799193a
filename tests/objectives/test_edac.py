"""SAC-N and EDAC: the penalty by hand and by a plain loop, the order of the updates, and what compiling does to it."""

from typing import Any

import pytest
import torch as th
from toy_tasks import dataset, differs, make, state

from sb3_o2o import O2OSAC
from sb3_o2o.objectives import Batch
from sb3_o2o.objectives import functional as F

ROWS = 5


def transitions(seed: int = 0, rows: int = ROWS) -> Batch:
    draw = th.Generator().manual_seed(seed)
    actions = th.rand(rows, 2, generator=draw) * 2 - 1
    states, following = th.randn(2, rows, 3, generator=draw)
    dones = (th.arange(rows) % 3 == 2).float()
    return Batch(states, actions, following, th.randn(rows, generator=draw), dones, th.full((rows,), 0.9))


def build(name: str, **kwargs: Any) -> tuple[O2OSAC, Any]:
    arguments = {"n_critics": 4, "objective_kwargs": kwargs.pop("objective_kwargs", None), **kwargs}
    model = make(objective=name, **arguments)
    return model, model.offline_objective


def gradients_by_loop(model: O2OSAC, batch: Batch, create_graph: bool = False) -> th.Tensor:
    """One backward pass for each critic."""
    found = []
    for member in range(model.n_critics):
        actions = batch.actions.clone().requires_grad_()
        value = model.critic.q_values(batch.observations, actions, th.tensor([member])).sum()
        found.append(th.autograd.grad(value, actions, create_graph=create_graph)[0])
    return th.stack(found)


def penalty_by_loop(gradients: th.Tensor) -> th.Tensor:
    """Every pair of critics, one after the other."""
    unit = gradients / gradients.norm(dim=2, keepdim=True)
    n = len(unit)
    pairs = [(unit[i] * unit[j]).sum(dim=1) for i in range(n) for j in range(n) if i != j]
    return th.stack(pairs).sum(dim=0).mean() / (n - 1)


# -- formula -------------------------------------------------------------------------------------------------------


def test_diversity_penalty_by_hand() -> None:
    """Directions (1, 0), (0, 1), (0.6, 0.8): <1,2> = 0, <1,3> = 0.6, <2,3> = 0.8; twice 1.4 over 3 - 1."""
    gradients = th.tensor([[[2.0, 0.0]], [[0.0, 0.5]], [[3.0, 4.0]]])
    assert F.diversity_penalty(gradients).item() == pytest.approx(1.4)
    # a second state, where the first two agree and the third is their opposite: 2 * (1 - 1 - 1) / 2 = -1
    other = th.tensor([[[1.0, 1.0]], [[5.0, 5.0]], [[-2.0, -2.0]]])
    assert F.diversity_penalty(th.cat([gradients, other], dim=1)).item() == pytest.approx((1.4 - 1.0) / 2)


@pytest.mark.parametrize(("n", "same", "opposite"), [(2, 2.0, -2.0), (10, 10.0, None), (50, 50.0, None)])
def test_diversity_penalty_at_its_bounds(n: int, same: float, opposite: float | None) -> None:
    gradient = th.tensor([0.3, -0.4]).expand(n, ROWS, 2)
    assert F.diversity_penalty(gradient).item() == pytest.approx(same, rel=1e-5)
    if opposite is not None:
        assert F.diversity_penalty(th.stack([gradient[0], -gradient[0]])).item() == pytest.approx(opposite, rel=1e-5)


def test_diversity_penalty_of_a_flat_critic_is_finite() -> None:
    gradients = th.tensor([[[0.0, 0.0]], [[1.0, 0.0]]], requires_grad=True)
    loss = F.diversity_penalty(gradients)
    loss.backward()
    assert loss.item() == 0.0
    assert gradients.grad is not None
    assert th.isfinite(gradients.grad).all()


# -- batched over the ensemble -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("n_critics", [2, 50])
def test_all_members_at_once_are_as_one_after_the_other(n_critics: int, layer_norm: bool) -> None:
    model, _ = build("edac", n_critics=n_critics, critic_layer_norm=layer_norm)
    batch = transitions()
    batched, looped = model.critic.action_gradients(batch.observations, batch.actions), gradients_by_loop(model, batch)
    assert batched.shape == (n_critics, ROWS, 2)
    assert th.allclose(batched, looped, atol=1e-6)
    assert F.diversity_penalty(batched).item() == pytest.approx(penalty_by_loop(looped).item(), abs=1e-5)


@pytest.mark.parametrize("rows", [ROWS, 1100])
def test_the_second_derivative_is_that_of_a_loop(rows: int) -> None:
    """Also with as many rows as the CPU evaluates member after member."""
    model, _ = build("edac", policy_kwargs={"net_arch": [16], "activation_fn": th.nn.Tanh})
    batch, parameters = transitions(rows=rows), list(model.critic.ensemble.parameters())
    batched = F.diversity_penalty(model.critic.action_gradients(batch.observations, batch.actions))
    looped = penalty_by_loop(gradients_by_loop(model, batch, create_graph=True))
    found = th.autograd.grad(batched, parameters, allow_unused=True)
    expected = th.autograd.grad(looped, parameters, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 1e-4 for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert th.allclose(one, other, atol=1e-6)


def critic_losses(objective: Any, batch: Batch) -> Any:
    """Losses and metrics of the critics' step."""
    (step,) = objective.steps(batch, None)
    return step.function(*step.arguments)


def test_the_penalty_drives_critics_apart() -> None:
    model, objective = build("edac", objective_kwargs={"eta": 100.0}, learning_rate=1e-2)
    batch = transitions()
    for layer in model.critic.ensemble.layers:
        for parameter in layer.parameters():
            parameter.data[1:] = parameter.data[:1] + 1e-3 * th.randn_like(parameter.data[1:])
    similarity = []
    for _ in range(30):
        losses, metrics = critic_losses(objective, batch)
        model.critic.optimizer.zero_grad()
        losses["critic"].backward(inputs=list(model.critic.parameters()))
        model.critic.optimizer.step()
        similarity.append(metrics["edac_similarity"].item())
    assert similarity[0] > 3.9
    assert similarity[-1] < 2.0


# -- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reduction", "scale"), [("sum", 1.0), ("half_sum", 0.5), ("mean", 0.25)])
def test_edac_is_sac_n_and_the_penalty(reduction: str, scale: float) -> None:
    batch, losses = transitions(), {}
    for name, kwargs in (("sac_n", {}), ("edac", {"eta": 3.0})):
        model, objective = build(name, objective_kwargs={"critic_reduction": reduction, **kwargs})
        th.manual_seed(0)
        losses[name] = critic_losses(objective, batch)[0]["critic"].item()
    penalty = penalty_by_loop(gradients_by_loop(model, batch)).item()
    assert losses["edac"] - losses["sac_n"] == pytest.approx(scale * 3.0 * penalty, abs=1e-5)


def test_sac_n_loss_by_hand() -> None:
    """Summed over four critics; the target is the smallest of the four, whatever online updates draw."""
    model, objective = build("sac_n", critic_subset=2, actor_critics="mean", ent_coef=0.3)
    batch = transitions()
    th.manual_seed(7)
    noise = th.randn(ROWS, 2)
    th.manual_seed(7)
    loss = critic_losses(objective, batch)[0]["critic"]
    with th.no_grad():
        actions, log_prob = model.actor.rsample(batch.next_observations, noise)
        values = model.critic_target.q_values(batch.next_observations, actions)
        target = batch.rewards + (1 - batch.dones) * 0.9 * (values.min(dim=0).values - 0.3 * log_prob)
        expected = sum(
            (values_i - target).pow(2).mean() for values_i in model.critic.q_values(batch.observations, batch.actions)
        )
        actor_actions, actor_log_prob = model.actor.rsample(batch.observations, noise)
        smallest = model.critic.q_values(batch.observations, actor_actions).min(dim=0).values
        actor_loss = objective.actor_loss(batch, noise, model.current_ent_coef())[0]["actor"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert actor_loss.item() == pytest.approx((0.3 * actor_log_prob - smallest).mean().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["sac_n", "edac"])
def test_a_target_for_each_critic(name: str) -> None:
    """Also where online updates draw two of the four: here nothing is drawn."""
    model, objective = build(name, objective_kwargs={"target_reduction": "none"}, ent_coef=0.3, critic_subset=2)
    batch = transitions()
    th.manual_seed(7)
    noise = th.randn(ROWS, 2)
    th.manual_seed(7)
    loss = critic_losses(objective, batch)[0]["critic"].item()
    with th.no_grad():
        actions, log_prob = model.actor.rsample(batch.next_observations, noise)
        values = model.critic_target.q_values(batch.next_observations, actions)
        targets = batch.rewards + (1 - batch.dones) * 0.9 * (values - 0.3 * log_prob)
        expected = (model.critic.q_values(batch.observations, batch.actions) - targets).pow(2).mean(dim=1).sum().item()
    if name == "edac":
        expected += penalty_by_loop(gradients_by_loop(model, batch)).item()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert model.pretrain(dataset(), 1).n_pretrain_steps == 1


@pytest.mark.parametrize("name", ["sac_n", "edac"])
def test_each_update_follows_from_the_one_before(name: str) -> None:
    """Temperature, actor, critics: the actor sees the stepped temperature, the target the stepped actor."""
    model, objective = build(name, learning_rate=0.05)
    before, batch, order = state(model), transitions(), []
    for step in objective.steps(batch, batch):
        losses, metrics = step.function(*step.arguments)
        ((optimizer_name, loss),) = losses.items()
        order.append(optimizer_name)
        if optimizer_name == "actor":
            assert metrics["ent_coef"].item() == model.log_ent_coef.exp().item() != 1.0  # type: ignore[union-attr]
        if optimizer_name == "critic":
            assert differs(before, state(model), "policy/actor.")
        optimizer = model.optimizers()[optimizer_name]
        optimizer.zero_grad()
        loss.backward(inputs=[each for group in optimizer.param_groups for each in group["params"]])
        optimizer.step()
    assert order == ["ent_coef", "actor", "critic"]
    assert len(list(objective.steps(batch, None))) == 1


def test_a_fixed_temperature_draws_nothing() -> None:
    _, objective = build("sac_n", ent_coef=0.2)
    batch = transitions()
    names = [list(step.function(*step.arguments)[0]) for step in objective.steps(batch, batch)]
    assert names == [["actor"], ["critic"]]


def test_edac_in_bfloat16() -> None:
    model = make(objective="edac", n_critics=3, precision="bf16").pretrain(dataset(), 2)
    assert all(th.isfinite(value).all() for value in state(model).values())


# -- bad input -----------------------------------------------------------------------------------------------------


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="n_critics to at least 2, not 1"):
        build("edac", n_critics=1)
    with pytest.raises(
        ValueError, match=r"eta .argument of objective 'edac'. must be a finite number of at least 0, not -1"
    ):
        build("edac", objective_kwargs={"eta": -1.0})
    with pytest.raises(ValueError, match=r"Unknown argument of objective 'edac' 'etta'. Did you mean 'eta'"):
        build("edac", objective_kwargs={"etta": 1.0})
