"""Hindsight experience replay: episodes are sampled once they have ended."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import SAC, TD3, HerReplayBuffer
from stable_baselines3.sac.policies import MultiInputPolicy
from toy_tasks import FAST, reach

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.data import OfflineDataset
from sb3_o2o.finetuning import DatasetReplay, SymmetricReplay

HER: dict[str, Any] = {**FAST, "learning_starts": 0, "replay_buffer_class": HerReplayBuffer}


def make(algorithm: Any = O2OSAC, env: Any = None, **kwargs: Any) -> Any:
    arguments = {**HER, "policy_kwargs": {"net_arch": [8]}, **kwargs}
    return algorithm("MultiInputPolicy", reach() if env is None else env, **arguments)


def goals(n: int = 20) -> OfflineDataset:
    """Episodes of five steps, each with a goal of its own."""
    rng = np.random.default_rng(0)
    position = rng.normal(size=(n + 1, 2)).astype(np.float32)
    goal = np.repeat(np.arange(n // 5), 5)[:, None] * np.ones((1, 2), np.float32)
    ends = np.arange(n) % 5 == 4
    following = position[1:].copy()
    following[ends] += 7.0
    env = reach()
    return OfflineDataset.from_arrays(
        {"observation": position[:-1], "achieved_goal": position[:-1], "desired_goal": goal},
        rng.uniform(-1, 1, (n, 2)),
        np.arange(n, dtype=np.float32),
        {"observation": following, "achieved_goal": following, "desired_goal": goal},
        np.zeros(n, bool),
        ends,
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


# -- waiting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_updates_wait_for_the_first_episode(algorithm: Any, n_envs: int) -> None:
    model = make(algorithm, reach(n_envs, limit=5))
    model.learn(4 * n_envs)
    assert model._n_updates == 0
    model.learn(3 * n_envs, reset_num_timesteps=False)
    assert model._n_updates == 3  # with the step that ends the first episode, and after it


def test_updates_wait_after_pretraining() -> None:
    model = make().pretrain(goals(), 2)
    before = model._n_updates
    model.learn(7)
    assert model._n_updates - before == 3


def test_half_of_the_batch_from_a_dataset_waits_as_well() -> None:
    model = make(dataset=goals(), finetuning=[SymmetricReplay(0.5)]).learn(7)
    assert model._n_updates == 3


def test_a_model_without_hindsight_goes_on_with_it(tmp_path: Path) -> None:
    make(replay_buffer_class=None).learn(6).save(tmp_path / "plain")
    model = O2OSAC.load_offline(tmp_path / "plain", env=reach(), **HER)
    assert isinstance(model.replay_buffer, HerReplayBuffer)
    before = model._n_updates
    assert model.learn(7)._n_updates - before == 3


def test_an_episode_that_overwrites_all_others() -> None:
    """The buffer holds six steps and episodes last nine: after the first one has ended, the second overwrites it."""
    model = make(env=reach(limit=9), buffer_size=6)
    with pytest.warns(UserWarning, match="HerReplayBuffer draws from episodes that have ended, and none has in the la"):
        model.learn(17)
    assert 0 < model._n_updates < 9


# -- a dataset in the buffer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_loaded_dataset_is_relabelled_within_its_episodes(n_envs: int) -> None:
    data = goals()
    model = make(env=reach(n_envs), dataset=data, finetuning=[DatasetReplay("all")])
    model.learn(3 * n_envs)
    assert model._n_updates == 3  # there are episodes to draw from
    buffer = model.replay_buffer
    np.testing.assert_array_equal(buffer.ep_length[: 20 // n_envs], 5)
    np.testing.assert_array_equal(buffer.ep_length[20 // n_envs :], 0)
    for column in range(n_envs):
        starts = np.repeat(np.arange(0, 20 // n_envs, 5), 5)
        np.testing.assert_array_equal(buffer.ep_start[: 20 // n_envs, column], starts)
    model.learn(2 * n_envs, reset_num_timesteps=False)  # the first online episode is one of its own
    np.testing.assert_array_equal(buffer.ep_length[20 // n_envs : 20 // n_envs + 5], 5)
    rows = np.arange(20 // n_envs)
    drawn = buffer._sample_goals(rows, np.zeros(len(rows), int))
    for row, goal in zip(rows, drawn, strict=True):
        first = row // 5 * 5
        episode = buffer.next_observations["achieved_goal"][first : first + 5, 0]
        assert (episode == goal).all(axis=1).any()


def test_rewards_from_infos_need_infos() -> None:
    model = make(replay_buffer_kwargs={"copy_info_dict": True}, dataset=goals(), finetuning=[DatasetReplay("all")])
    with pytest.raises(ValueError, match="copy_info_dict=True"):
        model.learn(3)


# -- opening a model that only acts --------------------------------------------------------------------------------


class OwnPolicy(MultiInputPolicy):
    """Opened by its own class alone."""


@pytest.mark.parametrize(("algorithm", "policy"), [(TQC, "MultiInputPolicy"), (SAC, OwnPolicy), (TD3, None)])
def test_a_policy_trained_with_hindsight_is_opened_to_act(algorithm: Any, policy: Any, tmp_path: Path) -> None:
    arguments = {**HER, "policy_kwargs": {"net_arch": [8]}, "learning_starts": 10}
    theirs = algorithm(policy or "MultiInputPolicy", reach(), **arguments).learn(12)
    theirs.save(tmp_path / "theirs")
    other = O2OTD3 if algorithm is SAC else O2OSAC
    trust = policy is OwnPolicy
    model = other.load_offline(tmp_path / "theirs", env=reach(), dataset=goals(), pretrain_steps=1, trust=trust, **FAST)
    if policy is not OwnPolicy:
        seen = goals().observations
        assert np.allclose(model.predict(seen, deterministic=True)[0], theirs.predict(seen, deterministic=True)[0])
    model.learn(3)


def test_a_source_brings_no_memory_along(tmp_path: Path) -> None:
    from sb3_o2o.transfer.foreign import open_saved

    theirs = TQC("MultiInputPolicy", reach(), policy_kwargs={"net_arch": [8]}, **{**FAST, "buffer_size": 10_000})
    theirs.save(tmp_path / "theirs")
    opened: Any = open_saved("TQC", tmp_path / "theirs.zip")
    assert opened.replay_buffer.buffer_size == 1
    assert th.equal(opened.actor.mu.weight, theirs.actor.mu.weight)
