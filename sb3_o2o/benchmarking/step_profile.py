"""Where a step of ``learn`` goes, by a clock around each of its parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

#: what is left of the loop once all parts are taken out
REST = "all else of the loop"


class PartClock:
    """
    Times methods by the processor's clock, each without what it calls of the others.

    :param clock: nanoseconds
    """

    def __init__(self, clock: Callable[[], int] = time.thread_time_ns):
        self.clock = clock
        self.nanoseconds: dict[str, int] = {}
        self._inner: list[int] = []
        self._wrapped: list[tuple[Any, str]] = []

    def time(self, owner: Any, name: str, part: str) -> None:
        """
        :param owner: an object
        :param name: of its method, which is timed from now on
        :param part: under which its time is counted
        """
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = self.clock()
            self._inner.append(0)
            try:
                return method(*args, **kwargs)
            finally:
                whole = self.clock() - started
                self.nanoseconds[part] = self.nanoseconds.get(part, 0) + whole - self._inner.pop()
                if self._inner:
                    self._inner[-1] += whole

        setattr(owner, name, timed)
        self._wrapped.append((owner, name))

    def stop(self) -> None:
        """Give all methods back."""
        for owner, name in reversed(self._wrapped):
            delattr(owner, name)
        self._wrapped = []


def step_profile(model: Any, steps: int) -> dict[str, float]:
    """
    :param model: one that has made a step, in environments of this process; its ``learn`` makes no updates
    :param steps: environment steps to make
    :return: microseconds of the processor for each of them, by part
    """
    clock, environments = PartClock(), model.env.unwrapped
    clock.time(model, "learn", REST)
    for each in environments.envs:
        clock.time(each.unwrapped, "step", "the environment itself")
    parts = {
        (environments, "step_wait"): "its wrappers, and DummyVecEnv",
        (model, "predict"): "predict",
        (model, "_sample_action"): "scaling of actions",
        (model.policy, "set_training_mode"): "training mode",
        (model.replay_buffer, "add"): "storing",
        (model, "_store_transition"): "storing",
        (model, "_update_info_buffer"): "infos of episodes",
    }
    if hasattr(model, "loop"):
        parts[model.loop.watch.env(model.env), "step"] = "looking for NaN and infinity"
    for (owner, name), part in parts.items():
        clock.time(owner, name, part)
    try:
        model.learn(steps)
    finally:
        clock.stop()
    return {part: found / steps / 1e3 for part, found in clock.nanoseconds.items()}
