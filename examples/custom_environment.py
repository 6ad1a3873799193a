"""An environment of your own, registered as Gymnasium wants it; recorded episodes of it; and both phases.

python examples/custom_environment.py
"""

from typing import Any

import gymnasium as gym
import numpy as np
import typer
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC, OfflineDataset
from sb3_o2o.evaluation import evaluate


class Thermostat(gym.Env[np.ndarray, np.ndarray]):
    """Keep a room at 20 degrees: heat it by the action, while the weather cools it."""

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)  # temperature, weather
        self.action_space = spaces.Box(0.0, 5.0, (1,), np.float32)  # any bounds: policies work on [-1, 1]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.room, self.weather, self.steps = self.np_random.normal(15.0, 2.0), self.np_random.uniform(-5.0, 10.0), 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.room += float(action[0]) + 0.1 * (self.weather - self.room)
        self.steps += 1
        frozen, late = bool(self.room < 0.0), self.steps >= 50  # an end that is one, and a time limit that is none
        return self._observe(), -abs(self.room - 20.0) / 10, frozen, late and not frozen, {}

    def _observe(self) -> np.ndarray:
        return np.array([(self.room - 20.0) / 10, self.weather / 10], np.float32)


def record(env: gym.Env, episodes: int) -> list[dict[str, Any]]:
    """Episodes as a controller's logs have them: one more observation than actions, and how each ended."""
    found = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        noise = np.random.default_rng(seed)
        episode: dict[str, Any] = {"observations": [observation], "actions": [], "rewards": []}
        over = False
        while not over:
            heat = np.clip(1.5 - 5 * observation[:1] + noise.normal(0, 1.5, 1), 0.0, 5.0).astype(np.float32)
            observation, reward, terminated, truncated, _ = env.step(heat)
            for name, value in (("observations", observation), ("actions", heat), ("rewards", reward)):
                episode[name].append(value)
            over = terminated or truncated
        found.append({**{name: np.array(rows) for name, rows in episode.items()}, "terminated": terminated})
    return found


def main(episodes: int = 100, gradient_steps: int = 3_000, steps: int = 2_000, eval_episodes: int = 10) -> None:
    if "Thermostat-v0" not in gym.registry:
        gym.register("Thermostat-v0", entry_point=lambda **kwargs: Thermostat(**kwargs))
    env, eval_env = make_vec_env("Thermostat-v0", seed=0), make_vec_env("Thermostat-v0", seed=1)

    dataset = OfflineDataset.load(
        record(Thermostat(), episodes), observation_space=env.observation_space, action_space=env.action_space
    )
    scores = {"the recorded controller": float(dataset.episode_returns.mean())}

    model = O2OSAC("MlpPolicy", env, objective="calql", learning_starts=0, policy_kwargs={"net_arch": [64, 64]}, seed=0)
    model.pretrain(dataset, gradient_steps)
    scores["offline"] = float(evaluate(model, eval_env, eval_episodes, seed=1).returns.mean())
    model.learn(steps)
    scores["fine-tuned"] = float(evaluate(model, eval_env, eval_episodes, seed=1).returns.mean())
    print("Returns:", ", ".join(f"{name} {score:.1f}" for name, score in scores.items()))


if __name__ == "__main__":
    typer.run(main)
