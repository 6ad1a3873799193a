"""Gradients of an update: eager, compiled and in pieces give the same, and nothing compiles twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch as th
from combinations import Setting, build
from toy_tasks import dataset, make, make_ppo, make_td3

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives import Batch
from sb3_o2o.updates import gradients
from sb3_o2o.updates.loop import parameters_of

pytestmark = pytest.mark.usefixtures("fresh_compiler")
#: |compiled - eager| <= TOLERANCE: float32, sums in another order; a step of Adam changes a weight by 3e-4
TOLERANCE = 2e-5
WSRL = {"n_critics": 4, "critic_subset": 2, "critic_layer_norm": True, "policy_delay": 2, "actor_batch": "block"}
SETTINGS: dict[str, dict[str, Any]] = {
    "sac": {},
    "fixed temperature": {"ent_coef": 0.2},
    "wsrl": {**WSRL, "gradient_steps": 4, "online_objective_kwargs": {"entropy_at_next": True}},
    "cql": {"objective": "cql", "objective_kwargs": {"n_actions": 3, "lagrange_gap": 0.5}},
    "calql": {"objective": "calql", "objective_kwargs": {"n_actions": 3, "max_target_backup": True}, "n_critics": 3},
    "edac": {"objective": "edac", "n_critics": 3},
    "perturbed": {"finetuning": [{"PerturbedTargets": {"sigma": 0.3}}]},
    "expansion": {"online_objective": "iql", "finetuning": ["PolicyExpansion"]},
    "alignment": {"finetuning": ["ActorCriticAlignment"], "actor_max_grad_norm": 0.1},
    "ensemble": {
        "n_critics": 4,
        "actor_critics": "pairs",
        "online_objective_kwargs": {"target_reduction": "pairs"},
        "policy_kwargs": {"net_arch": [8], "n_actors": 2, "norm_after_activation": True},
        "critic_layer_norm": True,
    },
    "sac_ml": {"objective": "sac_ml", "n_critics": 3},
    "bc": {"objective": "bc"},
    "bc_mse": {"objective": "bc", "objective_kwargs": {"loss": "mse"}},
}


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Trace as for compiling, but run the graphs as they are: the same breaks and guards in a tenth of the time."""
    graphs: list[Any] = []

    def backend(graph: Any, _: Any, **__: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiler = th.compile

    def traced(function: Any, **kwargs: Any) -> Any:
        return compiler(function, backend=backend, **kwargs)

    monkeypatch.setattr(th, "compile", traced)
    return graphs


def train(model: O2OSAC, steps: int = 3) -> dict[str, th.Tensor]:
    """Some updates of both phases; the weights afterwards."""
    if model.objective != "sac":
        model.pretrain(dataset(), steps)
    model.learn(8 + steps, reset_num_timesteps=True)
    return model.policy.state_dict()


def assert_close(found: dict[str, th.Tensor], expected: dict[str, th.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert th.allclose(found[name], value, atol=TOLERANCE), name


class PlainAdam:
    """Follows every step with torch's plain Adam, from the same weights and with the gradients that were formed."""

    def __init__(self, rate: float = 3e-4):
        self.rate, self.n_steps = rate, 0
        self._twins: dict[int, tuple[list[th.nn.Parameter], th.optim.Adam]] = {}
        self._expected: list[tuple[list[th.nn.Parameter], list[th.nn.Parameter]]] = []
        self._formed = gradients.GradientFunctions.__call__

    def __call__(self, functions: Any, step: Any, parameters: Any) -> Any:
        self.compare()
        losses, metrics, found = self._formed(functions, step, parameters)
        for name, values in zip(losses, found, strict=True):
            key, ours = id(parameters[name][0]), parameters[name]
            if key not in self._twins:
                twins = [th.nn.Parameter(th.empty_like(each)) for each in ours]
                self._twins[key] = twins, th.optim.Adam(twins, lr=self.rate, foreach=False, fused=False)
            twins, optimizer = self._twins[key]
            for parameter, twin, value in zip(ours, twins, values, strict=True):
                twin.data.copy_(parameter.data)
                twin.grad = None if value is None else value.clone()
            optimizer.step()
            self._expected.append((ours, twins))
        return losses, metrics, found

    def compare(self) -> None:
        """The steps that were made since the last call."""
        for ours, twins in self._expected:
            for parameter, twin in zip(ours, twins, strict=True):
                assert th.allclose(parameter, twin, atol=1e-3 * self.rate), parameter.shape
        self.n_steps += len(self._expected)
        self._expected = []


@pytest.mark.parametrize("name", ["wsrl", "cql", "edac"])
def test_compiled_is_eager(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights, and each step is a plain one: what the compiler returns has strides of its own."""
    eager, plain = train(make(**SETTINGS[name])), PlainAdam()
    monkeypatch.setattr(gradients.GradientFunctions, "__call__", lambda *arguments: plain(*arguments))
    assert_close(train(make(**SETTINGS[name], compile=True)), eager)
    plain.compare()
    assert plain.n_steps > 6


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_objective_is_one_graph(name: str, traced_only: list[Any]) -> None:
    """``fullgraph`` raises at a break; each loss function is traced once, both phases together."""
    expected = train(make(**SETTINGS[name]))
    model = make(**SETTINGS[name], compile=True)
    assert_close(train(model), expected)
    assert len(traced_only) == len(model.loop.gradients._compiled) > 0


def test_rebrac_is_one_graph_in_either_phase(traced_only: list[Any]) -> None:
    """Its targets pay for unlike actions offline alone, so that the critics' losses are traced twice."""
    settings: dict[str, Any] = {"objective": "rebrac", "online_objective": "rebrac"}
    expected = train(make_td3(**settings))  # type: ignore[arg-type]
    assert_close(train(make_td3(**settings, compile=True)), expected)  # type: ignore[arg-type]
    assert len(traced_only) == 3


@pytest.mark.parametrize(("family", "objective"), [("sac", "cql"), ("td3", "iql"), ("ppo", "awac"), ("ppo", "iql")])
def test_images_are_one_graph(family: str, objective: str, traced_only: list[Any], tmp_path: Path) -> None:
    """Whether a space is of images is asked of its bounds, which are arrays of NumPy and no part of a graph."""
    eager = Setting("images")
    compiled = replace(eager, arguments=(("compile", True),))
    expected, model = (
        build(family, each, tmp_path, objective=objective).pretrain(None, 2) for each in (eager, compiled)
    )
    assert_close(model.policy.state_dict(), expected.policy.state_dict())
    assert len(traced_only) == len(model.loop.gradients._compiled) > 0


@pytest.mark.parametrize("objective", ["bc", "iql", "awac"])
def test_objectives_of_ppo_are_one_graph(objective: str, traced_only: list[Any]) -> None:
    expected = make_ppo(objective=objective).pretrain(dataset(), 3)
    model = make_ppo(objective=objective, compile=True).pretrain(dataset(), 3)
    assert_close(model.policy.state_dict(), expected.policy.state_dict())
    assert len(traced_only) == len(model.loop.gradients._compiled) > 0


def test_the_time_to_compile_is_told(traced_only: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = make(compile=True, verbose=1)
    model.learn(8, log_interval=1)
    output = capsys.readouterr()
    assert "Compiled critic losses in" in output.out
    assert "compile_seconds" in output.out
    assert "Compiling" not in output.err  # a spinner is for terminals
    assert model.loop.gradients.compile_seconds > 0


def test_learning_again_compiles_nothing(traced_only: list[Any]) -> None:
    model = make(**SETTINGS["wsrl"], compile=True)
    model.learn(12)
    n_graphs = len(traced_only)
    model.learn(12)
    model.learn(12, reset_num_timesteps=False)
    assert len(traced_only) == n_graphs


def test_spot_is_one_graph_each_while_its_weight_falls(traced_only: list[Any]) -> None:
    kwargs = {"density_steps": 4, "density_net_arch": [8], "cooldown_steps": 20, "n_samples": 2}
    arguments: dict[str, Any] = {"objective": "spot", "online_objective": "spot", "objective_kwargs": kwargs}
    eager, compiled = (
        make_td3(**arguments, compile=choice).pretrain(dataset(), 4).learn(12) for choice in (False, True)
    )
    assert_close(compiled.policy.state_dict(), eager.policy.state_dict())
    assert len(traced_only) == len(compiled.loop.gradients._compiled) == 3  # density, critic, actor


class Bonus(FineTuningCallback):
    """Adds a number to the values that are backed up."""

    def __init__(self, bonus: Any):
        super().__init__()
        self.bonus = bonus

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor, batch: Batch) -> th.Tensor:
        return values + self.bonus


def critic_change(compile: bool, bonuses: list[Any]) -> list[th.Tensor]:
    """First layer of the critics after one update with each bonus."""
    callback, changes = Bonus(bonuses[0]), []
    model = make(compile=compile, finetuning=[callback], learning_starts=8)
    for index, bonus in enumerate(bonuses):
        if isinstance(bonus, th.Tensor):
            callback.bonus.copy_(bonus)
        else:
            callback.bonus = bonus
        model.learn(9 if index == 0 else 1, reset_num_timesteps=index == 0)
        changes.append(model.critic.ensemble.layers[0].weight.detach().clone())  # type: ignore[operator]
    return changes


def test_an_annealed_tensor_compiles_once(traced_only: list[Any]) -> None:
    bonuses = [th.tensor(value) for value in (0.0, 1.0, 2.0, 3.0)]
    compiled = critic_change(True, [each.clone() for each in bonuses])
    n_graphs = len(traced_only)
    assert n_graphs == 2  # critic, actor
    eager = critic_change(False, [each.clone() for each in bonuses])
    for found, expected in zip(compiled, eager, strict=True):
        assert th.allclose(found, expected, atol=TOLERANCE)


def test_a_constant_that_changes_is_noticed(traced_only: list[Any]) -> None:
    compiled, eager = (critic_change(choice, [0.0, 5.0, -5.0]) for choice in (True, False))
    for found, expected in zip(compiled, eager, strict=True):
        assert th.allclose(found, expected, atol=TOLERANCE)
    assert not th.allclose(eager[1], eager[2])


def test_a_constant_that_changes_all_the_time_goes_on_in_pieces(traced_only: list[Any]) -> None:
    """torch stops compiling anew after a few times; the run goes on, and says what to do about it."""
    bonuses = [float(number) for number in range(14)]
    with pytest.warns(UserWarning, match="Hold numbers that change with every update in tensors"):
        compiled = critic_change(True, bonuses)
    for found, expected in zip(compiled, critic_change(False, bonuses), strict=True):
        assert th.allclose(found, expected, atol=TOLERANCE)


class Scale(th.nn.Module):
    """A network of a callback, with a number that the callback may change."""

    factor = 1.0

    def forward(self, values: th.Tensor) -> th.Tensor:
        return values * self.factor


class Scales(FineTuningCallback):
    """Passes the values that are backed up through a network of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = th.nn.Sequential(Scale())

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor, batch: Batch) -> th.Tensor:
        return self.network(values)


def test_networks_of_callbacks_stay_guarded(traced_only: list[Any]) -> None:
    def trained(compile: bool) -> dict[str, th.Tensor]:
        callback = Scales()
        model = make(compile=compile, finetuning=[callback], learning_starts=8).learn(10)
        callback.network[0].factor = 50.0
        model.learn(2, reset_num_timesteps=False)
        callback.network = th.nn.Sequential(Scale(), th.nn.Tanh())
        return model.learn(2, reset_num_timesteps=False).policy.state_dict()

    assert_close(trained(True), trained(False))


def test_frozen_parameters_stay_and_the_rest_is_trained(traced_only: list[Any]) -> None:
    weights = []
    for choice in (False, True):
        model = make(compile=choice, learning_starts=4).learn(6)
        first: Any = model.actor.latent_pi[0]
        first.weight.requires_grad_(False)
        before = first.weight.clone()
        model.learn(4, reset_num_timesteps=False)
        assert th.equal(first.weight, before)
        weights.append(model.policy.state_dict())
    assert_close(weights[1], weights[0])


def test_fewer_critics_after_training(traced_only: list[Any]) -> None:
    weights = []
    for choice in (False, True):
        model = make(compile=choice, n_critics=3).learn(8)
        model.keep_critics(2)
        model.learn(4, reset_num_timesteps=False)
        weights.append(model.policy.state_dict())
        state = model.critic.optimizer.state_dict()["state"]
        assert {len(each["exp_avg"]) for each in state.values()} == {2}
    assert_close(weights[1], weights[0])


def test_too_few_critics_change_nothing() -> None:
    model = make(objective="edac", n_critics=3, critic_subset=None)
    with pytest.raises(ValueError, match="n_critics=1 is too few: the offline objective needs 2"):
        model.keep_critics(1)
    assert model.n_critics == len(model.critic.ensemble.layers[0].weight) == 3  # type: ignore[arg-type]


class Breaks(FineTuningCallback):
    """A hook that no compiler can follow."""

    def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        return values * float(str(values.mean().item())[:1] != "x")


def test_a_hook_that_breaks_the_graph_runs_in_pieces(quick_compiler: None) -> None:
    eager = make(finetuning=[Breaks()]).learn(8).policy.state_dict()
    model = make(finetuning=[Breaks()], compile=True)
    with pytest.warns(UserWarning, match=r"actor losses cannot be one graph, going on in pieces"):
        model.learn(8)
    assert_close(model.policy.state_dict(), eager)


def test_a_hook_that_breaks_the_graph_later(traced_only: list[Any]) -> None:
    """The objective goes on from pre-training, where no hook was asked."""
    settings = {"objective": "cql", "online_objective": "cql", "objective_kwargs": {"n_actions": 2}}
    eager = make(**settings, finetuning=[Breaks()]).pretrain(dataset(), 2).learn(8).policy.state_dict()
    model = make(**settings, finetuning=[Breaks()], compile=True).pretrain(dataset(), 2)
    with pytest.warns(UserWarning, match="cannot be one graph, going on in pieces"):
        model.learn(8)
    assert_close(model.policy.state_dict(), eager)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import InductorError

    def broken(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> Any:
            raise InductorError(RuntimeError("no g++ here"), None)

        return call

    eager = make().learn(8).policy.state_dict()
    monkeypatch.setattr(th, "compile", broken)
    model = make(compile=True)
    with pytest.warns(UserWarning, match="needs a C\\+\\+ compiler") as warned:
        model.learn(8)
    assert len(warned) == 1  # and not at every update
    assert_close(model.policy.state_dict(), eager)


def test_an_older_torch_compiles_the_forward_pass(monkeypatch: pytest.MonkeyPatch, traced_only: list[Any]) -> None:
    eager = make().learn(8).policy.state_dict()
    whole = gradients.compile_step
    monkeypatch.setattr(gradients, "compile_step", lambda *args: whole(*args, in_pieces=True))
    assert_close(make(compile=True).learn(8).policy.state_dict(), eager)
    assert traced_only


def test_only_the_optimisers_own_parameters_get_gradients() -> None:
    model = make(objective="cql", objective_kwargs={"n_actions": 2})
    model.pretrain(dataset(), 1)
    batch = model.sample_batch(4)
    step = next(model.offline_objective.steps(batch, batch))
    parameters = {name: parameters_of(optimizer) for name, optimizer in model.optimizers().items()}
    before = {name: None if p.grad is None else p.grad.clone() for name, p in model.policy.named_parameters()}
    losses, _, found = gradients.losses_and_gradients(step.function, parameters, step.arguments)
    assert [len(each) for each in found] == [len(parameters[name]) for name in losses]
    assert all(not loss.requires_grad for loss in losses.values())
    after = dict(model.policy.named_parameters())  # nothing is accumulated on the way
    for name, value in before.items():
        assert (after[name].grad is None) == (value is None)
        assert value is None or th.equal(after[name].grad, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(SETTINGS))
def test_nothing_is_created_on_another_device(name: str) -> None:
    """Whatever does not say where it belongs ends on the default device: here one that cannot be mixed with others."""
    model = make(**SETTINGS[name])
    train(model)
    with th.device("meta"):
        if model.objective != "sac":
            model.pretrain(None, 2)
        model.learn(4, reset_num_timesteps=False)
    assert all(value.device.type == "cpu" for value in model.policy.state_dict().values())


@pytest.mark.parametrize("compile", [False, True])
def test_bf16_keeps_what_must_be_exact(compile: bool, traced_only: list[Any]) -> None:
    model = make(precision="bf16", compile=compile, objective="cql", objective_kwargs={"n_actions": 3})
    model.pretrain(dataset(), 2)
    batch = model.sample_batch(6)
    step = next(model.offline_objective.steps(batch, batch))
    parameters = {name: parameters_of(optimizer) for name, optimizer in model.optimizers().items()}
    losses, metrics, found = model.loop.gradients(step, parameters)
    exact = [*losses.values(), *metrics.values(), *model.policy.state_dict().values()]
    exact += [gradient for each in found for gradient in each if gradient is not None]
    exact += [value for state in model.critic.optimizer.state.values() for value in state.values()]
    actions, log_prob = model.actor.rsample(batch.observations, th.zeros(6, 2))
    exact += [actions, log_prob, model.critic.q_values(batch.observations, batch.actions)]
    assert {value.dtype for value in exact if value.is_floating_point()} == {th.float32}


def test_bf16_products_are_rounded() -> None:
    exact, rounded = make(), make(precision="bf16")
    rounded.policy.load_state_dict(exact.policy.state_dict())
    exact.learn(5)
    batch = exact.sample_batch(8)
    with th.no_grad():
        values = [model.critic.q_values(batch.observations, batch.actions) for model in (make(), rounded)]
    assert not th.equal(*values)
    assert th.allclose(*values, atol=2e-2)
