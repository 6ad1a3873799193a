"""Delivers hooks to the callbacks that define them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, EventCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_o2o.errors import look_up
from sb3_o2o.kinds import FUNCTION, NOTHING, instance, kind
from sb3_o2o.objectives.batch import Penalty, joined, reported

if TYPE_CHECKING:
    from sb3_o2o.objectives import Batch, LossesAndMetrics, Step

#: hooks that change the update; meant for fine-tuning
UPDATE_HOOKS = (
    "on_new_episodes",
    "act",
    "predict",
    "allow_update",
    "allow_actor_update",
    "before_collecting",
    "before_rollout",
    "before_finetuning",
    "before_updates",
    "defer_updates",
    "sample",
    "prepare",
    "critic_steps",
    "next_actions",
    "next_values",
    "td_target",
    "actor_values",
    "imitated_actions",
    "advantages",
    "actor_penalty",
    "update_targets",
    "after_update",
)
#: hooks of which one answer is taken, and what it decides
EXCLUSIVE_HOOKS = {
    "act": "which actions the environment gets",
    "predict": "which actions are predicted",
    "sample": "which transitions an update sees",
    "defer_updates": "when updates are made",
}
#: two names of what a policy follows: a callback that changes both fits objectives that ask for either
_ALTERNATIVES = {"actor_values": "advantages", "advantages": "actor_values"}
#: hooks that only look; delivered offline as well
EVENT_HOOKS = ("on_gradient_step", "on_phase_change", "on_phase_step", "on_preparation_step")


def walk(callback: BaseCallback | None) -> Iterator[BaseCallback]:
    """
    :param callback: a callback, list or event callback
    :return: it and all callbacks nested in it, which SB3 itself does not always forward events to
    """
    if callback is None:
        return
    yield callback
    children: Iterable[BaseCallback | None] = []
    if isinstance(callback, CallbackList):
        children = callback.callbacks
    elif isinstance(callback, EventCallback):
        children = [callback.callback, getattr(callback, "callback_on_new_best", None)]
    for child in children:
        yield from walk(child)


def _are_callbacks(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, BaseCallback) for each in value)


#: what ``learn`` accepts
CALLBACK = instance("a callback", BaseCallback) | kind("a list of callbacks", _are_callbacks) | FUNCTION | NOTHING
AnyCallback = Annotated[MaybeCallback, CALLBACK]


def as_list(callback: MaybeCallback) -> list[BaseCallback]:
    """
    :param callback: what ``learn`` accepts
    :return: the callbacks
    """
    if callback is None:
        return []
    if type(callback) is CallbackList:
        return [each for inner in callback.callbacks for each in as_list(inner)]
    if isinstance(callback, BaseCallback):
        return [callback]
    if isinstance(callback, Iterable):
        return list(callback)
    return [ConvertCallback(callback)]


def refuse_conflicts(callbacks: Iterable[BaseCallback | None]) -> None:
    """
    :param callbacks: of one run, with all that is nested in them; one that is named twice is one
    :raises ValueError: if two decide what only one can, because both answer an exclusive hook or both say that they do
        (``FineTuningCallback.exclusive``)
    """
    deciders: dict[str, BaseCallback] = {}
    for callback in (each for given in callbacks for each in walk(given)):
        answered = [what for name, what in EXCLUSIVE_HOOKS.items() if overrides(callback, name)]
        for what in (*answered, *getattr(callback, "exclusive", ())):
            other = deciders.setdefault(what, callback)
            if other is not callback:
                one, two = type(other).__name__, type(callback).__name__
                who = f"Two {one}" if one == two else f"{one} and {two}"
                raise ValueError(
                    f"{who} would both decide {what}, which only one can: leave one of them out."
                    f"{look_up('Two callbacks decide the same')}"
                )


def refuse_unheard(callbacks: Iterable[BaseCallback | None]) -> None:
    """
    :param callbacks: given to ``pretrain``
    :raises ValueError: if one only changes online updates, which ``pretrain`` does not make
    """
    for callback in (each for given in callbacks for each in walk(given)):
        overridden = [name for name in (*UPDATE_HOOKS, *EVENT_HOOKS) if overrides(callback, name)]
        if overridden and not any(_hears_offline(callback, name) for name in overridden):
            raise ValueError(
                f"{type(callback).__name__} changes online updates ({', '.join(overridden)}), and pretrain makes none: "
                "give it to learn, to load_offline or to the constructor."
            )


class Hooks:
    """The callbacks of a run, sorted by the hooks that they override."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[Any]] = {name: [] for name in (*UPDATE_HOOKS, *EVENT_HOOKS)}

    def deliver_to(self, callbacks: Iterable[BaseCallback], offline: bool = False) -> None:
        """
        :param callbacks: in the order in which they are asked
        :param offline: deliver only the hooks that look, as during pre-training
        """
        unique = list(dict.fromkeys(callbacks))
        for name, listeners in self._by_name.items():
            # in place: compiled updates hold on to what they were compiled with
            listeners[:] = [
                callback
                for callback in unique
                if (not offline or _hears_offline(callback, name)) and overrides(callback, name)
            ]

    def callbacks(self) -> list[Any]:
        """:return: all that override a hook, each once"""
        return list(dict.fromkeys(each for listeners in self._by_name.values() for each in listeners))

    def listening(self, name: str) -> list[Any]:
        """
        :param name: a hook
        :return: the callbacks that override it
        """
        return self._by_name[name]

    def defined(self, name: str) -> list[Any]:
        """
        :param name: a hook
        :return: the bound methods of the callbacks that override it
        """
        return [getattr(callback, name) for callback in self._by_name[name]]

    def answer(self, name: str, *arguments: Any) -> Any:
        """
        :param name: an exclusive hook
        :param arguments: its arguments
        :return: what the callback that overrides it says, or None where there is none
        """
        for method in self.defined(name):
            return method(*arguments)
        return None

    def call(self, name: str, *arguments: Any) -> None:
        """
        :param name: a hook
        :param arguments: its arguments
        """
        for method in self.defined(name):
            method(*arguments)

    def refuse(
        self,
        names: Iterable[str],
        objective: str,
        advice: str = "choose another online_objective, or leave the callback out",
    ) -> None:
        """
        :param names: hooks that an objective never asks
        :param objective: its class, for the error message
        :param advice: what to do about it
        :raises ValueError: if a callback overrides one of them, and so would do nothing
        """
        unused = set(names)
        for name in names:
            other = _ALTERNATIVES.get(name)
            for callback in self._by_name.get(name, []):
                if other is not None and other not in unused and callback in self._by_name[other]:
                    continue
                raise ValueError(
                    f"{type(callback).__name__} changes {name}, which {objective} never asks for: {advice}."
                )

    def allow_update(self) -> bool:
        """:return: whether every callback lets gradient steps follow. All are asked: some count."""
        return all([method() for method in self.defined("allow_update")])

    def allow_actor_update(self) -> bool:
        """:return: whether every callback lets the actor step"""
        return all([method() for method in self.defined("allow_actor_update")])

    def critic_steps(self, batch: Batch) -> Iterator[Step]:
        """See :class:`~sb3_o2o.finetuning.FineTuningCallback`."""
        for method in self.defined("critic_steps"):
            yield from method(batch)

    def prepare(self, batch: Batch) -> Batch:
        """See :class:`~sb3_o2o.finetuning.FineTuningCallback`."""
        for method in self.defined("prepare"):
            batch = method(batch)
        return batch

    def next_actions(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """See :class:`~sb3_o2o.finetuning.FineTuningCallback`."""
        for method in self.defined("next_actions"):
            actions = method(actions, log_prob, batch)
        return actions

    def next_values(self, values: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch) -> th.Tensor:
        """See :class:`~sb3_o2o.finetuning.FineTuningCallback`."""
        for method in self.defined("next_values"):
            values = method(values, actions, log_prob, batch)
        return values

    def td_target(self, target: th.Tensor, batch: Batch) -> th.Tensor:
        """See :class:`~sb3_o2o.finetuning.FineTuningCallback`."""
        for method in self.defined("td_target"):
            target = method(target, batch)
        return target

    def actor_values(self, values: th.Tensor, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """See :class:`~sb3_o2o.finetuning.FineTuningCallback`."""
        for method in self.defined("actor_values"):
            values = method(values, actions, batch)
        return values

    def imitated_actions(self, actions: th.Tensor, batch: Batch) -> th.Tensor:
        """See :class:`~sb3_o2o.finetuning.FineTuningCallback`."""
        for method in self.defined("imitated_actions"):
            actions = method(actions, batch)
        return actions

    def advantages(self, advantages: th.Tensor, batch: Batch) -> th.Tensor:
        """See :class:`~sb3_o2o.finetuning.FineTuningCallback`."""
        for method in self.defined("advantages"):
            advantages = method(advantages, batch)
        return advantages

    def actor_losses(
        self, loss: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None, batch: Batch
    ) -> LossesAndMetrics:
        """
        :param loss: of the policy, per sample, ``(B,)``
        :param actions: see :class:`~sb3_o2o.finetuning.FineTuningCallback`
        :param log_prob: likewise
        :param batch: likewise
        :return: the actor's loss with the penalties of all callbacks, the losses of these callbacks' own parameters,
            and their metrics
        """
        losses: dict[str, th.Tensor] = {}
        metrics: dict[str, th.Tensor] = {}
        for method in self.defined("actor_penalty"):
            penalty = method(actions, log_prob, batch)
            if isinstance(penalty, Penalty):
                losses = joined(losses, penalty.losses)
                metrics = reported(metrics, penalty.metrics, type(method.__self__).__name__)
                penalty = penalty.values
            loss = loss + penalty
        return joined({"actor": loss.mean()}, losses), metrics

    def optimizers(self, taken: Iterable[str] = ()) -> dict[str, th.optim.Optimizer]:
        """
        :param taken: names of the losses of the algorithm and its objective
        :return: the optimisers of callbacks that train parameters of their own, by the names of their losses
        :raises ValueError: if two have the same name, so that one would not step, or on the other's loss
        """
        merged: dict[str, th.optim.Optimizer] = {}
        owners = dict.fromkeys(taken, "the algorithm")
        for callback in dict.fromkeys(self._training()):
            for name, optimizer in getattr(callback, "optimizers", {}).items():
                if name in owners:
                    raise ValueError(
                        f"{type(callback).__name__} trains a loss {name!r}, and so does {owners[name]}: leave one of "
                        "them out, or give the callback's loss and optimiser another name."
                    )
                owners[name], merged[name] = type(callback).__name__, optimizer
        return merged

    def follows(self) -> dict[str, str]:
        """:return: for such an optimiser the name of that of the algorithm's whose learning rate it has"""
        merged: dict[str, str] = {}
        for callback in self._training():
            merged.update(getattr(callback, "follows", {}))
        return merged

    def _training(self) -> list[Any]:
        return [*self._by_name["critic_steps"], *self._by_name["actor_penalty"]]


def _hears_offline(callback: BaseCallback, name: str) -> bool:
    return name in EVENT_HOOKS or (name == "after_update" and getattr(callback, "hears_offline_updates", False))


def overrides(callback: BaseCallback, name: str) -> bool:
    """
    :param callback: any
    :param name: a hook
    :return: whether it does something there
    """
    method = getattr(callback, name, None)
    return method is not None and not getattr(method, "is_no_op", False)
