"""Offline, then online: pre-train on a dataset, fine-tune in the environment, both with Stable-Baselines3's callbacks.

python examples/pretrain_then_finetune.py
"""

from pathlib import Path

import gymnasium as gym
import typer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

from sb3_o2o import O2OSAC
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT
from sb3_o2o.evaluation import evaluate


def main(
    dataset: str = str(DEMO_DATASET),
    env_id: str = DEMO_ENVIRONMENT,
    gradient_steps: int = 20_000,
    steps: int = 20_000,
    eval_episodes: int = 5,
    folder: Path = Path("runs/pretrain_then_finetune"),
) -> None:
    env, eval_env = gym.make(env_id), Monitor(gym.make(env_id))
    tensorboard = str(folder / "tensorboard")

    # A recipe fills in every argument that is left out: objective, networks, learning rates, fine-tuning callbacks.
    model = O2OSAC("MlpPolicy", env, recipe="wsrl", seed=0, tensorboard_log=tensorboard)
    print(f"Untrained: {evaluate(model, eval_env, eval_episodes, seed=0)}")
    offline_eval = EvalCallback(
        eval_env, n_eval_episodes=eval_episodes, eval_freq=gradient_steps // 2, log_path=str(folder / "offline")
    )
    model.pretrain(dataset, gradient_steps, callback=offline_eval, progress_bar=True)
    model.save(folder / "offline_model")
    print(f"After {gradient_steps:,} updates on the dataset: {evaluate(model, eval_env, eval_episodes, seed=0)}")

    # Days later, in another process: what was trained is kept, the recipe adds how to go on.
    model = O2OSAC.load_offline(folder / "offline_model", env, recipe="wsrl", tensorboard_log=tensorboard)
    online_eval = EvalCallback(
        eval_env, n_eval_episodes=eval_episodes, eval_freq=steps // 4, log_path=str(folder / "online")
    )
    model.learn(steps, callback=online_eval, progress_bar=True)
    model.save(folder / "online_model")
    print(f"After {steps:,} steps of fine-tuning: {evaluate(model, eval_env, eval_episodes, seed=0)}")
    print(f"Saved in {folder}: offline_model.zip, online_model.zip, offline/ and online/ with the evaluations")
    print(f"Look at it: tensorboard --logdir {tensorboard}")


if __name__ == "__main__":
    typer.run(main)
