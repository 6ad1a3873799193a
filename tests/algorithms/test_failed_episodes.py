"""Cal-QL knows a failed episode by its rewards, on whatever scale the model trains."""

from typing import Any

import numpy as np
import pytest
from toy_tasks import Drift, arrays, make, make_ppo, make_td3

from sb3_o2o.data.rewards import scaled_rewards

#: scales on which single precision ends on another number than double
SCALES = [(2.67, 4.59), (0.013, -7.51), (97.463, 9.62)]


class Failure(Drift):
    """Every step pays -1."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, -1.0, terminated, truncated, info


def failures() -> dict[str, Any]:
    """Episodes of the dataset that fail, and one that ends with a success."""
    fields = arrays(40)
    return {**fields, "rewards": np.where(np.arange(40) == 39, 0.0, -1.0).astype(np.float32)}


@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_failed_episodes_are_found_online(scale: float, shift: float) -> None:
    kwargs = {"objective": "calql", "online_objective": "calql", "objective_kwargs": {"n_actions": 2}}
    model: Any = make(env=Failure(), **kwargs, gamma=0.9, reward_scale=scale, reward_shift=shift)
    model.pretrain(failures(), 1).learn(30)
    dataset, buffer = model.offline_buffer.dataset, model.replay_buffer
    failed = scaled_rewards(np.float32(-1), scale, shift) / (1 - 0.9)
    np.testing.assert_allclose(dataset.returns_to_go(0.9)[:30], failed, rtol=1e-6)
    assert buffer.n_sampleable > 10
    np.testing.assert_allclose(buffer.returns[: buffer.n_sampleable, 0], failed, rtol=1e-6)
    assert set(buffer.rewards[: buffer.pos].flatten()) < set(dataset.rewards)


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_every_algorithm_scales_as_datasets_do(build: Any) -> None:
    scale, shift = SCALES[0]
    model = build(env=Failure(limit=100), reward_scale=scale, reward_shift=shift)
    model.learn(8)
    buffer = model.rollout_buffer if build is make_ppo else model.replay_buffer
    expected = scaled_rewards(np.float32(-1), scale, shift)
    paid = buffer.rewards[: 8 if build is make_ppo else buffer.pos].flatten()
    assert (paid == expected).sum() >= len(paid) - 1  # PPO adds a value where an episode is truncated
