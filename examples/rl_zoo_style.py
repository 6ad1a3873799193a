"""Everything through the constructor and ``learn``, in plain YAML types: the only two calls that RL Zoo makes.

python examples/rl_zoo_style.py
"""

from pathlib import Path

import gymnasium as gym
import typer
import yaml

from sb3_o2o import O2OSAC
from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT
from sb3_o2o.evaluation import evaluate

# An entry of a hyper-parameter file, as RL Zoo reads it.
HYPERPARAMS = """
policy: MlpPolicy
n_timesteps: 20000
recipe: wsrl                # fills in what is left out
n_critics: 5                # and is overruled by what is not
finetuning:
  - Warmup: {steps: 2000}
"""


def main(
    dataset: str = str(DEMO_DATASET),
    env_id: str = DEMO_ENVIRONMENT,
    gradient_steps: int = 20_000,
    steps: int | None = None,
    eval_episodes: int = 10,
    folder: Path = Path("runs/rl_zoo_style"),
) -> None:
    hyperparams = yaml.safe_load(HYPERPARAMS)
    n_timesteps = hyperparams.pop("n_timesteps")

    # With `dataset` and `pretrain_steps` given here, `learn` pre-trains first.
    model = O2OSAC(
        env=gym.make(env_id), dataset=dataset, pretrain_steps=gradient_steps, **{"seed": 0, "verbose": 1} | hyperparams
    )
    print(f"Untrained: {evaluate(model, env_id, eval_episodes, seed=0)}")
    model.learn(n_timesteps if steps is None else steps)
    result = evaluate(model, env_id, eval_episodes, seed=0)
    print(f"After {model.n_pretrain_steps:,} updates on the dataset and {model.num_timesteps:,} steps: {result}")
    model.save(folder / "model")
    print(f"Saved: {folder / 'model.zip'}")


if __name__ == "__main__":
    typer.run(main)
