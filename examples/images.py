"""Images: a convolutional policy, pre-trained on recorded pixels and fine-tuned in the environment.

python examples/images.py
"""

from typing import Any

import gymnasium as gym
import numpy as np
import typer
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC, OfflineDataset

SIDE = 36


class Dot(gym.Env[np.ndarray, np.ndarray]):
    """A bright square on a dark line, to be moved to the middle; the observation is the picture."""

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1.0, 1.0), 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + 0.3 * action[0], -1.0, 1.0))
        self.steps += 1
        return self._observe(), -abs(self.place), False, self.steps >= 20, {}

    def _observe(self) -> np.ndarray:
        picture = np.zeros((SIDE, SIDE, 1), np.uint8)
        column = round((self.place + 1) / 2 * (SIDE - 6))
        picture[15:21, column : column + 6] = 255
        return picture


def record(env: Dot, transitions: int) -> dict[str, np.ndarray]:
    """Random actions, one row for each transition; pixels stay bytes."""
    rows: dict[str, list] = {name: [] for name in ("observations", "actions", "rewards", "next_observations")}
    rows |= {"terminations": [], "truncations": []}
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(transitions):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        for name, value in zip(rows, (observation, action, reward, following, terminated, truncated), strict=True):
            rows[name].append(value)
        observation = env.reset()[0] if truncated else following
    return {name: np.array(values) for name, values in rows.items()}


def main(transitions: int = 2_000, gradient_steps: int = 1_000, steps: int = 1_000, batch_size: int = 64) -> None:
    if "Dot-v0" not in gym.registry:
        gym.register("Dot-v0", entry_point=lambda **kwargs: Dot(**kwargs))
    env = make_vec_env("Dot-v0", seed=0)
    dataset = OfflineDataset.load(record(Dot(), transitions), action_space=env.action_space)
    model = O2OSAC(
        "CnnPolicy",
        env,
        objective="cql",
        objective_kwargs={"n_actions": 4},
        finetuning=[{"SymmetricReplay": {"offline_fraction": 0.5}}],
        batch_size=batch_size,
        buffer_size=steps,
        learning_starts=0,
        policy_kwargs={"net_arch": [64], "features_extractor_kwargs": {"features_dim": 64}},
        seed=0,
    )
    model.pretrain(dataset, gradient_steps)
    model.learn(steps)
    megabytes = np.asarray(dataset.observations).nbytes / 1e6
    print(f"{len(dataset)} pictures of {SIDE} x {SIDE} in {megabytes:.1f} MB, pixels stay bytes.")
    print(f"{model.num_timesteps} steps, {model._n_updates} updates; the network sees {model.observation_space.shape}.")


if __name__ == "__main__":
    typer.run(main)
