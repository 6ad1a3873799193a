"""JSRL: who acts in which environment, how long, and that everything survives an interruption."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from by_hand import set_mean
from toy_tasks import assert_same, dataset, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o.finetuning import FineTuningCallback, JumpStart, Warmup


class Watch(FineTuningCallback):
    """Keeps what went into the replay buffer, and what was left of the roll-ins before each step."""

    def __init__(self, jump: JumpStart):
        super().__init__()
        self.jump, self.left, self.actions, self.dones = jump, [], [], []  # type: ignore[var-annotated]

    def _on_rollout_start(self) -> None:
        assert self.jump.remaining is not None
        self.left.append(self.jump.remaining.copy())

    def _on_step(self) -> bool:
        self.actions.append(self.locals["buffer_actions"].copy())
        self.dones.append(self.locals["dones"].copy())
        return True


def two_policies(n_envs: int, build: Any = make, **kwargs: Any) -> tuple[Any, JumpStart, Watch]:
    """The frozen policy always does about (0.8, 0.8), the learning one (-0.8, -0.8)."""
    jump = JumpStart(**{"probability": 0.6, "mean_steps": 3, "anneal_steps": 10**9, **kwargs})
    model = build(env=vec(n_envs), policy_kwargs={"net_arch": []}, learning_starts=0, gradient_steps=0)
    mean = model.actor.mu[0] if build is make_td3 else model.actor.mu
    set_mean(mean, 1.0, 1.0)
    if build is make:
        model.actor.set_std(1e-3)
    model.hooks.deliver_to([jump])
    jump.init_callback(model)
    jump._on_training_start()  # freezes the policy
    set_mean(mean, -1.0, -1.0)
    return model, jump, Watch(jump)


@pytest.mark.parametrize("build", [make, make_td3])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_frozen_policy_acts_where_and_as_long_as_was_drawn(build: Any, n_envs: int) -> None:
    model, jump, watch = two_policies(n_envs, build)
    jump.run_id = model.finetuning_run.id
    model.learn(60 * n_envs, callback=[jump, watch])
    left, actions, dones = map(np.array, (watch.left, watch.actions, watch.dones))
    offline = actions.mean(axis=2) > 0
    assert np.allclose(np.abs(actions), np.tanh(1.0), atol=0.01)
    assert np.array_equal(offline, left > 0)
    assert 0 < offline.mean() < 1
    if n_envs > 1:
        assert (offline.any(axis=1) & ~offline.all(axis=1)).any()  # some of the environments, not the others
    for step in range(len(left) - 1):
        goes_on = ~dones[step]
        assert np.array_equal(left[step + 1][goes_on], np.maximum(left[step] - 1, 0)[goes_on])
    # what is learned from is what was done
    stored = model.replay_buffer.actions[: len(actions)]
    assert np.allclose(stored, actions)


def test_horizons_are_geometric_and_their_probability_falls() -> None:
    model, jump, _ = two_policies(1, probability=0.6, end_probability=0.2, anneal_steps=100, mean_steps=20)
    model.finetuning_run.steps_before = 0
    np.random.seed(0)
    for steps, probability in ((0, 0.6), (50, 0.4), (100, 0.2), (300, 0.2)):
        model.num_timesteps = steps
        assert jump.current_probability() == pytest.approx(probability)
        drawn = jump._draw(4000)
        assert (drawn > 0).mean() == pytest.approx(probability, abs=0.03)
        assert drawn[drawn > 0].mean() == pytest.approx(20, rel=0.1)
        # P(h = 1) = 1 / 20 of a geometric distribution
        assert (drawn[drawn > 0] == 1).mean() == pytest.approx(0.05, abs=0.02)


def test_the_offline_policy_stays_and_critics_start_afresh(tmp_path: Path) -> None:
    make().pretrain(dataset(), 3).save(tmp_path / "offline")
    for fresh in (True, False):
        model = type(make()).load_offline(
            tmp_path / "offline", vec(), finetuning=[JumpStart(fresh_critics=fresh)], device="cpu", learning_starts=4
        )
        offline = state(make().load(tmp_path / "offline"))
        model.learn(1)
        assert differs(offline, state(model), "policy/critic.") is fresh
        assert not differs(offline, state(model), "policy/actor.")
        model.learn(12, reset_num_timesteps=False)
        assert differs(offline, state(model), "policy/actor.")
        (jump,) = model.finetuning
        for name, value in jump.policy.state_dict().items():
            assert th.equal(value, offline[f"policy/actor.{name}"])
        model.save(tmp_path / "tuned")
        (loaded,) = type(model).load(tmp_path / "tuned", env=vec(), device="cpu").finetuning
        assert all(
            th.equal(value, jump.policy.state_dict()[name]) for name, value in loaded.policy.state_dict().items()
        )
        critics = state(model)
        again = type(model).load(tmp_path / "tuned", env=vec(), device="cpu", gradient_steps=0)
        again.learn(1, reset_num_timesteps=False)
        assert not differs(critics, state(again), "policy/critic.")  # not thrown away a second time


def test_interrupted_equals_uninterrupted(tmp_path: Path) -> None:
    def start() -> Any:
        return make(env=vec(2), finetuning=[JumpStart(mean_steps=4, probability=0.8, end_probability=0.3)])

    whole = start()
    whole.learn(40)
    half = start()
    half.learn(20)
    half.save_resume(tmp_path / "bundle")
    resumed = type(half).load_resume(tmp_path / "bundle", vec(2))
    resumed.learn(20, reset_num_timesteps=False)
    assert_same(state(whole), state(resumed))
    assert np.array_equal(whole.replay_buffer.actions[:20], resumed.replay_buffer.actions[:20])


def test_it_starts_beside_a_warm_up_and_not_beside_another_actor() -> None:
    make(finetuning=[JumpStart(), Warmup(5)]).learn(12)
    with pytest.raises(ValueError, match="JumpStart"):
        make(finetuning=[JumpStart(), JumpStart()])
    with pytest.raises(ValueError, match="replay buffer"):
        make_ppo(finetuning=[JumpStart()])


@pytest.mark.parametrize("kwargs", [{"probability": 1.5}, {"mean_steps": 0}, {"anneal_steps": 0}])
def test_bad_arguments(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        JumpStart(**kwargs)
