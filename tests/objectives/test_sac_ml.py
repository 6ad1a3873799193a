"""SAC+ML by hand, and its Z(s): what it reads, where it goes on, what ACA makes of it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch as th
from by_hand import Given, linear_sac, one_transition, set_critic, set_mean
from toy_tasks import assert_same, dataset, differs, make, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import ActorCriticAlignment, PolicyReevaluation, ValueAlignment
from sb3_o2o.objectives import SACMLObjective
from sb3_o2o.objectives import functional as F

PLAIN = {"squash": "none", "state_dependent_std": False}
#: log-density of a Gaussian in two dimensions, with deviations of 0.5, at its mean
PEAK = -2 * math.log(0.5) - math.log(2 * math.pi)


def by_hand(rate: float) -> tuple[Any, Any]:
    """The policy is around (0.5, 0), Z is 3 and 1, Q is 2 and 4 there; 1 and 3 in the target networks."""
    model = linear_sac(PLAIN, objective="sac_ml", ent_coef=0.5, learning_rate=0.1, qf_learning_rate=rate)
    set_mean(model.actor.mu, 0.5, 0.0)
    model.actor.set_std(0.5)
    set_critic(model.critic, (2.0, 0.0, 1.0), (4.0, 0.0, 2.0))
    set_critic(model.critic_target, (0.0, 0.0, 1.0), (0.0, 0.0, 3.0))
    (layer,) = model.offline_objective.partition.layers
    with th.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(th.tensor([[[3.0]], [[1.0]]]))
    model.set_phase("pretraining")
    model.draws = Given(next_policy=[[0.0, 0.0]], partition_policy=[[1.0, 0.0]], policy=[[0.0, 0.0]])
    return model, layer


def test_an_update_by_hand() -> None:
    model, _ = by_hand(rate=0.0)
    losses = model.update(one_transition((0.25, 0.0)))
    likelihood = PEAK - 0.125  # half a deviation from the mean
    target = 1 + 0.5 * (1 - 0.5 * PEAK)
    errors = [1 + 2 * 0.25 - target, 2 + 4 * 0.25 - target]
    assert losses["critic_loss"].item() == pytest.approx(sum(error**2 for error in errors), rel=1e-5)
    following = PEAK - 0.5  # the next action of Z's target is a deviation away
    fitted = 1 + 0.5 * (following + 1 - 0.5 * following) - likelihood
    assert losses["partition_loss"].item() == pytest.approx((3 - fitted) ** 2 + (1 - fitted) ** 2, rel=1e-5)
    assert losses["q_weight"].item() == pytest.approx(30 / 2)
    assert losses["actor_loss"].item() == pytest.approx(15 * (0.5 * PEAK - 2) - likelihood, rel=1e-5)
    assert losses["log_likelihood"].item() == pytest.approx(likelihood, rel=1e-5)
    # the gradient by the mean: -15 * 2 of the values, (0.5 - 0.25) / 0.25 of the likelihood
    assert model.actor.mu.bias.tolist() == pytest.approx([0.5 + 0.1 * 29, 0.0], rel=1e-5)


def test_z_steps_at_the_critics_rate_towards_its_target() -> None:
    model, layer = by_hand(rate=0.1)
    model.update(one_transition((0.25, 0.0)))
    # its first step of Adam is the rate; the observation is 0, so that only biases move
    assert layer.bias.flatten().tolist() == pytest.approx([2.9, 1.1], rel=1e-5)
    assert not layer.weight.any()


def test_the_loss_by_hand() -> None:
    loss, weight = F.sac_ml_loss(th.tensor([1.0, -3.0]), th.tensor([0.5, 0.25]), th.tensor([-1.0, 2.0]), 4.0)
    assert weight.item() == 2.0
    assert loss.tolist() == [2 * (0.5 - 1) + 1, 2 * (0.25 + 3) - 2]


def test_z_trains_neither_policy_nor_features() -> None:
    def learned(z: float) -> dict[str, th.Tensor]:
        model = make(objective="sac_ml", seed=3)
        with th.no_grad():
            model.offline_objective.partition.layers[-1].bias.fill_(z)
        return state(model.pretrain(dataset(), 3))

    one, other = learned(0.0), learned(50.0)
    assert differs(one, other, "offline_objective/partition")
    for name in ("policy/actor.", "policy/critic."):
        assert not differs(one, other, name)


def test_the_weight_reaches_the_policy() -> None:
    one, other = (
        state(make(objective="sac_ml", objective_kwargs={"value_weight": weight}, seed=3).pretrain(dataset(), 3))
        for weight in (0.0, 30.0)
    )
    assert differs(one, other, "policy/actor.")


def assert_begins_as_z(model: Any, partition: Any) -> None:
    """Both critics and their targets say Z(s) for whatever action."""
    obs = th.randn(5, 3)
    with th.no_grad():
        wanted = partition(model.actor.extract_features(obs, model.actor.features_extractor), th.zeros(5, 0))
        for critic in (model.critic, model.critic_target):
            assert th.allclose(critic.q_values(obs, th.rand(5, 2)), wanted, atol=1e-6)


@pytest.mark.parametrize("saved", [False, True])
def test_aca_begins_its_critics_as_z(saved: bool, tmp_path: Path) -> None:
    def aca() -> list[Any]:
        return [ActorCriticAlignment()]

    source = make(objective="sac_ml", finetuning=[] if saved else aca(), gradient_steps=0, normalize_observations=True)
    source.pretrain(dataset(), 6)
    partition = source.offline_objective.partition
    if saved:
        source.save(tmp_path / "offline")
        model = O2OSAC.load_offline(tmp_path / "offline", vec(), finetuning=aca(), device="cpu", gradient_steps=0)
        assert_same(partition.state_dict(), model.offline_objective.partition.state_dict())  # type: ignore[attr-defined]
    else:
        model = source
    model.learn(1)
    assert_begins_as_z(model, partition)
    model.gradient_steps = 1
    model.learn(8, reset_num_timesteps=False)
    obs = th.randn(4, 3)
    one, other = (model.critic.q_values(obs, th.rand(4, 2)) for _ in range(2))
    assert not th.equal(one, other)


def test_z_goes_on_in_a_recipe_that_pretrains_otherwise() -> None:
    """Arguments of pre-training that end with it make the objective anew, with what it has learned."""
    model = make(
        objective="sac_ml",
        pretrain_kwargs={"actor_max_grad_norm": None, "learning_rate": 1e-3},
        actor_max_grad_norm=0.25,
        finetuning=[ActorCriticAlignment()],
        gradient_steps=0,
    ).pretrain(dataset(), 4)
    partition = model.offline_objective.partition
    model.learn(1)
    assert model.offline_objective is not None
    assert_begins_as_z(model, partition)


def test_where_critics_get_another_shape_z_is_none_of_theirs() -> None:
    model = make(
        objective="sac_ml",
        pretrain_kwargs={"critic_layer_norm": True},
        finetuning=[ActorCriticAlignment()],
        gradient_steps=0,
    ).pretrain(dataset(), 4)
    learned = model.offline_objective.partition.state_dict()
    model.learn(1)
    fresh = model.offline_objective.partition.state_dict()
    assert len(fresh) < len(learned)
    obs = th.randn(4, 3)
    one, other = (model.critic.q_values(obs, th.rand(4, 2)) for _ in range(2))
    assert th.equal(one, other)


def test_an_ensemble_that_is_cut(tmp_path: Path) -> None:
    make(objective="sac_ml", n_critics=3).pretrain(dataset(), 3).save(tmp_path / "offline")
    model = O2OSAC.load_offline(tmp_path / "offline", vec(), n_critics=2, device="cpu", learning_starts=4)
    model.pretrain(dataset(), 2)
    model.save(tmp_path / "cut")
    again = O2OSAC.load(tmp_path / "cut", device="cpu")
    assert again.offline_objective.partition.n_members == 2  # type: ignore[attr-defined]
    assert_same(state(model), state(again))


@pytest.mark.parametrize("critics", ["aligned", "iterative"])
def test_reevaluation_by_its_rule_trains_z_as_well(critics: Any) -> None:
    callbacks = [PolicyReevaluation(2), ValueAlignment(2, critics=critics)]
    model = make(objective="sac_ml", online_objective="sac_ml", finetuning=callbacks, learning_starts=100)
    before = state(model.pretrain(dataset(), 2))
    model.learn(1)
    assert model.finished_phases == ["reevaluation", "alignment"]
    assert differs(before, state(model), "offline_objective/partition")


def test_interrupted_equals_uninterrupted(tmp_path: Path) -> None:
    def start() -> Any:
        return make(objective="sac_ml", online_objective="sac_ml").pretrain(dataset(), 3)

    whole = start().learn(16)
    start().learn(8).save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec()).learn(8, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))
    assert differs(state(make(objective="sac_ml").pretrain(dataset(), 3)), state(whole), "offline_objective/")


@pytest.mark.parametrize(
    ("build", "kwargs", "message"),
    [
        (make, {"use_sde": True}, "gSDE is not: set use_sde=False"),
        (make, {"objective_kwargs": {"value_weight": -1.0}}, "value_weight .* of at least 0, not -1.0"),
        (make_td3, {}, "sac_ml"),
    ],
)
def test_what_it_cannot_do(build: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(objective="sac_ml", **kwargs)


def test_it_is_what_the_name_says() -> None:
    assert type(make(objective="sac_ml").offline_objective) is SACMLObjective
