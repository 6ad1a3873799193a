"""Any policy that can be called becomes a PPO agent: cloned on a dataset, then fine-tuned with O2PPO's callbacks.

python examples/any_policy_to_ppo.py
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
import typer
from stable_baselines3.common.callbacks import EvalCallback

from sb3_o2o import O2OPPO
from sb3_o2o.data import collect
from sb3_o2o.evaluation import evaluate
from sb3_o2o.finetuning import AuxiliaryAdvantage, PolicyReevaluation


def push_against_the_fall(observations: np.ndarray) -> np.ndarray:
    """What you already have: a controller, a transformer, an agent of another library; a batch in, a batch out."""
    angle, velocity = np.arctan2(observations[..., 1], observations[..., 0]), observations[..., 2]
    return np.clip(-4.0 * angle - 1.0 * velocity, -2.0, 2.0)[..., None].astype(np.float32)


def main(
    env_id: str = "Pendulum-v1",
    transitions: int = 10_000,
    clone_steps: int = 3_000,
    gradient_steps: int = 3_000,
    steps: int = 40_000,
    eval_episodes: int = 10,
    folder: Path = Path("runs/any_policy_to_ppo"),
) -> None:
    env = gym.make(env_id)
    # The clone learns what the policy does in these states; they may come from any policy, this one included.
    dataset = collect(push_against_the_fall, env_id, "examples/any-policy-v0", n_steps=transitions, seed=0, force=True)

    model = O2OPPO.load_offline(
        push_against_the_fall,
        env,
        dataset=dataset,
        pretrain_steps=clone_steps,
        report_episodes=5,
        seed=0,
        normalize_advantage=False,  # AuxiliaryAdvantage normalises a whole rollout
        finetuning=[PolicyReevaluation(gradient_steps), AuxiliaryAdvantage(anneal_steps=steps)],
    )
    print(f"Clone: {model.clone_report}")
    print(f"Before fine-tuning: {evaluate(model, env_id, eval_episodes, seed=0)}")

    evaluation = EvalCallback(gym.make(env_id), eval_freq=2_500, n_eval_episodes=eval_episodes, log_path=str(folder))
    model.learn(steps, callback=evaluation, progress_bar=True)
    print(f"After {steps:,} steps: {evaluate(model, env_id, eval_episodes, seed=0)}")
    model.save(folder / "model")
    print(f"Saved: {folder / 'model.zip'}, and the evaluations in between in {folder / 'evaluations.npz'}")


if __name__ == "__main__":
    typer.run(main)
