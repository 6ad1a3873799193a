"""ReBRAC: one update by hand, the next actions of the dataset, and the weight that falls online."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch as th
from by_hand import Given, get_critic, linear_td3, one_transition, set_critic, set_mean
from toy_tasks import arrays, dataset, make_td3, vec

from sb3_o2o.data import OfflineReplayBuffer, concatenate_samples
from sb3_o2o.objectives import ReBRACObjective
from sb3_o2o.objectives import functional as F
from sb3_o2o.recipes import load_recipe

WEIGHTS = {"actor_weight": 0.5, "critic_weight": 0.25}


def build(**kwargs: Any) -> Any:
    model = linear_td3(
        objective="rebrac",
        objective_kwargs=WEIGHTS,
        online_objective="rebrac",
        actor_critics="min",
        learning_rate=0.1,
        policy_delay=1,
        tau=0.5,
        **kwargs,
    )
    set_critic(model.critic, (1.0, 0.0, 0.0), (2.0, 0.0, 0.0))
    set_critic(model.critic_target, (4.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    for actor, mean in ((model.actor, 0.0), (model.actor_target, 0.5493061)):  # tanh of it is 0.5
        set_mean(actor.mu[0], mean, 0.0)
    model.draws = Given(target_smoothing=[[1.0, -9.0]])  # 0.2 and, clipped, -0.5
    return model


@pytest.mark.parametrize("actor_critics", ["first", "min"])
def test_the_actor_maximises_what_the_model_says_and_the_recipe_says_the_minimum(actor_critics: str) -> None:
    model = make_td3(objective="rebrac", n_critics=2, actor_critics=actor_critics).pretrain(dataset(), 1)
    batch = model.sample_batch(8)
    objective: Any = model.offline_objective
    actions, values = objective.policy_values(batch)
    of_each = model.critic.q_values(batch.observations, actions)
    assert th.equal(values, of_each.amin(0) if actor_critics == "min" else of_each[0])
    assert not th.equal(of_each.amin(0), of_each[0])
    assert load_recipe("rebrac", "Hopper-v5").arguments["actor_critics"] == "min"
    assert '"min"' in (inspect.getdoc(ReBRACObjective) or "")


def test_distance_by_hand() -> None:
    actions = th.tensor([[0.5, -0.5], [1.0, 1.0]])
    assert F.behaviour_distance(actions, th.tensor([[0.0, 0.5], [th.nan, th.nan]])).tolist() == [1.25, 0.0]


def test_an_update_by_hand() -> None:
    model = build()
    model.set_phase("pretraining")
    losses = model.update(one_transition((0.5, 0.0), next_actions=[[0.5, 0.5]]))
    # a' = (0.7, -0.5): Qb = 2.8 and 1.7; |a' - a'_data|^2 = 0.04 + 1; y = 1 + (1.7 - 0.25 * 1.04) / 2 = 1.72
    assert losses["critic_loss"].item() == pytest.approx(1.22**2 + 0.72**2, rel=1e-5)
    first, second = [1 + 0.1 * 2.44 * 0.5, 0, 0.1 * 2.44], [2 + 0.1 * 1.44 * 0.5, 0, 0.1 * 1.44]
    assert get_critic(model.critic, 0) == pytest.approx(first, rel=1e-5)
    assert get_critic(model.critic, 1) == pytest.approx(second, rel=1e-5)
    # pi = 0: min Q = 0.144, so lambda Q is 1; |pi - a|^2 = 0.25
    assert losses["actor_loss"].item() == pytest.approx(0.5 * 0.25 - 1, rel=1e-5)
    assert losses["behaviour_distance"].item() == pytest.approx(0.25)
    # gradient by the mean: 2 * 0.5 * (0 - 0.5) - 2.072 / 0.144, tanh' being 1
    assert model.actor.mu[0].bias[0].item() == pytest.approx(0.1 * (0.5 + second[0] / 0.144), rel=1e-4)


def test_online_targets_pay_nothing_and_the_weight_falls() -> None:
    model = build()
    model.set_phase("finetuning")
    losses = model.update(one_transition((0.5, 0.0)))
    assert losses["critic_loss"].item() == pytest.approx(1.35**2 + 0.85**2, rel=1e-5)  # y = 1 + 1.7 / 2
    objective = model.finetuning_objective
    assert objective is model.offline_objective
    model.finetuning_run.steps_before = 0
    for steps, weight in ((0, 0.5), (250_000, 0.375), (500_000, 0.25), (2_000_000, 0.25)):
        model.num_timesteps = steps
        assert objective.current_weight() == pytest.approx(weight)
    model.update(one_transition((0.5, 0.0)))
    assert objective.imitation_weight.item() == 0.25


def test_a_batch_without_next_actions_is_an_error() -> None:
    model = build()
    model.set_phase("pretraining")
    with pytest.raises(ValueError, match="next actions"):
        model.update(one_transition((0.5, 0.0)))


def test_next_actions_stay_within_their_episode() -> None:
    data, env = dataset(), vec()
    buffer = OfflineReplayBuffer(data, env.observation_space, env.action_space, "cpu", seed=0, next_actions=True)
    samples = buffer._get_samples(np.arange(60))
    assert samples.next_actions is not None
    ends = np.arange(60) % 10 == 9
    assert samples.next_actions.isnan().all(dim=1).tolist() == ends.tolist()
    rows = np.flatnonzero(~ends)
    assert th.equal(samples.next_actions[rows], samples.actions[rows + 1])
    longer = OfflineReplayBuffer(data, env.observation_space, env.action_space, "cpu", n_steps=3, next_actions=True)
    following = longer._get_samples(np.array([0, 6, 7])).next_actions
    assert following is not None
    assert th.equal(following[:2], samples.actions[[3, 9]])
    assert following[2].isnan().all()
    mixed = concatenate_samples(samples, samples._replace(next_actions=None), 0.99)
    assert mixed.next_actions is not None
    assert mixed.next_actions[60:].isnan().all()


def test_transitions_at_time_limits_train() -> None:
    model = make_td3(objective="rebrac", objective_kwargs={"critic_weight": 5.0}, batch_size=64)
    model.pretrain(arrays(), 4)
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"actor_weight": -1.0}, "actor_weight .* of at least 0"),
        ({"anneal_to": 2.0}, "anneal_to"),
        ({"anneal_steps": 0}, "anneal_steps"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_td3(objective="rebrac", objective_kwargs=kwargs)
