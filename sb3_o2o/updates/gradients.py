"""Losses and their gradients, in one compiled graph where asked."""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cache
from operator import attrgetter
from typing import Any

import torch as th

from sb3_o2o.errors import warn
from sb3_o2o.objectives import Step
from sb3_o2o.updates.graphs import can_differentiate, forward_graph, whole_graph

Tensors = dict[str, th.Tensor]
Parameters = Mapping[str, list[th.nn.Parameter]]


def losses_and_gradients(
    function: Callable[..., tuple[Tensors, Tensors]], parameters: Parameters, arguments: tuple[Any, ...]
) -> tuple[Tensors, Tensors, list[list[th.Tensor | None]]]:
    """
    :param function: returns losses by the name of their optimiser, and metrics
    :param parameters: what each optimiser trains
    :param arguments: of the function
    :return: losses, metrics, and for each loss the gradients of its optimiser's parameters: no others are formed, so
        that the critics stay frozen in the actor's step
    """
    losses, metrics = function(*arguments)
    gradients: list[list[th.Tensor | None]] = []
    for index, (name, loss) in enumerate(losses.items(), start=1):
        trained = [parameter for parameter in parameters[name] if parameter.requires_grad]
        # where some are frozen, a loss may reach none of the others; otherwise that is a mistake, which torch names
        found: Iterator[th.Tensor | None] = iter([None] * len(trained))
        if trained and (loss.requires_grad or len(trained) == len(parameters[name])):
            found = iter(th.autograd.grad(loss, trained, retain_graph=index < len(losses), allow_unused=True))
        # ``None`` for a parameter that is frozen, or that the loss does not reach
        gradients.append([next(found) if parameter.requires_grad else None for parameter in parameters[name]])
    return {name: loss.detach() for name, loss in losses.items()}, metrics, gradients


class GradientFunctions:
    """
    Runs the steps of objectives: as they stand, or compiled, forward and backward pass as one graph. The optimisers
    stay outside: torch's fused kernels are faster than what a compiler makes of their formulas.

    :param compile: compile with ``torch.compile``
    :param verbose: 1 says what was compiled and how long it took
    """

    def __init__(self, compile: bool, verbose: int = 0):
        self.compile = compile
        self.verbose = verbose
        #: spent waiting for the compiler
        self.compile_seconds = 0.0
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, step: Step, parameters: Parameters) -> tuple[Tensors, Tensors, list[list[th.Tensor | None]]]:
        """
        :param step: what to compute
        :param parameters: what the optimiser of each loss trains
        :return: see :func:`losses_and_gradients`
        """
        if not self.compile or step.eager:
            return losses_and_gradients(step.function, parameters, step.arguments)
        # what is trained is part of the graph: parameters may be frozen, and callbacks bring and take their own
        trained = [(name, *map(id, each), *map(_is_trained, each)) for name, each in parameters.items()]
        # bound methods compare by their object and function
        key = (step.function, *trained, *map(_size, step.arguments))
        compiled = self._compiled.get(key)
        if compiled is None:
            return self._first_call(key, step, parameters)
        try:
            return compiled(step.arguments)
        except Exception as error:
            from torch._dynamo import exc

            if not isinstance(error, exc.Unsupported | exc.FailOnRecompileLimitHit):
                raise
            # a callback that came later, or a number that is another one at every update
            return self._first_call(key, step, parameters, error)

    def _first_call(
        self, key: tuple[Any, ...], step: Step, parameters: Parameters, error: Exception | None = None
    ) -> tuple[Tensors, Tensors, list[list[th.Tensor | None]]]:
        """``error`` is why there cannot be one graph, if that is known."""
        from torch._dynamo import exc  # seconds to import, and few need it
        from torch._inductor.exc import InductorError

        _keep_freed_memory()
        started = time.perf_counter()
        name = step.function.__name__.strip("_").replace("_", " ")
        try:
            with _spinner(f"Compiling {name} …"):
                if error is None:
                    try:
                        compiled = compile_step(step.function, parameters)
                        result = compiled(step.arguments)
                    except exc.Unsupported as unsupported:
                        error = unsupported
                if error is not None:
                    _warn_of_pieces(name, error)
                    compiled = compile_step(step.function, parameters, in_pieces=True)
                    result = compiled(step.arguments)
        except InductorError as broken:
            needed = "compile=True needs a C++ compiler, on a GPU also Triton"
            warn(f"{needed}; going on without. ({_first_line(broken)})")
            self.compile = False
            return losses_and_gradients(step.function, parameters, step.arguments)
        self._compiled[key] = compiled
        seconds = time.perf_counter() - started
        self.compile_seconds += seconds
        if self.verbose:
            print(f"Compiled {name} in {seconds:.1f} s")
        return result


_is_trained = attrgetter("requires_grad")


def _size(argument: Any) -> Any:
    if isinstance(argument, th.Tensor):
        return argument.shape
    return len(argument) if hasattr(argument, "__len__") else None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _warn_of_pieces(name: str, error: Exception) -> None:
    advice = " Hold numbers that change with every update in tensors." if "imit" in type(error).__name__ else ""
    warn(f"compile=True: {name} cannot be one graph, going on in pieces.{advice} ({_first_line(error)})")


def compile_step(
    function: Callable[..., tuple[Tensors, Tensors]], parameters: Parameters, in_pieces: bool = False
) -> Callable[[tuple[Any, ...]], tuple[Tensors, Tensors, list[list[th.Tensor | None]]]]:
    """
    :param function: see :func:`losses_and_gradients`
    :param parameters: likewise
    :param in_pieces: leave what cannot be compiled to Python, and the backward pass to autograd
    :return: a compiled function of the arguments
    """
    if in_pieces or not can_differentiate():
        # an older torch compiles what is differentiated, and differentiates by itself
        forward = forward_graph(lambda arguments: function(*arguments))
        return lambda arguments: losses_and_gradients(lambda *_: forward(arguments), parameters, ())

    def whole(arguments: tuple[Any, ...]) -> Any:
        return losses_and_gradients(function, parameters, arguments)

    return whole_graph(whole, next(iter(parameters.values()))[0].device)


@cache
def _keep_freed_memory() -> None:
    """
    Let the C library keep what is freed instead of giving it back to the system after every update: asking again for
    the megabytes of a conservative update costs a sixth of it. Only glibc has the switch.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold, most = -1, -3, 2**31 - 1
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, most)
        libc.mallopt(mmap_threshold, most)


def _spinner(text: str) -> AbstractContextManager[Any]:
    """Only where somebody is looking: nothing is written to a file or a pipe."""
    from rich.console import Console

    # a console of its own: another progress bar may be running on the common one
    return Console(file=sys.stderr).status(text)
