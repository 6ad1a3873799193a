"""Adam with less to do between two steps, and gradients as its kernels need them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import is_
from typing import Any, NamedTuple

import torch as th
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


class _Lists(NamedTuple):
    """What one fused step of a parameter group works on; all of one parameter lie in memory alike."""

    parameters: list[th.Tensor]
    strides: list[tuple[int, ...]]
    states: list[dict[str, th.Tensor]]
    averages: list[th.Tensor]
    squares: list[th.Tensor]
    counter: th.Tensor


class _Group(NamedTuple):
    """A parameter group that is about to step."""

    settings: dict[str, Any]
    lists: _Lists
    gradients: list[th.Tensor]


def set_gradients(
    parameters: Iterable[th.Tensor],
    gradients: Iterable[th.Tensor | None],
    optimizer: th.optim.Optimizer | None = None,
) -> None:
    """
    Give parameters their gradients. torch's fused kernels walk through memory and ignore strides: a gradient that
    lies in memory otherwise than its parameter, as a derivative of a derivative may, would step other weights.

    :param parameters: of any optimisers
    :param gradients: of the same shapes; None where there is none
    :param optimizer: of all of them; one of this module looks at strides by itself, and once is enough
    """
    looks = type(optimizer) is FusedAdam
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient if looks or gradient is None else in_layout_of(parameter, gradient)


def in_layout_of(parameter: th.Tensor, values: th.Tensor) -> th.Tensor:
    """
    :param parameter: whose layout is wanted
    :param values: of the same shape: a gradient, or an optimiser's moment
    :return: the values, copied only where their strides are not the parameter's
    """
    if values.is_sparse or values.stride() == parameter.stride():
        return values
    return th.empty_like(parameter, memory_format=th.preserve_format).copy_(values.detach())


def _has_gaps(parameter: th.Tensor) -> bool:
    """Whether other values lie between its own, as in a slice of columns: a kernel would walk through these as well."""
    return th.empty_like(parameter, memory_format=th.preserve_format).stride() != parameter.stride()


#: adding a tensor takes half the time of adding a number, which becomes one
_ONE = th.ones((), device="cpu")


class FusedAdam(th.optim.Adam):
    """
    ``torch.optim.Adam(fused=True)`` with the same numbers and the same state. The networks here are small: what
    torch's step does around its kernel (sorting tensors, counting each parameter's steps) costs more than the kernel.
    The lists are made once, and all parameters of a group share one step counter.

    :param params: parameters, or groups of them
    :param kwargs: of ``torch.optim.Adam``
    """

    _lists: list[_Lists] | None = None
    #: the state of every parameter when the lists were made
    _known: list[dict[str, th.Tensor]]

    def __init__(self, params: Any, **kwargs: Any):
        super().__init__(params, **{"fused": True, **kwargs})

    @th.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """
        :param closure: see ``torch.optim.Adam``
        :return: the closure's loss, if there is one
        """
        loss = None
        if closure is not None:
            with th.enable_grad():
                loss = closure()
        groups = self._ready_groups()
        if groups is None:
            self._part_counters()
            self._lay_out()
            _adam_step(self)
            self._lists = self._share_counters()
        else:
            _step_groups(groups)
        return loss

    def _quick_groups(self) -> list[_Group] | None:
        """The groups, if they can step without torch's wrapper, which calls hooks and names the step for profilers."""
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        if hooks or _global_optimizer_pre_hooks or _global_optimizer_post_hooks:
            return None
        return self._ready_groups()

    def _ready_groups(self) -> list[_Group] | None:
        """The groups, unless the lists no longer describe this optimiser: its state may have been loaded or cleared."""
        if self._lists is None or len(self._lists) != len(self.param_groups) or len(self.state) != len(self._known):
            return None
        if not all(map(is_, self.state.values(), self._known)):  # no look-up: hashing a tensor is slow
            return None
        groups = []
        for settings, lists in zip(self.param_groups, self._lists, strict=True):
            parameters = settings["params"]
            if len(parameters) != len(lists.parameters) or _is_other_formula(settings):
                return None
            for state, average, square in zip(lists.states, lists.averages, lists.squares, strict=True):
                if state.get("step") is not lists.counter or state.get("exp_avg") is not average:
                    return None
                if state.get("exp_avg_sq") is not square:
                    return None
            gradients = []
            for parameter, known, stride in zip(parameters, lists.parameters, lists.strides, strict=True):
                gradient = parameter.grad
                if parameter is not known or gradient is None or parameter.stride() != stride:
                    return None
                gradients.append(gradient if gradient.stride() == stride else in_layout_of(parameter, gradient))
            groups.append(_Group(settings, lists, gradients))
        return groups

    def _part_counters(self) -> None:
        """torch counts each parameter by itself: a shared counter would be counted once for each."""
        seen: set[int] = set()
        for state in self.state.values():
            if "step" in state:
                if id(state["step"]) in seen:
                    state["step"] = state["step"].clone()
                seen.add(id(state["step"]))

    def _lay_out(self) -> None:
        """Give gradients and moments the layout of their parameters, which may have changed since they were made."""
        for group in self.param_groups:
            set_gradients(group["params"], [parameter.grad for parameter in group["params"]])
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                    if name in state:
                        state[name] = in_layout_of(parameter, state[name])
            if any(map(_has_gaps, group["params"])):
                group["fused"] = False  # the plain formula asks for strides

    def _share_counters(self) -> list[_Lists] | None:
        """:return: the lists of all groups; None where a fused step would not do the same as torch's"""
        if any(_is_other_formula(group) or not group["params"] for group in self.param_groups):
            return None
        lists = []
        for group in self.param_groups:
            states = [self.state.get(parameter) for parameter in group["params"]]
            if not all(states):
                return None  # a parameter without a gradient, so far
            counts = [float(state["step"]) for state in states if state]
            if len(set(counts)) > 1:
                return None
            counter = states[0]["step"]  # type: ignore[index]
            for state in states:
                state["step"] = counter  # type: ignore[index]
            averages, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))  # type: ignore[index]
            strides = [parameter.stride() for parameter in group["params"]]
            lists.append(_Lists(list(group["params"]), strides, states, averages, squares, counter))  # type: ignore[arg-type]
        self._known = list(self.state.values())
        return lists

    def state_dict(self) -> dict[str, Any]:
        """:return: as ``torch.optim.Adam``: a counter for each parameter"""
        saved = super().state_dict()
        states = {
            key: {name: value.clone() if name == "step" else value for name, value in state.items()}
            for key, state in saved["state"].items()
        }
        return {**saved, "state": states}

    def load_state_dict(self, state_dict: Any) -> None:
        """
        :param state_dict: of this class or of ``torch.optim.Adam``
        """
        flags = {name: self.param_groups[0][name] for name in ("fused", "foreach", "capturable", "differentiable")}
        groups = [{**group, **flags} for group in state_dict["param_groups"]]  # how to step is this optimiser's affair
        super().load_state_dict({**state_dict, "param_groups": groups})
        self._lists = None


def _is_other_formula(group: dict[str, Any]) -> bool:
    """Whether a group steps by another formula than this module's kernel."""
    return group["amsgrad"] or not group["fused"] or group.get("decoupled_weight_decay", False)


def _adam_step(optimizer: th.optim.Adam) -> None:
    """torch's own step, without calling the hooks: those of the sub-class's step have been called."""
    step: Any = th.optim.Adam.step
    if getattr(step, "hooked", False):  # wrapped by torch when the first ``torch.optim.Adam`` was made
        step = step.__wrapped__
    step(optimizer)


@th.no_grad()
def step_all(optimizers: Iterable[th.optim.Optimizer]) -> None:
    """
    Step several optimisers whose gradients are there. Those of this module that have the same settings share a kernel.

    :param optimizers: of different parameters
    """
    groups: list[_Group] = []
    for optimizer in optimizers:
        found = optimizer._quick_groups() if type(optimizer) is FusedAdam else None
        if found is None:
            optimizer.step()
        else:
            groups += found
    _step_groups(groups)


def _step_groups(groups: list[_Group]) -> None:
    alike: dict[tuple[Any, ...], list[_Group]] = {}
    for group in groups:
        settings = group.settings
        group.lists.counter.add_(_ONE)
        key = (*settings["betas"], *(settings[name] for name in ("lr", "weight_decay", "eps", "maximize")))
        alike.setdefault((*key, group.lists.counter.device), []).append(group)
    for (beta1, beta2, lr, weight_decay, eps, maximize, _), members in alike.items():
        th._fused_adam_(
            [parameter for group in members for parameter in group.lists.parameters],
            [gradient for group in members for gradient in group.gradients],
            [average for group in members for average in group.lists.averages],
            [square for group in members for square in group.lists.squares],
            [],
            [group.lists.counter for group in members for _ in group.lists.parameters],
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=maximize,
        )
