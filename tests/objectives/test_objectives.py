"""How the objectives put the formulas together, recomputed by hand from the networks' outputs."""

import math
from typing import Any

import pytest
import torch as th
from toy_tasks import make

from sb3_o2o import O2OSAC
from sb3_o2o.objectives import Batch, BCObjective, CalQLObjective, CQLObjective
from sb3_o2o.objectives import functional as F

ROWS, K, ALPHA = 6, 3, 0.5


def transitions(returns: th.Tensor | None = None) -> Batch:
    g = th.Generator().manual_seed(2)
    obs, following = th.randn((2, ROWS, 3), generator=g)
    actions = th.rand((ROWS, 2), generator=g) * 1.8 - 0.9
    dones = th.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    return Batch(obs, actions, following, th.randn(ROWS, generator=g), dones, th.full((ROWS,), 0.99), returns)


def draws() -> tuple[th.Tensor, th.Tensor]:
    g = th.Generator().manual_seed(3)
    return th.rand((ROWS, K, 2), generator=g) * 2 - 1, th.randn((2, ROWS, K, 2), generator=g)


def build(name: str, **kwargs: Any) -> tuple[O2OSAC, Any]:
    n_critics = kwargs.pop("n_critics", 2)
    model = make(objective=name, objective_kwargs={"n_actions": K, **kwargs}, ent_coef=ALPHA, n_critics=n_critics)
    return model, model.offline_objective


def by_hand(model: O2OSAC, batch: Batch, *, calibrated: bool, importance: bool) -> th.Tensor:
    """The gap of each critic and state, one candidate after the other."""
    uniform, noise = draws()
    gaps = th.zeros(model.n_critics, ROWS)
    for row in range(ROWS):
        obs = batch.observations[row : row + 1]  # type: ignore[index]
        candidates: list[tuple[th.Tensor, float, bool]] = [(uniform[row, k], -2 * math.log(2), False) for k in range(K)]
        for source, drawn in ((batch.observations, noise[0]), (batch.next_observations, noise[1])):
            for k in range(K):
                actions, log_prob = model.actor.rsample(source[row : row + 1], drawn[row, k][None])  # type: ignore[index]
                candidates.append((actions[0], log_prob.item(), True))
        for critic in range(model.n_critics):
            data = model.critic(obs, batch.actions[row : row + 1])[critic].item()
            total = 0.0 if importance else math.exp(data)
            for action, log_density, of_policy in candidates:
                value = model.critic(obs, action[None])[critic].item()
                if calibrated and of_policy:
                    assert batch.returns_to_go is not None
                    value = max(value, batch.returns_to_go[row].item())
                total += math.exp(value - log_density if importance else value)
            gaps[critic, row] = math.log(total) - data
    return gaps


@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("name", ["cql", "calql"])
def test_conservative_gap(name: str, importance: bool) -> None:
    """All actions are scored at s; Cal-QL's bound acts on the policy's alone, before the importance correction."""
    model, objective = build(name, importance_sampling=importance)
    batch = transitions(th.tensor([0.5, -9.0, 0.1, 2.0, -9.0, 0.0]))
    with th.no_grad():
        values = model.critic.q_values(batch.observations, batch.actions)
        gap, metrics = objective.conservative_gap(batch, values, *draws(), None)
        expected = by_hand(model, batch, calibrated=name == "calql", importance=importance)
    assert th.allclose(gap, expected, atol=1e-5)
    assert set(metrics) == (set() if name == "cql" else {"bound_rate"})


def test_the_bound_changes_the_gap_only_where_it_holds() -> None:
    model, objective = build("calql")
    low = transitions(th.full((ROWS,), -1e3))
    with th.no_grad():
        values = model.critic.q_values(low.observations, low.actions)
        gap, metrics = objective.conservative_gap(low, values, *draws(), None)
    assert th.allclose(gap, by_hand(model, low, calibrated=False, importance=True), atol=1e-5)
    assert metrics["bound_rate"].item() == 0.0


def test_the_rate_of_the_bound_is_the_part_of_the_policys_actions_that_it_holds_up() -> None:
    model, objective = build("calql")
    batch = transitions(th.tensor([1e3, -1e3, -1e3, 1e3, -1e3, -1e3]))
    with th.no_grad():
        values = model.critic.q_values(batch.observations, batch.actions)
        _, metrics = objective.conservative_gap(batch, values, *draws(), None)
    assert metrics["bound_rate"].item() == pytest.approx(2 / 6)


def test_cal_ql_needs_returns() -> None:
    _, objective = build("calql")
    assert isinstance(objective, CalQLObjective)
    with pytest.raises(ValueError, match="needs the return-to-go"):
        first_losses(objective, transitions())


def first_losses(objective: Any, batch: Batch, actor_batch: Batch | None = None) -> tuple[dict[str, th.Tensor], Any]:
    """Losses and metrics of the first step of an update."""
    step = next(objective.steps(batch, actor_batch))
    return step.function(*step.arguments)


def loss_of(objective: CQLObjective, batch: Batch, model: O2OSAC, subset: th.Tensor | None = None) -> th.Tensor:
    td_noise = th.zeros(ROWS, 2)
    losses, _ = objective.critic_losses(batch, td_noise, *draws(), None, subset, model.current_ent_coef())
    return losses["critic"]


@pytest.mark.parametrize(("reduction", "td", "gap"), [("half_sum", 0.5, 0.5), ("sum", 1.0, 1.0), ("mean", 0.25, 0.25)])
def test_cql_loss_keeps_the_ratio_of_its_terms(reduction: str, td: float, gap: float) -> None:
    """Four critics: ``sum`` is sum_i MSE_i + 5 sum_i gap_i, and the other reductions are fractions of it."""
    model, objective = build("cql", critic_reduction=reduction, n_critics=4)
    batch = transitions()
    with th.no_grad():
        loss = loss_of(objective, batch, model)
        gaps = by_hand(model, batch, calibrated=False, importance=True).mean(dim=1)
        target = objective.td_target(batch, th.zeros(ROWS, 2), None, model.current_ent_coef())
        errors = (model.critic.q_values(batch.observations, batch.actions) - target).pow(2).mean(dim=1)
    assert loss.item() == pytest.approx((td * errors.sum() + 5.0 * gap * gaps.sum()).item(), rel=1e-5)


def test_a_subset_stands_for_all_critics() -> None:
    model, objective = build("cql", n_critics=4, critic_subset=2)
    batch = transitions()
    subset = th.tensor([3, 1])
    with th.no_grad():
        loss = loss_of(objective, batch, model, subset)
        gaps = by_hand(model, batch, calibrated=False, importance=True)[subset].mean(dim=1)
        target = objective.td_target(batch, th.zeros(ROWS, 2), None, model.current_ent_coef())
        errors = (model.critic.q_values(batch.observations, batch.actions) - target).pow(2).mean(dim=1)
    # the mean over the two drawn counts for each of the four
    assert loss.item() == pytest.approx((errors.sum() + 5.0 * 4 * gaps.mean()).item(), rel=1e-5)


def test_clipped_differences() -> None:
    batch = transitions()
    losses = []
    for clip in ((-1.0, 0.25), (0.25, 0.25)):
        model, objective = build("cql", difference_clip=clip, n_critics=2)
        with th.no_grad():
            gaps = by_hand(model, batch, calibrated=False, importance=True)
            losses.append(loss_of(objective, batch, model).item())
    assert (gaps > 0.25).all()  # so that both are cut at the same value
    assert losses[0] == pytest.approx(losses[1])


def test_multiplier() -> None:
    """The gap's weight is 5 exp(1) at the start, on gap - 0.5; the multiplier then grows as long as the gap is wide."""
    batch = transitions()
    fixed, plain = build("cql", cql_weight=5.0 * math.e)
    model, objective = build("cql", lagrange_gap=0.5)
    with th.no_grad():
        # sum over two critics of -5 e 0.5
        difference = loss_of(objective, batch, model) - loss_of(plain, batch, fixed)
    assert difference.item() == pytest.approx(-2 * 5.0 * math.e * 0.5, rel=1e-4)
    losses, metrics = first_losses(objective, batch, batch)
    assert set(losses) == {"critic", "actor", "lagrange"}
    measured = metrics["cql_gap_per_critic"]
    expected = -0.5 * 5.0 * math.e * (measured - 0.5).sum()
    assert losses["lagrange"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_largest_of_several_next_actions_is_backed_up() -> None:
    model, objective = build("cql", max_target_backup=True)
    batch, noise = transitions(), draws()[1][0]
    with th.no_grad():
        target = objective.td_target(batch, noise, None, model.current_ent_coef())
        best = th.full((ROWS,), -math.inf)
        for k in range(K):
            actions, _ = model.actor.rsample(batch.next_observations, noise[:, k])
            pair = th.cat(model.critic_target(batch.next_observations, actions), dim=1)
            best = th.maximum(best, pair.min(dim=1).values)
    assert th.allclose(target, batch.rewards + 0.99 * (1 - batch.dones) * best, atol=1e-5)


@pytest.mark.parametrize("entropy_backup", [False, True])
def test_entropy_in_the_backup(entropy_backup: bool) -> None:
    model, objective = build("sac", entropy_backup=entropy_backup)
    batch, noise = transitions(), draws()[1][0, :, 0]
    with th.no_grad():
        target = objective.td_target(batch, noise, None, model.current_ent_coef())
        actions, log_prob = model.actor.rsample(batch.next_observations, noise)
        value = th.cat(model.critic_target(batch.next_observations, actions), dim=1).min(dim=1).values
    expected = value - ALPHA * log_prob if entropy_backup else value
    assert th.allclose(target, batch.rewards + 0.99 * (1 - batch.dones) * expected, atol=1e-5)


def test_behaviour_cloning_losses() -> None:
    batch = transitions()
    for kwargs, entropy in (({"loss": "likelihood"}, True), ({"loss": "likelihood", "entropy_term": False}, False)):
        model = make(objective="bc", objective_kwargs=kwargs, ent_coef=ALPHA)
        objective = model.offline_objective
        assert isinstance(objective, BCObjective)
        noise = draws()[1][0, :, 0]
        with th.no_grad():
            losses, _ = objective.likelihood_losses(batch, noise, model.current_ent_coef())
            mean, log_std, _ = model.actor.get_action_dist_params(batch.observations)
            imitation = -F.squashed_log_prob(mean, log_std, batch.actions).mean()
            _, log_prob = model.actor.rsample(batch.observations, noise)
        assert losses["actor"].item() == pytest.approx((imitation + entropy * ALPHA * log_prob.mean()).item(), rel=1e-5)
    model = make(objective="bc", objective_kwargs={"loss": "mse"}, ent_coef=ALPHA)
    objective = model.offline_objective
    assert isinstance(objective, BCObjective)
    ((name, loss),) = objective.distance_loss(batch)[0].items()
    with th.no_grad():
        mean, _, _ = model.actor.get_action_dist_params(batch.observations)
    assert name == "actor"
    assert loss.item() == pytest.approx((th.tanh(mean) - batch.actions).pow(2).mean().item(), rel=1e-6)


def test_conservative_gradients_leave_the_actor_alone() -> None:
    model, objective = build("cql")
    loss = loss_of(objective, transitions(), model)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.actor.parameters())
    assert all(parameter.grad is None for parameter in model.critic_target.parameters())
    assert all(parameter.grad is not None for parameter in model.critic.parameters())
