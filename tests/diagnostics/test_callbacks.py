"""Diagnostics in a run: what they find, what they write, and that the run does not notice them."""

import math
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from toy_tasks import FAST, Drift, assert_same, dataset, dataset_file, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.diagnostics import (
    DataDiagnostics,
    DriftDiagnostics,
    QValueDiagnostics,
    SwitchDiagnostics,
    mean_q_and_td_error,
    on_policy_q_values,
    read_diagnostics,
    report,
)
from sb3_o2o.diagnostics.measure import entropy_bonus, looking, policy_actions
from sb3_o2o.evaluation import NormalizedEvalCallback
from sb3_o2o.finetuning import PolicyReevaluation, SymmetricReplay, ValueAlignment, Warmup


class Steps(gym.Env[np.ndarray, np.ndarray]):
    """Pays 1, 2, 3, ... whatever is done; an episode ends after ``n`` steps, by termination or by a time limit."""

    observation_space = spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = spaces.Box(np.array([-2.0], np.float32), np.array([3.0], np.float32))

    def __init__(self, n: int = 4, by_limit: bool = False):
        self.n, self.by_limit = n, by_limit

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.step_count += 1
        over = self.step_count == self.n
        observation = np.full(1, self.step_count, np.float32)
        return observation, float(self.step_count), over and not self.by_limit, over and self.by_limit, {}


def model_of(env: gym.Env[Any, Any], **kwargs: Any) -> O2OSAC:
    arguments = {**FAST, "policy_kwargs": {"net_arch": [8]}, "gamma": 0.5, "ent_coef": 0.0, **kwargs}
    return O2OSAC("MlpPolicy", env, **arguments)


def say(model: O2OSAC, monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """Both critics say ``function(state)``, the second one more."""

    def q_values(observations: th.Tensor, actions: th.Tensor, members: Any = None) -> th.Tensor:
        value = function(observations[:, 0])
        return th.stack([value, value + 1.0])

    monkeypatch.setattr(model.critic, "q_values", q_values)


# -- Q-values on a task where they are known -----------------------------------------------------------------------


def test_a_critic_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns 1 + 2/2 + 3/4 + 4/8 = 3.25, 4.5, 5, 4: the critic says so, and its smaller half is believed."""
    model = model_of(Steps())
    true = th.tensor([3.25, 4.5, 5.0, 4.0])
    say(model, monkeypatch, lambda steps: true[steps.long()])
    episodes = on_policy_q_values(model, DummyVecEnv([Steps]), n_episodes=2)
    assert len(episodes) == 2
    for episode in episodes:
        assert episode.true.tolist() == true.tolist()
        assert episode.estimated.tolist() == true.tolist()
    found = QValueDiagnostics(Steps(), n_episodes=2)
    found.model = model
    expected = {"kendall_tau": 1.0, "q_difference": 0.0, "q_estimated": 4.1875, "q_true": 4.1875}
    assert found.measure() == pytest.approx(expected)


def test_a_critic_that_is_twice_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(Steps())
    true = th.tensor([3.25, 4.5, 5.0, 4.0])
    say(model, monkeypatch, lambda steps: 2 * true[steps.long()])
    found = QValueDiagnostics(DummyVecEnv([Steps]), n_episodes=1)
    found.model = model
    assert found.measure()["q_difference"] == pytest.approx(1.0)
    say(model, monkeypatch, lambda steps: -true[steps.long()])
    assert found.measure()["kendall_tau"] == -1.0


def test_a_time_limit_goes_on_with_the_critics_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps; with gamma 0.5 the last two are left out, and the state after the last is worth 8."""
    model = model_of(Steps(10, by_limit=True))
    say(model, monkeypatch, lambda steps: 8.0 * (steps == 10))
    (episode,) = on_policy_q_values(model, DummyVecEnv([lambda: Steps(10, by_limit=True)]), n_episodes=1)
    value, expected = 8.0, []
    for reward in range(10, 0, -1):
        value = reward + 0.5 * value
        expected.append(value)
    assert episode.true.tolist() == pytest.approx(expected[::-1][:8])


def test_rewards_are_on_the_training_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(Steps(), reward_scale=10.0, reward_shift=-1.0)
    (episode,) = on_policy_q_values(model, DummyVecEnv([Steps]), n_episodes=1)
    assert episode.true[-1] == pytest.approx(39.0)
    assert episode.true[-2] == pytest.approx(29 + 0.5 * 39)


def test_entropy_is_part_of_the_returns_where_it_is_part_of_the_values() -> None:
    kwargs = {"ent_coef": 0.3, "online_objective_kwargs": {"entropy_backup": False}}
    without = on_policy_q_values(model_of(Steps(), **kwargs), DummyVecEnv([Steps]), n_episodes=1)[0]
    with_entropy = on_policy_q_values(model_of(Steps(), ent_coef=0.3), DummyVecEnv([Steps]), n_episodes=1)[0]
    assert without.true.tolist() == [3.25, 4.5, 5.0, 4.0]
    assert with_entropy.true[-1] == 4.0
    assert (with_entropy.true[:-1] != without.true[:-1]).all()


def test_the_same_seed_sees_the_same_episodes() -> None:
    model = make()
    first, second, other = (on_policy_q_values(model, vec(), 2, seed) for seed in (1, 1, 2))
    assert first[0].true.tolist() == second[0].true.tolist()
    assert first[0].true.tolist() != other[0].true.tolist()


def test_dictionaries_and_normalised_environments() -> None:
    """Observations and rewards as the training's statistics make them, and the statistics stay as they are."""
    env = VecNormalize(vec(dictionary=True), gamma=0.99)
    model = make(env=env, dictionary=True).learn(20)
    before = env.ret_rms.var, env.obs_rms["place"].count
    found = QValueDiagnostics(VecNormalize(vec(dictionary=True)), n_episodes=2)
    found.model = model
    assert all(math.isfinite(value) for value in found.measure().values())
    assert (env.ret_rms.var, env.obs_rms["place"].count) == before


# -- on data -------------------------------------------------------------------------------------------------------


def test_td_error_by_hand() -> None:
    model = make(n_critics=3, ent_coef=0.2)
    batch = model.to_batch(model.open_offline_buffer(dataset()).sample(16))
    q, error = mean_q_and_td_error(model, batch, seed=5)
    with looking(model, 5):
        actions, log_prob = model.actor.rsample(batch.next_observations, th.randn(16, 2))
        following = model.critic_target.q_values(batch.next_observations, actions).min(dim=0).values
        target = batch.rewards + (1 - batch.dones) * 0.99 * (following - 0.2 * log_prob)
        values = model.critic.q_values(batch.observations, batch.actions)
    assert error == pytest.approx(sum((value - target).pow(2).mean().item() for value in values) / 3, rel=1e-5)
    assert q == pytest.approx(values.min(dim=0).values.mean().item(), rel=1e-5)


def test_the_newest_transitions_are_looked_at() -> None:
    """A buffer that has overwritten its beginning: the last rows by age, not by position."""
    model, seen = make(buffer_size=10, dataset=dataset()), DataDiagnostics(freq=13, n_samples=4)
    model.learn(13, callback=seen)
    buffer: Any = model.replay_buffer
    with looking(model, 0):
        batch = seen._batches()["online"]
    assert batch is not None
    assert batch.rewards.tolist() == [buffer.rewards[row, 0] for row in (2, 1, 0, 9)]


def test_the_offline_sample_stays_the_same_and_is_on_the_training_scale() -> None:
    data, seen = dataset(), DataDiagnostics(freq=2, n_samples=5)
    model = make(dataset=data, reward_scale=3.0).learn(4, callback=seen)
    batches = []
    for _ in range(2):
        with looking(model, 0):
            batches.append(seen._batches()["offline"])
    assert batches[0].rewards.tolist() == batches[1].rewards.tolist()  # type: ignore[union-attr]
    assert np.isin(batches[0].rewards.numpy(), 3 * data.rewards).all()  # type: ignore[union-attr]


def test_drift_starts_at_zero_and_grows() -> None:
    seen = DriftDiagnostics(freq=8, n_samples=16)
    make(dataset=dataset(), learning_rate=1e-2, learning_starts=0).learn(24, callback=seen)
    assert seen.timesteps == [0, 8, 16, 24]
    for name in ("policy_kl_offline", "q_kl_offline"):
        assert seen.values[name][0] == pytest.approx(0.0, abs=1e-6)
        assert seen.values[name][-1] > 1e-4
    assert math.isnan(seen.values["policy_kl_online"][0])
    assert seen.values["policy_kl_online"][-1] > 1e-4


# -- in a run ------------------------------------------------------------------------------------------------------


def all_of_them(log_path: Path | None = None, freq: int = 3, **kwargs: Any) -> list[Any]:
    """Every diagnostic, in an environment of its own."""
    evaluation = NormalizedEvalCallback(Monitor(Drift(**kwargs)), n_eval_episodes=1, eval_freq=6, log_path=log_path)
    return [
        evaluation,
        QValueDiagnostics(Drift(**kwargs), freq=freq, n_episodes=2, log_path=log_path),
        DataDiagnostics(freq=freq, n_samples=8, log_path=log_path),
        DriftDiagnostics(freq=freq, n_samples=8, n_candidates=4, log_path=log_path),
        SwitchDiagnostics(evaluation, log_path=log_path),
    ]


def streams() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist()]  # type: ignore[index]


@pytest.mark.parametrize(
    ("n_envs", "dictionary", "kwargs"),
    [
        (1, False, {}),
        (1, False, {"make": make_td3, "objective": "td3_bc", "objective_kwargs": {}}),
        (2, False, {"n_critics": 3, "critic_subset": 2, "n_steps": 3}),
        (1, True, {"normalize_observations": True}),
        (1, False, {"online_objective": "calql", "online_objective_kwargs": {"n_actions": 2}}),
    ],
)
def test_looking_does_not_change_the_run(n_envs: int, dictionary: bool, kwargs: dict[str, Any], tmp_path: Path) -> None:
    """Parameters, moments and random streams, offline and online, bit for bit."""
    data, ends = dataset_file(tmp_path, dictionary), []
    arguments = {"make": make, "objective": "cql", "objective_kwargs": {"n_actions": 2}, **kwargs}
    build = arguments.pop("make")
    for watched in (False, True):
        env = vec(n_envs, dictionary=dictionary)
        model = build(env=env, dictionary=dictionary, finetuning=[SymmetricReplay(0.5)], **arguments)
        callbacks = (lambda: all_of_them(tmp_path, dictionary=dictionary)) if watched else (lambda: [])
        model.pretrain(data, 7, callback=callbacks())
        model.learn(14 * n_envs, callback=callbacks())
        ends.append((state(model), streams()))
    assert_same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_interrupted_measures_as_uninterrupted(tmp_path: Path) -> None:
    def start(folder: str) -> tuple[O2OSAC, list[Any]]:
        return make(dataset=dataset_file(tmp_path)), all_of_them(tmp_path / folder, freq=4)

    whole, callbacks = start("whole")
    whole.learn(16, callback=callbacks)
    part, callbacks = start("part")
    part.learn(9, callback=callbacks)
    part.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    resumed.learn(7, callback=all_of_them(tmp_path / "part", freq=4), reset_num_timesteps=False)
    one, other = (read_diagnostics(tmp_path / folder) for folder in ("whole", "part"))
    for name in ("kendall_tau", "q_true", "td_error_online", "q_offline", "policy_kl_offline", "q_kl_online"):
        by_step = dict(zip(*(array.tolist() for array in other[name]), strict=True))
        for step, value in zip(*(array.tolist() for array in one[name]), strict=True):
            assert by_step[step] == value or (math.isnan(value) and math.isnan(by_step[step])), (name, step)


class Written(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.keys |= set(key_values)

    def close(self) -> None:
        pass


def test_what_is_logged_and_written(tmp_path: Path) -> None:
    written = Written()
    model = make(dataset=dataset())
    model.set_logger(Logger(None, [written]))
    model.learn(12, callback=all_of_them(tmp_path))
    kinds = [f"{name}_{kind}" for name in ("q", "td_error", "policy_kl", "q_kl") for kind in ("offline", "online")]
    names = {"kendall_tau", "q_difference", "q_estimated", "q_true", "drop", "steps_to_recover", *kinds}
    ours = {key for key in written.keys if key.startswith("diagnostics/")}
    assert ours == {f"diagnostics/{name}" for name in names}
    assert all(len(key) <= 36 for key in ours)
    found = read_diagnostics(tmp_path)
    assert set(found) == {*names, "regret"}
    assert found["kendall_tau"][0].tolist() == [0, 3, 6, 9, 12]
    assert found["drop"][0].tolist() == [0, 6, 12]
    assert np.isnan(found["q_online"][1][0])


def test_pretraining_has_no_online_part(tmp_path: Path) -> None:
    callbacks = all_of_them(tmp_path)
    make(objective="cql", objective_kwargs={"n_actions": 2}).pretrain(dataset(), 7, callback=callbacks)
    found = read_diagnostics(tmp_path)
    assert found["q_offline"][0].tolist() == [0, 3, 6, 7]
    assert np.isnan(found["q_online"][1]).all()
    assert "policy_kl_offline" not in found
    assert "drop" not in found


def test_fine_tuning_after_pretraining_is_looked_at_from_its_start(tmp_path: Path) -> None:
    """
    The switch is where the drift is zero, and what is measured of a critic without entropy, as CQL leaves it, goes on
    as it was until the first update by soft values.
    """
    model = make(objective="cql", objective_kwargs={"n_actions": 2}, learning_starts=4)
    model.pretrain(dataset(), 3, callback=all_of_them(tmp_path / "offline"))
    batch = model.to_batch(model.offline_buffer.sample(8))  # type: ignore[union-attr]
    _, log_prob = policy_actions(model.actor, batch.observations)
    assert entropy_bonus(model, log_prob) is None
    model.learn(6, callback=all_of_them(tmp_path / "online"))
    assert entropy_bonus(model, log_prob) is not None
    before, found = (read_diagnostics(tmp_path / phase) for phase in ("offline", "online"))
    for name in ("q_true", "q_estimated", "td_error_offline"):
        assert found[name][1][0] == before[name][1][-1]
    assert found["policy_kl_offline"][0].tolist() == [0, 3, 6]
    assert found["policy_kl_offline"][1][0] == 0.0
    assert found["drop"][0].tolist() == [0, 6]


def test_critics_made_anew_at_the_switch_have_the_entropy_that_they_learned_with() -> None:
    steps = [PolicyReevaluation(gradient_steps=2), ValueAlignment(gradient_steps=2), Warmup(steps=4)]
    model = make(objective="cql", objective_kwargs={"n_actions": 2}, finetuning=steps)
    model.pretrain(dataset(), 3)
    log_prob = th.ones(1)
    assert entropy_bonus(model, log_prob) is None
    model.learn(1)  # a step of the warm-up
    assert not model.finetuning_run.started
    assert entropy_bonus(model, log_prob) is not None


# -- the picture ---------------------------------------------------------------------------------------------------


def test_report_of_a_run(tmp_path: Path) -> None:
    model = make(objective="cql", objective_kwargs={"n_actions": 2})
    model.pretrain(dataset(), 6, callback=all_of_them(tmp_path / "offline"))
    model.learn(12, callback=all_of_them(tmp_path / "online"))
    path = report(tmp_path, title="a run")
    assert path == tmp_path / "diagnostics.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert report(tmp_path / "online", tmp_path / "online.png").stat().st_size > 10_000


def test_report_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no diagnostics.*log_path"):
        report(tmp_path)


def test_a_run_that_begins_again_is_another_one(tmp_path: Path) -> None:
    """By its steps, or by what they count; one that counts on goes on."""
    callbacks = all_of_them(tmp_path)
    evaluation, q_values, data, drift, _ = callbacks
    model = make(objective="cql", objective_kwargs={"n_actions": 2})
    model.pretrain(dataset(), 4, callback=callbacks)
    assert q_values.timesteps == data.timesteps == [0, 3, 4]
    assert drift.timesteps == []
    for _ in range(2):
        model.learn(8, callback=callbacks)
        assert q_values.timesteps == data.timesteps == drift.timesteps == [0, 3, 6, 8]
        assert evaluation.evaluations_timesteps == [0, 6, 8]
        assert len(evaluation.evaluations_results) == len(evaluation.evaluations_length) == 3
        assert drift.values["q_kl_offline"][0] == pytest.approx(0.0, abs=1e-6)
    model.learn(4, callback=callbacks, reset_num_timesteps=False)
    assert q_values.timesteps == [0, 3, 6, 8, 9, 12]
    assert evaluation.evaluations_timesteps == [0, 6, 8, 12]
    assert len(data.values["q_online"]) == 6
    assert read_diagnostics(tmp_path)["drop"][0].tolist() == [0, 6, 8, 12]


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda: QValueDiagnostics(Drift()),
        lambda: DataDiagnostics(dataset=dataset()),
        lambda: DriftDiagnostics(dataset=dataset()),
    ],
)
def test_models_without_our_critics(build: Any) -> None:
    with pytest.raises(ValueError, match="PPO has no critics of this library: use it with O2OSAC or O2OTD3"):
        PPO("MlpPolicy", vec(), n_steps=8, batch_size=8, device="cpu").learn(8, callback=build())
    with pytest.raises(ValueError, match=r"SAC has no critics of this library.*O2OSAC\.load also opens"):
        SAC("MlpPolicy", vec(), **FAST).learn(8, callback=build())
    with pytest.raises(ValueError, match=r"TD3 has no critics of this library.*O2OTD3\.load also opens"):
        TD3("MlpPolicy", vec(), **FAST).learn(8, callback=build())
    with pytest.raises(ValueError, match="O2OPPO has no critics"):
        make_ppo().learn(8, callback=build())


@pytest.mark.parametrize("build", [DataDiagnostics, DriftDiagnostics])
def test_without_a_dataset(build: Any) -> None:
    model = make()
    before = state(model)
    with pytest.raises(ValueError, match=rf"{build.__name__} compares with the dataset.*pass dataset="):
        model.learn(8, callback=build())
    assert_same(before, state(model))


def test_the_training_environment_is_refused() -> None:
    env = vec()
    with pytest.raises(ValueError, match="the environment that the model trains in"):
        make(env=env).learn(8, callback=QValueDiagnostics(env))
    out_of_reach = SubprocVecEnv([lambda: Monitor(Drift())], start_method="fork")
    try:
        with pytest.raises(ValueError, match="the environment that the model trains in"):
            make(env=VecNormalize(out_of_reach)).learn(8, callback=QValueDiagnostics(out_of_reach))
    finally:
        out_of_reach.close()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: QValueDiagnostics(Drift(), freq=0),
            "freq of QValueDiagnostics must be a whole number of at least 1, not 0",
        ),
        (lambda: QValueDiagnostics(Drift(), window=1), "window of .* of at least 2, not 1"),
        (lambda: DataDiagnostics(n_samples=0), "n_samples of DataDiagnostics must be a whole number of at least 1"),
        (lambda: DriftDiagnostics(n_candidates=3), "an even number of at least 2, not 3"),
    ],
)
def test_arguments(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_gsde_has_no_such_divergence() -> None:
    with pytest.raises(ValueError, match="this policy is gSDE"):
        make(use_sde=True, dataset=dataset()).learn(8, callback=DriftDiagnostics())
