"""What PPO minimises offline: exact values, time limits, and what each loss leaves alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from toy_tasks import dataset, differs, make_ppo, state

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer
from sb3_o2o.networks.distributions import gaussian_entropy
from sb3_o2o.objectives import Batch, MonteCarloValueObjective, PPOIQLObjective

GAMMA = 0.5


def one_batch(size: int = 4) -> Batch:
    samples = OfflineReplayBuffer(dataset(), *spaces(), device="cpu", seed=0).sample(size)
    return make_ppo().to_batch(samples)


def spaces() -> Any:
    model = make_ppo()
    return model.observation_space, model.action_space


# -- imitation -----------------------------------------------------------------------------------------------------


def test_the_likelihood_keeps_the_entropy_up() -> None:
    model, batch = make_ppo(), one_batch()
    objective: Any = model.offline_objective
    with th.no_grad():
        objective.log_ent_coef.fill_(math.log(0.3))
    losses, metrics = objective.gaussian_losses(batch)
    mean, log_std, _ = model.actor.get_action_dist_params(batch.observations)
    # std 1 of actions in [-2, 2] and [-1, 3] is 1/2 on the scale of [-1, 1]
    assert th.allclose(log_std.exp(), th.tensor(0.5))
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.5))
    assert float(metrics["entropy"]) == pytest.approx(entropy, rel=1e-5)
    assert float(gaussian_entropy(log_std)[0]) == pytest.approx(entropy, rel=1e-5)
    density = -0.5 * ((batch.actions - mean) / 0.5).pow(2) - math.log(0.5) - 0.5 * math.log(2 * math.pi)
    assert float(losses["actor"]) == pytest.approx(float(-density.sum(dim=1).mean()) - 0.3 * entropy, rel=1e-5)
    # -log(alpha) (-H + H*) with H* = -2
    assert float(losses["ent_coef"]) == pytest.approx(-math.log(0.3) * (-entropy - 2.0), rel=1e-5)


def test_without_the_entropy_term() -> None:
    model = make_ppo(objective_kwargs={"entropy_term": False})
    losses, _ = model.offline_objective.gaussian_losses(one_batch())  # type: ignore[attr-defined]
    assert list(losses) == ["actor"]
    assert not list(model.offline_objective.parameters())


def test_distance_leaves_the_standard_deviation_and_the_values_alone() -> None:
    model = make_ppo(objective_kwargs={"loss": "mse"})
    before = state(model)
    after = state(model.pretrain(dataset(), 3))
    assert differs(before, after, "policy/action_net")
    for name in ("policy/log_std", "policy/value_net", "policy/mlp_extractor.value_net"):
        assert not differs(before, after, name)


# -- implicit Q-learning -------------------------------------------------------------------------------------------


def test_iql_of_ppo_has_critics_of_its_own_and_moves_their_targets() -> None:
    model = make_ppo(objective="iql", objective_kwargs={"tau": 0.25, "n_critics": 3, "critic_net_arch": [8]})
    objective = model.offline_objective
    assert isinstance(objective, PPOIQLObjective)
    old = [value.clone() for value in objective.critic_target.parameters()]
    model.pretrain(dataset(), 1)
    for was, own, target in zip(old, objective.critic.parameters(), objective.critic_target.parameters(), strict=True):
        assert th.allclose(target, 0.75 * was + 0.25 * own, atol=1e-6)
        assert not th.equal(was, target)
    batch = one_batch()
    assert objective.q_values(batch.observations, batch.actions).shape == (3, 4)


def test_iql_weighs_the_plain_gaussian() -> None:
    model = make_ppo(objective="iql", objective_kwargs={"beta": 2.0, "max_weight": 5.0})
    batch, advantages = one_batch(), th.tensor([0.0, -1.0, 0.5, 9.0])
    losses, metrics = model.offline_objective.actor_losses(batch, advantages, None)  # type: ignore[attr-defined]
    weights = th.tensor([1.0, math.exp(-2.0), math.e, 5.0])
    wanted = -(weights * model.actor.log_prob(batch.observations, batch.actions)).mean()
    assert float(losses["actor"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)
    assert float(metrics["advantage_weight"]) == pytest.approx(float(weights.mean()))


# -- Monte-Carlo values --------------------------------------------------------------------------------------------


def episodes() -> OfflineDataset:
    """Three steps and a termination, two steps and a time limit, two steps and the end of the recording."""
    n = 7
    place = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
    return OfflineDataset.load(
        {
            "observations": place,
            "actions": np.zeros((n, 2), np.float32),
            "rewards": np.array([1, 2, 4, 8, 16, 32, 64], np.float32),
            "next_observations": place + 3,
            "terminations": np.array([0, 0, 1, 0, 0, 0, 0], bool),
            "truncations": np.array([0, 0, 0, 0, 1, 0, 1], bool),
        },
        observation_space=spaces()[0],
        action_space=spaces()[1],
    )


def all_of(model: Any) -> tuple[Batch, np.ndarray]:
    buffer = model.open_offline_buffer(episodes(), whole_episodes=True)
    assert buffer.n_steps is None
    return model.to_batch(buffer._get_samples(np.arange(7))), episodes().next_observations_at(np.array([4, 6]))


@pytest.mark.parametrize("bootstrap", [True, False])
def test_returns_stop_at_the_end_of_their_episode(bootstrap: bool) -> None:
    model = make_ppo(gamma=GAMMA)
    objective = MonteCarloValueObjective(model, bootstrap=bootstrap)
    assert objective.whole_episodes
    batch, last = all_of(model)
    plain = [1 + 1 + 1, 2 + 2, 4, 8 + 8, 16, 32 + 32, 64]
    assert batch.rewards.tolist() == plain
    assert batch.dones.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert batch.discounts.tolist() == [0.125, 0.25, 0.5, 0.25, 0.5, 0.25, 0.5]
    with th.no_grad():
        limit, end = model.policy.values(th.as_tensor(last)).tolist()
    # V of the last observation stands for what a time limit has cut off, and nothing for what is over
    beyond = [0, 0, 0, 0.25 * limit, 0.5 * limit, 0.25 * end, 0.5 * end]
    wanted = [one + other for one, other in zip(plain, beyond, strict=True)] if bootstrap else plain
    assert objective.returns(batch).tolist() == pytest.approx(wanted, rel=1e-5)
    values = model.policy.predict_values(batch.observations).flatten()
    loss = objective.value_loss(batch)[0]["value"]
    assert float(loss.detach()) == pytest.approx(float((values - th.tensor(wanted)).pow(2).mean().detach()), rel=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_only_the_value_network_is_trained(share: bool) -> None:
    model = make_ppo(gamma=GAMMA, policy_kwargs={"net_arch": [16], "share_features_extractor": share})
    objective = MonteCarloValueObjective(model, learning_rate=0.05)
    batch, _ = all_of(model)
    before = state(model)
    model.finetuning_objective = objective
    losses = [float(model.loop.gradient_step(batch, batch)["value_loss"]) for _ in range(300)]
    assert losses[-1] < 0.5 * losses[0]
    after = state(model)
    assert differs(before, after, "policy/value_net")
    for name in ("policy/action_net", "policy/log_std", "policy/mlp_extractor.policy_net", "policy.optimizer"):
        assert not differs(before, after, name)


def test_learning_rate() -> None:
    with pytest.raises(ValueError, match=r"learning_rate of .* above 0, not 0"):
        MonteCarloValueObjective(make_ppo(), learning_rate=0)
