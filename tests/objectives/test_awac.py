"""AWAC: one update by hand, PPO's, and Gaussians that are not squashed."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from by_hand import Given, get_critic, linear_sac, one_transition, set_critic, set_mean
from toy_tasks import dataset, make, make_ppo, make_td3, state

from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives import functional as F

PLAIN = {"squash": "none", "state_dependent_std": False}


def test_an_update_by_hand() -> None:
    model = linear_sac(PLAIN, objective="awac", objective_kwargs={"temperature": 0.5}, learning_rate=0.1, tau=0.5)
    set_critic(model.critic, (1.0, 0.0, 0.0), (2.0, 0.0, 0.0))
    set_critic(model.critic_target, (4.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    set_mean(model.actor.mu, 0.25, 0.0)
    model.actor.set_std(0.5)
    model.draws = Given(next_policy=[[1.0, 0.0]], policy=[[-1.0, 0.0]])
    model.set_phase("pretraining")
    losses = model.update(one_transition((0.5, 0.0)))
    # a' = 0.25 + 0.5, Qb = 3 and 1.75, y = 1 + 1.75 / 2 = 1.875; Q = 0.5 and 1
    assert losses["critic_loss"].item() == pytest.approx(1.375**2 + 0.875**2)
    assert get_critic(model.critic, 0) == pytest.approx([1 + 0.1 * 2.75 * 0.5, 0, 0.1 * 2.75])
    assert get_critic(model.critic, 1) == pytest.approx([2 + 0.1 * 1.75 * 0.5, 0, 0.1 * 1.75])
    # after that step min Q(s, a) = 0.275 + 1.1375 / 2, and at b = 0.25 - 0.5 it is 0.175 - 2.0875 / 4
    advantage = 0.84375 + 0.346875
    weight = math.exp(advantage / 0.5)
    assert losses["advantage"].item() == pytest.approx(advantage)
    log_prob = -0.5 * 0.5**2 - 2 * math.log(0.5) - math.log(2 * math.pi)
    assert losses["actor_loss"].item() == pytest.approx(-weight * log_prob, rel=1e-5)
    # the gradient of -log pi is -(a - mean) / std^2 = -1 by the mean, and 1 - z^2 by log std
    assert model.actor.mu.bias.tolist() == pytest.approx([0.25 + 0.1 * weight, 0.0], rel=1e-5)
    expected = [math.log(0.5) - 0.1 * weight * 0.75, math.log(0.5) - 0.1 * weight]
    assert model.actor.log_std.tolist() == pytest.approx(expected, rel=1e-5)
    assert get_critic(model.critic_target, 0)[0] == pytest.approx((4 + 1.1375) / 2)


def test_weights_are_bounded() -> None:
    model = linear_sac(PLAIN, objective="awac", objective_kwargs={"temperature": 0.01, "max_weight": 7.0})
    set_critic(model.critic, (10.0, 0.0, 0.0), (10.0, 0.0, 0.0))
    set_mean(model.actor.mu, -0.5, 0.0)
    _, metrics = model.offline_objective.actor_losses(one_transition((0.5, 0.0)), th.zeros(1, 2))
    assert metrics["advantage_weight"] == 7.0


def test_ppo_has_critics_of_its_own() -> None:
    model = make_ppo(objective="awac", objective_kwargs={"critic_net_arch": [8], "n_critics": 3})
    objective: Any = model.offline_objective
    model.pretrain(dataset(), 1)
    batch = model.sample_batch(8)
    before = state(model)
    noise = th.randn(8, 2)
    with th.no_grad():
        actions = model.actor.rsample(batch.next_observations, noise)[0].clamp(-1, 1)
        inputs = th.cat([batch.next_observations, actions], dim=1)
        values = th.stack([_member(objective.critic_target, index, inputs) for index in range(3)])
        expected = batch.rewards + (1 - batch.dones) * 0.99 * values.min(dim=0).values
    assert th.allclose(objective.td_target(batch, noise, None), expected, atol=1e-5)
    model.pretrain(dataset(), 2)
    after = state(model)
    for moved in (
        "policy/action_net",
        "policy/log_std",
        "offline_objective/critic.",
        "offline_objective/critic_target.",
    ):
        assert any(not th.equal(before[name], after[name]) for name in before if name.startswith(moved)), moved
    assert all(th.equal(before[name], after[name]) for name in before if name.startswith("policy/value_net"))


def _member(critic: Any, index: int, inputs: th.Tensor) -> th.Tensor:
    first, _, last = critic.layers
    hidden = (inputs @ first.weight[index] + first.bias[index]).relu()
    return (hidden @ last.weight[index] + last.bias[index])[:, 0]


def test_hooks_change_what_the_weights_are_made_of() -> None:
    class Doubled(FineTuningCallback):
        def advantages(self, advantages: th.Tensor, batch: Any) -> th.Tensor:
            return 2 * advantages + 1

    model = linear_sac(PLAIN, objective="awac", objective_kwargs={"temperature": 1.0})
    set_critic(model.critic, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    set_mean(model.actor.mu, 0.0, 0.0)
    model.hooks.deliver_to([Doubled()])
    _, metrics = model.offline_objective.actor_losses(one_transition((0.5, 0.0)), th.zeros(1, 2))
    assert metrics["advantage_weight"].item() == pytest.approx(math.exp(2.0))


@pytest.mark.parametrize("squash", ["mean", "none"])
def test_gaussians_that_are_not_squashed(squash: str, tmp_path: Any) -> None:
    model = make(policy_kwargs={"net_arch": [], "squash": squash, "state_dependent_std": False})
    set_mean(model.actor.mu, 0.5, -3.0)
    model.actor.set_std(0.25)
    obs = th.zeros(1, 3)
    mean = [math.tanh(0.5), math.tanh(-3.0)] if squash == "mean" else [0.5, -3.0]
    assert model.actor.mode(obs)[0].tolist() == pytest.approx(mean)
    actions, log_prob = model.actor.rsample(obs, th.tensor([[1.0, -1.0]]))
    unclipped = th.tensor([[mean[0] + 0.25, mean[1] - 0.25]])
    assert th.allclose(actions, unclipped)  # the density's own sample, which critics see as the environment does
    assert th.equal(model.critic.q_values(obs, actions), model.critic.q_values(obs, actions.clamp(-1, 1)))
    log_std = th.full((1, 2), math.log(0.25))
    assert log_prob.item() == pytest.approx(F.gaussian_log_prob(th.tensor([mean]), log_std, unclipped).item(), rel=1e-5)
    # what the environment gets: [-1, 1] stretched to [-2, 2] and [-1, 3]
    action, _ = model.predict(np.zeros(3, np.float32), deterministic=True)
    low = max(mean[1], -1.0)
    assert action.tolist() == pytest.approx([2 * mean[0], 1 + 2 * low], abs=1e-5)
    th.manual_seed(0)
    samples = th.cat([model.actor(obs) for _ in range(400)])[:, 0]
    assert samples.mean().item() == pytest.approx(mean[0], abs=0.05)
    assert samples.std().item() == pytest.approx(0.25, abs=0.03)
    stock = model.to_sb3()  # stock SAC with this policy
    assert np.array_equal(stock.predict(np.zeros(3, np.float32), deterministic=True)[0], action)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert loaded.actor.squash == squash


def test_log_probabilities_of_the_data_have_gradients_outside_the_bounds() -> None:
    model = make(policy_kwargs={"net_arch": [], "squash": "none", "state_dependent_std": False})
    set_mean(model.actor.mu, 2.0, 0.0)
    loss = -model.actor.log_prob(th.zeros(1, 3), th.tensor([[0.5, 0.0]])).mean()
    loss.backward()
    assert model.actor.mu.bias.grad.tolist() == pytest.approx([1.5, 0.0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"objective": "awac", "objective_kwargs": {"temperature": 0.0}}, "temperature .* above 0, not 0.0"),
        ({"objective": "awac", "objective_kwargs": {"max_weight": -1.0}}, "max_weight .* above 0, not -1.0"),
        ({"objective": "awac", "use_sde": True}, "Gaussian, which gSDE is not: set use_sde=False"),
        (
            {"policy_kwargs": {"squash": "tanh"}},
            "squash .policy argument. must be 'samples', 'mean' or 'none', not 'tanh'",
        ),
        ({"policy_kwargs": {"squash": "none"}, "use_sde": True}, "use_sde=False"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_td3_has_no_density() -> None:
    with pytest.raises(ValueError, match="'awac'"):
        make_td3(objective="awac")
