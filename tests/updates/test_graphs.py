"""A compiled graph is called directly, and never where it does not fit."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch as th
import torch._dynamo
from torch.fx.experimental.proxy_tensor import make_fx

from sb3_o2o.updates.graphs import can_differentiate, whole_graph

CPU = th.device("cpu")
pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.skipif(not can_differentiate(), reason="this torch compiles the forward pass only"),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compiled, and which calls went through ``torch.compile``."""
    seen: list[str] = []
    compiler = th.compile

    def backend(graph: Any, _: Any, **__: Any) -> Any:
        seen.append("compiled")
        return graph.forward

    def traced(function: Any, **kwargs: Any) -> Any:
        compiled = compiler(function, backend=backend, **kwargs)

        def call(*arguments: Any) -> Any:
            seen.append("called")
            return compiled(*arguments)

        return call

    monkeypatch.setattr(th, "compile", traced)
    return seen


def scaled(holder: Any) -> Any:
    """A compiled function of a tensor and of a constant that somebody else may change."""
    return whole_graph(lambda arguments: holder.scale * arguments[0].sum(), CPU)


def test_the_second_call_goes_straight_to_the_graph(calls: list[str]) -> None:
    function = scaled(SimpleNamespace(scale=2.0))
    assert [float(function((th.full((3,), value),))) for value in (1.0, 5.0, 7.0)] == [6.0, 30.0, 42.0]
    assert calls == ["called", "compiled"]


def test_a_constant_that_changed_has_a_graph_of_its_own(calls: list[str]) -> None:
    holder, ones = SimpleNamespace(scale=2.0), (th.ones(3),)
    function = scaled(holder)
    assert float(function(ones)) == 6.0
    holder.scale = 3.0
    assert [float(function(ones)) for _ in range(2)] == [9.0, 9.0]
    holder.scale = 2.0
    assert float(function(ones)) == 6.0
    assert calls == ["called", "compiled"] * 2


@pytest.mark.parametrize("other", [th.ones(4), th.ones(3, dtype=th.float64), th.ones(6)[::2]])
def test_other_tensors_have_a_graph_of_their_own(calls: list[str], other: th.Tensor) -> None:
    function = scaled(SimpleNamespace(scale=2.0))
    function((th.ones(3),))
    result = function((other,))
    assert float(result) == 2.0 * len(other)
    assert result.dtype == other.dtype
    assert calls == ["called", "compiled"] * 2


def test_inputs_that_were_one_tensor_and_are_two(calls: list[str]) -> None:
    function = whole_graph(lambda arguments: (arguments[0] * arguments[1]).sum(), CPU)
    ones, fives = th.ones(3), th.full((3,), 5.0)
    assert [float(function(pair)) for pair in ((ones, ones), (ones, fives), (ones, ones))] == [3.0, 15.0, 3.0]
    assert calls == ["called", "compiled"] * 2


def test_a_reset_of_the_compiler_is_noticed(calls: list[str]) -> None:
    function = scaled(SimpleNamespace(scale=2.0))
    function((th.ones(3),))
    torch._dynamo.reset()
    assert float(function((th.ones(3),))) == 6.0
    assert calls == ["called", "compiled"] * 2


def test_gradients_can_be_part_of_a_graph(calls: list[str]) -> None:
    weight = th.nn.Parameter(th.tensor([1.0, 2.0]))
    function = whole_graph(lambda arguments: th.autograd.grad((weight**2 * arguments[0]).sum(), [weight]), CPU)
    for _ in range(2):
        (gradient,) = function((th.tensor([1.0, 3.0]),))
        assert gradient.tolist() == [2.0, 12.0]
    assert calls == ["called", "compiled"]
    assert torch._dynamo.config.trace_autograd_ops is False  # other code keeps its setting


def test_where_torch_keeps_its_graphs_elsewhere(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.eval_frame, "_debug_get_cache_entry_list", lambda _: [SimpleNamespace()])
    function = scaled(SimpleNamespace(scale=2.0))
    assert [float(function((th.ones(3),))) for _ in range(2)] == [6.0, 6.0]
    assert calls == ["called", "compiled", "called"]


def test_a_bias_is_taken_out_of_a_linear_layer() -> None:
    from sb3_o2o.updates.graph_passes import SplitBias

    layer, rows = th.nn.Linear(3, 2), th.randn(5, 3)
    graph = make_fx(lambda rows: layer(rows).relu(), tracing_mode="fake", _allow_non_fake_inputs=True)(rows)
    assert "addmm" in graph.code
    SplitBias()(graph.graph)
    graph.recompile()
    assert "addmm" not in graph.code
    th.testing.assert_close(graph(rows), layer(rows).relu())


def test_a_linear_layer_that_scales_is_left_alone() -> None:
    from sb3_o2o.updates.graph_passes import SplitBias

    arguments = th.randn(2), th.randn(4, 3), th.randn(3, 2)
    graph = make_fx(lambda *each: th.addmm(*each, beta=2.0), tracing_mode="fake")(*arguments)
    before = graph.code
    SplitBias()(graph.graph)
    graph.recompile()
    assert graph.code == before
