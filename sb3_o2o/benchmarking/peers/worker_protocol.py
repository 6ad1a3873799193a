"""
How a worker talks with the benchmark: one JSON document per line, questions on stdin, answers on stdout.

=============================================  ==========================================================
question                                       answer
=============================================  ==========================================================
(none: the worker starts)                      ``{"versions": {...}}``
``{"prepare": work, "options": {...}}``        ``{"ready": {...}}`` after warm-up, or ``{"unavailable": why}``
``{"run": updates}``                           ``{"seconds": s, "updates": n, "cores": c, "parts": {...}}``
``{"sample": batches}``                        ``{"seconds": s}``, or ``{"seconds": null}`` where that is not apart
(end of stdin)                                 (the worker ends)
=============================================  ==========================================================

This file needs the standard library and NumPy alone, since it also runs in the environments of other libraries.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EPISODE_LENGTH = 1000


class Unavailable(Exception):
    """The library cannot do this work; the message says why."""


@dataclass
class Contestant:
    """
    One piece of work, ready to run.

    :param run: makes at least so many updates, waits until they are done, and says how many and in how many seconds
    :param sample: draws so many batches as an update does; None where sampling cannot be told apart
    :param differs: what it does otherwise than the row says, as fields of the row
    :param note: the same for people
    :param extra: further measurements
    :param parts: says what the last run was made of, in seconds and in numbers; nothing by default
    """

    run: Callable[[int], tuple[int, float]]
    sample: Callable[[int], None] | None = None
    differs: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    parts: Callable[[], dict[str, float]] = dict


def timed(action: Callable[[], Any]) -> float:
    """
    :param action: something to do
    :return: seconds that it took
    """
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def serve(build: Callable[[dict[str, Any], dict[str, Any]], Contestant], versions: dict[str, str]) -> None:
    """
    Answer questions until stdin ends.

    :param build: makes a contestant of a row and options; raises :class:`Unavailable`
    :param versions: of the libraries that are measured
    """
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not come between the answers

    def answer(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    answer({"versions": {"python": sys.version.split()[0], "numpy": np.__version__, **versions}})
    contestant: Contestant | None = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if "prepare" in question:
                contestant = None  # frees the last one before the next is built
                contestant = build(question["prepare"], question["options"])
                answer({"ready": _warmed_up(contestant, question["options"]["warm_up"])})
            else:
                assert contestant is not None
                answer(_run(contestant, question["run"]) if "run" in question else _sample(contestant, question))
        except Unavailable as reason:
            answer({"unavailable": str(reason)})
        except Exception:
            answer({"error": traceback.format_exc()})


def _warmed_up(contestant: Contestant, updates: int) -> dict[str, Any]:
    """The first updates, which compile: their time is told apart."""
    seconds = timed(lambda: contestant.run(updates))
    return {
        "warm_up_seconds": seconds,
        "differs": contestant.differs,
        "note": contestant.note,
        "extra": contestant.extra,
    }


def _run(contestant: Contestant, updates: int) -> dict[str, Any]:
    started, cpu = time.perf_counter(), time.process_time()
    made, seconds = contestant.run(updates)
    cores = (time.process_time() - cpu) / max(time.perf_counter() - started, 1e-9)
    return {"seconds": seconds, "updates": made, "cores": cores, "parts": contestant.parts()}


def _sample(contestant: Contestant, question: dict[str, Any]) -> dict[str, Any]:
    sample = contestant.sample
    return {"seconds": None if sample is None else timed(lambda: sample(question["sample"]))}


def random_data(work: dict[str, Any]) -> dict[str, np.ndarray]:
    """
    The same random transitions for everybody, in episodes that end by truncation.

    :param work: a row
    :return: ``observations (episodes, length + 1, obs)``, ``actions (episodes, length, act)`` in [-1, 1] and
        ``rewards (episodes, length)``, float32
    """
    generator = np.random.default_rng(0)
    length = min(EPISODE_LENGTH, work["n_transitions"])
    episodes = work["n_transitions"] // length
    return {
        "observations": generator.standard_normal((episodes, length + 1, work["observation_dim"]), np.float32),
        "actions": generator.uniform(-0.99, 0.99, (episodes, length, work["action_dim"])).astype(np.float32),
        "rewards": generator.standard_normal((episodes, length), np.float32),
    }


def flat_data(work: dict[str, Any]) -> dict[str, np.ndarray]:
    """
    :param work: a row
    :return: :func:`random_data` as transitions, ``(N, ...)``, with ``next_observations`` and ``truncations``
    """
    data = random_data(work)
    observations, count = data["observations"], data["rewards"].size
    truncations = np.zeros(data["rewards"].shape, dtype=bool)
    truncations[:, -1] = True
    return {
        "observations": observations[:, :-1].reshape(count, -1),
        "next_observations": observations[:, 1:].reshape(count, -1),
        "actions": data["actions"].reshape(count, -1),
        "rewards": data["rewards"].reshape(count),
        "truncations": truncations.reshape(count),
    }


def environment(work: dict[str, Any]) -> Any:
    """
    :param work: a row
    :return: a Gymnasium environment with the row's spaces, which is never stepped
    """
    import gymnasium as gym

    class SpacesOnly(gym.Env):  # type: ignore[type-arg, unused-ignore]
        observation_space = gym.spaces.Box(-np.inf, np.inf, (work["observation_dim"],), np.float32)
        action_space = gym.spaces.Box(-1.0, 1.0, (work["action_dim"],), np.float32)

    return SpacesOnly()


def fill_replay_buffer(buffer: Any, work: dict[str, Any]) -> None:
    """
    :param buffer: Stable-Baselines3's replay buffer (SBX uses the same), of ``n_transitions`` rows for one environment
    :param work: a row
    """
    data = flat_data(work)
    for name in ("observations", "next_observations", "actions", "rewards"):
        getattr(buffer, name)[:, 0] = data[name]
    buffer.dones[:, 0] = buffer.timeouts[:, 0] = data["truncations"]
    buffer.pos, buffer.full = 0, True


def chunks(updates: int, size: int) -> Iterator[int]:
    """
    :param updates: to be made, at least
    :param size: updates per call
    :return: ``size`` so often that it suffices
    """
    for _ in range(-(-updates // size)):
        yield size
