"""A model's own replay buffer, read as a dataset and loaded again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC
from toy_tasks import FAST, Drift, assert_same, make, reach, state, vec

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


@pytest.mark.parametrize(
    ("saved_by", "message"),
    [
        (lambda: make(), r"rewards with reward_scale=1\.0 and reward_shift=0\.0, .* reward_scale=10\.0"),
        (lambda: SAC("MlpPolicy", vec(), **FAST), r"rewards with reward_scale=1\.0"),
        (lambda: make(env=vec(2), **SCALED), "with n_envs=2, and this model has n_envs=1"),
        (
            lambda: make(dictionary=True, **SCALED),
            r"holds observations of shape \{'goal'.*, and this model's have \(3,",
        ),
        (lambda: make("MultiInputPolicy", env=reach(), **SCALED), "holds observations of shape"),
    ],
)
def test_another_models_is_refused_at_once(saved_by: Any, message: str, tmp_path: Path) -> None:
    """Not by a reshape in the middle of ``learn``, nor by rewards on two scales in one buffer."""
    saved_by().learn(8).save_replay_buffer(tmp_path / "buffer")
    model = make(**SCALED).learn(6)
    with pytest.raises(ValueError, match=message) as error:
        model.load_replay_buffer(tmp_path / "buffer")
    assert "fill_replay_buffer(model.load_dataset(path))" in str(error.value)
    assert model.replay_buffer is not None
    assert model.replay_buffer.pos == 6


def test_other_bounds_of_actions_are_other_actions(tmp_path: Path) -> None:
    class Wider(Drift):
        def __init__(self) -> None:
            super().__init__()
            self.action_space.low[:] = -3.0  # type: ignore[attr-defined]

    make(env=Wider()).learn(8).save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match=r"actions that were scaled by the bounds of Box\(-3\.0, "):
        make().load_replay_buffer(tmp_path / "buffer")


def test_what_the_error_says_to_do(tmp_path: Path) -> None:
    make(env=vec(2)).learn(14).save_replay_buffer(tmp_path / "buffer")
    model = make(**SCALED)
    model.fill_replay_buffer(model.load_dataset(tmp_path / "buffer.pkl"))
    assert model.replay_buffer is not None
    assert model.replay_buffer.size() == 14
    raw = OfflineDataset.load(tmp_path / "buffer.pkl").rewards
    np.testing.assert_allclose(model.replay_buffer.rewards[:14, 0], raw * 10 - 5, rtol=1e-6)
    model.learn(6)


def test_a_like_model_goes_on_with_it(tmp_path: Path) -> None:
    make(**SCALED).learn(8).save_replay_buffer(tmp_path / "buffer")
    SAC("MlpPolicy", vec(), **FAST).learn(8).save_replay_buffer(tmp_path / "stock")
    for name, model in (("buffer", make(**SCALED)), ("stock", make())):
        model.load_replay_buffer(tmp_path / name)
        model.learn(6)
        assert model.replay_buffer is not None
        assert model.replay_buffer.size() == 14
