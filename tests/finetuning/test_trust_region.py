"""PROTO: one update by hand on SAC and on TD3, the reference that follows, and where the weight goes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from by_hand import Given, linear_sac, linear_td3, one_transition, set_critic, set_mean
from stable_baselines3.common.logger import configure
from toy_tasks import arrays, assert_same, dataset, make, make_ppo, make_td3, state, vec

from sb3_o2o.finetuning import ConstrainedFineTuning, DatasetReplay, SymmetricReplay, TrustRegion
from sb3_o2o.objectives import functional as F
from sb3_o2o.recipes import load_recipe

PLAIN = {"squash": "none", "state_dependent_std": False}


def started(model: Any, region: TrustRegion, *reference: float) -> None:
    """The reference's mean is stated, and the model fine-tunes."""
    mean = model.actor.mu if hasattr(model.actor, "log_std") else model.actor.mu[0]
    now = mean.bias.detach().clone()
    set_mean(mean, *reference)
    model.set_logger(configure(None, []))
    model.hooks.deliver_to([region])
    region.init_callback(model)
    region._on_training_start()
    set_mean(mean, *now.tolist())
    model.set_phase("finetuning")
    model.hooks.call("before_updates")


def test_an_update_of_sac_by_hand() -> None:
    region = TrustRegion(weight=2.0, tau=0.25)
    model = linear_sac(PLAIN, finetuning=[region], learning_rate=0.01, ent_coef=0.0, actor_critics="mean")
    set_critic(model.critic, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    set_critic(model.critic_target, (4.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    set_mean(model.actor.mu, 0.25, 0.0)
    model.actor.set_std(0.5)
    started(model, region, 0.0, 0.0)
    model.qf_lr_schedule = lambda _: 0.0
    model.draws = Given(next_policy=[[1.0, 0.0]], policy=[[1.0, 0.0]])
    losses = model.update(one_transition((0.0, 0.0)))
    # a' = 0.75; under pi its z is 1, under the reference 1.5: log pi - log pi_ref = (1.5^2 - 1^2) / 2 = 0.625
    # Qb = 3 and 1.75; y = 1 + (1.75 - 2 * 0.625) / 2 = 1.25
    assert losses["critic_loss"].item() == pytest.approx(0.5 * 2 * 1.25**2, rel=1e-5)
    assert losses["trust_divergence"].item() == pytest.approx(0.625, rel=1e-5)
    # Q is flat: the gradient by the mean is 2 * a / 0.25 = 6
    assert model.actor.mu.bias[0].item() == pytest.approx(0.25 - 0.01 * 6.0, rel=1e-5)
    # and the reference follows a quarter of the way to where the policy is now
    assert region.policy.mu.bias[0].item() == pytest.approx(0.25 * 0.19, rel=1e-5)


def test_an_update_of_td3_by_hand() -> None:
    region = TrustRegion(weight=0.4, tau=0.5)
    model = linear_td3(finetuning=[region], learning_rate=0.1, policy_delay=1)
    set_critic(model.critic, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    set_critic(model.critic_target, (4.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    mean = math.atanh(0.5)
    set_mean(model.actor.mu[0], mean, 0.0)
    set_mean(model.actor_target.mu[0], mean, 0.0)
    started(model, region, math.atanh(0.1), 0.0)
    model.qf_lr_schedule = lambda _: 0.0
    model.draws = Given(target_smoothing=[[0.0, 0.0]])
    losses = model.update(one_transition((0.0, 0.0)))
    # |pi - pi_ref|^2, averaged over two dimensions: 0.4^2 / 2 = 0.08; y = 1 + (1.5 - 0.4 * 0.08) / 2
    assert losses["critic_loss"].item() == pytest.approx(2 * (1 + (1.5 - 0.032) / 2) ** 2, rel=1e-5)
    assert losses["actor_loss"].item() == pytest.approx(0.4 * 0.08, rel=1e-4)
    # the gradient by the mean: 0.4 * 2 * 0.4 / 2 * tanh' with tanh' = 1 - 0.5^2
    moved = mean - 0.1 * 0.4 * 0.4 * 0.75
    assert model.actor.mu[0].bias[0].item() == pytest.approx(moved, rel=1e-5)
    assert region.policy.mu[0].bias[0].item() == pytest.approx((math.atanh(0.1) + moved) / 2, rel=1e-5)


def test_the_reference_waits_with_the_policy() -> None:
    region = TrustRegion(tau=0.5)
    model = make_td3(finetuning=[region], policy_delay=2, learning_starts=0)
    moved = []
    for _ in range(5):
        before = [value.clone() for value in region.policy.parameters()] if region.policy is not None else None
        model.learn(1, reset_num_timesteps=False)
        if before is not None:
            pairs = zip(before, region.policy.parameters(), strict=True)
            moved.append((model._n_updates % 2 == 0, any(not th.equal(one, other) for one, other in pairs)))
    assert moved == [(stepped, stepped) for stepped, _ in moved]
    assert {stepped for stepped, _ in moved} == {True, False}


def test_the_recipe_on_td3_has_the_weights_of_the_code() -> None:
    """The temperature of pre-training over the weight of the values, and one buffer that is seeded."""
    for env_id, weight, tau, backup in (
        ("Hopper-v5", 2 / 2.5, 0.005, True),
        ("AntMaze_UMaze-v5", 0.5 / 2.5, 5e-5, False),
    ):
        first, second = load_recipe("proto_td3", env_id).arguments["finetuning"]
        region = TrustRegion(**first["TrustRegion"])
        assert (region.weight, region.end_weight) == pytest.approx((weight, 0.1 * weight))
        assert (region.tau, region.backup) == (tau, backup)
        assert second["DatasetReplay"]["n_transitions"] == 25_000


@pytest.mark.parametrize("squash", ["samples", "mean", "none"])
@pytest.mark.parametrize("near", [TrustRegion, ConstrainedFineTuning])
def test_a_policy_stays_where_its_reference_is(near: Any, squash: str) -> None:
    """Samples of a wide Gaussian lie beyond the bounds, and are as likely under both policies there as well."""
    region = near(reference="interval", interval=1000, **({"weight": 50.0} if near is TrustRegion else {}))
    kwargs = {"net_arch": [], "squash": squash, "state_dependent_std": False}
    model = make(policy_kwargs=kwargs, finetuning=[region], ent_coef=0.0, learning_rate=1e-3, batch_size=256)
    set_critic(model.critic, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    set_critic(model.critic_target, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    model.qf_lr_schedule = lambda _: 0.0
    model.learn(40)
    assert model.actor.log_std.abs().max() < 0.02  # noise alone: it rose by the learning rate at each of the updates
    obs = th.zeros(8, 3)
    actions, log_prob = model.actor.rsample(obs, th.full((8, 2), 3.0))
    model.finetuning[0]._take_policy()
    assert model.finetuning[0]._divergence(obs, actions, log_prob).abs().max() < (0.1 if squash == "samples" else 1e-5)


def test_the_weight_falls_and_the_target_can_do_without() -> None:
    region = TrustRegion(weight=2.0, anneal_steps=100, backup=False)
    assert region.end_weight == pytest.approx(0.2)
    model = linear_sac(PLAIN, finetuning=[region], ent_coef=0.0)
    started(model, region, 0.0, 0.0)
    model.finetuning_run.steps_before = 0
    for steps, weight in ((0, 2.0), (50, 1.1), (100, 0.2), (500, 0.2)):
        model.num_timesteps = steps
        model.hooks.call("before_updates")
        assert region.current_weight.item() == pytest.approx(weight)
    values = th.ones(1)
    assert region.next_values(values, th.zeros(1, 2), th.zeros(1), one_transition((0.0, 0.0))) is values


def test_gumbel_loss_by_hand() -> None:
    expected = [math.exp(0.5) - 1.5, math.exp(-0.5) - 0.5, math.exp(7.0) - 8.0]
    assert F.gumbel_loss(th.tensor([1.0, -1.0, 100.0]), 2.0).tolist() == pytest.approx(expected, rel=1e-5)
    # V that minimises it is T log mean exp(Q / T)
    values = th.tensor([1.0, 2.0, 4.0])
    soft = 2.0 * (th.logsumexp(values / 2.0, dim=0) - math.log(3.0))
    candidates = th.linspace(0.0, 5.0, 5001)
    found = candidates[F.gumbel_loss(values[:, None] - candidates, 2.0).mean(dim=0).argmin()]
    assert found.item() == pytest.approx(soft.item(), abs=1e-3)
    model = make(objective="iql", objective_kwargs={"gumbel_temperature": 2.0})
    plain = make(objective="iql").pretrain(dataset(), 2)
    with pytest.raises(AssertionError):
        assert_same(state(model.pretrain(dataset(), 2)), state(plain))
    with pytest.raises(ValueError, match="gumbel_temperature"):
        make(objective="iql", objective_kwargs={"gumbel_temperature": 0.0})


def test_random_transitions_seed_the_online_buffer() -> None:
    model = make(finetuning=[DatasetReplay("rows", n_transitions=15), SymmetricReplay(0.5)], dataset=arrays())
    model.learn(1)
    buffer = model.replay_buffer
    assert buffer.size() == 16
    all_rewards = arrays()["rewards"]
    loaded = buffer.rewards[:15, 0]
    assert np.isin(loaded, all_rewards).all()
    assert len(np.unique(loaded)) == 15
    assert not np.array_equal(loaded, all_rewards[:15])
    other = make(finetuning=[DatasetReplay("rows", n_transitions=15)], dataset=arrays(), seed=4).learn(1)
    assert not np.array_equal(loaded, other.replay_buffer.rewards[:15, 0])


@pytest.mark.parametrize("build", [make, make_td3])
def test_interrupted_equals_uninterrupted(build: Any, tmp_path: Path) -> None:
    def start() -> Any:
        return build(finetuning=[TrustRegion(tau=0.3, anneal_steps=20)])

    whole = start()
    whole.learn(24)
    half = start()
    half.learn(12)
    half.save_resume(tmp_path / "bundle")
    resumed = type(half).load_resume(tmp_path / "bundle", vec())
    resumed.learn(12, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))
    pairs = zip(whole.finetuning[0].policy.parameters(), resumed.finetuning[0].policy.parameters(), strict=True)
    assert all(th.equal(one, other) for one, other in pairs)
    whole.save(tmp_path / "model")
    loaded = type(whole).load(tmp_path / "model", device="cpu").finetuning[0]
    pairs = zip(whole.finetuning[0].policy.parameters(), loaded.policy.parameters(), strict=True)
    assert all(th.equal(one, other) for one, other in pairs)


def test_other_references_and_bad_arguments() -> None:
    region = TrustRegion(reference="interval", interval=4)
    make(finetuning=[region]).learn(10)
    assert region.n_taken > 1
    with pytest.raises(ValueError, match="evaluation callback"):
        make(finetuning=[TrustRegion(reference="best")]).learn(1)
    with pytest.raises(ValueError, match="density"):
        make_td3(finetuning=[TrustRegion(penalty="kl")]).learn(1)
    with pytest.raises(ValueError, match="gSDE"):
        make(use_sde=True, finetuning=[TrustRegion()]).learn(1)
    with pytest.raises(ValueError, match="TrustRegion"):
        make_ppo(finetuning=[TrustRegion()]).learn(8)
    for kwargs in ({"tau": 2.0}, {"weight": -1.0}, {"reference": "never"}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            TrustRegion(**kwargs)  # type: ignore[arg-type]
