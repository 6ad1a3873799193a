"""How many CPU threads a run computes with: more are slower where networks are small, or the cores not one's own."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces

if TYPE_CHECKING:
    from sb3_o2o.algorithms import OfflineToOnlineAlgorithm

#: Multiply-adds of the largest layer on one batch, below which threads cannot pay: it takes a quarter of a millisecond.
SMALL_PRODUCT = 8_000_000
#: Rows of the batch that is timed, rounds of timing, and seconds after which no further round begins.
TIMED_ROWS, ROUNDS, TIME_LIMIT = 256, 5, 0.2
#: Part of the time that more threads have to leave at most: each is a core that nobody else has.
WORTHWHILE = 0.7
#: Where a user says how many threads PyTorch may have.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Threads:
    """
    A number of threads, and why.

    :param count: CPU threads of PyTorch's operations
    :param reason: a few words for people
    """

    count: int
    reason: str

    def __str__(self) -> str:
        return f"Threads: {self.count} of {usable_cores()} cores ({self.reason})"


def usable_cores() -> int:
    """:return: cores that this process may use"""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(count: int) -> None:
    """
    :param count: CPU threads that all that follows in this process computes with
    """
    th.set_num_threads(count)


def given_threads(asked: int | None, reason: str = "as asked") -> Threads | None:
    """
    The number of threads that a user or the machine leaves no choice about.

    :param asked: what the command line was told, or a run began with; None if nothing
    :param reason: what to say of that
    :return: it, or None where it may be chosen
    """
    if asked is not None:
        return Threads(asked, reason)
    for name in VARIABLES:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return Threads(int(value), name)
    return Threads(1, "there is one") if usable_cores() == 1 else None


def choose_threads(model: "OfflineToOnlineAlgorithm") -> Threads:
    """
    The number of threads for training a model: one where its networks are small or on another device, else what a
    measurement of a few milliseconds finds. Draws no random numbers and leaves the model as it is.

    :param model: the model
    :return: how many, and why
    """
    hint = "--threads N changes it"
    if model.device.type != "cpu":
        return Threads(1, f"the networks are on {model.device.type}; {hint}")
    if _is_small(model):
        return Threads(1, f"the networks are small; {hint}")
    times = measure(lambda: _forward(model), _candidates(usable_cores()))
    best = fastest(times)
    shown = ", ".join(f"{count}: {1e3 * seconds:.1f} ms" for count, seconds in times.items())
    return Threads(best, f"measured, {shown}; {hint}")


def fastest(times: Mapping[int, float]) -> int:
    """
    :param times: number of threads, in rising order -> seconds
    :return: the number that is worth its cores: more threads than before must save :data:`WORTHWHILE`
    """
    best = next(iter(times))
    for count, seconds in times.items():
        if seconds < WORTHWHILE * times[best]:
            best = count
    return best


def measure(work: Callable[[], Any], counts: Sequence[int]) -> dict[int, float]:
    """
    Time the same work with different numbers of threads, in turn. The number of before is in force again afterwards.

    :param work: what is timed
    :param counts: numbers of threads
    :return: number of threads -> median of the seconds
    """
    before = th.get_num_threads()
    times: dict[int, list[float]] = {count: [] for count in counts}
    began = time.perf_counter()
    try:
        for number in range(ROUNDS + 1):
            if number > 1 and time.perf_counter() - began > TIME_LIMIT:
                break
            for count in counts:
                th.set_num_threads(count)
                started = time.perf_counter()
                work()
                if number > 0:  # the first round starts the threads
                    times[count].append(time.perf_counter() - started)
    finally:
        th.set_num_threads(before)
    return {count: statistics.median(seconds) for count, seconds in times.items()}


def _candidates(cores: int) -> list[int]:
    """1, 2, 4, ... and all cores."""
    return [2**power for power in range(cores.bit_length()) if 2**power < cores] + [cores]


def _is_small(model: "OfflineToOnlineAlgorithm") -> bool:
    weights = [parameter for parameter in model.policy.parameters() if parameter.dim() >= 2]
    # A convolution's weights are used at each place of an image.
    if any(parameter.dim() == 4 for parameter in weights):
        return False
    rows: int = model.batch_size  # type: ignore[attr-defined]
    return rows * max((parameter.numel() for parameter in weights), default=0) < SMALL_PRODUCT


@th.no_grad()
def _forward(model: "OfflineToOnlineAlgorithm") -> None:
    """What every update does: the networks on a batch."""
    policy: Any = model.policy
    policy.set_training_mode(False)  # each update sets its own
    observations, _ = policy.obs_to_tensor(_zeros(model.observation_space))
    actions = policy._predict(observations, deterministic=True)
    critic = getattr(policy, "critic", None)
    if critic is None:
        policy.predict_values(observations)
    else:
        critic(observations, actions)


def _zeros(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(part) for key, part in space.spaces.items()}
    return np.zeros((TIMED_ROWS, *(space.shape or ())), dtype=space.dtype)
