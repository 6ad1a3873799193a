"""Made-up episodes, whose values say where they belong, and a small environment."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float64)
DICT = spaces.Dict({"goal": spaces.Box(-np.inf, np.inf, (1,), np.float64), "state": BOX})
ACTIONS = spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([2.0, 3.0], np.float32))


class WalkEnv(gym.Env[Any, np.ndarray]):
    """
    A point on a line: the action moves it, beyond 1 it has arrived (reward 1, terminated), otherwise the reward is 0.

    :param dictionary: whether observations are dictionaries
    :param limit: steps until an episode is truncated
    """

    def __init__(self, dictionary: bool = False, limit: int = 12) -> None:
        self.dictionary, self.limit = dictionary, limit
        self.observation_space = DICT if dictionary else BOX
        self.action_space = ACTIONS

    def _observe(self) -> Any:
        state = np.array([self.position, float(self.steps)])
        return {"goal": np.ones(1), "state": state} if self.dictionary else state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.steps = float(self.np_random.uniform(-0.1, 0.1)), 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position += 0.3 * float(action[0])
        self.steps += 1
        arrived = self.position > 1.0
        return self._observe(), float(arrived), arrived, self.steps >= self.limit, {}


def observation(episode: int, step: int) -> list[float]:
    """The observation of a step of the made-up episodes: all are different."""
    return [float(episode), step + 0.25]


def make_episode(index: int, length: int, terminated: bool, dictionary: bool = False) -> EpisodeBuffer:
    """
    An episode whose values say where they belong: reward ``10 * index + step``, actions that walk through the space.

    :param index: number of the episode
    :param length: number of transitions
    :param terminated: whether it terminates; otherwise its last step has no flag at all
    :param dictionary: whether observations are dictionaries
    """
    state = np.array([observation(index, step) for step in range(length + 1)])
    steps = np.arange(length)
    actions = np.stack([-2.0 + 4.0 * steps / max(length - 1, 1), np.full(length, 1.0)], axis=1).astype(np.float32)
    flags = np.zeros(length, dtype=bool)
    flags[-1] = terminated
    return EpisodeBuffer(
        observations={"goal": state[:, :1] + 0.5, "state": state} if dictionary else state,
        actions=actions,
        rewards=(10.0 * index + steps).tolist(),
        terminations=flags.tolist(),
        truncations=np.zeros(length, dtype=bool).tolist(),
    )


def make_arrays(length: int = 6) -> dict[str, Any]:
    """Arrays of one episode that terminates, actions in [-1, 1], rewards 0, 1, 2, ..."""
    rows = np.array([observation(0, step) for step in range(length + 1)])
    return {
        "observations": rows[:-1],
        "actions": np.linspace(-1.0, 1.0, 2 * length).reshape(length, 2),
        "rewards": np.arange(length, dtype=np.float64),
        "next_observations": rows[1:],
        "terminations": np.arange(length) == length - 1,
        "truncations": np.zeros(length, dtype=bool),
    }
