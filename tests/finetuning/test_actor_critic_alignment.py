"""ACA by hand, and what came with it: the finished target, the frozen policy, the actor's largest gradient."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch as th
from by_hand import Given, linear_sac, one_transition, set_critic, set_mean
from toy_tasks import assert_same, dataset, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import ActorCriticAlignment, FineTuningCallback, Warmup
from sb3_o2o.objectives import Batch
from sb3_o2o.objectives import finetuning_functional as FF
from sb3_o2o.recipes import load_recipe

PLAIN = {"squash": "none", "state_dependent_std": False}


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def aligned(**kwargs: Any) -> tuple[Any, ActorCriticAlignment]:
    """The offline policy is a Gaussian around 0 with a deviation of 0.5; the present one is around 0.5."""
    aca = ActorCriticAlignment(**{"n_stds": 1.0, "weight": 2.0, "fresh_critics": False, **kwargs})
    model = linear_sac(PLAIN, finetuning=[aca], learning_rate=0.1, ent_coef=0.0)
    set_mean(model.actor.mu, 0.0, 0.0)
    model.actor.set_std(0.5)
    model.hooks.deliver_to([aca])
    aca._on_training_start()
    set_mean(model.actor.mu, 0.5, 0.0)
    model.set_phase("finetuning")
    model.hooks.call("before_updates")
    return model, aca


#: log-density at the mean; one deviation away in both dimensions it is 1 less, which is the floor
PEAK = -2 * math.log(0.5) - math.log(2 * math.pi)


def test_soft_floor_by_hand() -> None:
    found = FF.soft_floor(th.tensor([1.0, 30.0, -30.0]), th.tensor([0.5, 0.5, 0.5]))
    assert found.tolist() == pytest.approx([softplus(0.5) + 0.5, 30.0, 0.5])


def test_an_update_by_hand() -> None:
    model, _ = aligned()
    set_critic(model.critic, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    set_critic(model.critic_target, (4.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    model.qf_lr_schedule = lambda _: 0.0
    model.draws = Given(next_policy=[[0.0, 0.0]], policy=[[0.0, 0.0]])
    losses = model.update(one_transition((0.25, 0.0)))
    # log pi_0 is 0.5 below its peak at a' = 0.5, 0.125 at a = 0.25: 0.5 and 0.875 above the floor
    floor = PEAK - 1
    following, taken = softplus(0.5) + floor, softplus(0.875) + floor
    target = 1 + 0.5 * (1.5 + 2 * following) - 2 * taken  # min Rb(s', a') = 1.5
    assert losses["critic_loss"].item() == pytest.approx(0.5 * 2 * target**2, rel=1e-5)
    assert losses["actor_loss"].item() == pytest.approx(-2 * following, rel=1e-5)
    # R is flat: the gradient by the mean is 2 sigmoid(0.5) a / 0.25
    moved = 0.1 * 2 / (1 + math.exp(-0.5)) * 0.5 / 0.25
    assert model.actor.mu.bias[0].item() == pytest.approx(0.5 - moved, rel=1e-5)


@pytest.mark.parametrize("squash", ["none", "mean", "samples"])
def test_the_floor_lies_beyond_the_bounds_of_actions(squash: str) -> None:
    """Four deviations of 0.5 away from 0, in both dimensions: 2 before the squashing."""
    model = linear_sac({**PLAIN, "squash": squash}, finetuning=[ActorCriticAlignment(n_stds=4.0, fresh_critics=False)])
    (aca,) = model.finetuning
    set_mean(model.actor.mu, 0.0, 0.0)
    model.actor.set_std(0.5)
    model.hooks.deliver_to([aca])
    aca._on_training_start()
    floor = PEAK - 2 * 0.5 * 4.0**2
    if squash == "samples":
        floor -= 2 * math.log(1 - math.tanh(2.0) ** 2)
    edge, clip = 1.0, 1 - 1e-5
    at_edge = math.atanh(clip) if squash == "samples" else edge
    density = PEAK - 2 * 0.5 * (at_edge / 0.5) ** 2
    if squash == "samples":
        density -= 2 * math.log(1 - clip**2 + 1e-6)
    for action, log_prob in ((0.0, PEAK), (edge, density)):
        found = aca.aligned(th.zeros(1, 3), th.full((1, 2), action))
        assert found.item() == pytest.approx(softplus(log_prob - floor) + floor, rel=1e-3)


@pytest.mark.parametrize("squash", ["none", "mean", "samples"])
def test_the_offline_policy_is_the_best_response_to_its_first_critics(squash: str) -> None:
    """With w = alpha, entropy and aligned values balance: also where a wide Gaussian's samples are out of bounds."""
    model = make(
        policy_kwargs={"net_arch": [16], "squash": squash, "state_dependent_std": False},
        finetuning=[ActorCriticAlignment()],
        ent_coef=1.0,
    ).learn(1)
    model.hooks.deliver_to(model.finetuning)
    model.hooks.call("before_updates")
    obs, noise = th.randn(4096, 3), th.randn(4096, 2)
    batch = Batch(obs, th.zeros(4096, 2), obs, *th.zeros(3, 4096))
    losses, _, _ = model.finetuning_objective.actor_loss(batch, noise, th.ones(1))
    gradients = th.autograd.grad(losses["actor"], list(model.actor.parameters()))
    assert max(each.abs().max().item() for each in gradients) < 0.1


class Temperature(FineTuningCallback):
    """That of the first update."""

    first: float | None = None

    def before_updates(self) -> None:
        model: Any = self.model
        self.first = model.current_ent_coef().item() if self.first is None else self.first


@pytest.mark.parametrize("how", ["learn", "given to learn", "load_offline", "recipe"])
def test_the_temperature_begins_at_the_weight(how: str, tmp_path: Path) -> None:
    """That of pre-training belongs to other values: with it the policy would not be the best response."""
    aca = [ActorCriticAlignment()]
    model = make(objective="sac_ml", ent_coef="auto_0.3", finetuning=aca if how == "learn" else []).pretrain(
        dataset(), 3
    )
    if how in ("load_offline", "recipe"):
        model.save(tmp_path / "offline")
        given: Any = {"finetuning": aca} if how == "load_offline" else {"recipe": "aca"}
        model = O2OSAC.load_offline(tmp_path / "offline", vec(), device="cpu", **given)
        assert model.temperature_note == "The temperature starts at 1, as ActorCriticAlignment says."
    watch = Temperature()
    model.learn(12, callback=[*(aca if how == "given to learn" else []), watch])
    assert watch.first == pytest.approx(1.0)
    assert 0 < abs(model.current_ent_coef().item() - 1.0) < 0.1  # and is tuned


def test_the_models_own_temperature_may_go_on() -> None:
    for kwargs, expected in (({"ent_coef": "auto_0.3"}, 0.3), ({"ent_coef": 0.4}, 0.4)):
        own = ActorCriticAlignment() if expected == 0.4 else ActorCriticAlignment(ent_coef=None)
        watch = Temperature()
        make(finetuning=[own], **kwargs).learn(8, callback=watch)
        assert watch.first == pytest.approx(expected)  # one that is fixed stays


def test_squashed_policies_and_the_falling_weight() -> None:
    aca = ActorCriticAlignment(n_stds=2.0, anneal_steps=100, end_weight=0.5)
    model = make(finetuning=[aca], learning_starts=0)
    model.learn(1)
    obs, actions = th.randn(5, 3), th.rand(5, 2) * 1.8 - 0.9
    mean, log_std, _ = aca.policy.get_action_dist_params(obs)
    ends = [aca.policy.log_prob(obs, (mean + sign * 2.0 * log_std.exp()).tanh()) for sign in (-1, 1)]
    floor = th.minimum(*ends)
    expected = th.nn.functional.softplus(aca.policy.log_prob(obs, actions) - floor) + floor
    assert th.allclose(aca.aligned(obs, actions), aca.current_weight * expected, rtol=1e-4, atol=1e-4)
    for steps, weight in ((0, 1.0), (50, 0.75), (100, 0.5), (900, 0.5)):
        model.num_timesteps, model.finetuning_run.steps_before = steps, 0
        model.hooks.call("before_updates")
        assert aca.current_weight.item() == pytest.approx(weight)


def test_fresh_critics_have_no_slope_along_the_action(tmp_path: Path) -> None:
    make().pretrain(dataset(), 3).save(tmp_path / "offline")
    aca = ActorCriticAlignment()
    model = O2OSAC.load_offline(tmp_path / "offline", vec(), finetuning=[aca], device="cpu", gradient_steps=0)
    offline = state(make().load(tmp_path / "offline"))
    model.learn(1)
    obs = th.randn(4, 3)
    for critic in (model.critic, model.critic_target):
        one, other = (critic.q_values(obs, th.rand(4, 2)) for _ in range(2))
        assert th.equal(one, other)
    assert differs(offline, state(model), "policy/critic.")
    assert not differs(offline, state(model), "policy/actor.")
    model.gradient_steps = 1
    model.learn(12, reset_num_timesteps=False)
    one, other = (model.critic.q_values(obs, th.rand(4, 2)) for _ in range(2))
    assert not th.equal(one, other)


def test_interrupted_equals_uninterrupted(tmp_path: Path) -> None:
    def start() -> Any:
        return make(finetuning=[ActorCriticAlignment(anneal_steps=20)], actor_max_grad_norm=0.01)

    whole = start()
    whole.learn(24)
    half = start()
    half.learn(12)
    half.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec())
    resumed.learn(12, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))
    whole.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", device="cpu")
    obs, actions = th.randn(3, 3), th.rand(3, 2)
    assert th.equal(loaded.finetuning[0].aligned(obs, actions), whole.finetuning[0].aligned(obs, actions))


def test_what_has_no_density_is_refused() -> None:
    for model in (
        make_td3(finetuning=[ActorCriticAlignment()]),
        make(use_sde=True, finetuning=[ActorCriticAlignment()]),
    ):
        with pytest.raises(ValueError, match="density"):
            model.learn(1)
    with pytest.raises(ValueError, match="ActorCriticAlignment"):
        make_ppo(finetuning=[ActorCriticAlignment()]).learn(8)
    with pytest.raises(ValueError, match=r"td_target|next_values"):
        make(objective="iql", online_objective="iql", finetuning=[ActorCriticAlignment()]).learn(1)


@pytest.mark.parametrize(("build", "objective"), [(make, "sac"), (make, "awac"), (make, "cql"), (make_td3, "td3")])
def test_the_finished_target_can_be_changed(build: Any, objective: str) -> None:
    class Shifted(FineTuningCallback):
        def td_target(self, target: th.Tensor, batch: Any) -> th.Tensor:
            return target + 7.0

    model = build(online_objective=objective)
    model.learn(10)
    objective_of, batch = model.finetuning_objective, model.sample_batch(4)
    draws = (th.zeros(4, 2), None, *((th.ones(1),) if objective in ("sac", "cql") else ()))
    plain = objective_of.td_target(batch, *draws)
    model.hooks.deliver_to([Shifted()])
    assert th.allclose(objective_of.td_target(batch, *draws), plain + 7.0)


@pytest.mark.parametrize("build", [make, make_td3])
def test_a_frozen_policy(build: Any) -> None:
    model = build(finetuning=[Warmup(6, freeze_policy_steps=10)], learning_starts=0)
    before = state(model)
    model.learn(16)
    assert not differs(before, state(model), "policy/actor.")
    assert differs(before, state(model), "policy/critic.")
    assert differs(before, state(model), "policy/critic_target.")
    if build is make:
        assert th.equal(before["log_ent_coef"], state(model)["log_ent_coef"])
    model.learn(4, reset_num_timesteps=False)
    assert differs(before, state(model), "policy/actor.")


def test_the_actors_largest_gradient_by_hand() -> None:
    model = linear_sac(PLAIN, learning_rate=1.0, ent_coef=0.0, actor_max_grad_norm=0.5)
    set_critic(model.critic, (3.0, 4.0, 0.0), (3.0, 4.0, 0.0))
    set_mean(model.actor.mu, 0.0, 0.0)
    model.qf_lr_schedule = lambda _: 0.0
    model.draws = Given(next_policy=[[0.0, 0.0]], policy=[[0.0, 0.0]])
    model.set_phase("finetuning")
    model.update(one_transition((0.0, 0.0)))
    assert model.actor.mu.bias.tolist() == pytest.approx([0.3, 0.4], rel=1e-4)  # (3, 4), scaled to 0.5
    with pytest.raises(ValueError, match="actor_max_grad_norm"):
        make(actor_max_grad_norm=0.0)


def test_the_recipes_buffer_holds_the_best_episodes_to_the_end() -> None:
    """Its note has them added, 50 of 1000 steps: the steps of the run must not take their place."""
    recipe = load_recipe("aca")
    assert recipe.arguments["buffer_size"] >= 100_000 + 50 * 1000
