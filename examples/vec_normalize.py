"""VecNormalize: a new one begins with the dataset's statistics, a stock run brings its own, and both travel along.

python examples/vec_normalize.py
"""

from pathlib import Path
from typing import Any

import typer
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o import O2OSAC
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT


def wrapped(env_id: str) -> VecNormalize:
    return VecNormalize(make_vec_env(env_id, seed=0), norm_reward=False)


def seen(env: VecNormalize) -> str:
    statistics: Any = env.obs_rms  # for dictionaries there would be one for each key
    return f"{statistics.count:,.0f} observations, the first entry with mean {statistics.mean[0]:.3f}"


def main(
    dataset: str = str(DEMO_DATASET),
    env_id: str = DEMO_ENVIRONMENT,
    gradient_steps: int = 2_000,
    steps: int = 2_000,
    folder: Path = Path("runs/vec_normalize"),
) -> None:
    # 1. A new VecNormalize has seen nothing: it begins with the dataset's mean and variance.
    env = wrapped(env_id)
    model = O2OSAC("MlpPolicy", env, objective="cql", learning_starts=0, seed=0)
    model.pretrain(dataset, gradient_steps)
    print(f"From the dataset: {seen(env)}")
    model.save(folder / "offline_model")

    # 2. Saved with the policy, the statistics come along into another environment, and go on from there.
    env = wrapped(env_id)
    model = O2OSAC.load_offline(folder / "offline_model", env)
    print(f"Carried by load_offline: {seen(env)}")
    model.learn(steps)

    # 3. A stock run keeps its statistics in a file beside the model, as RL Zoo does.
    stock_env = wrapped(env_id)
    SAC("MlpPolicy", stock_env, seed=0).learn(steps).save(folder / "stock_model")
    stock_env.save(str(folder / "vecnormalize.pkl"))
    env = wrapped(env_id)
    O2OSAC.load_offline(folder / "stock_model", env, vec_normalize=str(folder / "vecnormalize.pkl"))
    print(f"From a stock run's file: {seen(env)}")


if __name__ == "__main__":
    typer.run(main)
