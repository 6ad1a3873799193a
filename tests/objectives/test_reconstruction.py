"""Reconstruction and constraint: every formula by hand, and the deterministic alignment put together from them."""

from typing import Any

import pytest
import torch as th
from toy_tasks import dataset, make, make_td3

from sb3_o2o.networks import frozen_copy
from sb3_o2o.objectives import DeterministicAlignmentObjective, ReevaluationObjective
from sb3_o2o.objectives import finetuning_functional as FF


def tensor(*values: float) -> th.Tensor:
    return th.tensor(values)


def test_values_are_aligned_with_the_anchor_or_stay_below() -> None:
    # 5 - 0.5 * (2 - (-4)) = 2 < 3;  5 - 0.5 * (2 - 1) = 4.5 > 3
    found = FF.aligned_values(tensor(5, 5), tensor(2, 2), tensor(-4, 1), tensor(3, 3), 0.5)
    assert found.tolist() == [2.0, 3.0]


def test_distance_is_per_dimension_and_clamped() -> None:
    found = FF.action_distance(th.tensor([[0.1, 0.3], [1.0, 1.0]]), th.tensor([[0.1, 0.1], [0.0, 0.0]]), 0.2)
    assert found.tolist() == pytest.approx([0.2 / 2**0.5, 0.2])


def test_values_shrink_whatever_their_sign() -> None:
    # 1 + 2 * 0.5^2 = 1.5
    found = FF.shrunk_values(tensor(3, -3, 0), tensor(0.5, 0.5, 0.5), 2.0)
    assert found.tolist() == pytest.approx([2.0, -4.5, 0.0])


def test_divergence_has_a_floor() -> None:
    assert FF.divergence_estimate(tensor(1, 1), tensor(0.5, -80), -50.0).tolist() == [0.5, 51.0]


def test_violations_weigh_more() -> None:
    # 0.3 * 2 = 0.6 and 0.7 * -1 = -0.7; at 0 the constraint is not satisfied with room
    assert FF.asymmetric_slack(tensor(2, -1), 0.7).item() == pytest.approx(-0.05)
    assert FF.asymmetric_slack(tensor(0), 0.7).item() == 0.0


@pytest.mark.parametrize(("slack", "rises"), [(0.4, False), (-0.4, True)])
def test_a_violated_constraint_raises_its_multiplier(slack: float, rises: bool) -> None:
    logarithm = th.tensor(0.5, requires_grad=True)
    loss = FF.multiplier_loss(logarithm, th.tensor(slack))
    assert loss.item() == pytest.approx(slack * 1.6487213)
    (gradient,) = th.autograd.grad(loss, logarithm)
    assert (gradient.item() < 0) == rises


class TestDeterministicAlignment:
    """Critics and policies are constants, so that all numbers can be worked out."""

    def losses(self, values: dict[str, Any], noise: float, own: float, anchor: float) -> dict[str, float]:
        model = make_td3(seed=0)
        reference = frozen_copy(model.actor)
        objective = DeterministicAlignmentObjective(model, reference)
        model.actor.forward = lambda obs: th.full((len(obs), 2), own, requires_grad=True)  # type: ignore[method-assign]
        reference.forward = lambda obs: th.full((len(obs), 2), anchor)

        def table(first: Any, second: Any) -> Any:
            # the first of a pair is the policy's action, the second the anchor
            return lambda obs, actions, members=None: th.tensor([first, second]).T[:, None].expand(2, len(obs), 2)

        model.critic.q_values = table(*values["critics"])
        model.critic_target.q_values = table(*values["targets"])
        model.critic.q1_forward = lambda obs, actions: th.full((len(obs), 1), values["policy"], requires_grad=True)  # type: ignore[method-assign]
        batch = make_td3().pretrain(dataset(), 1).sample_batch(4)
        found, metrics = objective.alignment_losses(batch, th.full((4, 2), noise))
        return {name: value.item() for name, value in {**found, **metrics}.items()}

    def test_positive_values(self) -> None:
        # noise 1 * 0.2 = 0.2, so the distance is clamped at 0.2: T = 6 / (1 + 0.04); targets of the action are 7 and 5
        values = {"critics": ([4.0, 4.5], [6.5, 7.0]), "targets": ([7.0, 5.0], [6.0, 8.0]), "policy": 3.0}
        found = self.losses(values, noise=1.0, own=0.3, anchor=0.1)
        shrunk = 6 / 1.04
        assert found["aligned_loss"] == pytest.approx((4 - shrunk) ** 2 + (4.5 - 5) ** 2, rel=1e-5)
        assert found["anchored_loss"] == pytest.approx(0.5**2 + 1.0**2)
        assert found["critic"] == pytest.approx(found["aligned_loss"] + found["anchored_loss"])
        assert found["actor"] == -3.0

    def test_negative_values(self) -> None:
        # without noise the distance is 0.1: T = -6 * 1.01
        values = {"critics": ([-4.0, -4.0], [-6.0, -6.0]), "targets": ([1.0, -7.0], [-6.0, -5.0]), "policy": -2.0}
        found = self.losses(values, noise=0.0, own=0.2, anchor=0.1)
        assert found["aligned_loss"] == pytest.approx((-4 + 6.06) ** 2 + (-4 + 7) ** 2, rel=1e-5)
        assert found["anchored_loss"] == 0.0


@pytest.mark.parametrize(("build", "online"), [(make, "cql"), (make, "bc"), (make_td3, "iql")])
def test_only_an_optimistic_rule_reevaluates(build: Any, online: str) -> None:
    with pytest.raises(ValueError, match="does not evaluate the policy optimistically"):
        ReevaluationObjective(build(online_objective=online))


def test_values_by_their_mean_magnitude() -> None:
    losses = []
    for normalize in (False, True):
        model = make_td3(online_objective_kwargs={"normalize_values": normalize})
        model.critic.q1_forward = lambda obs, actions: th.full((len(obs), 1), -4.0)  # type: ignore[method-assign]
        batch = make_td3().pretrain(dataset(), 1).sample_batch(4)
        losses.append(model.finetuning_objective.actor_losses(batch)[0]["actor"].item())  # type: ignore[operator]
    assert losses == [4.0, 1.0]
