"""Adam with less to do between two steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


class _Lists(NamedTuple):
    """What one fused step of a parameter group works on."""

    parameters: list[th.Tensor]
    averages: list[th.Tensor]
    squares: list[th.Tensor]
    counter: th.Tensor


class FusedAdam(th.optim.Adam):
    """
    ``torch.optim.Adam(fused=True)`` with the same numbers and the same state. The networks here are small: what
    torch's step does around its kernel (sorting tensors, counting each parameter's steps) costs more than the kernel.
    The lists are made once, and all parameters of a group share one step counter.

    :param params: parameters, or groups of them
    :param kwargs: of ``torch.optim.Adam``
    """

    _lists: list[_Lists] | None = None

    def __init__(self, params: Any, **kwargs: Any):
        super().__init__(params, **{"fused": True, **kwargs})

    @th.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """
        :param closure: see ``torch.optim.Adam``
        :return: the closure's loss, if there is one
        """
        if closure is not None or not self._is_ready():
            self._part_counters()
            loss = super().step(closure)
            self._lists = self._share_counters()
            return loss
        self._advance()
        return None

    @th.no_grad()
    def quick_step(self) -> None:
        """:meth:`step` without torch's wrapper around it, which calls hooks and names the step for profilers."""
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        if hooks or _global_optimizer_pre_hooks or _global_optimizer_post_hooks or not self._is_ready():
            self.step()
        else:
            self._advance()

    def _advance(self) -> None:
        assert self._lists is not None
        for group, lists in zip(self.param_groups, self._lists, strict=True):
            lists.counter.add_(1)
            th._fused_adam_(
                lists.parameters,
                [parameter.grad for parameter in lists.parameters],  # type: ignore[misc]
                lists.averages,
                lists.squares,
                [],
                [lists.counter] * len(lists.parameters),
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
            )

    def _is_ready(self) -> bool:
        """Whether the lists still describe this optimiser: its state may have been loaded or cleared."""
        if self._lists is None or len(self._lists) != len(self.param_groups):
            return False
        for group, lists in zip(self.param_groups, self._lists, strict=True):
            if len(group["params"]) != len(lists.parameters):
                return False
            for parameter, average in zip(lists.parameters, lists.averages, strict=True):
                state = self.state.get(parameter, {})
                is_known = state.get("step") is lists.counter and state.get("exp_avg") is average
                if not is_known or parameter.grad is None:
                    return False
        return True

    def _part_counters(self) -> None:
        """torch counts each parameter by itself: a shared counter would be counted once for each."""
        seen: set[int] = set()
        for state in self.state.values():
            if "step" in state:
                if id(state["step"]) in seen:
                    state["step"] = state["step"].clone()
                seen.add(id(state["step"]))

    def _share_counters(self) -> list[_Lists] | None:
        """:return: the lists of all groups; None where a fused step would not do the same as torch's"""
        for group in self.param_groups:
            other_formula = group["amsgrad"] or group.get("decoupled_weight_decay", False)
            if other_formula or not group["fused"] or not group["params"]:
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
            lists.append(_Lists(list(group["params"]), averages, squares, counter))
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
