"""Policies of any kind, asked for actions: memory, samples and bounds."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from toy_tasks import FAST, FAST_PPO, Drift, arrays, dataset, vec

from sb3_o2o import O2OPPO, O2OTD3, ResidualActions, ResidualPolicy
from sb3_o2o.data import OfflineDataset
from sb3_o2o.transfer import acting
from sb3_o2o.transfer.acting import Acting, has_predict

SPACE: Any = Drift().action_space
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "seed": 3, "device": "cpu"}


class Counter:
    """Acts by the number of steps that its episode has had, which no observation tells."""

    def predict(
        self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        before = np.zeros(len(observation)) if state is None else state
        steps = np.where(episode_start, 0, before)
        return np.stack([steps / 50, 1 + steps / 100], axis=1), steps + 1


def recurrent() -> RecurrentPPO:
    """Its last observations matter as much as the present one."""
    model = RecurrentPPO("MlpLstmPolicy", vec(), policy_kwargs={"net_arch": [8], "lstm_hidden_size": 8}, **SMALL)
    with th.no_grad():
        for parameter in model.policy.lstm_actor.parameters():
            parameter.mul_(4)
        model.policy.action_net.weight.mul_(100)
    return model


def uneven() -> OfflineDataset:
    """Episodes of 1, 3, 27, 9, 10 and 10 transitions."""
    columns = arrays()
    columns["next_observations"][:-1] = columns["observations"][1:]
    columns["terminations"] = np.isin(np.arange(60), [0, 3, 30])
    columns["truncations"] = np.isin(np.arange(60), [39, 49, 59])
    return OfflineDataset.load(columns, observation_space=Drift().observation_space, action_space=SPACE)


class Conditioned:
    """Acts by what it is told: the rewards of its episode so far, and what is still to come."""

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        *,
        reward: np.ndarray,
        return_to_go: np.ndarray,
    ) -> tuple[np.ndarray, Any]:
        assert reward.dtype == return_to_go.dtype == np.float32
        earned = np.where(episode_start, 0.0, 0.0 if state is None else state) + reward
        return np.stack([earned / 100, return_to_go / 100], axis=1), earned


class Rewarded:
    """The same without the dataset's returns: an environment can tell it all."""

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        *,
        reward: np.ndarray,
    ) -> tuple[np.ndarray, Any]:
        earned = np.where(episode_start, 0.0, 0.0 if state is None else state) + reward
        return np.stack([earned / 100, 0 * earned], axis=1), earned


def along_episodes(policy: Any, data: OfflineDataset) -> np.ndarray:
    """One step after another, without a batch."""
    observations, actions = data.observations, []
    for start, end in zip(data.episode_starts, data.episode_ends, strict=True):
        state = None
        for row in range(start, end):
            action, state = policy.predict(
                observations[row : row + 1], state=state, episode_start=np.array([row == start]), deterministic=True
            )
            actions.append(action[0])
    return np.stack(actions)


@pytest.mark.parametrize("rows", [1, 2, 4, 64])
def test_a_memory_begins_afresh_with_each_episode(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "_N_ROWS", rows)
    steps = np.concatenate([np.arange(length) for length in (1, 3, 27, 9, 10, 10)])
    found = Acting(Counter(), SPACE).on_dataset(uneven())
    assert np.allclose(found, np.stack([steps / 50, 1 + steps / 100], axis=1))


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_rewards_and_returns_to_go_along_the_dataset_by_hand(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of 1, 3, 27 ... steps that pay 1, 2, 3 ... : the second earns 2, 3, 4 of 9."""
    monkeypatch.setattr(acting, "_N_ROWS", rows)
    columns = arrays()
    columns["next_observations"][:-1] = columns["observations"][1:]
    columns["terminations"] = np.isin(np.arange(60), [0, 3, 30])
    columns["truncations"] = np.isin(np.arange(60), [39, 49, 59])
    columns["rewards"] = np.arange(1.0, 61.0, dtype=np.float32)
    data = OfflineDataset.load(columns, observation_space=Drift().observation_space, action_space=SPACE)
    wide: Any = spaces.Box(-100.0, 100.0, (2,))
    found = Acting(Conditioned(), wide).on_dataset(data) * 100
    assert found[:4] == pytest.approx(np.array([[0, 1], [0, 9], [2, 7], [5, 4]]))
    for start, end in zip(data.episode_starts, data.episode_ends, strict=True):
        rewards = data.rewards[start:end]
        assert found[start:end, 0] == pytest.approx(np.cumsum(rewards) - rewards)
        assert found[start:end, 1] == pytest.approx(np.cumsum(rewards[::-1])[::-1])
    # on the environment's scale, whatever the dataset's is
    assert Acting(Conditioned(), wide).on_dataset(data, rewards=2 * data.rewards) * 100 == pytest.approx(2 * found)


SCALE = {"reward_scale": 10.0, "reward_shift": -5.0}


@pytest.mark.parametrize("scale", [SCALE, {"dataset_kwargs": SCALE}, {**SCALE, "dataset_kwargs": SCALE}])
def test_a_clone_of_a_policy_that_acts_by_rewards(scale: dict[str, Any]) -> None:
    data = uneven()
    seen: list[np.ndarray] = []

    class Watched(Rewarded):
        def predict(self, observation: np.ndarray, *args: Any, reward: np.ndarray, **kwargs: Any) -> Any:  # type: ignore[override]
            seen.append(reward)
            return Rewarded.predict(self, observation, *args, reward=reward, **kwargs)

        predict.__signature__ = inspect.signature(Rewarded.predict)  # type: ignore[attr-defined]

    arguments = {**FAST, "policy_kwargs": {"net_arch": [16]}, **scale}
    model = O2OTD3.load_offline(Watched(), vec(), dataset=data, pretrain_steps=2, report_episodes=2, **arguments)
    report = model.clone_report
    assert report is not None
    assert report.source_return is not None
    before = np.roll(data.rewards, 1)
    before[data.episode_starts] = 0.0
    told = np.concatenate([each for each in seen if len(each) > 1])
    for value in before:  # the dataset's own, not the training's
        assert np.isclose(told, value, atol=1e-5).any()
    # one environment tells its own: distances from the middle, and nothing where an episode begins
    of_env = [each.item() for each in seen if len(each) == 1]
    assert of_env[0] == 0.0
    assert max(of_env[1:]) <= 0.0
    assert of_env.count(0.0) == 2
    assert len(of_env) > 2


def test_an_environment_tells_a_base_its_rewards() -> None:
    env = ResidualActions(Drift(), Rewarded(), scale=0.1)
    for _ in range(2):
        env.reset(seed=0)
        earned = 0.0
        for _ in range(3):
            _, reward, _, _, info = env.step(np.zeros(2, np.float32))
            assert info["executed_action"][0] == pytest.approx(earned / 100, abs=1e-6)
            earned += reward


def test_policies_that_act_by_rewards_where_there_are_none() -> None:
    arguments = {"dataset": dataset(), "pretrain_steps": 1, **FAST}
    with pytest.raises(
        ValueError, match=r"Conditioned needs return_to_go .*not known in the environment \(report_episodes"
    ):
        O2OTD3.load_offline(Conditioned(), vec(), report_episodes=1, **arguments)
    with pytest.raises(ValueError, match=r"needs return_to_go .*not known in an environment"):
        ResidualActions(Drift(), Conditioned())
    with pytest.raises(ValueError, match="base of ResidualPolicy acts by rewards"):
        ResidualPolicy(Rewarded(), lambda observations: np.zeros((1, 2)), Drift())
    columns = {**arrays(), "rewards": np.zeros(60, np.float32)}
    nothing = OfflineDataset.load(columns, observation_space=Drift().observation_space, action_space=SPACE)
    with pytest.raises(ValueError, match="Rewarded acts by reward, and all rewards of the dataset are 0"):
        O2OTD3.load_offline(Rewarded(), vec(), **{**arguments, "dataset": nothing})
    assert not has_predict(lambda observations, reward: observations)


def test_a_recurrent_policy_remembers_along_the_dataset() -> None:
    source, data = recurrent(), uneven()
    wanted = along_episodes(source, data)
    assert np.allclose(Acting(source, SPACE).on_dataset(data), wanted, atol=1e-5)
    forgetful = source.predict(data.observations, deterministic=True)[0]
    assert np.abs(wanted - forgetful).mean() > 0.05


@pytest.mark.parametrize("build", [recurrent, Counter])
def test_the_report_measures_the_distance_from_a_policy_with_memory(build: Any) -> None:
    source, data = build(), uneven()
    model = O2OPPO.load_offline(source, vec(), dataset=data, pretrain_steps=30, report_episodes=2, **FAST_PPO)
    report = model.clone_report
    assert report is not None
    assert report.source == type(source).__name__
    found = model.predict(data.observations, deterministic=True)[0]
    # two units are one on the scale of [-1, 1]
    expected = np.linalg.norm((found - along_episodes(source, data)) / 2, axis=1).mean()
    assert report.action_distance == pytest.approx(expected, rel=1e-4)
    assert report.source_return is not None


def test_the_score_is_that_of_the_policy_with_its_memory() -> None:
    source, env, returns = recurrent(), vec(2), []
    for policy in (source, Acting(source, SPACE)):
        env.seed(5)
        returns.append(evaluate_policy(policy, env, 6, return_episode_rewards=True))
    assert returns[0] == returns[1]


@pytest.mark.parametrize("as_object", [False, True])
def test_actions_are_what_is_executed(as_object: bool) -> None:
    class Beyond(Counter):
        def predict(
            self, observation: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[np.ndarray, Any]:
            return np.full((len(observation), 2), 50.0), None

    source: Any = Beyond() if as_object else lambda observations: th.full((len(observations), 2), 50.0).requires_grad_()
    policy = Acting(source, SPACE)
    assert (policy.predict(np.zeros((3, 3), np.float32))[0] == SPACE.high).all()
    assert (policy.on_dataset(dataset()) == SPACE.high).all()
    arguments = {**FAST, "policy_kwargs": {"net_arch": [16]}, "learning_rate": 0.01}
    model = O2OTD3.load_offline(source, vec(), dataset=dataset(), pretrain_steps=150, **arguments)
    assert model.clone_report is not None
    assert model.clone_report.action_distance < 0.1


@pytest.mark.parametrize("algorithm", [SAC, PPO])
@pytest.mark.parametrize("use_sde", [False, True])
def test_samples_are_seeded_and_differ_from_state_to_state(algorithm: Any, use_sde: bool) -> None:
    columns = arrays()
    columns["observations"], columns["next_observations"] = np.ones((2, 60, 3), np.float32)
    data = OfflineDataset.load(columns, observation_space=Drift().observation_space, action_space=SPACE)
    arguments = {"policy_kwargs": {"net_arch": [8]}, "use_sde": use_sde, "device": "cpu", "seed": 3}
    source = algorithm("MlpPolicy", vec(), **arguments, **({"buffer_size": 50} if algorithm is SAC else {}))
    policy, kept = Acting(source, SPACE), th.get_rng_state()
    before = source.predict(data.observations[:1], deterministic=False)[0] if use_sde else None
    one, again, other = (policy.on_dataset(data, seed=seed) for seed in (0, 0, 1))
    assert (one == again).all()
    assert not np.allclose(one, other)
    assert one.std(axis=0).min() > 0.05  # all observations are the same
    assert policy.on_dataset(data).std(axis=0).max() < 1e-6
    assert th.equal(th.get_rng_state(), kept)
    if use_sde:
        assert (source.predict(data.observations[:1], deterministic=False)[0] == before).all()


def test_only_the_predict_of_stable_baselines3_is_asked() -> None:
    class Module(th.nn.Module):
        def forward(self, observations: th.Tensor) -> th.Tensor:
            return observations[:, :2]

        def predict(self, observations: th.Tensor) -> None:
            raise AssertionError("of another kind")

    data = dataset()
    assert not has_predict(Module())
    assert has_predict(Counter())
    wanted = np.clip(data.observations[:, :2], SPACE.low, SPACE.high)
    assert (Acting(Module(), SPACE).on_dataset(data) == wanted).all()
