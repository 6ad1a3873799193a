"""Every formula against numbers worked out by hand."""

import math

import pytest
import torch as th

from sb3_o2o.networks.distributions import squashed_gaussian, squashed_log_prob
from sb3_o2o.objectives import functional as F

LN2 = 0.6931471805599453
HALF_LOG_TWO_PI = 0.9189385332046727


def test_bellman_target_bootstraps_unless_terminal() -> None:
    # 1 + 0.9 * 10 = 10; a terminal keeps the reward alone: 2; a three-step return brings its discount: 3 + 0.729 * 10
    target = F.bellman_target(
        th.tensor([1.0, 2.0, 3.0]), th.tensor([0.0, 1.0, 0.0]), th.tensor([0.9, 0.9, 0.729]), th.full((3,), 10.0)
    )
    assert target.tolist() == pytest.approx([10.0, 2.0, 10.29])


def test_bellman_target_of_an_ensemble() -> None:
    # each row of values is backed up on its own: 1 + 0.5 * [2, 4] and 1 + 0.5 * [6, 8]
    target = F.bellman_target(th.ones(2), th.zeros(2), th.full((2,), 0.5), th.tensor([[2.0, 4.0], [6.0, 8.0]]))
    assert target.tolist() == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize(
    ("reduction", "expected", "factor"),
    # errors 1, 3 of the first critic and 0, 2 of the second: means of squares (1 + 9) / 2 = 5 and (0 + 4) / 2 = 2;
    # d/dQ of a mean over two rows is the error itself, times 1/2, 1 or 1/2 of the reduction
    [("half_sum", 3.5, 0.5), ("sum", 7.0, 1.0), ("mean", 3.5, 0.5)],
)
def test_ensemble_mse(reduction: str, expected: float, factor: float) -> None:
    values = th.tensor([[2.0, 5.0], [1.0, 4.0]], requires_grad=True)
    target = th.tensor([1.0, 2.0], requires_grad=True)
    loss = F.ensemble_mse(values, target, reduction)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0 * factor, 3.0 * factor], [0.0, 2.0 * factor]]
    assert target.grad is None


def test_ensemble_mse_of_three_critics_tells_the_reductions_apart() -> None:
    # three critics off by 1, 2 and 3: squares 1, 4, 9; half the sum 7, the sum 14, the mean 14 / 3
    values, target = th.tensor([[1.0], [2.0], [3.0]]), th.zeros(1)
    losses = [F.ensemble_mse(values, target, name).item() for name in ("half_sum", "sum", "mean")]
    assert losses == pytest.approx([7.0, 14.0, 14.0 / 3])


def test_ensemble_mse_with_a_target_per_critic() -> None:
    # errors 1 and 3: (1 + 9) / 2 critics
    assert F.ensemble_mse(th.tensor([[2.0], [5.0]]), th.tensor([[1.0], [2.0]]), "mean").item() == 5.0


def test_reduce_ensemble() -> None:
    values = th.tensor([[1.0, 6.0], [3.0, 2.0], [5.0, 4.0]])
    assert F.reduce_ensemble(values, "min").tolist() == [1.0, 2.0]
    assert F.reduce_ensemble(values, "mean").tolist() == [3.0, 4.0]


def test_temperature_loss() -> None:
    # -log(alpha) * mean(log pi + H*) = -0.5 * ((-1 - 3) + (5 - 3)) / 2 = 0.5; its derivative is -mean(log pi + H*) = 1
    log_ent_coef = th.tensor([0.5], requires_grad=True)
    log_prob = th.tensor([-1.0, 5.0], requires_grad=True)
    loss = F.temperature_loss(log_ent_coef, log_prob, -3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert log_ent_coef.grad is not None
    assert log_ent_coef.grad.tolist() == [1.0]
    assert log_prob.grad is None


def test_uniform_log_density() -> None:
    # the cube [-1, 1]^3 has volume 8
    assert F.uniform_log_density(3) == pytest.approx(math.log(1 / 8))


def test_conservative_gap_with_importance_sampling() -> None:
    # corrected: Q(u) - log 0.5 = 1 + ln 2, Q(pi) - log pi = 2 - 2 = 0; logsumexp = ln(2e + 1); minus Q(s, a) = 0.5
    gap = F.conservative_gap(
        th.tensor([[[1.0]]]),
        th.tensor([[[2.0]]]),
        th.tensor([[0.5]]),
        random_log_density=F.uniform_log_density(1),
        policy_log_prob=th.tensor([[2.0]]),
    )
    assert gap.shape == (1, 1)
    assert gap.item() == pytest.approx(math.log(2 * math.e + 1) - 0.5)


def test_conservative_gap_without_importance_sampling_counts_the_data_action() -> None:
    # three candidates ln 2, ln 3 and the data's ln 5: ln(2 + 3 + 5) - ln 5 = ln 2, whatever the log-densities say
    gap = F.conservative_gap(
        th.tensor([[[math.log(2.0)]]]),
        th.tensor([[[math.log(3.0)]]]),
        th.tensor([[math.log(5.0)]]),
        random_log_density=None,
        policy_log_prob=th.tensor([[77.0]]),
    )
    assert gap.item() == pytest.approx(LN2)


def test_conservative_gap_temperature() -> None:
    # T = 2: 2 ln(e^(2 ln 3 / 2) + e^(2 ln 4 / 2) + e^0) - 0 = 2 ln(3 + 4 + 1) = 6 ln 2
    gap = F.conservative_gap(
        th.tensor([[[2 * math.log(3.0)]]]),
        th.tensor([[[2 * math.log(4.0)]]]),
        th.tensor([[0.0]]),
        random_log_density=None,
        policy_log_prob=th.zeros(1, 1),
        temperature=2.0,
    )
    assert gap.item() == pytest.approx(6 * LN2)


def test_conservative_gap_gradient() -> None:
    # two equal corrected candidates share the softmax half and half; the data's value is pushed up by 1
    random_values = th.tensor([[[0.0]]], requires_grad=True)
    policy_values = th.tensor([[[LN2 + 3.0]]], requires_grad=True)
    data_values = th.tensor([[0.25]], requires_grad=True)
    log_prob = th.tensor([[3.0]], requires_grad=True)
    F.conservative_gap(
        random_values, policy_values, data_values, random_log_density=-LN2, policy_log_prob=log_prob
    ).sum().backward()
    grads = [each.grad for each in (random_values, policy_values, data_values)]
    assert [grad.item() for grad in grads if grad is not None] == pytest.approx([0.5, 0.5, -1.0])
    assert log_prob.grad is None


def test_calibrated_values_stop_the_gradient_where_the_bound_holds() -> None:
    # one critic, two states, two actions; returns 1 and -5: only Q(s_0, a_0) = 0 lies below its bound
    values = th.tensor([[[0.0, 2.0], [-1.0, -4.0]]], requires_grad=True)
    returns = th.tensor([1.0, -5.0])
    bounded = F.calibrated_values(values, returns)
    bounded.sum().backward()
    assert bounded.tolist() == [[[1.0, 2.0], [-1.0, -4.0]]]
    assert values.grad is not None
    assert values.grad.tolist() == [[[0.0, 1.0], [1.0, 1.0]]]


def test_calibrated_values_bound_every_critic_by_the_return_of_its_state() -> None:
    values = th.zeros(2, 3, 4)
    bounded = F.calibrated_values(values, th.tensor([1.0, -1.0, 2.0]))
    assert bounded[:, 0].eq(1.0).all()
    assert bounded[:, 1].eq(0.0).all()
    assert bounded[:, 2].eq(2.0).all()


def test_lagrange_loss() -> None:
    # -1/2 * 5 * e^0 * ((3 - 1) + (2 - 1)) = -7.5; d/dx is the same, since d e^x / dx = e^x
    log_multiplier = th.tensor(0.0, requires_grad=True)
    gap = th.tensor([3.0, 2.0], requires_grad=True)
    loss = F.lagrange_loss(log_multiplier, gap, 1.0, 5.0)
    loss.backward()
    assert loss.item() == pytest.approx(-7.5)
    assert log_multiplier.grad is not None
    assert log_multiplier.grad.item() == pytest.approx(-7.5)
    assert gap.grad is None


def test_lagrange_loss_is_clamped() -> None:
    # e^20 = 4.9e8 is cut at 1e6, where the gradient ends as well
    log_multiplier = th.tensor(20.0, requires_grad=True)
    loss = F.lagrange_loss(log_multiplier, th.tensor([2.0]), 1.0, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-0.5e6)
    assert log_multiplier.grad is not None
    assert log_multiplier.grad.item() == 0.0


def test_squashed_gaussian_at_the_mean() -> None:
    # a = tanh(0.5), log pi = -log std - ln sqrt(2 pi) - log(1 - a^2 + 1e-6), with log std = ln 2
    action, log_prob = squashed_gaussian(th.tensor([[0.5]]), th.tensor([[LN2]]), th.zeros(1, 1))
    a = math.tanh(0.5)
    assert action.item() == pytest.approx(a)
    assert log_prob.item() == pytest.approx(-LN2 - HALF_LOG_TWO_PI - math.log(1 - a * a + 1e-6), rel=1e-6)


def test_squashed_gaussian_with_noise() -> None:
    # two dimensions: u = 0 + 1 * 1 = 1 and u = 0.5 + 2 * (-1) = -1.5; log N = -1/2 - log std - ln sqrt(2 pi) each
    mean, log_std, noise = th.tensor([[0.0, 0.5]]), th.tensor([[0.0, LN2]]), th.tensor([[1.0, -1.0]])
    action, log_prob = squashed_gaussian(mean, log_std, noise)
    a, b = math.tanh(1.0), math.tanh(-1.5)
    expected = -1.0 - LN2 - 2 * HALF_LOG_TWO_PI - math.log(1 - a * a + 1e-6) - math.log(1 - b * b + 1e-6)
    assert action.flatten().tolist() == pytest.approx([a, b])
    assert log_prob.tolist() == pytest.approx([expected], rel=1e-6)


def test_squashed_gaussian_is_reparametrised() -> None:
    # da/dmean = 1 - a^2, da/dlog_std = (1 - a^2) std noise; here at u = 0, so 1 and std * noise = 3 * 2 = 6
    mean = th.tensor([[-6.0]], dtype=th.float64, requires_grad=True)
    log_std = th.tensor([[math.log(3.0)]], dtype=th.float64, requires_grad=True)
    squashed_gaussian(mean, log_std, th.full((1, 1), 2.0, dtype=th.float64))[0].sum().backward()
    assert mean.grad is not None
    assert log_std.grad is not None
    assert mean.grad.item() == pytest.approx(1.0)
    assert log_std.grad.item() == pytest.approx(6.0)


def test_squashed_log_prob_inverts_the_sampling() -> None:
    generator = th.Generator().manual_seed(0)
    mean, log_std, noise = (th.randn((4, 5, 3), generator=generator, dtype=th.float64) for _ in range(3))
    action, log_prob = squashed_gaussian(0.5 * mean, 0.3 * log_std - 1, noise)
    assert th.allclose(squashed_log_prob(0.5 * mean, 0.3 * log_std - 1, action), log_prob, atol=1e-9)


def test_squashed_log_prob_by_hand() -> None:
    # a = tanh(1): z = (1 - 0.5) / 2 = 0.25; log pi = -z^2 / 2 - ln 2 - ln sqrt(2 pi) - log(1 - a^2 + 1e-6)
    a = math.tanh(1.0)
    expected = -0.03125 - LN2 - HALF_LOG_TWO_PI - math.log(1 - a * a + 1e-6)
    scored = squashed_log_prob(th.tensor([[0.5]]), th.tensor([[LN2]]), th.tensor([[a]]))
    assert scored.item() == pytest.approx(expected, rel=1e-5)


def test_squashed_log_prob_clips_the_bounds() -> None:
    mean, log_std = th.zeros(1, 1), th.zeros(1, 1)
    at_bound = squashed_log_prob(mean, log_std, th.ones(1, 1), clip=0.999)
    assert at_bound.item() == squashed_log_prob(mean, log_std, th.full((1, 1), 0.999), clip=0.999).item()
    assert math.isfinite(squashed_log_prob(mean, log_std, -th.ones(1, 1)).item())


def test_densities_integrate_to_one() -> None:
    # the density over actions in (-1, 1) by the midpoint rule
    edges = th.linspace(-1, 1, 20_001, dtype=th.float64)
    middles = ((edges[1:] + edges[:-1]) / 2)[:, None]
    mean, log_std = th.tensor([[0.3]], dtype=th.float64), th.tensor([[-0.4]], dtype=th.float64)
    density = squashed_log_prob(mean, log_std, middles, clip=1 - 1e-9).exp()
    assert (density.sum() * (edges[1] - edges[0])).item() == pytest.approx(1.0, abs=1e-4)


def test_formulas_draw_no_random_numbers() -> None:
    before = th.get_rng_state()
    values, flat = th.zeros(2, 3, 4), th.zeros(2, 3)
    F.bellman_target(th.zeros(3), th.zeros(3), th.zeros(3), th.zeros(3))
    F.ensemble_mse(flat, th.zeros(3))
    F.reduce_ensemble(flat, "min")
    F.temperature_loss(th.zeros(1), th.zeros(3), -1.0)
    F.conservative_gap(values, values, flat, random_log_density=-1.0, policy_log_prob=th.zeros(3, 4))
    F.calibrated_values(values, th.zeros(3))
    F.lagrange_loss(th.zeros(()), th.zeros(2), 1.0, 1.0)
    squashed_gaussian(flat, flat, flat)
    squashed_log_prob(flat, flat, flat)
    assert th.equal(before, th.get_rng_state())


# -- TD3, TD3+BC, IQL ----------------------------------------------------------------------------------------------


def test_smoothed_actions() -> None:
    actions = th.tensor([[0.0, 0.9], [-0.5, -0.9]])
    noise = th.tensor([[1.0, 1.0], [10.0, -10.0]])
    # noise of 0.2 and, clipped, of +-0.5; then the bounds
    expected = th.tensor([[0.2, 1.0], [0.0, -1.0]])
    assert th.allclose(F.smoothed_actions(actions, noise, 0.2, 0.5), expected)


def test_td3_bc_loss() -> None:
    values = th.tensor([1.0, -3.0], requires_grad=True)
    actions, data = th.tensor([[0.5, 0.5], [1.0, 0.0]]), th.tensor([[0.0, 0.5], [0.0, 0.0]])
    loss, weight = F.td3_bc_loss(values, actions, data, alpha=2.5)
    # mean |Q| = 2, so lambda = 1.25; squares averaged over dimensions: 0.125 and 0.5
    assert weight.item() == pytest.approx(1.25)
    assert loss.tolist() == pytest.approx([0.125 - 1.25, 0.5 + 3.75])
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-1.25, -1.25])  # lambda is not differentiated


def test_expectile_loss() -> None:
    difference = th.tensor([2.0, -2.0, 0.0])
    assert F.expectile_loss(difference, 0.7).tolist() == pytest.approx([2.8, 1.2, 0.0])
    assert F.expectile_loss(difference, 0.5).tolist() == pytest.approx([2.0, 2.0, 0.0])


def test_an_expectile_lies_where_its_loss_is_smallest() -> None:
    """Of 0 and 1 the expectile tau is tau."""
    data = th.tensor([0.0, 1.0])
    losses = [F.expectile_loss(data - value, 0.9).mean().item() for value in (0.85, 0.9, 0.95)]
    assert min(losses) == losses[1]


def test_advantage_weights() -> None:
    advantages = th.tensor([0.0, 1.0, -1.0, 5.0], requires_grad=True)
    weights = F.advantage_weights(advantages, beta=2.0)
    assert weights.tolist() == pytest.approx([1.0, math.exp(2), math.exp(-2), 100.0])
    assert not weights.requires_grad
    assert F.advantage_weights(advantages, beta=2.0, largest=3.0).max() == 3.0
    assert F.advantage_weights(advantages, beta=0.0).tolist() == [1.0] * 4


def test_the_first_critic() -> None:
    values = th.tensor([[3.0, 1.0], [0.0, 2.0]])
    assert F.reduce_ensemble(values, "first").tolist() == [3.0, 1.0]
