"""One compiled graph for a function, and the short way into it once it is there."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from typing import Any

import torch as th

Function = Callable[[tuple[Any, ...]], Any]


def can_differentiate() -> bool:
    """:return: whether this torch compiles the backward pass as a part of the graph"""
    import torch._dynamo.config as dynamo

    return hasattr(dynamo, "trace_autograd_ops")


def forward_graph(function: Function) -> Function:
    """
    :param function: of one tuple of arguments
    :return: the same, compiled where that can be done, in pieces if need be, to be differentiated by autograd
    """
    return th.compile(_own_code(function), dynamic=False, options={"guard_filter_fn": _keep_guards})


def whole_graph(function: Function, device: th.device) -> Function:
    """
    :param function: of one tuple of arguments; may ask autograd for gradients
    :param device: where its parameters are
    :return: the same as one compiled graph; raises torch's ``Unsupported`` where that cannot be
    """
    import torch._dynamo.config as dynamo

    from sb3_o2o.updates.graph_passes import SplitBias

    # that products return the layout that torch promises need not be checked at every update
    options: dict[str, Any] = {"guard_filter_fn": _keep_guards, "size_asserts": False}
    if device.type == "cpu":
        options["post_grad_custom_post_pass"] = SplitBias()
        if sys.platform == "linux":  # measured there; a GPU does not wait for the Python that calls its kernels
            options["cpp_wrapper"] = True
    own = _own_code(function)
    compiled = th.compile(own, fullgraph=True, dynamic=False, options=options)
    graphs = _CompiledGraphs(own)

    def call(arguments: tuple[Any, ...]) -> Any:
        graph = graphs.find(arguments)
        if graph is not None:
            return graph(arguments)
        # for the time of the call; other code keeps its setting
        before, dynamo.trace_autograd_ops = dynamo.trace_autograd_ops, True
        try:
            result = compiled(arguments)
        finally:
            dynamo.trace_autograd_ops = before
        graphs.collect()
        return result

    return call


class _CompiledGraphs:
    """
    What torch has compiled of a function. Its own way there prepares for compiling at every call, which takes as long
    as a layer of a small network: a graph whose guards say that it fits is called directly. (``set_stance`` of
    ``torch.compiler`` is a part of that way, and not asked.)

    :param function: as it was given to ``torch.compile``; takes one argument
    """

    def __init__(self, function: types.FunctionType):
        self.function = function
        self.argument = function.__code__.co_varnames[0]
        self.entries: list[tuple[Any, types.FunctionType]] = []

    def find(self, arguments: tuple[Any, ...]) -> Function | None:
        """
        :param arguments: of the function
        :return: the graph for them; None if there is none yet
        """
        if not self.entries:
            return None
        closure = zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=True)
        scope = {self.argument: arguments, **{name: cell.cell_contents for name, cell in closure}}
        for guards, graph in self.entries:
            # torch takes the entry away when the graph is no longer valid
            if guards.cache_entry is not None and guards.check(scope):
                return graph
        return None

    def collect(self) -> None:
        """Look up what has been compiled by now. Where torch keeps it elsewhere, its own way is taken."""
        from torch._dynamo.eval_frame import _debug_get_cache_entry_list

        self.entries = []
        for entry in _debug_get_cache_entry_list(self.function.__code__):
            guards = getattr(entry, "guard_manager", None)
            if not hasattr(guards, "cache_entry") or not hasattr(guards, "check"):
                return
            function = self.function
            graph = types.FunctionType(
                entry.code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
            )
            self.entries.append((guards, graph))


def _own_code(function: Function) -> types.FunctionType:
    """torch keeps its compiled graphs by code object: shared by all objectives, they would soon be too many."""
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace(co_name=f"{function.__name__}_{id(function)}")
    copy = types.FunctionType(code, function.__globals__, function.__name__, closure=function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


#: the model's own networks: their layers do not change between two updates
_NETWORKS = re.compile(r"_model\[0\]\.(actor|critic|policy)(_target)?\b")


def _keep_guards(guards: list[Any]) -> list[bool]:
    """
    What torch checks before each call. The model's networks, classes and modules' globals do not change between two
    updates, and checking hundreds of them takes as long as a layer. Constants of objectives and callbacks may change,
    and so may the networks that callbacks hold: they stay guarded.
    """
    return [
        not (guard.name.startswith("G[") or "__mro__" in guard.name or _NETWORKS.search(guard.name)) for guard in guards
    ]
