"""Two environments that take microseconds a step: a point on a line, seen as a vector or as a goal dictionary."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

BOX, GOAL = "TinyBox-v0", "TinyGoal-v0"
EPISODE = 10


class TinyBox(gym.Env):
    """Reward is minus the distance from 0; an episode lasts ten steps."""

    def __init__(self, render_mode: str | None = None, start: float = 0.5):
        self.render_mode = render_mode
        self.start = start
        self.observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.position = self.start + 0.1 * self.np_random.standard_normal()
        self.steps = 0
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        self.position += 0.3 * float(action[0])
        self.steps += 1
        return self.observe(), -abs(self.position), False, self.steps >= EPISODE, {}

    def observe(self) -> Any:
        return np.array([self.position, self.steps / EPISODE])


class TinyGoal(TinyBox):
    """The same as a goal task: reward 1 and success near 0, where the episode ends if ``continuing_task=False``."""

    def __init__(self, render_mode: str | None = None, start: float = 0.5, continuing_task: bool = True):
        super().__init__(render_mode, start)
        self.continuing_task = continuing_task
        point = spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (2,), np.float64),
                "achieved_goal": point,
                "desired_goal": point,
            }
        )

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        observation, _, _, truncated, _ = super().step(action)
        success = abs(self.position) < 0.2
        return observation, float(success), success and not self.continuing_task, truncated, {"success": success}

    def observe(self) -> Any:
        return {
            "observation": super().observe(),
            "achieved_goal": np.array([self.position]),
            "desired_goal": np.array([0.0]),
        }


class Shifted(gym.Wrapper):
    """Reward and observation are larger."""

    def __init__(self, env: gym.Env, by: float):
        super().__init__(env)
        self.by = by

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        observation, reward, *rest = self.env.step(action)
        return observation + self.by, reward + self.by, *rest


def register() -> None:
    """Make both known to Gymnasium, once."""
    for name, entry_point in ((BOX, "tiny:TinyBox"), (GOAL, "tiny:TinyGoal")):
        if name not in gym.registry:
            gym.register(name, entry_point=entry_point)
