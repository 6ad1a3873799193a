"""Infos of environments are copied in less time, and nobody can tell."""

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from toy_tasks import make

from sb3_o2o.evaluation.infos import Infos, copy_infos_quickly


class Telling(gym.Env[np.ndarray, np.ndarray]):
    """Hands out the same dictionary at every step, and changes it: a copy must not follow."""

    observation_space = spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, extra: Any):
        self.info: dict[str, Any] = {"count": 0, "speed": np.float64(1.5), "text": "on", **extra}

    def reset(self, **_: Any) -> Any:
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.info["count"] += 1
        for value in self.info.values():
            if isinstance(value, np.ndarray):
                value += 1
            elif isinstance(value, list):
                value.append(self.info["count"])
        return np.zeros(3, np.float32), 0.0, False, False, self.info


@pytest.mark.parametrize("extra", [{}, {"array": np.zeros(2)}, {"array": np.zeros(()), "list": []}, {"of": {"a": [1]}}])
def test_copies_are_those_of_a_deep_copy(extra: dict[str, Any]) -> None:
    env, plain = (DummyVecEnv([lambda: Telling(copy.deepcopy(extra)) for _ in range(2)]) for _ in range(2))
    copy_infos_quickly(env)
    seen, expected = [], []
    for each, infos in ((env, seen), (plain, expected)):
        each.reset()
        infos += [each.step(np.zeros((2, 2), np.float32))[3] for _ in range(3)]
    assert repr(seen) == repr(expected)
    assert [info["count"] for infos in seen for info in infos] == [1, 1, 2, 2, 3, 3]
    seen[-1][0]["count"] = -1  # a user's own wrapper may write
    assert env.step(np.zeros((2, 2), np.float32))[3][0]["count"] == 4


def test_a_run_copies_quickly_and_saves_a_list() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Telling({})]))
    make(env=env, learning_starts=100).learn(3)
    infos: Any = env.unwrapped.buf_infos  # type: ignore[attr-defined]
    assert type(infos) is Infos
    assert type(pickle.loads(pickle.dumps(infos))) is list
    assert pickle.loads(pickle.dumps(infos)) == infos
