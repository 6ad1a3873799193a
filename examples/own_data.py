"""Data of your own: log arrays, check them into a dataset, pre-train, and fine-tune with half of every batch offline.

python examples/own_data.py
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
import typer

from sb3_o2o import O2OSAC, OfflineDataset
from sb3_o2o.evaluation import evaluate


def record(env: gym.Env, transitions: int) -> dict[str, np.ndarray]:
    """What a controller, a robot's log or a simulator gives: one row for each transition, in the order it happened."""
    rows: dict[str, list] = {name: [] for name in ("observations", "actions", "rewards", "next_observations")}
    rows |= {"terminations": [], "truncations": []}
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(transitions):
        action = env.action_space.sample()
        next_observation, reward, terminated, truncated, _ = env.step(action)
        values = (observation, action, reward, next_observation, terminated, truncated)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
        observation = env.reset()[0] if terminated or truncated else next_observation
    return {name: np.array(values) for name, values in rows.items()}


def main(
    env_id: str = "Pendulum-v1",
    transitions: int = 5_000,
    gradient_steps: int = 2_000,
    steps: int = 2_000,
    eval_episodes: int = 10,
    folder: Path = Path("runs/own_data"),
) -> None:
    env = gym.make(env_id)
    arrays = record(env, transitions)

    # Everything is checked once: lengths, NaN, bounds, episode ends. Actions are scaled by the environment's bounds.
    dataset = OfflineDataset.from_arrays(
        **arrays, observation_space=env.observation_space, action_space=env.action_space
    )
    dataset.summary()

    model = O2OSAC(
        "MlpPolicy", env, objective="cql", finetuning=[{"SymmetricReplay": {"offline_fraction": 0.5}}], seed=0
    )
    print(f"Untrained: {evaluate(model, env_id, eval_episodes, seed=0)}")
    model.pretrain(dataset, gradient_steps)
    print(f"After {gradient_steps:,} updates on the dataset: {evaluate(model, env_id, eval_episodes, seed=0)}")
    model.learn(steps)
    print(f"After {steps:,} steps of fine-tuning: {evaluate(model, env_id, eval_episodes, seed=0)}")
    model.save(folder / "model")
    print(f"Saved: {folder / 'model.zip'}")


if __name__ == "__main__":
    typer.run(main)
