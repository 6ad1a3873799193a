"""A goal task: pre-training on recorded episodes, then fine-tuning with hindsight (HerReplayBuffer) beside the dataset.

python examples/goals_with_her.py
"""

from typing import Any

import gymnasium as gym
import numpy as np
import typer
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_o2o import O2OSAC, OfflineDataset
from sb3_o2o.evaluation import evaluate


class Reach(gym.Env[Any, np.ndarray]):
    """A point in the plane is to come near its goal; the reward is 0 there, -1 elsewhere."""

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        point = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict(observation=point, achieved_goal=point, desired_goal=point)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        self.steps = 0
        return self._observe(), {}

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> np.ndarray:
        return (np.linalg.norm(achieved_goal - desired_goal, axis=-1) < 0.2).astype(np.float32) - 1.0

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position = np.clip(self.position + 0.2 * action, -1.5, 1.5).astype(np.float32)
        self.steps += 1
        reward = float(self.compute_reward(self.position, self.goal, {}))
        return self._observe(), reward, False, self.steps >= 20, {"is_success": reward == 0.0}

    def _observe(self) -> dict[str, np.ndarray]:
        arrays = {"observation": self.position, "achieved_goal": self.position, "desired_goal": self.goal}
        return {name: array.copy() for name, array in arrays.items()}  # nobody is to hold what the next step changes


def record(env: Reach, episodes: int) -> list[dict[str, Any]]:
    """A clumsy controller: half-way towards the goal, with much noise."""
    found = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        noise = np.random.default_rng(seed)
        seen, actions, rewards, over = [observation], [], [], False
        while not over:
            towards = observation["desired_goal"] - observation["achieved_goal"]
            actions.append(np.clip(towards + noise.normal(0, 0.7, 2), -1, 1).astype(np.float32))
            observation, reward, _, over, _ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
        observations = {key: np.array([each[key] for each in seen]) for key in observation}
        found.append({"observations": observations, "actions": np.array(actions), "rewards": np.array(rewards)})
    return found


def main(episodes: int = 300, gradient_steps: int = 5_000, steps: int = 5_000, eval_episodes: int = 20) -> None:
    if "PlaneReach-v0" not in gym.registry:
        gym.register("PlaneReach-v0", entry_point=lambda **kwargs: Reach(**kwargs))
    env, eval_env = make_vec_env("PlaneReach-v0", seed=0), make_vec_env("PlaneReach-v0", seed=1)
    dataset = OfflineDataset.load(
        [{**each, "terminated": False} for each in record(Reach(), episodes)],
        observation_space=env.observation_space,
        action_space=env.action_space,
    )
    model = O2OSAC(
        "MultiInputPolicy",
        env,
        objective="cql",
        finetuning=[{"SymmetricReplay": {"offline_fraction": 0.25}}],
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 4, "goal_selection_strategy": "future"},
        gamma=0.95,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
    )
    model.pretrain(dataset, gradient_steps)
    offline = evaluate(model, eval_env, eval_episodes, seed=1)
    model.learn(steps)
    online = evaluate(model, eval_env, eval_episodes, seed=1)
    print(
        f"Mean return of the dataset {dataset.episode_returns.mean():.1f}, offline {offline.returns.mean():.1f}, ",
        end="",
    )
    print(f"after {model.num_timesteps} steps with {type(model.replay_buffer).__name__} {online.returns.mean():.1f}.")


if __name__ == "__main__":
    typer.run(main)
