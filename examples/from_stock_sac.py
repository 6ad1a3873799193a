"""A stock Stable-Baselines3 agent and its replay buffer become the start of an offline-to-online run, and go back.

python examples/from_stock_sac.py
"""

from pathlib import Path

import gymnasium as gym
import typer
from stable_baselines3 import SAC

from sb3_o2o import O2OSAC


def main(
    env_id: str = "Pendulum-v1",
    stock_steps: int = 3_000,
    gradient_steps: int = 2_000,
    steps: int = 2_000,
    folder: Path = Path("runs/from_stock_sac"),
) -> None:
    # What you already have: a script like this one, and what it saved.
    env = gym.make(env_id)
    stock = SAC("MlpPolicy", env, seed=0).learn(stock_steps)
    stock.save(folder / "stock_sac")
    stock.save_replay_buffer(folder / "stock_buffer")

    # The same weights, critics, temperature and Adam moments, now with an offline phase on the old buffer ...
    model = O2OSAC.load_offline(folder / "stock_sac", env, objective="cql")
    model.pretrain(folder / "stock_buffer.pkl", gradient_steps)

    # ... and fine-tuning that begins with the policy's own actions, not with random ones.
    model = O2OSAC.load_offline(model, env, finetuning=[{"Warmup": {"steps": min(500, steps // 2)}}])
    model.learn(steps)

    # Back to stock, for whoever deploys it.
    model.to_sb3().save(folder / "fine_tuned_sac")
    SAC.load(folder / "fine_tuned_sac").predict(env.observation_space.sample(), deterministic=True)


if __name__ == "__main__":
    typer.run(main)
