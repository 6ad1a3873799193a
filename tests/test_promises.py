"""What holds for every objective: time limits bootstrap and terminations do not, and each runs end to end."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from toy_tasks import FAST, assert_same, dataset_file, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o.data import MonteCarloReplayBuffer
from sb3_o2o.finetuning import AuxiliaryAdvantage, FineTuningCallback, PolicyReevaluation, SymmetricReplay, Warmup
from sb3_o2o.objectives import PPO_OBJECTIVES, SAC_OBJECTIVES, TD3_OBJECTIVES, Batch, IQLObjective

#: objectives that have a TD target, with what builds a model for them
WITH_TARGETS = [(make, "sac"), (make, "cql"), (make, "calql"), (make, "iql")]
WITH_TARGETS += [(make, "sac_n"), (make, "edac"), (make, "awac"), (make, "sac_ml")]
WITH_TARGETS += [(make_td3, "td3"), (make_td3, "td3_bc"), (make_td3, "iql"), (make_td3, "rebrac")]
TARGETS_OF_ONE_ACTION = ("iql", "td3", "td3_bc", "awac", "rebrac")
ALL = [(make, name) for name in SAC_OBJECTIVES] + [(make_td3, name) for name in TD3_OBJECTIVES]
SMALL: dict[str, dict[str, Any]] = {"cql": {"n_actions": 2}, "calql": {"n_actions": 2}}
SMALL["spot"] = {"density_steps": 3, "density_net_arch": [8], "flatten_observations": True}


# -- time limits ---------------------------------------------------------------------------------------------------


class TwoSteps(gym.Env[np.ndarray, np.ndarray]):
    """Episodes of two steps that end in turn by a termination and by a time limit; the reward says which step it is."""

    observation_space = spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([2.0, 3.0], np.float32))

    def __init__(self) -> None:
        self.episode = -1

    def _observe(self) -> np.ndarray:
        return np.array([self.steps, self.episode % 2, 1.0], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over, by_limit = self.steps == 2, self.episode % 2 == 1
        return self._observe(), float(self.steps + 10 * by_limit), over and not by_limit, over and by_limit, {}


def two_step_arrays(n_episodes: int = 10) -> dict[str, Any]:
    """Recorded episodes of :class:`TwoSteps`."""
    by_limit = np.repeat(np.arange(n_episodes) % 2 == 1, 2)
    first = np.tile([True, False], n_episodes)
    count = np.where(first, 0.0, 1.0)
    parity = by_limit.astype(float)
    one = np.ones_like(count)
    return {
        "observations": np.stack([count, parity, one], axis=1).astype(np.float32),
        "actions": np.zeros((2 * n_episodes, 2), np.float32),
        "rewards": count + 1 + 10 * parity,
        "next_observations": np.stack([count + 1, parity, one], axis=1).astype(np.float32),
        "terminations": ~first & ~by_limit,
        "truncations": ~first & by_limit,
    }


class Targets(FineTuningCallback):
    """Backs up the value 100 everywhere, and keeps the TD targets with the rewards that they belong to."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: set[tuple[float, float]] = set()

    def watch(self, model: Any) -> None:
        for objective in {model.offline_objective, model.finetuning_objective}:
            original = objective.td_target

            def watched(batch: Batch, *rest: Any, original: Any = original, own: Any = objective) -> th.Tensor:
                with pytest.MonkeyPatch.context() as patch:
                    if isinstance(own, IQLObjective):  # what it backs up is V(s')
                        patch.setattr(own.value, "forward", lambda features: th.full(features.shape[:1], 100.0))
                    patch.setattr(model.hooks, "next_values", lambda values, *_: th.full_like(values, 100.0))
                    target = original(batch, *rest)
                rows = zip(batch.rewards.tolist(), target.tolist(), strict=True)
                self.pairs |= {(reward, round(value, 2)) for reward, value in rows}
                return target

            objective.td_target = watched  # type: ignore[assignment]


#: r + 0.99 * 100, but the reward 2 alone where the episode terminates
EXPECTED = {(1.0, 100.0), (11.0, 110.0), (2.0, 2.0), (12.0, 111.0)}


@pytest.mark.parametrize("max_target_backup", [False, True])
@pytest.mark.parametrize("objective", ["sac", "cql", "calql"])
def test_time_limits_bootstrap_offline_and_terminations_do_not(objective: str, max_target_backup: bool) -> None:
    kwargs = {"n_actions": 2, "max_target_backup": max_target_backup}
    model, targets = make(env=TwoSteps(), objective=objective, objective_kwargs=kwargs), Targets()
    targets.watch(model)
    model.pretrain(two_step_arrays(), 6)
    assert targets.pairs == EXPECTED


@pytest.mark.parametrize(
    ("build", "objective"), [pair for pair in WITH_TARGETS if pair[1] in TARGETS_OF_ONE_ACTION] + [(make_ppo, "iql")]
)
def test_time_limits_bootstrap_offline_with_one_target_action(build: Any, objective: str) -> None:
    model, targets = build(env=TwoSteps(), objective=objective), Targets()
    targets.watch(model)
    model.pretrain(two_step_arrays(), 6)
    assert targets.pairs == EXPECTED


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(("build", "objective"), WITH_TARGETS)
def test_time_limits_bootstrap_online_and_terminations_do_not(build: Any, objective: str, n_envs: int) -> None:
    env = DummyVecEnv([TwoSteps] * n_envs)
    kwargs = {"online_objective": objective, "online_objective_kwargs": SMALL.get(objective)}
    model, targets = build(env=env, learning_starts=8, **kwargs), Targets()
    targets.watch(model)
    model.learn(24 * n_envs)
    assert targets.pairs == EXPECTED


@pytest.mark.parametrize("build", [make, make_td3])
def test_time_limits_bootstrap_in_mixed_batches(build: Any) -> None:
    model = build(env=TwoSteps(), finetuning=[SymmetricReplay(0.5)], learning_starts=8)
    targets = Targets()
    model.pretrain(two_step_arrays(), 1)
    targets.watch(model)
    model.learn(24)
    assert targets.pairs == EXPECTED


@pytest.mark.parametrize("build", [make, make_td3])
def test_time_limits_bootstrap_in_n_step_returns(build: Any) -> None:
    model, targets = build(env=TwoSteps(), n_steps=3, learning_starts=8), Targets()
    targets.watch(model)
    model.pretrain(two_step_arrays(), 6)
    # 1 + 0.99 * 2 and over; 11 + 0.99 * 12 and on with 0.99^2 * 100; last steps as before
    expected = {(2.98, 2.98), (22.88, 120.89), (2.0, 2.0), (12.0, 111.0)}
    assert {(round(reward, 2), value) for reward, value in targets.pairs} == expected
    targets.pairs.clear()
    model.learn(30)
    # online the newest transition may be a first step, whose next one is not known yet: it counts as one step
    newest = {(1.0, 100.0), (11.0, 110.0)}
    assert {(round(reward, 2), value) for reward, value in targets.pairs} - newest == expected


def test_returns_do_not_run_on_over_a_reset() -> None:
    """``learn`` called again begins new episodes; the one that was cut is over."""
    model = make(env=TwoSteps(), online_objective="calql", online_objective_kwargs={"n_actions": 2}, learning_starts=50)
    model.learn(3)
    model.learn(2)
    buffer = model.replay_buffer
    assert isinstance(buffer, MonteCarloReplayBuffer)
    # episodes: 1, 2 | 11, cut | 1, 2
    assert buffer.rewards[:5, 0].tolist() == [1.0, 2.0, 11.0, 1.0, 2.0]
    assert buffer.returns[:5, 0].tolist() == pytest.approx([2.98, 2.0, 11.0, 2.98, 2.0])
    assert buffer.dones[:5, 0].tolist() == [0, 1, 1, 0, 1]
    assert buffer.timeouts[:5, 0].tolist() == [0, 0, 1, 0, 0]


# -- end to end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize(("build", "objective"), ALL)
def test_every_objective_end_to_end(build: Any, objective: str, dictionary: bool, n_envs: int, tmp_path: Path) -> None:
    """Pre-train, save, load, fine-tune, save, load, act."""
    data = dataset_file(tmp_path, dictionary)
    online = None if objective == "bc" else objective
    kwargs = SMALL.get(objective)
    model = build(
        env=vec(n_envs, dictionary=dictionary),
        dictionary=dictionary,
        objective=objective,
        objective_kwargs=kwargs,
        online_objective=online,
        online_objective_kwargs=kwargs,
        critic_layer_norm=True,
        n_critics=3,
        normalize_observations=True,
    )
    before = state(model)
    algorithm = type(model)
    model.pretrain(data, 3).save(tmp_path / "offline")
    assert differs(before, state(model), "policy/actor.")
    assert differs(before, state(model), "policy/critic.ensemble") == (objective != "bc")
    callbacks = [Warmup(4), SymmetricReplay(0.5)]
    model = algorithm.load_offline(
        tmp_path / "offline", vec(n_envs, dictionary=dictionary), finetuning=callbacks, dataset=data, device="cpu"
    )
    before = state(model)
    model.learn(24 * n_envs)
    after = state(model)
    assert differs(before, after, "policy/actor.")
    assert differs(before, after, "policy/critic.")
    assert differs(before, after, "policy/critic_target.")
    assert all(th.isfinite(value).all() for value in after.values())
    model.save(tmp_path / "finetuned")
    loaded = algorithm.load(tmp_path / "finetuned", env=vec(n_envs, dictionary=dictionary), device="cpu")
    assert_same(after, state(loaded))
    assert [type(callback) for callback in loaded.finetuning] == [Warmup, SymmetricReplay]
    obs = vec(n_envs, dictionary=dictionary).reset()
    actions, _ = loaded.predict(obs, deterministic=True)
    assert actions.shape == (n_envs, 2)
    assert np.array_equal(actions, model.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("objective", PPO_OBJECTIVES)
def test_every_objective_of_ppo_end_to_end(objective: str, dictionary: bool, n_envs: int, tmp_path: Path) -> None:
    data = dataset_file(tmp_path, dictionary)
    env = vec(n_envs, dictionary=dictionary)
    model = make_ppo(env=env, dictionary=dictionary, objective=objective, normalize_observations=True)
    before = state(model)
    model.pretrain(data, 3).save(tmp_path / "offline")
    assert differs(before, state(model), "policy/action_net")
    assert not differs(before, state(model), "policy/value_net")
    model = type(model).load_offline(
        tmp_path / "offline",
        vec(n_envs, dictionary=dictionary),
        finetuning=[PolicyReevaluation(3, batch_size=5), AuxiliaryAdvantage(reference="interval")],
        device="cpu",
    )
    before = state(model)
    model.learn(24 * n_envs)
    after = state(model)
    assert differs(before, after, "policy/action_net")
    assert differs(before, after, "policy/value_net")
    assert all(th.isfinite(value).all() for value in after.values())
    model.save(tmp_path / "finetuned")
    loaded = type(model).load(tmp_path / "finetuned", env=vec(n_envs, dictionary=dictionary), device="cpu")
    assert_same(after, state(loaded))
    assert [type(callback) for callback in loaded.finetuning] == [PolicyReevaluation, AuxiliaryAdvantage]
    obs = vec(n_envs, dictionary=dictionary).reset()
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


@pytest.mark.parametrize(("build", "objective"), [*ALL, *((make_ppo, name) for name in PPO_OBJECTIVES)])
def test_one_gradient_step_is_the_same_twice(build: Any, objective: str, tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    kwargs = {"objective": objective, "objective_kwargs": SMALL.get(objective)}
    first, second = (build(**kwargs).pretrain(data, 3) for _ in range(2))
    assert_same(state(first), state(second))
    other = build(**kwargs, seed=FAST["seed"] + 1).pretrain(data, 3)
    assert differs(state(first), state(other))
