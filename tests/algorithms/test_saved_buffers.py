"""A model's own replay buffer, read as a dataset."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_tasks import assert_same, make, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.data import OfflineDataset

SCALED: dict[str, Any] = {"reward_scale": 10.0, "reward_shift": -5.0}


@pytest.mark.parametrize("dictionary", [False, True])
def test_its_rewards_are_scaled_once(dictionary: bool, tmp_path: Path) -> None:
    """One model collects with scaled rewards, one with the environment's; what is learned of both is the same."""
    collected = {name: make(dictionary=dictionary, **scale).learn(14) for name, scale in (("s", SCALED), ("r", {}))}
    trained = []
    for name, model in collected.items():
        assert model.replay_buffer is not None
        model.replay_buffer.actions[:] = 0.25  # the same, whatever the policies did
        rewards = np.linspace(-2.0, -1.0, 14, dtype=np.float32)[:, None]
        model.replay_buffer.rewards[:14] = rewards * 10 - 5 if name == "s" else rewards
        for key in ("observations", "next_observations", "dones", "timeouts"):
            setattr(model.replay_buffer, key, getattr(collected["r"].replay_buffer, key))
        model.save_replay_buffer(tmp_path / name)
        np.testing.assert_allclose(OfflineDataset.load(tmp_path / f"{name}.pkl").rewards, rewards[:, 0], rtol=1e-6)
        for source in (tmp_path / f"{name}.pkl", model.replay_buffer):
            trained.append(state(make(dictionary=dictionary, objective="cql", **SCALED).pretrain(source, 3)))
    for other in trained[1:]:
        assert_same(trained[0], other, 1e-5)


def test_a_resumed_buffer_knows_its_scale(tmp_path: Path) -> None:
    make(**SCALED).learn(8).save_resume(tmp_path / "bundle")
    buffer = O2OSAC.load_resume(tmp_path / "bundle", vec()).replay_buffer
    assert buffer is not None
    raw = OfflineDataset.load(buffer).rewards
    np.testing.assert_allclose(buffer.rewards[:8, 0], raw * 10 - 5, rtol=1e-6)
