"""Measurements of a model by themselves, against values worked out by hand, and what counts as new data."""

import copy
import math
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, TD3, HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from toy_tasks import FAST, Drift, assert_same, dataset, dataset_file, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.diagnostics import (
    DataDiagnostics,
    DriftDiagnostics,
    QValueDiagnostics,
    frozen_copy,
    mean_q_and_td_error,
    on_policy_q_values,
    policy_and_q_drift,
    q_difference_to_online,
)
from sb3_o2o.diagnostics.measure import looking, reduced_q
from sb3_o2o.finetuning import DatasetReplay
from sb3_o2o.objectives import Batch


def batch_of(model: Any, n: int = 16) -> Batch:
    return model.to_batch(model.open_offline_buffer(dataset()).sample(n))


class Looking(BaseCallback):
    """A user's own diagnostics."""

    def __init__(self, batch: Batch):
        super().__init__()
        self.batch = batch
        self.found: list[Any] = []

    def _on_step(self) -> bool:
        model: Any = self.model
        before = frozen_copy(model.actor), frozen_copy(model.critic)
        for _ in range(2):
            episodes = on_policy_q_values(model, Drift(), 1)
            numbers = (
                mean_q_and_td_error(model, self.batch),
                policy_and_q_drift(model, *before, self.batch.observations),
            )
            self.found.append((episodes[0].true.tolist(), episodes[0].estimated.tolist(), *numbers))
        return True


def test_plain_functions_leave_the_run_alone() -> None:
    """Parameters and random streams, bit for bit; and a second look sees the same."""
    ends, batch = [], batch_of(make())
    for callback in (None, Looking(batch)):
        model = make().learn(8, callback=callback)
        streams = random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist()  # type: ignore[index]
        ends.append((state(model), streams, model.policy.training))
    assert_same(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]
    assert callback is not None
    assert callback.found[::2] == callback.found[1::2]
    assert mean_q_and_td_error(model, batch, seed=1)[1] != mean_q_and_td_error(model, batch, seed=2)[1]


@pytest.mark.parametrize("build", [make_ppo, lambda: PPO("MlpPolicy", vec(), device="cpu")])
def test_models_without_critics(build: Any) -> None:
    model, batch = build(), batch_of(make())
    with pytest.raises(ValueError, match=r"on_policy_q_values looks at Q-values, and .*PPO has no critics"):
        on_policy_q_values(model, vec())
    with pytest.raises(ValueError, match="mean_q_and_td_error looks at Q-values"):
        mean_q_and_td_error(model, batch)
    with pytest.raises(ValueError, match="policy_and_q_drift looks at Q-values"):
        policy_and_q_drift(model, th.nn.Identity(), th.nn.Identity(), batch.observations)


def test_bad_input() -> None:
    model = make()
    with pytest.raises(ValueError, match=r"of this library: use it with O2OTD3 \(O2OTD3\.load also opens"):
        on_policy_q_values(TD3("MlpPolicy", vec(), **FAST), vec())
    with pytest.raises(ValueError, match="n_envs=2 asks for copies of an environment that is there already"):
        on_policy_q_values(model, vec(), n_envs=2)
    with pytest.raises(ValueError, match="is the environment that the model trains in"):
        on_policy_q_values(model, model.get_env())  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="n_episodes of on_policy_q_values must be a whole number of at least 1, not 0"
    ):
        on_policy_q_values(model, vec(), 0)
    with pytest.raises(ValueError, match="n_candidates of policy_and_q_drift must be an even number"):
        policy_and_q_drift(model, model.actor, model.critic, th.zeros(2, 3), 3)


def test_an_environment_by_its_id() -> None:
    model = O2OSAC("MlpPolicy", gym.make(tiny.BOX), **FAST)
    one, other = (on_policy_q_values(model, env, 1) for env in (tiny.BOX, gym.make(tiny.BOX)))
    assert one[0].true.tolist() == other[0].true.tolist()


# -- side by side --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "dictionary"),
    [
        (make, False),
        (lambda **kwargs: make(use_sde=True, **kwargs), False),
        (lambda **kwargs: make(normalize_observations=True, dataset=dataset(dictionary=True), **kwargs), True),
        (make_td3, False),
    ],
)
def test_episodes_are_the_same_side_by_side(build: Any, dictionary: bool) -> None:
    """Seeds, of environment and policy, belong to episodes: Drift's differ in length, by its own noise too."""
    model = build(dictionary=dictionary, env=vec(3, dictionary=dictionary)).learn(12)
    alone = on_policy_q_values(model, Drift(dictionary), 5, seed=3)
    assert len({len(each.true) for each in alone}) > 1
    assert len({each.true[0] for each in alone}) == 5
    for several in (2, 5, 7):
        together = on_policy_q_values(model, vec(several, dictionary=dictionary), 5, seed=3)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(other.true, one.true, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(other.estimated, one.estimated, rtol=1e-4, atol=1e-5)
    first = on_policy_q_values(model, Drift(dictionary), 2, seed=3)  # fewer are the first ones
    assert [each.true.tolist() for each in first] == [each.true.tolist() for each in alone[:2]]


def test_each_steps_value_is_with_its_own_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Critics say the place of the point, the distance of which is the reward one step later; gamma is 0."""
    model = make(gamma=0.0, ent_coef=0.0)
    monkeypatch.setattr(
        model.critic, "q_values", lambda seen, actions, members=None: (-seen[:, :2].norm(dim=1)).expand(2, -1)
    )
    for episode in on_policy_q_values(model, lambda: Drift(), 6, n_envs=4):
        assert episode.estimated[1:].tolist() == pytest.approx(episode.true[:-1].tolist(), rel=1e-5)


def test_as_many_environments_as_episodes_are_made() -> None:
    made = []

    def one() -> Drift:
        made.append(Drift())
        return made[-1]

    on_policy_q_values(make(), one, 3)
    assert len(made) == 3
    QValueDiagnostics(one, n_episodes=5, n_envs=2)
    assert len(made) == 5


class Matrix(gym.Env[np.ndarray, np.ndarray]):
    """Actions are a matrix, each entry with bounds of its own; pays their sum."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, shape: tuple[int, ...]):
        low = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        self.action_space = spaces.Box(low, low + 2)

    def reset(self, **_: Any) -> Any:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        assert self.action_space.contains(action)
        self.steps += 1
        return np.zeros(1, np.float32), float(action.sum()), self.steps == 2, False, {}


@pytest.mark.parametrize("shape", [(2, 2), (2, 1)])
def test_actions_of_any_shape_are_the_policys(shape: tuple[int, ...]) -> None:
    model = make_td3(env=Matrix(shape), gamma=0.0)
    action = model.predict(np.zeros(1, np.float32))[0]
    for episode in on_policy_q_values(model, lambda: Matrix(shape), 2):
        assert episode.true.tolist() == pytest.approx([float(action.sum())] * 2)


# -- formulas ------------------------------------------------------------------------------------------------------


def test_the_entropy_of_what_comes_after_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Critics say 8, -alpha log pi is 0.3: four steps that pay 1, then 8.3; the last two are left out."""

    class Four(gym.Env[np.ndarray, np.ndarray]):
        observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

        def reset(self, **_: Any) -> Any:
            self.steps = 0
            return np.zeros(1, np.float32), {}

        def step(self, action: np.ndarray) -> Any:
            self.steps += 1
            return np.zeros(1, np.float32), 1.0, False, self.steps == 4, {}

    model = O2OSAC("MlpPolicy", Four(), **FAST, gamma=0.5, ent_coef=0.3)
    monkeypatch.setattr(model.actor, "rsample", lambda observations, noise: (th.zeros(1, 1), -th.ones(1)))
    monkeypatch.setattr(model.critic, "q_values", lambda observations, actions: th.full((2, 1), 8.0))
    (episode,) = on_policy_q_values(model, Four(), 1)
    last = 1 + 0.5 * (8 + 0.3)
    third = 1 + 0.5 * (last + 0.3)
    second = 1 + 0.5 * (third + 0.3)
    assert episode.true.tolist() == pytest.approx([1 + 0.5 * (second + 0.3), second])


@pytest.mark.parametrize(
    ("model", "reduction"),
    [
        (lambda: make(n_critics=3), "min"),
        (lambda: make(n_critics=3, actor_critics="mean"), "mean"),
        (lambda: make(n_critics=3, actor_critics="mean", online_objective="edac"), "min"),
        (lambda: make(n_critics=3, actor_critics="mean", online_objective="iql"), "min"),
        (lambda: make(n_critics=3, actor_critics="mean", online_objective="awac"), "min"),
        (lambda: make_td3(n_critics=3), "first"),
        (lambda: make_td3(n_critics=3, actor_critics="mean"), "mean"),
        (lambda: make_td3(n_critics=3, online_objective="td3_bc"), "first"),
        (lambda: make_td3(n_critics=3, online_objective="iql"), "min"),
    ],
)
def test_q_is_what_the_actor_maximises(model: Any, reduction: str) -> None:
    model = model()
    batch = batch_of(model)
    with th.no_grad():
        values = model.critic.q_values(batch.observations, batch.actions)
        expected = {"min": values.amin(dim=0), "mean": values.mean(dim=0), "first": values[0]}[reduction]
        assert th.equal(reduced_q(model, model.critic, batch.observations, batch.actions), expected)
    assert mean_q_and_td_error(model, batch)[0] == pytest.approx(expected.mean().item())


class Paid(Drift):
    """Keeps the rewards of each episode."""

    def __init__(self) -> None:
        super().__init__()
        self.paid: list[list[float]] = []

    def reset(self, **kwargs: Any) -> Any:
        self.paid.append([])
        return super().reset(**kwargs)

    def step(self, action: np.ndarray) -> Any:
        answer = super().step(action)
        self.paid[-1].append(float(answer[1]))
        return answer


def test_returns_have_the_discount_that_the_critic_was_trained_with() -> None:
    """Online SPOT has another one on large mazes; the values are the offline phase's until online updates begin."""
    kwargs = {"density_steps": 2, "density_net_arch": [8], "online_gamma": 0.2}
    model = make_td3(objective="spot", online_objective="spot", gamma=0.9, objective_kwargs=kwargs)
    for train, gamma in ((lambda: model.pretrain(dataset(), 2), 0.9), (lambda: model.learn(12), 0.2)):
        train()
        env = Paid()
        episodes = on_policy_q_values(model, env, 5)
        assert max(len(each.true) for each in episodes) > 2
        for rewards, true in zip(env.paid, (each.true for each in episodes), strict=False):
            following = [r + gamma * q for r, q in zip(rewards, true[1:], strict=False)]
            assert true[:-1].tolist() == pytest.approx(following)


def test_td3s_td_error_by_hand() -> None:
    model = make_td3(n_critics=3)
    batch = batch_of(model)
    with th.no_grad():
        following = model.critic_target.q_values(batch.next_observations, model.actor(batch.next_observations))
        target = batch.rewards + (1 - batch.dones) * 0.99 * following.min(dim=0).values
        values = model.critic.q_values(batch.observations, batch.actions)
    assert mean_q_and_td_error(model, batch)[1] == pytest.approx((values - target).pow(2).mean().item(), rel=1e-5)


def test_the_policys_drift_is_from_what_it_was() -> None:
    """KL(N(m, s) || N(m, e s)) = 1 + (exp(-2) - 1) / 2 in each of two dimensions; the other way round it is 4.39."""
    model = make()
    before = frozen_copy(model.actor)
    with th.no_grad():
        model.actor.log_std.bias.add_(1.0)
    found, _ = policy_and_q_drift(model, before, model.critic, th.randn(64, 3))
    assert found == pytest.approx(2 * (1 + (math.exp(-2) - 1) / 2), rel=1e-4)


@pytest.mark.parametrize("td3", [False, True])
def test_the_critics_drift_by_hand(td3: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Four candidates, two of either policy, of which one acts near -0.8 and the other near 0.8. Q was 0 and is 3 a: from
    (1/4, 1/4, 1/4, 1/4) to almost (0, 0, 1/2, 1/2), which is log 2 apart one way and far more than that the other.
    """
    model: Any = make_td3() if td3 else make()
    before = frozen_copy(model.actor)
    for actor, side in ((before, -0.8), (model.actor, 0.8)):
        if td3:
            monkeypatch.setattr(actor, "forward", lambda observations, side=side: th.full((len(observations), 2), side))
        else:

            def rsample(observations: th.Tensor, noise: th.Tensor, side: float = side) -> Any:
                return (side * (1 - 0.01 * noise.abs())).clamp(-1, 1), None

            monkeypatch.setattr(actor, "rsample", rsample)
    seen = []

    def q_values(observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        seen.append(actions)
        return (3 * actions[..., 0]).expand(2, *actions.shape[:-1])

    critic = copy.deepcopy(model.critic)
    monkeypatch.setattr(critic, "q_values", lambda observations, actions: th.zeros(2, *actions.shape[:-1]))
    monkeypatch.setattr(model.critic, "q_values", q_values)
    _, found = policy_and_q_drift(model, before, critic, th.zeros(5, 3), n_candidates=4)
    (actions,) = seen
    assert (actions[:, :2] < 0).all()
    assert (actions[:, 2:] > 0).all()
    assert (actions[:, 0] != actions[:, 1]).any()
    q = 3 * actions[..., 0]
    expected = (math.log(1 / 4) - q.log_softmax(dim=1)).mean()
    assert found == pytest.approx(expected.item(), rel=1e-4)
    assert found > 1.0


def test_td3s_drift_has_critics_alone() -> None:
    seen = DriftDiagnostics(freq=8, n_samples=16)
    make_td3(dataset=dataset(), learning_rate=1e-2, learning_starts=0).learn(24, callback=seen)
    assert seen.timesteps == [0, 8, 16, 24]
    assert np.isnan(seen.values["policy_kl_offline"]).all()
    assert seen.values["q_kl_offline"][0] == pytest.approx(0.0, abs=1e-6)
    assert seen.values["q_kl_offline"][-1] > 1e-4


# -- old and new data ----------------------------------------------------------------------------------------------


def online_rewards(seen: DataDiagnostics) -> list[float]:
    with looking(seen.model, 0):
        batch = seen._batches()["online"]
    return [] if batch is None else batch.rewards.tolist()


@pytest.mark.parametrize("buffer_size", [500, 66])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_loaded_dataset_is_not_new(n_envs: int, buffer_size: int) -> None:
    """Not where the buffer has overwritten its beginning either, and wherever the callback stands."""
    for last in (False, True):
        filling, seen = DatasetReplay("all"), DataDiagnostics(freq=4, n_samples=16)
        model = make(env=vec(n_envs), dataset=dataset(), buffer_size=buffer_size * n_envs, learning_starts=0)
        model.learn(9 * n_envs, callback=[seen, filling] if last else [filling, seen])
        buffer: Any = model.replay_buffer
        assert math.isnan(seen.values["q_online"][0])
        assert np.isfinite(seen.values["q_online"][1:]).all()
        rewards, start = online_rewards(seen), len(dataset()) // n_envs
        assert len(rewards) == 9
        for row, reward in zip(range(start + 8, start - 1, -1), rewards, strict=True):
            assert reward in buffer.rewards[row % buffer.buffer_size]


def test_a_dataset_loaded_between_two_calls_is_not_new() -> None:
    model, seen = make(dataset=dataset()), DataDiagnostics(freq=4, n_samples=16)
    model.learn(5, callback=seen)
    assert len(online_rewards(seen)) == 5
    model.fill_replay_buffer(dataset())
    assert online_rewards(seen) == []
    model.learn(3, callback=seen, reset_num_timesteps=False)
    buffer: Any = model.replay_buffer
    assert online_rewards(seen) == buffer.rewards[67:64:-1, 0].tolist()


def test_a_resumed_run_knows_what_is_new(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    model = make(dataset=data, finetuning=[DatasetReplay("all")])
    model.learn(5, callback=DataDiagnostics(freq=4, n_samples=16))
    model.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu")
    seen = DataDiagnostics(freq=4, n_samples=16)
    resumed.learn(4, callback=seen, reset_num_timesteps=False)
    buffer: Any = resumed.replay_buffer
    assert online_rewards(seen) == buffer.rewards[68:59:-1, 0].tolist()


def test_both_kinds_of_data_look_as_many_steps_ahead() -> None:
    seen = DataDiagnostics(freq=20, n_samples=32)
    model = make(n_steps=3, dataset=dataset()).learn(20, callback=seen)
    with looking(model, 0):
        batches = seen._batches()
    for batch in batches.values():
        assert batch is not None
        assert batch.discounts.min().item() == pytest.approx(0.99**3)


class Relabelled(gym.Wrapper):
    """With what hindsight asks for."""

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, _: Any) -> np.ndarray:
        return -np.abs(achieved - desired)[:, 0]


def test_hindsight_before_the_end_of_an_episode() -> None:
    """An episode lasts ten steps; until then there is nothing to relabel."""
    n = 20
    point = np.zeros((n, 1))
    observations = {"observation": np.zeros((n, 2)), "achieved_goal": point, "desired_goal": point}
    data = {
        "observations": observations,
        "next_observations": observations,
        "actions": np.zeros((n, 1), np.float32),
        "rewards": np.zeros(n, np.float32),
        "terminations": np.zeros(n, bool),
        "truncations": np.arange(n) % 10 == 9,
    }
    seen = DataDiagnostics(freq=4, n_samples=16, dataset=data)
    arguments = {**FAST, "learning_starts": 30, "replay_buffer_class": HerReplayBuffer}
    O2OSAC("MultiInputPolicy", Relabelled(gym.make(tiny.GOAL)), **arguments).learn(12, callback=seen)
    assert seen.timesteps == [0, 4, 8, 12]
    assert np.isnan(seen.values["q_online"]).tolist() == [True, True, True, False]


def test_the_difference_to_an_online_run() -> None:
    """SO2's figure 2b in one call."""
    offline, online = make(), make(seed=8)
    with th.no_grad():
        for parameter in offline.critic.parameters():
            parameter.fill_(0.0)
        offline.critic.ensemble.layers[-1].bias.fill_(30.0)  # type: ignore[union-attr,operator]
    parts = []
    for model in (offline, online):
        (episode,) = on_policy_q_values(model, Drift(), 1, seed=6)
        parts.append(((episode.estimated - episode.true) / np.abs(episode.true)).mean())
    assert parts[0] > parts[1]
    found = q_difference_to_online(offline, online, Drift(), 1, seed=6)
    assert found == pytest.approx(parts[0] - parts[1], rel=1e-6)
    assert q_difference_to_online(online, online, Drift(), 1) == 0.0
