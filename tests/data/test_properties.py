"""What holds for every dataset, checked on random ones."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.data import (
    MonteCarloReplayBuffer,
    OfflineDataset,
    OfflineReplayBuffer,
    ReplaySamples,
    concatenate_samples,
)

from .toys import ACTIONS, BOX

FEW = settings(max_examples=40, deadline=None)

#: Episodes as lists of (reward, ...) with the way in which each ends.
EPISODES = st.lists(
    st.tuples(
        st.lists(st.integers(-3, 3), min_size=1, max_size=6), st.sampled_from(["terminated", "truncated", "no flag"])
    ),
    min_size=1,
    max_size=6,
)
GAMMAS = st.sampled_from([0.0, 0.5, 0.9, 1.0])


def to_arrays(episodes: list[tuple[list[int], str]]) -> dict[str, Any]:
    """Arrays of these episodes; no two observations are the same."""
    observations, following, rewards, terminations, truncations = [], [], [], [], []
    for index, (values, end) in enumerate(episodes):
        for step, reward in enumerate(values):
            observations.append([index, step])
            following.append([index, step + 1])
            rewards.append(float(reward))
            terminations.append(end == "terminated" and step == len(values) - 1)
            truncations.append(end == "truncated" and step == len(values) - 1)
    return {
        "observations": np.array(observations, dtype=np.float64),
        "actions": np.random.default_rng(len(rewards)).uniform(-1, 1, (len(rewards), 2)),
        "rewards": np.array(rewards),
        "next_observations": np.array(following, dtype=np.float64),
        "terminations": np.array(terminations),
        "truncations": np.array(truncations),
    }


@FEW
@given(EPISODES)
def test_what_goes_in_comes_out(episodes: list[tuple[list[int], str]]) -> None:
    arrays = to_arrays(episodes)
    dataset = OfflineDataset.load(arrays)
    for name in ("observations", "next_observations", "rewards"):
        np.testing.assert_array_equal(getattr(dataset, name), arrays[name])
    np.testing.assert_array_equal(dataset.terminations, arrays["terminations"])
    np.testing.assert_array_equal(dataset.episode_lengths, [len(values) for values, _ in episodes])
    ends = dataset.episode_ends - 1
    # Every episode ends in exactly one way, and nothing else is marked
    np.testing.assert_array_equal(np.flatnonzero(dataset.terminations | dataset.truncations), ends)
    assert not (dataset.terminations & dataset.truncations).any()


@FEW
@given(EPISODES)
def test_a_saved_dataset_comes_back(episodes: list[tuple[list[int], str]]) -> None:
    dataset = OfflineDataset.load(to_arrays(episodes))
    with tempfile.TemporaryDirectory() as folder:
        dataset.save(Path(folder) / "data.npz")
        assert OfflineDataset.load(Path(folder) / "data.npz").fingerprint == dataset.fingerprint


@FEW
@given(EPISODES, st.integers(1, 3), st.integers(0, 7))
def test_a_full_circle_of_sb3s_buffer(episodes: list[tuple[list[int], str]], n_envs: int, extra: int) -> None:
    arrays = to_arrays([(values, "truncated" if end == "no flag" else end) for values, end in episodes])
    count = len(arrays["rewards"])
    buffer = ReplayBuffer((count + extra) * n_envs, BOX, ACTIONS, "cpu", n_envs=n_envs)
    # Once more than fits: the first ones are overwritten by the same
    for index in [*range(count), *range(extra + 1)]:
        row = {name: np.repeat(values[index % count][None], n_envs, axis=0) for name, values in arrays.items()}
        done = row["terminations"] | row["truncations"]
        infos = [{"TimeLimit.truncated": bool(flag)} for flag in row["truncations"]]
        buffer.add(row["observations"], row["next_observations"], row["actions"], row["rewards"], done, infos)
    dataset = OfflineDataset.load(buffer)
    kept = [index % count for index in [*range(count), *range(extra + 1)]][-(count + extra) :]
    np.testing.assert_array_equal(dataset.rewards, np.tile(arrays["rewards"][kept], n_envs))
    np.testing.assert_array_equal(dataset.observations, np.tile(arrays["observations"][kept], (n_envs, 1)))
    np.testing.assert_array_equal(dataset.next_observations, np.tile(arrays["next_observations"][kept], (n_envs, 1)))
    np.testing.assert_array_equal(dataset.terminations, np.tile(arrays["terminations"][kept], n_envs))


def naive_returns(rewards: list[float], gamma: float) -> list[float]:
    """The definition."""
    return [sum(gamma**k * reward for k, reward in enumerate(rewards[start:])) for start in range(len(rewards))]


@FEW
@given(EPISODES, GAMMAS)
def test_returns_by_definition(episodes: list[tuple[list[int], str]], gamma: float) -> None:
    dataset = OfflineDataset.load(to_arrays(episodes))
    expected = np.concatenate([naive_returns([float(value) for value in values], gamma) for values, _ in episodes])
    np.testing.assert_allclose(dataset.returns_to_go(gamma, negative_reward=None), expected, rtol=1e-6, atol=1e-6)


@FEW
@given(EPISODES, st.sampled_from([0.5, 0.9]))
def test_online_and_offline_returns_agree(episodes: list[tuple[list[int], str]], gamma: float) -> None:
    arrays = to_arrays([(values, "truncated" if end == "no flag" else end) for values, end in episodes])
    buffer = MonteCarloReplayBuffer(100, BOX, ACTIONS, "cpu", gamma=gamma, negative_reward=-1.0)
    for index in range(len(arrays["rewards"])):
        row = {name: values[index : index + 1] for name, values in arrays.items()}
        done = row["terminations"] | row["truncations"]
        infos = [{"TimeLimit.truncated": bool(row["truncations"][0])}]
        buffer.add(row["observations"], row["next_observations"], row["actions"], row["rewards"], done, infos)
    expected = OfflineDataset.load(buffer).returns_to_go(gamma, negative_reward=-1.0)
    assert buffer.n_sampleable == len(expected)
    np.testing.assert_array_equal(buffer.returns[: len(expected), 0], expected)


@FEW
@given(EPISODES, GAMMAS, st.integers(1, 5))
def test_n_steps_by_definition(episodes: list[tuple[list[int], str]], gamma: float, n_steps: int) -> None:
    dataset = OfflineDataset.load(to_arrays(episodes))
    space = dataset.action_space
    buffer = OfflineReplayBuffer(dataset, BOX, space, "cpu", n_steps=n_steps, gamma=gamma, seed=0)
    samples = buffer._get_samples(np.arange(len(dataset)))
    row = 0
    for index, (values, end) in enumerate(episodes):
        for step in range(len(values)):
            taken = values[step : step + n_steps]
            expected = sum(gamma**k * value for k, value in enumerate(taken))
            np.testing.assert_allclose(samples.rewards[row].item(), expected, rtol=1e-6, atol=1e-6)
            assert samples.next_observations[row].tolist() == [index, step + len(taken)]
            assert samples.dones[row].item() == (end == "terminated" and step + len(taken) == len(values))
            if n_steps > 1:
                assert samples.discounts is not None
                np.testing.assert_allclose(samples.discounts[row].item(), gamma ** len(taken), rtol=1e-6)
            row += 1


@FEW
@given(EPISODES, st.data())
def test_any_subset_is_a_dataset(episodes: list[tuple[list[int], str]], data: Any) -> None:
    dataset = OfflineDataset.load(to_arrays(episodes))
    chosen = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, unique=True))
    part = dataset.subset(indices=chosen)
    kept = np.sort(chosen)
    for name in ("observations", "next_observations", "actions", "rewards", "terminations"):
        np.testing.assert_array_equal(getattr(part, name), getattr(dataset, name)[kept])
    # Within an episode one transition follows the other
    inside = ~(part.terminations | part.truncations)[:-1]
    np.testing.assert_array_equal(part.next_observations[:-1][inside], part.observations[1:][inside])
    assert np.shares_memory(part._rows, dataset._rows)


@FEW
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
def test_interleaved_slices_keep_the_ratio(first: int, second: int, slices: int) -> None:
    def batch(count: int, offset: float) -> ReplaySamples:
        column = offset + th.arange(count * slices, dtype=th.float32)[:, None]
        return ReplaySamples(column, column, column, column, column)

    joined = concatenate_samples(batch(first, 0.0), batch(second, 1000.0), 0.9, interleave=True)
    for part in joined.rewards.reshape(slices, first + second):
        assert int((part < 1000).sum()) == first
    assert sorted(joined.rewards[:, 0].tolist()) == [*range(first * slices), *range(1000, 1000 + second * slices)]
