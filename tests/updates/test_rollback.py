"""``on_nonfinite="rollback"``: back to earlier weights and on, at most three times."""

from typing import Any

import numpy as np
import pytest
import torch as th
from failing import INF, NAN, faulty, poison_loss
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import assert_same, dataset, make, make_ppo, make_td3, reach, state

from sb3_o2o import O2OPPO, NonFiniteError
from sb3_o2o.finetuning import (
    DualCritic,
    OnlinePretraining,
)
from sb3_o2o.updates.trained import Snapshot, first_not_finite, trained_tensors

# -- going back ----------------------------------------------------------------------------------------------------


def test_a_rollback_goes_back_to_the_snapshot_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_o2o.updates.finite.SNAPSHOT_EVERY", 5)
    model = make(objective="cql", on_nonfinite="rollback")
    states, taken = [], Snapshot.__init__

    def take(self: Any, model: Any, *arguments: Any) -> None:
        states.append(state(model))
        taken(self, model, *arguments)

    monkeypatch.setattr(Snapshot, "__init__", take)
    back: list[Any] = []
    restore = Snapshot.restore
    monkeypatch.setattr(
        Snapshot, "restore", lambda self, model: (restore(self, model), back.append((self.n_updates, state(model))))
    )
    poison_loss(model, "critic", at=8)
    with pytest.warns(UserWarning, match=r"'critic' is nan at update 8, pre.* of update 5, rollback 1 of at most 3"):
        model.pretrain(dataset(), 12)
    assert model.n_pretrain_steps == 12
    assert [at for at, _ in back] == [5]
    assert_same(back[0][1], states[1])
    assert first_not_finite(trained_tensors(model)) is None
    assert model.logger.name_to_value.get("train/rollbacks", 1) == 1


def test_a_rollback_forgets_moments_that_are_younger() -> None:
    model = make(objective="cql", on_nonfinite="rollback")
    fresh = state(model)
    poison_loss(model, "critic", at=3)
    with pytest.warns(UserWarning, match="Going back to the weights of update 0"):
        model.pretrain(dataset(), 3)
    assert_same(state(model), fresh)  # the third update was dropped, and with it the two before


def test_rollbacks_end() -> None:
    model = make(objective="cql", on_nonfinite="rollback", learning_rate=1e30)
    with (
        pytest.warns(UserWarning, match="rollback 3 of at most 3"),
        pytest.raises(NonFiniteError, match=r"\(The run has gone back 3 times\.\)"),
    ):
        model.pretrain(dataset(), 50)


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_a_step_that_is_not_finite_is_dropped_and_episodes_begin_anew(build: Any) -> None:
    env = VecNormalize(faulty("observation", INF, once=True, at=12))
    model = build(env=env, on_nonfinite="rollback")
    with pytest.warns(UserWarning, match="environment 0 is inf at environment step 12"):
        model.learn(40)
    assert model.num_timesteps >= 40
    assert np.isfinite(env.obs_rms.mean).all()
    assert np.isfinite(env.obs_rms.var).all()
    if isinstance(model, O2OPPO):
        return
    buffer = model.replay_buffer
    assert np.isfinite(buffer.observations[: buffer.pos]).all()
    assert np.isfinite(buffer.next_observations[: buffer.pos]).all()
    assert buffer.dones[10] == 1.0  # the last step before, row 10: nothing is summed across the gap
    assert not np.array_equal(buffer.next_observations[10], buffer.observations[11])


def test_hindsight_ends_its_episode_too() -> None:
    from stable_baselines3 import HerReplayBuffer

    env = reach()
    inner, at = env.envs[0].unwrapped, 8
    step = inner.step

    def once(action: np.ndarray) -> Any:
        nonlocal at
        at -= 1
        observation, reward, *rest = step(action)
        return (observation, NAN if at == 0 else reward, *rest)

    inner.step = once
    model = make("MultiInputPolicy", env=env, replay_buffer_class=HerReplayBuffer, on_nonfinite="rollback")
    with pytest.warns(UserWarning, match="reward of environment 0 is nan at environment step 8"):
        model.learn(30)
    assert (model.replay_buffer.ep_length[:7] > 0).all()


def test_ppo_goes_back() -> None:
    model = make_ppo(on_nonfinite="rollback")
    original, calls = model.policy.evaluate_actions, 0

    def sometimes(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        values, log_prob, entropy = original(*arguments)
        return values * (NAN if calls == 4 else 1.0), log_prob, entropy

    model.policy.evaluate_actions = sometimes
    with pytest.warns(UserWarning, match=r"gradient is not finite at update \d, finetuning.*rollback 1"):
        model.learn(32)
    assert first_not_finite(trained_tensors(model)) is None
    assert model.num_timesteps == 32


def test_a_snapshot_has_what_callbacks_train() -> None:
    model = make(finetuning=[OnlinePretraining(8, 4), DualCritic(0.5)], dataset=dataset())
    model.learn(30)
    names = {name.partition(".")[0] for name, _ in trained_tensors(model)}
    assert {"policy", "log_ent_coef", "DualCritic"} <= names or {"policy", "log_ent_coef", "OnlinePretraining"} <= names
    snapshot, before = Snapshot(model), {name: tensor.detach().clone() for name, tensor in trained_tensors(model)}
    model.learn(20, reset_num_timesteps=False)
    changed = dict(trained_tensors(model))
    assert any(not th.equal(before[name], changed[name]) for name in before if "second" in name or "critics" in name)
    snapshot.restore(model)
    assert_same({name: tensor.detach() for name, tensor in trained_tensors(model)}, before)


def test_a_phase_before_pretraining_goes_back_too() -> None:
    small = {"density_steps": 6, "density_net_arch": [8]}
    model = make_td3(objective="spot", online_objective="spot", objective_kwargs=small, on_nonfinite="rollback")
    poison_loss(model, "density", at=4)
    with pytest.warns(UserWarning, match="'density' is nan at update 0, pretraining.* rollback 1"):
        model.pretrain(dataset(), 2)
    assert model.offline_objective.preparation_progress() == (6, 6)
    assert model.n_pretrain_steps == 2
