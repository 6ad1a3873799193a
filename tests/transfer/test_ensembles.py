"""Off2On: several agents become one; moments, pairs and one update by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from by_hand import Given, get_critic, linear_sac, one_transition, set_critic, set_mean
from stable_baselines3 import SAC
from toy_tasks import FAST, assert_same, dataset, differs, make, make_td3, state, vec

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.networks.sac_policies import EnsembleActor
from sb3_o2o.objectives import functional as F

PAIRS = {"online_objective_kwargs": {"target_reduction": "pairs", "critic_reduction": "sum"}, "actor_critics": "pairs"}


def test_moments_by_hand() -> None:
    means = th.tensor([[[1.0]], [[-1.0]]])
    log_stds = th.tensor([0.5, 1.5]).log()[:, None, None]
    mean, log_std = F.mixture_moments(means, log_stds)
    # avg(sigma^2 + mu^2) - 0 = (0.25 + 1 + 2.25 + 1) / 2
    assert mean.item() == 0.0
    assert (2 * log_std).exp().item() == pytest.approx(2.25)
    same_mean, same_std = F.mixture_moments(means[:1].repeat(3, 1, 1), log_stds[:1].repeat(3, 1, 1))
    assert (same_mean.item(), same_std.exp().item()) == pytest.approx((1.0, 0.5))


def test_reductions_by_hand() -> None:
    values = th.tensor([[1.0], [3.0], [5.0], [-2.0]])
    assert F.pair_minima(values).tolist() == [[1.0], [-2.0]]
    assert F.reduce_ensemble(values, "pairs").item() == -0.5
    assert F.reduce_ensemble(values, "max").item() == 5.0


def test_an_update_by_hand() -> None:
    model = linear_sac({"n_actors": 2, "squash": "none"}, n_critics=4, learning_rate=0.1, ent_coef=0.0, **PAIRS)
    assert isinstance(model.actor, EnsembleActor)
    set_critic(model.critic, *([(0.0, 0.0, 0.0)] * 4))
    set_critic(model.critic_target, (1.0, 0.0, 0.0), (2.0, 0.0, 0.0), (3.0, 0.0, 0.0), (1.0, 0.0, 2.0))
    for member, mean in zip(model.actor.members, (0.75, 0.25), strict=True):
        set_mean(member.mu, mean, 0.0)
    model.actor.set_std(0.5)
    model.draws = Given(next_policy=[[0.0, 0.0]], policy=[[0.0, 0.0]])
    model.set_phase("finetuning")
    losses = model.update(one_transition((0.0, 0.0)))
    # a' = 0.5: pairs (0.5, 1) and (1.5, 2.5); y = 1 + 0.25 for the first two, 1 + 0.75 for the others
    assert losses["critic_loss"].item() == pytest.approx(2 * 1.25**2 + 2 * 1.75**2)
    biases = [get_critic(model.critic, index)[2] for index in range(4)]
    assert biases == pytest.approx([0.1 * 2 * 1.25] * 2 + [0.1 * 2 * 1.75] * 2)


def test_both_actors_follow_the_mean_over_pairs_by_hand() -> None:
    model = linear_sac({"n_actors": 2, "squash": "none"}, n_critics=4, learning_rate=0.1, ent_coef=0.0, **PAIRS)
    for critic in (model.critic, model.critic_target):
        set_critic(critic, (1.0, 0.0, 0.0), (4.0, 0.0, 9.0), (3.0, 0.0, 0.0), (1.0, 0.0, 9.0))
    for member, mean in zip(model.actor.members, (0.5, 0.1), strict=True):
        set_mean(member.mu, mean, 0.0)
    model.qf_lr_schedule = lambda _: 0.0
    model.draws = Given(next_policy=[[0.0, 0.0]], policy=[[0.0, 0.0]])
    model.set_phase("finetuning")
    losses = model.update(one_transition((0.0, 0.0)))
    # the smaller of each pair has the slopes 1 and 3: Q = 2 a at a = 0.3; each mean counts half
    assert losses["actor_loss"].item() == pytest.approx(-0.6)
    for member, mean in zip(model.actor.members, (0.5, 0.1), strict=True):
        assert member.mu.bias[0].item() == pytest.approx(mean + 0.1 * 2 * 0.5)


def agents(folder: Path, n: int = 3, **kwargs: Any) -> list[str]:
    """Zips of agents that were trained with different seeds."""
    for seed in range(n):
        make(seed=seed, objective="cql", objective_kwargs={"n_actions": 2}, **kwargs).pretrain(dataset(), 3).save(
            folder / f"agent{seed}"
        )
    return [str(folder / f"agent{seed}") for seed in range(n)]


@pytest.mark.parametrize("independent", [False, True])
def test_agents_become_one(independent: bool, tmp_path: Path) -> None:
    policy_kwargs = {"net_arch": [16], "state_dependent_std": not independent}
    zips = agents(tmp_path, normalize_observations=True, policy_kwargs=policy_kwargs)
    singles = [O2OSAC.load(each) for each in zips]
    model = O2OSAC.load_offline(zips, vec(), device="cpu", start_ent_coef=1.0, **PAIRS)
    assert (model.n_critics, len(model.actor.members)) == (6, 3)
    obs, actions = th.randn(7, 3), th.rand(7, 2) * 2 - 1
    with th.no_grad():
        for network in ("critic", "critic_target"):
            expected = th.cat([getattr(each, network).q_values(obs, actions) for each in singles])
            assert th.allclose(getattr(model, network).q_values(obs, actions), expected, atol=1e-6)
        moments = [each.actor.get_action_dist_params(obs)[:2] for each in singles]
        wanted = F.mixture_moments(*(th.stack(each) for each in zip(*moments, strict=True)))
        found = model.actor.get_action_dist_params(obs)[:2]
        assert all(th.allclose(one, other, atol=1e-5) for one, other in zip(found, wanted, strict=True))
        scaled = model.policy.scale_action(model.predict(obs.numpy(), deterministic=True)[0])
        assert np.allclose(scaled, th.tanh(wanted[0]).numpy(), atol=1e-5)
    assert model.current_ent_coef().item() == pytest.approx(1.0)
    before = state(model)
    model.learn(12)
    after = state(model)
    assert all(differs(before, after, f"policy/{part}") for part in ("actor.others.0", "actor.others.1", "actor.mu"))
    assert differs(before, after, "policy/critic.")
    model.save(tmp_path / "tuned")
    loaded = O2OSAC.load(tmp_path / "tuned", env=vec(), device="cpu")
    assert_same(after, state(loaded))
    again = O2OSAC.load_offline(tmp_path / "tuned", vec(), device="cpu")
    assert len(again.actor.members) == 3
    assert not model.policy.is_stock


def test_live_and_stock_agents(tmp_path: Path) -> None:
    stock = [SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, seed=seed, buffer_size=50) for seed in (0, 1)]
    model = O2OSAC.load_offline(stock, vec(), device="cpu", **PAIRS)
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with th.no_grad():
        means = th.stack([each.actor.get_action_dist_params(th.from_numpy(obs))[0] for each in stock]).mean(dim=0)
    scaled = model.policy.scale_action(model.predict(obs, deterministic=True)[0])
    assert np.allclose(scaled, th.tanh(means).numpy(), atol=1e-5)


def test_the_temperature_is_their_geometric_mean(tmp_path: Path) -> None:
    models = [make(seed=seed) for seed in (0, 1)]
    for model, value in zip(models, (0.1, 0.4), strict=True):
        model.set_ent_coef(value)
    model = O2OSAC.load_offline(models, vec(), device="cpu")
    assert model.current_ent_coef().item() == pytest.approx(math.sqrt(0.1 * 0.4))


def test_what_cannot_be_one(tmp_path: Path) -> None:
    one, other = make(), make(policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match="Agents 0 and 1 have different layers"):
        O2OSAC.load_offline([one, other], vec())
    with pytest.raises(ValueError, match="different number of critics"):
        O2OSAC.load_offline([one, make(n_critics=3)], vec())
    with pytest.raises(ValueError, match="at least two"):
        O2OSAC.load_offline([one], vec())
    with pytest.raises(ValueError, match="O2OTD3"):
        O2OTD3.load_offline([make_td3(), make_td3()], vec())
    with pytest.raises(ValueError, match="even number"):
        make(n_critics=3, actor_critics="pairs")
    with pytest.raises(ValueError, match="even number"):
        make(n_critics=3, online_objective_kwargs={"target_reduction": "pairs"})
    with pytest.raises(ValueError, match="critic_subset=None"):
        make(n_critics=4, critic_subset=2, online_objective_kwargs={"target_reduction": "pairs"})
    with pytest.raises(ValueError, match="n_actors"):
        make(policy_kwargs={"n_actors": 0})
    with pytest.raises(ValueError, match="gSDE"):
        make(use_sde=True, policy_kwargs={"n_actors": 2})


def test_an_ensemble_from_scratch_and_interrupted(tmp_path: Path) -> None:
    def start() -> Any:
        return make(policy_kwargs={"net_arch": [8], "n_actors": 3}, n_critics=4, **PAIRS)

    whole = start()
    whole.learn(20)
    half = start()
    half.learn(10)
    half.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec())
    resumed.learn(10, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))


@pytest.mark.parametrize("build", [make, make_td3])
def test_the_largest_critic_is_backed_up(build: Any) -> None:
    model = build(
        n_critics=3,
        online_objective_kwargs={"target_reduction": "max"},
        **({} if build is make_td3 else {"ent_coef": 0.0}),
    )
    model.learn(FAST["batch_size"])
    objective, batch = model.finetuning_objective, model.sample_batch(4)
    noise = th.randn(4, 2)
    arguments = (batch, noise, None, *((th.zeros(1),) if build is make else ()))
    target = objective.td_target(*arguments)
    if build is make:
        actions, _ = model.actor.rsample(batch.next_observations, noise)
    else:
        actions = F.smoothed_actions(model.actor_target(batch.next_observations), noise, 0.2, 0.5)
    values = model.critic_target.q_values(batch.next_observations, actions).max(dim=0).values
    assert th.allclose(target, batch.rewards + (1 - batch.dones) * 0.99 * values, atol=1e-5)
