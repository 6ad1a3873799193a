"""Toy tasks for the tests of networks, objectives, algorithms and callbacks, and helpers to compare models."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.data import OfflineDataset

#: arguments that make a model small enough to train in milliseconds
FAST: dict[str, Any] = {"buffer_size": 500, "batch_size": 8, "learning_starts": 4, "seed": 3, "device": "cpu"}
#: the same for PPO
FAST_PPO: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "seed": 3, "device": "cpu"}


class Drift(gym.Env[Any, np.ndarray]):
    """
    A point in the plane, pushed by the action and by noise of the environment's own generator. An episode ends as
    terminated beyond a distance of 2, and is truncated after ``limit`` steps.

    :param dictionary: whether observations are dictionaries
    :param limit: steps until an episode is truncated
    """

    def __init__(self, dictionary: bool = False, limit: int = 7):
        self.dictionary, self.limit = dictionary, limit
        box = spaces.Box(-10.0, 10.0, (3,), np.float32)
        goal = spaces.Box(-10.0, 10.0, (1,), np.float32)
        self.observation_space = spaces.Dict({"goal": goal, "place": box}) if dictionary else box
        self.action_space = spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([2.0, 3.0], np.float32))

    def _observe(self) -> Any:
        place = np.array([*self.position, self.steps / self.limit], np.float32)
        return {"goal": np.full(1, 0.5, np.float32), "place": place} if self.dictionary else place

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.normal(size=2), 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position = self.position + 0.3 * action + 0.1 * self.np_random.normal(size=2)
        self.steps += 1
        distance = float(np.linalg.norm(self.position))
        terminated = distance > 2.0
        return self._observe(), -distance, terminated, not terminated and self.steps >= self.limit, {}


class Reach(gym.Env[Any, np.ndarray]):
    """
    A point in the plane that is to reach a goal: rewards can be computed for other goals. Nothing terminates.

    :param limit: steps until an episode is truncated
    """

    def __init__(self, limit: int = 5):
        self.limit = limit
        point = spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.observation_space = spaces.Dict(observation=point, achieved_goal=point, desired_goal=point)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def _observe(self) -> dict[str, np.ndarray]:
        goal = np.ones(2, np.float32)
        return {"observation": self.position, "achieved_goal": self.position, "desired_goal": goal}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.normal(size=2).astype(np.float32), 0
        return self._observe(), {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, infos: Any) -> np.ndarray:
        return -np.linalg.norm(achieved - desired, axis=-1)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position = np.clip(self.position + 0.3 * action, -10.0, 10.0).astype(np.float32)
        self.steps += 1
        reward = float(self.compute_reward(self.position, np.ones(2), {}))
        return self._observe(), reward, False, self.steps >= self.limit, {}


def reach(n_envs: int = 1, **kwargs: Any) -> DummyVecEnv:
    """Several :class:`Reach` environments behind monitors."""
    return DummyVecEnv([lambda: Monitor(Reach(**kwargs)) for _ in range(n_envs)])


def vec(n_envs: int = 1, **kwargs: Any) -> DummyVecEnv:
    """Several :class:`Drift` environments behind monitors."""
    return DummyVecEnv([lambda: Monitor(Drift(**kwargs)) for _ in range(n_envs)])


def arrays(n: int = 60, dictionary: bool = False, seed: int = 0) -> dict[str, Any]:
    """Episodes of ten steps that fit :class:`Drift`, terminated and truncated in turn, without structure to learn."""
    rng = np.random.default_rng(seed)
    ends = np.arange(n) % 10 == 9
    terminated = ends & (np.arange(n) % 20 == 9)
    place, following = rng.normal(size=(2, n, 3)).astype(np.float32)
    inner = np.flatnonzero(~ends[:-1])
    following[inner] = place[inner + 1]

    def observe(values: np.ndarray) -> Any:
        return {"goal": np.full((n, 1), 0.5, np.float32), "place": values} if dictionary else values

    return {
        "observations": observe(place),
        "actions": rng.uniform([-2.0, -1.0], [2.0, 3.0], size=(n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "next_observations": observe(following),
        "terminations": terminated,
        "truncations": ends & ~terminated,
    }


def dataset(n: int = 60, dictionary: bool = False, seed: int = 0) -> OfflineDataset:
    """The same, in memory."""
    env = Drift(dictionary)
    return OfflineDataset.load(
        arrays(n, dictionary, seed), observation_space=env.observation_space, action_space=env.action_space
    )


def dataset_file(folder: Path, dictionary: bool = False) -> str:
    """The same, as a file that a saved model can name."""
    path = folder / ("goals.npz" if dictionary else "boxes.npz")
    if not path.is_file():
        dataset(dictionary=dictionary).save(path)
    return str(path)


def make(policy: str | None = None, env: Any = None, dictionary: bool = False, **kwargs: Any) -> O2OSAC:
    """A small model on :class:`Drift`."""
    arguments = {**FAST, "policy_kwargs": {"net_arch": [16]}, **kwargs}
    policy = policy or ("MultiInputPolicy" if dictionary else "MlpPolicy")
    return O2OSAC(policy, vec(dictionary=dictionary) if env is None else env, **arguments)


def make_td3(policy: str | None = None, env: Any = None, dictionary: bool = False, **kwargs: Any) -> O2OTD3:
    """The same for TD3."""
    arguments = {**FAST, "policy_kwargs": {"net_arch": [16]}, **kwargs}
    policy = policy or ("MultiInputPolicy" if dictionary else "MlpPolicy")
    return O2OTD3(policy, vec(dictionary=dictionary) if env is None else env, **arguments)


def make_ppo(policy: str | None = None, env: Any = None, dictionary: bool = False, **kwargs: Any) -> O2OPPO:
    """The same for PPO."""
    arguments = {**FAST_PPO, "policy_kwargs": {"net_arch": [16]}, **kwargs}
    policy = policy or ("MultiInputPolicy" if dictionary else "MlpPolicy")
    return O2OPPO(policy, vec(dictionary=dictionary) if env is None else env, **arguments)


def state(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """Everything that training changes, by name: parameters, optimisers' moments, the temperature."""
    flat: dict[str, th.Tensor] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}/{key}", item)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(f"{prefix}/{index}", item)
        elif isinstance(value, th.Tensor):
            flat[prefix] = value.detach().clone()

    for name, value in model.get_parameters().items():
        walk(name, value)
    log_ent_coef = getattr(model, "log_ent_coef", None)
    if log_ent_coef is not None:
        flat["log_ent_coef"] = log_ent_coef.detach().clone()
    return flat


def assert_same(one: dict[str, th.Tensor], other: dict[str, th.Tensor], tolerance: float = 0.0) -> None:
    """Equal bit for bit, or within ``tolerance * (1 + |x|)``."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if tolerance == 0.0:
            assert th.equal(value, other[name]), f"{name} differs by {(value - other[name]).abs().max()}"
        else:
            difference = ((value - other[name]).abs() / (1 + value.abs())).max() if value.numel() else th.zeros(())
            assert difference <= tolerance, f"{name} differs by {difference}"


def differs(one: dict[str, th.Tensor], other: dict[str, th.Tensor], prefix: str = "policy/") -> bool:
    """Whether any parameter under a prefix differs."""
    return any(not th.equal(value, other[name]) for name, value in one.items() if name.startswith(prefix))
