"""What callbacks keep ends with what it belongs to: an episode that a reset cuts, a run, a dataset, a model."""

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from combinations import NEEDS, SMALL
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from toy_tasks import FAST, arrays, assert_same, dataset, differs, make, make_ppo, make_td3, reach, state, vec

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.data.online import close_episodes, samples_at
from sb3_o2o.finetuning import (
    AsynchronousUpdates,
    BalancedReplay,
    ChampionChallenger,
    ConstrainedFineTuning,
    DatasetReplay,
    DualCritic,
    FIFOReplay,
    FineTuningCallback,
    JumpStart,
    OnlinePretraining,
    PolicyReevaluation,
    SymmetricReplay,
    Warmup,
)


class Steps(gym.Env[Any, np.ndarray]):
    """
    Observations are the number of the episode and of the step, rewards 1.

    :param length: steps until an episode ends
    :param terminates: whether as terminated
    """

    def __init__(self, length: int = 10, terminates: bool = False):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.length, self.terminates, self.episode = length, terminates, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return np.array([self.episode, self.steps], np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ends = self.steps >= self.length
        return self.observe(), 1.0, ends and self.terminates, ends and not self.terminates, {}


def steps(n_envs: int = 1, **kwargs: Any) -> DummyVecEnv:
    """Several of them behind monitors."""
    return DummyVecEnv([lambda: Monitor(Steps(**kwargs)) for _ in range(n_envs)])


def transitions(reward: float, n: int = 60) -> dict[str, np.ndarray]:
    """Episodes of ten steps that fit, all with one reward, which is the number of the episode as well."""
    count = np.arange(n) % 10
    episode = np.full(n, reward)
    return {
        "observations": np.stack([episode, count], 1).astype(np.float32),
        "next_observations": np.stack([episode, count + 1], 1).astype(np.float32),
        "actions": np.random.default_rng(0).uniform(-0.9, 0.9, (n, 1)).astype(np.float32),
        "rewards": np.full(n, reward, np.float32),
        "terminations": np.zeros(n, bool),
        "truncations": count == 9,
    }


def of_steps(build: Any = O2OTD3, env: Any = None, **kwargs: Any) -> Any:
    """A model on them."""
    settings = {**FAST, "learning_starts": 0, "policy_kwargs": {"net_arch": [4]}, **kwargs}
    return build("MlpPolicy", steps() if env is None else env, **settings)


class Rewards(FineTuningCallback):
    """Which rewards and discounts the updates of each phase saw."""

    hears_offline_updates = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[float]] = {}
        self.discounts: set[float] = set()

    def after_update(self, batch: Any, metrics: Any) -> None:
        assert self.model.phase is not None
        self.seen.setdefault(self.model.phase, set()).update(batch.rewards.tolist())
        self.discounts.update(round(discount, 3) for discount in batch.discounts.tolist())


class Stops(BaseCallback):
    """False at one step."""

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        return self.num_timesteps != self.at


# -- datasets ----------------------------------------------------------------------------------------------------------

DRAWING = [
    lambda: SymmetricReplay(),
    lambda: FIFOReplay(),
    lambda: BalancedReplay(ratio_net_arch=[4], ratio_batch_size=4, initial_steps=1),
    lambda: DatasetReplay("all"),
]


@pytest.mark.parametrize("build", DRAWING)
def test_a_callback_of_another_model_draws_from_this_ones_dataset(build: Any) -> None:
    callback, watch = build(), Rewards()
    of_steps(dataset=transitions(100.0), n_steps=3, gamma=0.9).learn(20, callback=callback)
    model = of_steps(dataset=transitions(-7.0), reward_scale=2.0)
    model.learn(3)  # so that the buffer is not empty
    model.learn(20, callback=[callback, watch])
    assert watch.seen["finetuning"] == {2.0, -14.0}  # on this model's scale
    assert watch.discounts == {0.99}  # and over its steps


@pytest.mark.parametrize("name", SMALL)
def test_no_callback_knows_of_another_model(name: str) -> None:
    """A run with one that was in another run before comes out as one with a new one."""

    def run(given: list[FineTuningCallback], **kwargs: Any) -> Any:
        build = make_ppo if name == "AuxiliaryAdvantage" else make_td3 if name == "AdaptiveBC" else make
        return build(learning_rate=0.01, pretrain_steps=4, **kwargs).learn(45, callback=given)

    def new() -> list[FineTuningCallback]:
        return [SMALL[each]() for each in (name, NEEDS.get(name)) if each is not None]

    expected = run(new(), dataset=dataset(seed=1), seed=5)
    used = new()
    run(used, dataset=dataset(seed=0), seed=3)
    assert_same(state(run(used, dataset=dataset(seed=1), seed=5)), state(expected))


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("build", DRAWING[:3])
def test_after_pretraining_on_other_data_these_are_drawn(build: Any, resets: bool) -> None:
    watch = Rewards()
    model = of_steps(finetuning=[build(), PolicyReevaluation(gradient_steps=2), watch])
    model.pretrain(transitions(100.0), 3).learn(10)
    watch.seen.clear()
    model.pretrain(transitions(-7.0, n=40), 3, reset_gradient_steps=resets).learn(10)
    assert watch.seen["pretraining"] == {-7.0}
    assert watch.seen["finetuning"] <= {1.0, -7.0}
    assert -7.0 in watch.seen["finetuning"]
    assert watch.seen.get("reevaluation", {-7.0}) == {-7.0}


def test_a_warm_up_of_another_model_warms_this_one_up(tmp_path: Path) -> None:
    of_steps().learn(40)
    model = of_steps()
    model.learn(40)
    model.save(tmp_path / "model")
    made = []
    for warmup in (Warmup(12), Warmup(12)):
        if made:  # the second has been in another run
            of_steps().learn(30, callback=warmup)
        loaded = O2OTD3.load(tmp_path / "model", env=steps())
        before = loaded._n_updates
        loaded.learn(20, callback=warmup)
        made.append(loaded._n_updates - before)
    assert made == [8, 8]


def test_an_online_buffer_without_next_observations_is_not_filled() -> None:
    settings: dict[str, Any] = {"handle_timeout_termination": False}
    model = of_steps(dataset=transitions(3.0), optimize_memory_usage=True, replay_buffer_kwargs=settings)
    with pytest.raises(ValueError, match="set optimize_memory_usage=False"):
        model.learn(5, callback=DatasetReplay())
    assert model.replay_buffer.size() == 0


# -- episodes that a reset cuts ----------------------------------------------------------------------------------------


def begin_anew(model: Any, how: str, folder: Path) -> Any:
    """The model, whose environments begin new episodes in the next ``learn`` of ``reset_num_timesteps=False``."""
    if how == "set_env":
        model.set_env(steps(model.n_envs, length=model.env.get_attr("length")[0]))
    elif how == "resume":
        model.save_resume(folder / "bundle")
        with pytest.warns(UserWarning, match="out of reach"):
            model = type(model).load_resume(folder / "bundle", steps_elsewhere())
    return model


def long_episodes() -> gym.Env:
    return Monitor(Steps(length=30))


def steps_elsewhere() -> SubprocVecEnv:
    return SubprocVecEnv([long_episodes], start_method="fork")


@pytest.mark.parametrize("how", ["set_env", "resume", "learn"])
def test_champion_and_challenger_count_whole_episodes(how: str, tmp_path: Path) -> None:
    env = steps_elsewhere() if how == "resume" else steps(length=30)
    model = of_steps(env=env, finetuning=[ChampionChallenger()])
    model.learn(25)
    goes_on = begin_anew(model, how, tmp_path)
    goes_on.learn(70, reset_num_timesteps=how == "learn")
    for each in {id(model.env): model.env, id(goes_on.env): goes_on.env}.values():
        each.close()
    returns = goes_on.finetuning[0].champion_returns
    assert returns == [30.0, 30.0]


def test_a_champion_that_comes_in_the_middle_of_an_episode_does_not_count_it() -> None:
    model = of_steps(env=steps(length=30))
    model.learn(25)
    champion = ChampionChallenger()
    model.learn(40, callback=champion, reset_num_timesteps=False)
    assert champion.champion_returns == [30.0]


def test_the_offline_policy_begins_the_episode_after_a_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jump = JumpStart(probability=1.0, end_probability=1.0, mean_steps=1)
    model = of_steps(O2OSAC, finetuning=[jump], pretrain_steps=1, dataset=transitions(1.0))
    model.learn(5)
    assert jump.remaining is not None
    assert jump.remaining.tolist() == [0]
    begin_anew(model, "set_env", tmp_path)
    acted: list[Any] = []
    monkeypatch.setattr(JumpStart, "offline_actions", lambda _, seen: acted.append(seen) or np.zeros((1, 1)))
    model.learn(2, reset_num_timesteps=False)
    assert [seen.tolist() for seen in acted] == [[[0.0, 0.0]]]


def test_what_kappa_is_measured_by_ends_where_environments_are_reset() -> None:
    dual = DualCritic(kappa="auto", auto_window=50, auto_interval=1)
    model = of_steps(finetuning=[dual])
    model.learn(4)
    model.learn(4)
    seen = [(int(row[0][0][1]), bool(row[4][0]), bool(row[3][0])) for row in dual.recent]
    # the step, whether it is the last that was seen of its episode, whether it failed
    assert seen == [(step, step == 3 and first, False) for first in (True, False) for step in range(4)]


def test_episodes_are_cut_after_a_step_that_could_not_be_used() -> None:
    class NaN(Steps):
        made = 0

        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            observation, *rest = super().step(action)
            NaN.made += 1
            return observation * np.nan if NaN.made == 26 else observation, *rest  # type: ignore[return-value]

    champion = ChampionChallenger()
    env = DummyVecEnv([lambda: NaN(length=30)])
    model = of_steps(env=env, on_nonfinite="rollback", finetuning=[champion])
    with pytest.warns(UserWarning, match="Going back"):
        model.learn(90)
    assert champion.champion_returns == [30.0, 30.0]


# -- episodes in the replay buffer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["learn", "set_env"])
def test_n_steps_end_where_environments_are_reset(how: str, tmp_path: Path) -> None:
    model = of_steps(n_steps=3, gamma=0.5)
    model.learn(5)
    begin_anew(model, how, tmp_path)
    model.learn(5, reset_num_timesteps=how == "learn")
    rows, column = np.array([2, 3, 4]), np.zeros(3, dtype=int)
    samples = samples_at(model.replay_buffer, rows, column)
    assert samples.next_observations.tolist() == [[0.0, 5.0]] * 3
    assert samples.rewards.flatten().tolist() == [1.75, 1.5, 1.0]
    assert samples.discounts is not None
    assert samples.discounts.flatten().tolist() == [0.125, 0.25, 0.5]
    assert samples.dones.flatten().tolist() == [0.0] * 3  # nothing has failed


def test_n_steps_end_where_a_dataset_is_loaded() -> None:
    model = of_steps(n_steps=3, gamma=0.5, dataset=transitions(50.0))
    model.learn(5)
    model.learn(1, callback=DatasetReplay("all"), reset_num_timesteps=False)
    samples = samples_at(model.replay_buffer, np.array([4]), np.array([0]))
    assert samples.next_observations.tolist() == [[0.0, 5.0]]
    assert samples.rewards.item() == 1.0


def test_hindsight_takes_no_goals_from_another_episode() -> None:
    model = make_td3("MultiInputPolicy", env=reach(limit=10), replay_buffer_class=HerReplayBuffer)
    model.learn(14)
    model.learn(14)
    buffer: Any = model.replay_buffer
    starts, lengths = buffer.ep_start[:24, 0], buffer.ep_length[:24, 0]
    assert sorted(set(zip(starts.tolist(), lengths.tolist(), strict=True))) == [(0, 10), (10, 4), (14, 10)]
    assert buffer.timeouts[13, 0] == 1.0


def test_a_failure_stays_one_where_episodes_are_closed() -> None:
    model = of_steps(env=steps(2, terminates=True))
    model.learn(20)
    buffer = model.replay_buffer
    buffer.dones[9, 1] = 0.0  # of the second, whose episode would go on
    close_episodes(buffer)
    assert buffer.dones[9].tolist() == [1.0, 1.0]
    assert buffer.timeouts[9].tolist() == [0.0, 1.0]
    samples = samples_at(buffer, np.array([9, 9]), np.array([0, 1]))
    assert samples.dones.flatten().tolist() == [1.0, 0.0]


def test_the_step_at_which_a_callback_stops_is_stored() -> None:
    model = of_steps(O2OSAC, env=steps(terminates=True), online_objective="calql", gamma=0.5)
    model.learn(1000, callback=StopTrainingOnMaxEpisodes(2))
    buffer = model.replay_buffer
    assert (model.num_timesteps, buffer.size()) == (20, 20)
    assert model._episode_num == 2
    assert len(model.ep_info_buffer) == 2
    assert buffer.dones[19, 0] == 1.0
    assert buffer.returns[18:20, 0].tolist() == [1.5, 1.0]
    model.learn(5, reset_num_timesteps=False)
    assert buffer.observations[20:25, 0].tolist() == [[2.0, step] for step in range(5)]


def test_a_stop_in_the_middle_of_an_episode_leaves_no_gap() -> None:
    model = of_steps()
    model.learn(100, callback=Stops(4))
    model.learn(4, reset_num_timesteps=False)
    buffer = model.replay_buffer
    assert buffer.observations[:8, 0].tolist() == [[0.0, step] for step in range(8)]
    assert buffer.next_observations[:8, 0].tolist() == [[0.0, step + 1.0] for step in range(8)]


def test_ppo_goes_on_from_the_observation_at_which_it_was_stopped() -> None:
    model = make_ppo(env=vec(limit=50), n_steps=8)
    model.learn(8, callback=Stops(3))
    seen = model._last_obs.copy()  # type: ignore[union-attr]
    env: Any = model.env
    assert np.array_equal(seen[0], env.envs[0].unwrapped._observe())


# -- OPT ---------------------------------------------------------------------------------------------------------------


class Fresh(FineTuningCallback):
    """Keeps what OPT's second critics took for fresh transitions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self.rewards: list[float] = []
        drawn = OnlinePretraining._online_batch

        def draw(callback: OnlinePretraining, size: int) -> Any:
            batch = drawn(callback, size)
            self.rewards.extend(batch.rewards.tolist())
            return batch

        monkeypatch.setattr(OnlinePretraining, "_online_batch", draw)


@pytest.mark.parametrize("first", ["dataset", "opt"])
def test_opt_collects_anew_what_a_refilled_buffer_does_not_hold(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt = OnlinePretraining(collect_steps=40, gradient_steps=5)
    loads = DatasetReplay("all")
    order = [loads, opt] if first == "dataset" else [opt, loads]
    model = of_steps(finetuning=[*order, DualCritic(kappa=0.5)])
    model.pretrain(transitions(100.0), 2)
    model.learn(60, callback=Stops(30))
    model.save(tmp_path / "model")
    again = O2OTD3.load(tmp_path / "model", env=steps(), dataset=transitions(100.0))
    watch = Fresh(monkeypatch)
    with pytest.warns(UserWarning, match="collects anew"):
        again.learn(60, reset_num_timesteps=False)
    assert set(watch.rewards) == {1.0}


def test_opt_counts_the_transitions_that_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    opt = OnlinePretraining(collect_steps=20, gradient_steps=20)
    model = of_steps(finetuning=[DatasetReplay("all"), opt, DualCritic(kappa=0.5)])
    model.pretrain(transitions(100.0), 2)
    watch = Fresh(monkeypatch)
    model.learn(60, callback=Stops(10))
    model.learn(40, reset_num_timesteps=False)
    assert set(watch.rewards) == {1.0}


# -- updates that are deferred -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_model_that_has_used_it_can_be_copied(name: str) -> None:
    build = make_ppo if name == "AuxiliaryAdvantage" else make_td3 if name == "AdaptiveBC" else make
    callbacks = [SMALL[each]() for each in (name, NEEDS.get(name)) if each is not None]
    model = build(finetuning=callbacks, dataset=dataset(), pretrain_steps=2)
    model.learn(16)
    copied = copy.deepcopy(model)
    assert_same(state(copied), state(model))
    assert_same(state(pickle.loads(pickle.dumps(model))), state(model))
    assert differs(state(copied.learn(8)), state(model))


def test_a_saved_model_has_no_updates_of_transitions_that_are_gone(tmp_path: Path) -> None:
    class Saves(FineTuningCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 10:
                updates.pending.append((3, 8))
                self.model.save(tmp_path / "model")
            return True

    updates = AsynchronousUpdates()
    make(finetuning=[updates], learning_starts=0).learn(12, callback=Saves())
    loaded = O2OSAC.load(tmp_path / "model", env=vec())
    assert loaded.finetuning[0].pending == []
    loaded.learn(5)


@pytest.mark.parametrize("n_envs", [1, 4])
def test_deferred_updates_move_the_multiplier_as_often(n_envs: int, tmp_path: Path) -> None:
    moved = []
    for deferred in ([], [AsynchronousUpdates(max_lag=0)]):
        constraint = ConstrainedFineTuning(reference="interval")
        model = O2OTD3(
            "MlpPolicy",
            vec(n_envs),
            recipe="o2td3_interval",
            dataset=arrays(),
            pretrain_steps=2,
            finetuning=[constraint, *deferred],
            policy_kwargs={"net_arch": [4]},
            policy_delay=1,
            **FAST,
        )
        model.learn(10 * n_envs)
        steps_made = [int(each["step"]) for each in constraint.multiplier.optimizer.state.values()]  # type: ignore[union-attr]
        moved.append(steps_made)
    assert moved[0] == moved[1]
    assert min(moved[0]) > 0


# -- scores ------------------------------------------------------------------------------------------------------------


def test_the_score_at_which_a_run_is_stopped_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scores(EvalCallback):
        found = iter([1.0, 5.0, 2.0])

        def _on_step(self) -> bool:
            if self.n_calls % self.eval_freq == 0:
                self.last_mean_reward = next(self.found)
            return self.last_mean_reward < 5.0

    monkeypatch.setattr("sb3_o2o.finetuning.reference._mean_return", lambda *_: -1.0)
    constraint = ConstrainedFineTuning()
    model = make_td3(finetuning=[constraint], learning_rate=0.01, learning_starts=0)
    evaluation = Scores(vec(), eval_freq=5, verbose=0)
    model.learn(20, callback=evaluation)
    assert model.num_timesteps == 10
    assert constraint.best_score == 5.0
    best = copy.deepcopy(model.actor.state_dict())
    evaluation.last_mean_reward = -np.inf
    model.learn(5, callback=evaluation, reset_num_timesteps=False)
    assert differs(dict(model.actor.state_dict()), best, "")
    assert all(th.equal(value, constraint.policy.state_dict()[name]) for name, value in best.items())
