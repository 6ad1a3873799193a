"""Parameters that a user has frozen do not move, whatever trains, and the others are trained."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import pytest
import torch as th
from toy_tasks import assert_same, dataset, make, make_ppo, make_td3, state

from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives import SAC_OBJECTIVES, TD3_OBJECTIVES, Batch

Parameters = Callable[[Any], Iterable[th.nn.Parameter]]
KWARGS: dict[str, Any] = {
    "cql": {"n_actions": 2},
    "calql": {"n_actions": 2},
    "spot": {"density_steps": 2, "density_net_arch": [8]},
}


def actor(model: Any) -> Any:
    return model.actor.parameters()


def critic(model: Any) -> Any:
    return model.critic.parameters()


def temperature(model: Any) -> Any:
    return [model.log_ent_coef]


def mean(model: Any) -> Any:
    """All of the actor but its standard deviation, which a squared distance does not reach."""
    return chain(model.actor.latent_pi.parameters(), model.actor.mu.parameters())


def everything(model: Any) -> Any:
    return chain(model.policy.parameters(), [model.log_ent_coef])


def freeze(parameters: Iterable[th.nn.Parameter]) -> Callable[[], bool]:
    """Freeze them; the function that is returned says whether they are as they were."""
    frozen = [parameter.requires_grad_(False) for parameter in parameters]
    before = [parameter.clone() for parameter in frozen]
    assert frozen
    return lambda: all(map(th.equal, frozen, before))


@pytest.mark.parametrize("frozen", [actor, critic, temperature, mean, everything])
@pytest.mark.parametrize("objective", list(SAC_OBJECTIVES))
def test_sac(objective: str, frozen: Parameters) -> None:
    model = make(objective=objective, objective_kwargs=KWARGS.get(objective))
    stays, before = freeze(frozen(model)), state(model)
    model.pretrain(dataset(), 2)
    model.learn(6)
    assert stays()
    moved = {name for name, value in state(model).items() if name in before and not th.equal(value, before[name])}
    own_networks = {"policy/actor.mu.weight", "policy/critic.ensemble.layers.0.weight", "log_ent_coef"}
    assert (
        moved & own_networks
        == {
            actor: own_networks - {"policy/actor.mu.weight"},
            mean: own_networks - {"policy/actor.mu.weight"},
            critic: own_networks - {"policy/critic.ensemble.layers.0.weight"},
            temperature: own_networks - {"log_ent_coef"},
            everything: set(),
        }[frozen]
    )


@pytest.mark.parametrize("frozen", [actor, critic])
@pytest.mark.parametrize("objective", list(TD3_OBJECTIVES))
def test_td3(objective: str, frozen: Parameters) -> None:
    model = make_td3(objective=objective, objective_kwargs=KWARGS.get(objective))
    stays, before = freeze(frozen(model)), state(model)
    model.pretrain(dataset(), 2)
    model.learn(8)
    assert stays()
    trained = "critic.ensemble.layers.0.weight" if frozen is actor else "actor.mu.0.weight"
    assert not th.equal(model.policy.state_dict()[trained], before[f"policy/{trained}"])


@pytest.mark.parametrize("objective", ["bc", "iql"])
@pytest.mark.parametrize("part", ["actor", "value"])
def test_ppo(objective: str, part: str) -> None:
    model = make_ppo(objective=objective)
    stays = freeze(getattr(model.policy, f"{part}_parameters")())
    before = state(model)
    model.pretrain(dataset(), 2)
    model.learn(8)
    assert stays()
    trained = "value_net.weight" if part == "actor" else "action_net.weight"
    assert not th.equal(model.policy.state_dict()[trained], before[f"policy/{trained}"])


@pytest.mark.parametrize("build", [make, make_ppo])
def test_a_loss_that_reaches_nothing_that_is_trained(build: Any) -> None:
    """The squared distance of BC knows no standard deviation, and all else is frozen."""
    model = build(objective="bc", objective_kwargs={"loss": "mse"})
    network = model.policy
    parts = (
        [network.mlp_extractor, network.action_net] if build is make_ppo else [model.actor.latent_pi, model.actor.mu]
    )
    stays = freeze(parameter for part in parts for parameter in part.parameters())
    before = state(model)
    model.pretrain(dataset(), 2)
    assert stays()
    assert_same(model.policy.state_dict(), {name[7:]: each for name, each in before.items() if name[:7] == "policy/"})


def test_a_loss_without_gradient_is_a_mistake_where_nothing_is_frozen() -> None:
    class Constant(FineTuningCallback):
        def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
            return values.detach()

    with pytest.raises(RuntimeError, match="does not require grad"):
        make_td3(finetuning=[Constant()]).learn(8)


def test_parameters_of_an_objective() -> None:
    model = make(objective="cql", online_objective="cql", objective_kwargs={"n_actions": 2, "lagrange_gap": 0.5})
    stays = freeze(model.offline_objective.parameters())
    model.pretrain(dataset(), 2).learn(6)
    assert stays()
    model = make(objective="iql", online_objective="iql")
    stays = freeze(model.offline_objective.value.parameters())  # type: ignore[union-attr]
    model.pretrain(dataset(), 2).learn(6)
    assert stays()


@pytest.mark.parametrize(
    "callback",
    [
        {"ConstrainedFineTuning": {"reference": "interval", "interval": 2}},
        {"ValueAlignment": {"gradient_steps": 2}},
        {"PolicyReevaluation": {"gradient_steps": 2}},
        "DualCritic",
        "BalancedReplay",
    ],
    ids=str,
)
@pytest.mark.parametrize("frozen", [actor, critic])
@pytest.mark.parametrize("build", [make, make_td3])
def test_callbacks_that_train(build: Any, frozen: Parameters, callback: Any) -> None:
    """Re-evaluation renews critics: the frozen ones stay, and so do their targets."""
    model = build(finetuning=[callback], dataset=dataset())
    stays = freeze(frozen(model))
    model.learn(8)
    assert stays()
    if frozen is critic:
        assert_same(model.critic.state_dict(), model.critic_target.state_dict(), 1e-6)


def test_second_critics_that_are_frozen_in_part() -> None:
    phase = {"OnlinePretraining": {"collect_steps": 8, "gradient_steps": 3}}
    model = make_td3(finetuning=[phase, "DualCritic"], dataset=dataset())
    checked: list[bool] = []

    class Freezer(FineTuningCallback):
        def on_phase_change(self, old: str | None, new: str) -> None:
            if new == "opt":
                first = model.finetuning[1].critics.critic.ensemble.layers[0]  # type: ignore[union-attr,operator]
                self.stays, self.other = freeze(first.parameters()), self.last().clone()

        def last(self) -> th.Tensor:
            return model.finetuning[1].critics.critic.ensemble.layers[-1].weight.detach()  # type: ignore[union-attr,operator]

        def _on_training_end(self) -> None:
            checked.append(self.stays() and not th.equal(self.last(), self.other))

    model.learn(12, callback=Freezer())
    assert checked == [True]


def test_reevaluation_renews_what_is_not_frozen() -> None:
    model = make(finetuning=[{"PolicyReevaluation": {"gradient_steps": 1}}], dataset=dataset(), qf_learning_rate=0.0)
    layers: Any = model.critic.ensemble.layers
    stays, before = freeze(layers[0].parameters()), layers[-1].weight.clone()
    model.learn(3)
    assert stays()
    assert not th.equal(layers[-1].weight, before)


class Extractor(th.nn.Module):
    """A features extractor as users bring one that was trained elsewhere."""

    features_dim = 4

    def __init__(self, observation_space: Any):
        super().__init__()
        self.linear = th.nn.Linear(3, 4)
        self.requires_grad_(False)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(observations)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_an_extractor_that_comes_frozen(build: Any, shared: bool) -> None:
    kwargs = {"net_arch": [8], "features_extractor_class": Extractor, "share_features_extractor": shared}
    model = build(policy_kwargs=kwargs, objective="iql")
    found = [each for each in model.policy.modules() if isinstance(each, Extractor)]
    before = [each.linear.weight.clone() for each in found]
    model.pretrain(dataset(), 2).learn(8)
    targets = [each for each in model.policy.modules() if isinstance(each, Extractor)]
    assert found == targets
    assert all(th.equal(each.linear.weight, was) for each, was in zip(found, before, strict=True))


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_updates_notice_which_layers_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as before, but others: what was compiled for the first would train the wrong ones."""
    compiler = th.compile
    monkeypatch.setattr(th, "compile", lambda f, **kwargs: compiler(f, backend=lambda graph, *_, **__: graph, **kwargs))
    weights = []
    for choice in (False, True):
        model = make(compile=choice, learning_starts=4, policy_kwargs={"net_arch": [16, 16]}).learn(6)
        first, second = (model.actor.latent_pi[index] for index in (0, 2))
        for frozen, trained in ((first, second), (second, first)):
            stays, before = freeze(frozen.parameters()), trained.requires_grad_(True).weight.clone()  # type: ignore[operator]
            model.learn(2, reset_num_timesteps=False)
            assert stays()
            assert not th.equal(trained.weight, before)  # type: ignore[arg-type]
        weights.append(model.policy.state_dict())
    assert_same(weights[0], weights[1], 2e-5)
