"""A stock Stable-Baselines3 agent and its replay buffer become the start of an offline-to-online run, and go back.

python examples/from_stock_sac.py
"""

from pathlib import Path

import gymnasium as gym
import typer
from stable_baselines3 import SAC

from sb3_o2o import O2OSAC
from sb3_o2o.evaluation import evaluate


def main(
    env_id: str = "Pendulum-v1",
    stock_steps: int = 3_000,
    gradient_steps: int = 2_000,
    steps: int = 2_000,
    eval_episodes: int = 10,
    folder: Path = Path("runs/from_stock_sac"),
) -> None:
    # What you already have: a script like this one, and what it saved.
    env = gym.make(env_id)
    stock = SAC("MlpPolicy", env, seed=0).learn(stock_steps)
    stock.save(folder / "stock_sac")
    stock.save_replay_buffer(folder / "stock_buffer")
    print(f"Stock SAC: {evaluate(stock, env_id, eval_episodes, seed=0)}")

    # The same weights, critics, temperature and Adam moments, now with an offline phase on the old buffer ...
    model = O2OSAC.load_offline(folder / "stock_sac", env, objective="cql")
    model.pretrain(folder / "stock_buffer.pkl", gradient_steps)
    print(f"After {gradient_steps:,} updates on its buffer: {evaluate(model, env_id, eval_episodes, seed=0)}")

    # ... and fine-tuning that begins with the policy's own actions, not with random ones.
    model = O2OSAC.load_offline(model, env, finetuning=[{"Warmup": {"steps": min(500, steps // 2)}}])
    model.learn(steps)
    print(f"After {steps:,} steps of fine-tuning: {evaluate(model, env_id, eval_episodes, seed=0)}")

    # Back to stock, for whoever deploys it.
    model.to_sb3().save(folder / "fine_tuned_sac")
    stock = SAC.load(folder / "fine_tuned_sac")
    print(f"The same as stock SAC again: {evaluate(stock, env_id, eval_episodes, seed=0)}")
    print(f"Saved in {folder}: stock_sac.zip, stock_buffer.pkl, fine_tuned_sac.zip")


if __name__ == "__main__":
    typer.run(main)
