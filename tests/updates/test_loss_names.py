"""Losses that callbacks add have names of their own: two of one name would train one parameter, or the wrong one."""

from typing import Any

import pytest
import torch as th
from toy_tasks import assert_same, dataset, differs, make, make_td3, state

from sb3_o2o.finetuning import ConstrainedFineTuning, DualCritic, FineTuningCallback
from sb3_o2o.objectives import Batch, Penalty


class Trains(FineTuningCallback):
    """
    A parameter of its own that follows the mean action.

    :param name: of its loss and optimiser
    :param late: the optimiser is there when training has begun, not before
    """

    def __init__(self, name: str, late: bool = False, owned: bool = True):
        super().__init__()
        self.name, self.owned = name, owned
        self.parameter = th.nn.Parameter(th.zeros(()))
        self.optimizers: dict[str, th.optim.Optimizer] = {}
        if not late:
            self._on_training_start()

    def _on_training_start(self) -> None:
        if self.owned:
            self.optimizers.setdefault(self.name, th.optim.Adam([self.parameter], lr=0.1))

    def actor_penalty(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> Penalty:
        loss = (self.parameter - actions.detach().mean() - 1).pow(2)
        return Penalty(th.zeros(len(actions)), {self.name: loss}, {})


class AlsoTrains(Trains):
    """Another class, to be told apart in messages."""


@pytest.mark.parametrize("build", [make, make_td3])
def test_names_of_their_own(build: Any) -> None:
    callbacks = [Trains("one"), Trains("other")]
    build(policy_delay=1).learn(6, callback=callbacks)
    assert all(each.parameter.item() > 0.05 for each in callbacks)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("compile", [False, True])
def test_two_callbacks_of_one_name(late: bool, compile: bool) -> None:
    model = make(compile=compile)
    with pytest.raises(ValueError, match="AlsoTrains trains a loss 'one', and so does Trains: leave one of them out"):
        model.learn(6, callback=[Trains("one", late), AlsoTrains("one", late)])
    assert (model.num_timesteps == 0) is not late


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("actor", {}),
        ("ent_coef", {}),
        ("value", {"online_objective": "iql"}),
        ("lagrange", {"online_objective": "cql", "online_objective_kwargs": {"lagrange_gap": 1.0, "n_actions": 2}}),
    ],
)
def test_names_of_the_algorithm(name: str, kwargs: dict[str, Any]) -> None:
    model = make(**kwargs)
    before = state(model)
    with pytest.raises(ValueError, match=f"Trains trains a loss '{name}', and so does the algorithm"):
        model.learn(6, callback=Trains(name))
    assert_same(before, state(model))


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("actor", {}),
        ("critic", {"online_objective": "iql"}),
        ("critic", {"online_objective_kwargs": {"simultaneous": True}}),
    ],
)
def test_a_loss_in_the_place_of_the_algorithms(name: str, kwargs: dict[str, Any]) -> None:
    """Without an optimiser of that name the callback's loss would move the algorithm's networks."""
    model = make(**kwargs)
    before = state(model)
    with pytest.raises(ValueError, match=f"Two losses of one step are called '{name}'"):
        model.learn(6, callback=Trains(name, owned=False))
    assert not differs(before, state(model), "policy/actor.")


def test_ours() -> None:
    """Of both kinds: with a penalty, and with steps of critics. They are refused before hours of pre-training."""
    interval: dict[str, Any] = {"reference": "interval", "interval": 2}
    for callbacks in ([ConstrainedFineTuning(**interval), Trains("multiplier")], [Trains("one"), Trains("one")]):
        model = make(dataset=dataset(), pretrain_steps=2, finetuning=callbacks)
        with pytest.raises(ValueError, match=r"trains a loss '(multiplier|one)', and so does"):
            model.learn(6)
        assert model.n_pretrain_steps == 0
    with pytest.raises(ValueError, match=r"DualCritic"):
        make_td3(finetuning=[DualCritic(), DualCritic()]).learn(8)


class Reports(FineTuningCallback):
    """Reports a metric under a name of its own, or of somebody else's."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def actor_penalty(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> Penalty:
        return Penalty(th.zeros(len(actions)), {}, {self.name: actions.mean().detach()})


def test_metrics_of_one_name_are_refused() -> None:
    model = make(finetuning=[Reports("mean_action"), Reports("mean_action")])
    with pytest.raises(ValueError, match="Reports reports 'mean_action', which is reported in this update already"):
        model.learn(20)
    model = make(finetuning=[Reports("critic_loss")])
    with pytest.raises(ValueError, match="reports 'critic_loss', which is reported in this update already"):
        model.learn(20)
    model = make(finetuning=[Reports("one"), Reports("another")])
    model.learn(20)
    assert {"one", "another"} <= model.loop.metrics.sums.keys()
