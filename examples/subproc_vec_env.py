"""Fine-tuning with environments in processes of their own: slow simulators run side by side.

python examples/subproc_vec_env.py
"""

import typer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_o2o import O2OSAC
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT


def main(
    dataset: str = str(DEMO_DATASET),
    env_id: str = DEMO_ENVIRONMENT,
    n_envs: int = 4,
    gradient_steps: int = 5_000,
    steps: int = 10_000,
    start_method: str | None = None,
) -> None:
    env = make_vec_env(env_id, n_envs, seed=0, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": start_method})
    # A recipe's ratio of updates to transitions holds with any number of environments.
    model = O2OSAC("MlpPolicy", env, recipe="wsrl", finetuning=[{"Warmup": {"steps": steps // 10}}], seed=0)
    model.pretrain(dataset, gradient_steps)
    model.learn(steps)
    made = model._n_updates - gradient_steps
    print(f"{n_envs} environments in processes of their own: {model.num_timesteps} steps, {made} updates online.")
    env.close()


if __name__ == "__main__":
    typer.run(main)
