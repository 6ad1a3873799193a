"""Everything that a dataset can be loaded from."""

import pickle
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.formats import hdf5

from .toys import ACTIONS, BOX, DICT, make_arrays, observation

# --------------------------------------------------------------------------------------------------------- arrays


def test_arrays_with_a_gap_that_no_flag_tells_of() -> None:
    arrays = make_arrays(6)
    arrays["next_observations"] = arrays["next_observations"].copy()
    arrays["next_observations"][2] = [9.0, 9.0]
    dataset = OfflineDataset.load(arrays)
    np.testing.assert_array_equal(dataset.episode_starts, [0, 3])
    np.testing.assert_array_equal(dataset.truncations, [False, False, True, False, False, False])
    np.testing.assert_array_equal(dataset.next_observations, arrays["next_observations"].astype(np.float32))
    np.testing.assert_array_equal(dataset.observations, arrays["observations"].astype(np.float32))


def test_names_of_d4rl_and_columns_are_understood() -> None:
    arrays = make_arrays(6)
    renamed = {**arrays, "terminals": arrays["terminations"][:, None], "timeouts": arrays["truncations"]}
    renamed["rewards"] = arrays["rewards"][:, None]
    del renamed["terminations"], renamed["truncations"]
    assert OfflineDataset.load(renamed).fingerprint == OfflineDataset.load(arrays).fingerprint


def test_from_arrays() -> None:
    arrays = make_arrays(6)
    dataset = OfflineDataset.from_arrays(**arrays, reward_scale=2.0)
    assert dataset.fingerprint == OfflineDataset.load(arrays, reward_scale=2.0).fingerprint
    del arrays["truncations"]
    assert OfflineDataset.from_arrays(**arrays, reward_scale=2.0).fingerprint == dataset.fingerprint
    assert not dataset.reopenable


def test_spaces_are_inferred() -> None:
    dataset = OfflineDataset.load(make_arrays(6))
    assert dataset.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert dataset.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)


# ------------------------------------------------------------------------------------------------------------ npz


def test_npz_of_arrays(tmp_path: Path) -> None:
    arrays = make_arrays(6)
    np.savez(tmp_path / "data.npz", **arrays)
    dataset = OfflineDataset.load(tmp_path / "data.npz")
    assert dataset.fingerprint == OfflineDataset.load(arrays).fingerprint
    assert pickle.loads(pickle.dumps(dataset)).fingerprint == dataset.fingerprint


def test_npz_with_dictionary_observations(tmp_path: Path) -> None:
    arrays = make_arrays(6)
    state, following = arrays.pop("observations"), arrays.pop("next_observations")
    flat = {"observations/state": state, "observations/goal": state[:, :1]}
    flat.update({"next_observations/state": following, "next_observations/goal": following[:, :1]})
    np.savez(tmp_path / "data.npz", **arrays, **flat)
    dataset = OfflineDataset.load(tmp_path / "data.npz")
    assert isinstance(dataset.next_observations, dict)
    np.testing.assert_array_equal(dataset.next_observations["goal"], np.float32(following[:, :1]))
    assert dataset.observation_space["goal"].shape == (1,)


def test_a_saved_dataset_is_the_same(two_episodes: str, two_dict_episodes: str, tmp_path: Path) -> None:
    for name in (two_episodes, two_dict_episodes):
        whole = OfflineDataset.load(name)
        for dataset in (whole, whole.subset(indices=[0, 2, 3, 6]).with_rewards(2.0, 1.0)):
            dataset.save(tmp_path / "saved.npz")
            again = OfflineDataset.load(str(tmp_path / "saved.npz"))
            assert again.fingerprint == dataset.fingerprint
            assert (again.observation_space, again.action_space) == (dataset.observation_space, dataset.action_space)
            assert (again.ref_min_score, again.ref_max_score) == (dataset.ref_min_score, dataset.ref_max_score)
            assert again.reopenable


def test_a_saved_dataset_that_has_been_damaged(two_episodes: str, tmp_path: Path) -> None:
    path = tmp_path / "saved.npz"
    OfflineDataset.load(two_episodes).save(path)
    with np.load(path) as file:
        arrays = dict(file)
    for index, message in (([0, 1, 2, 4, 5, 6, 99], r"row_index\[6\] is 99"), ([0, 1, 2, 2, 5, 6, 7], "increasing")):
        np.savez(path, **{**arrays, "row_index": np.array(index)})
        with pytest.raises(ValueError, match=message):
            OfflineDataset.load(path)


def test_saving_needs_the_right_name(two_episodes: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in .npz"):
        OfflineDataset.load(two_episodes).save(tmp_path / "saved.hdf5")


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 truncated"])
def test_damaged_npz(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"data.npz cannot be read as an .npz of plain arrays"):
        OfflineDataset.load(tmp_path / "data.npz")


def test_npz_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **{**make_arrays(6), "rewards": np.array([{}] * 6)})
    with pytest.raises(ValueError, match=r"cannot be read as an \.npz of plain arrays"):
        OfflineDataset.load(tmp_path / "data.npz")


# ----------------------------------------------------------------------------------------------------------- HDF5


def write_hdf5(path: Path, **fields: Any) -> Path:
    """Write D4RL's layout; dictionaries become groups."""
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            if isinstance(values, dict):
                for key, value in values.items():
                    file[f"{name}/{key}"] = value
            else:
                file[name] = values
    return path


# Terminates after 3 steps, times out after 3, terminates after 1, times out after 1, is cut by the end of the file
TERMINALS = np.array([0, 0, 1, 0, 0, 0, 1, 0, 0, 0], dtype=bool)
TIMEOUTS = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 0], dtype=bool)
STEPS: dict[str, Any] = {
    "observations": np.array([observation(0, step) for step in range(10)]),
    "actions": np.linspace(-1, 1, 20, dtype=np.float32).reshape(10, 2),
    "rewards": np.arange(10, dtype=np.float32),
    "terminals": TERMINALS,
    "timeouts": TIMEOUTS,
}


@pytest.mark.parametrize("slab", [1, 4, 65536])
def test_hdf5_without_next_observations(slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "SLAB", slab)
    dataset = OfflineDataset.load(write_hdf5(tmp_path / "data.hdf5", **STEPS, metadata={"algorithm": 1.0}))
    # The last steps of 5, 7 and 9 are dropped: what was seen after them is unknown
    np.testing.assert_array_equal(dataset.rewards, [0, 1, 2, 3, 4, 6, 8])
    np.testing.assert_array_equal(dataset.terminations, [0, 0, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(dataset.truncations, [0, 0, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(dataset.observations[:, 1], np.float32([0, 1, 2, 3, 4, 6, 8]) + 0.25)
    np.testing.assert_array_equal(dataset.next_observations[:, 1], np.float32([1, 2, 2, 4, 5, 6, 9]) + 0.25)


@pytest.mark.parametrize("slab", [1, 65536])
def test_hdf5_with_next_observations(slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "SLAB", slab)
    following = STEPS["observations"] + [0.0, 1.0]
    following[5] = [7.0, 7.0]
    fields = {**STEPS, "next_observations": following}
    del fields["timeouts"]
    dataset = OfflineDataset.load(write_hdf5(tmp_path / "data.h5", **fields))
    np.testing.assert_array_equal(dataset.rewards, np.arange(10))
    np.testing.assert_array_equal(dataset.next_observations, np.float32(following))
    np.testing.assert_array_equal(np.flatnonzero(dataset.terminations), [2, 6])
    np.testing.assert_array_equal(np.flatnonzero(dataset.truncations), [5, 9])


def test_hdf5_with_dictionary_observations(tmp_path: Path) -> None:
    state = STEPS["observations"]
    path = write_hdf5(tmp_path / "data.hdf5", **{**STEPS, "observations": {"goal": state[:, :1], "state": state}})
    dataset = OfflineDataset.load(path, observation_space=DICT)
    assert isinstance(dataset.observations, dict)
    np.testing.assert_array_equal(dataset.observations["state"][:, 1], np.float32([0, 1, 2, 3, 4, 6, 8]) + 0.25)


def test_hdf5_takes_the_environments_bounds(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", **{**STEPS, "actions": STEPS["actions"] * 2.0})
    with pytest.raises(ValueError, match=r"actions\[0\], entry 0 is -2.0"):
        OfflineDataset.load(path)
    doubled = spaces.Box(-2.0, 2.0, (2,), np.float32)
    np.testing.assert_allclose(
        OfflineDataset.load(path, action_space=doubled).actions[1], STEPS["actions"][1], rtol=1e-6
    )


@pytest.mark.parametrize("slab", [1, 65536])
def test_hdf5_says_where_a_value_is_wrong(slab: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "SLAB", slab)
    rewards = STEPS["rewards"].copy()
    rewards[6] = np.nan
    with pytest.raises(ValueError, match=r"rewards\[6\] is nan"):
        OfflineDataset.load(write_hdf5(tmp_path / "data.hdf5", **{**STEPS, "rewards": rewards}))


def test_hdf5_with_nothing_that_tells_where_episodes_end(tmp_path: Path) -> None:
    fields = {name: values for name, values in STEPS.items() if name != "timeouts"}
    with pytest.raises(ValueError, match="no field 'timeouts' and no 'next_observations'"):
        OfflineDataset.load(write_hdf5(tmp_path / "data.hdf5", **fields))


def test_hdf5_without_a_usable_transition(tmp_path: Path) -> None:
    fields = {name: values[7:8] for name, values in STEPS.items()}
    with pytest.raises(ValueError, match="holds no transitions"):
        OfflineDataset.load(write_hdf5(tmp_path / "data.hdf5", **fields))
    empty = {name: values[:0] for name, values in STEPS.items()}
    with pytest.raises(ValueError, match="holds no transitions"):
        OfflineDataset.load(write_hdf5(tmp_path / "empty.hdf5", **empty))


def test_hdf5_of_another_kind(tmp_path: Path, two_episodes: str) -> None:
    with pytest.raises(ValueError, match=r"no field 'observations', .*it has nothing"):
        OfflineDataset.load(write_hdf5(tmp_path / "data.hdf5"))
    with pytest.raises(ValueError, match="belongs to a Minari dataset: load it by its id"):
        OfflineDataset.load(tmp_path / "minari" / two_episodes / "data" / "main_data.hdf5")


def test_hdf5_that_is_damaged_inside(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in STEPS.items():
            file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
        offset = file["rewards"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.hdf5 cannot be read as HDF5: .* damaged"):
        OfflineDataset.load(path)


def test_truncated_hdf5(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "data.hdf5", **STEPS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"data.hdf5 cannot be read as HDF5: .*truncated"):
        OfflineDataset.load(path)


# --------------------------------------------------------------------------------------------------------- Minari


def test_minari_folder_and_objects(two_episodes: str, tmp_path: Path) -> None:
    by_id = OfflineDataset.load(two_episodes)
    opened = minari.load_dataset(two_episodes)
    by_object = OfflineDataset.load(opened)
    assert by_object.source == two_episodes
    assert by_object.reopenable
    for path in (tmp_path / "minari" / two_episodes, str(tmp_path / "minari" / two_episodes / "data")):
        dataset = OfflineDataset.load(path)
        assert dataset.fingerprint == by_id.fingerprint == by_object.fingerprint
        assert dataset.reopenable
    part = OfflineDataset.load(opened.filter_episodes(lambda episode: len(episode) == 4))
    assert part.fingerprint == by_id.subset(indices=np.arange(3, 7)).fingerprint
    assert part.source == "part of test/two-v0"
    assert not part.reopenable


# --------------------------------------------------------------------------------------------------- SB3's buffers


def fill(buffer: ReplayBuffer, steps: int) -> list[dict[str, Any]]:
    """
    Add steps to a buffer of two environments: the first terminates every 4 steps, the second times out every 3.

    :return: the transitions by environment and time, as they should come back
    """
    dictionary = isinstance(buffer.observation_space, spaces.Dict)
    log = []
    counters = np.zeros(2)
    episodes = np.zeros(2)
    for step in range(steps):
        state = np.stack([np.arange(2.0) + 10 * episodes, counters], axis=1)
        counters += 1
        following = np.stack([np.arange(2.0) + 10 * episodes, counters], axis=1)
        done = np.array([counters[0] == 4, counters[1] == 3])
        action = np.tile([[-1.0, 0.5]], (2, 1)) * (step % 3) / 2
        reward = np.array([step, 100.0 + step])
        infos: list[dict[str, Any]] = [{}, {"TimeLimit.truncated": bool(done[1])}]
        as_stored = [
            {"goal": value[:, :1], "state": value} if dictionary else value.copy() for value in (state, following)
        ]
        buffer.add(*as_stored, action, reward, done, infos)
        for column in range(2):
            log.append(
                {
                    "column": column,
                    "state": state[column],
                    "following": following[column],
                    "reward": reward[column],
                    "action": np.clip(action[column], -1 + 1e-5, 1 - 1e-5),
                    "terminated": column == 0 and bool(done[0]),
                    "truncated": column == 1 and bool(done[1]),
                }
            )
        episodes += done
        counters[done] = 0
    return log


def expected_order(log: list[dict[str, Any]], capacity: int) -> list[dict[str, Any]]:
    """The transitions that a buffer of this capacity still holds: by environment, oldest first."""
    result = []
    for column in range(2):
        kept = [entry for entry in log if entry["column"] == column][-capacity:]
        if not kept[-1]["terminated"]:
            kept[-1] = {**kept[-1], "truncated": True}
        result += kept
    return result


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("steps", [5, 8, 11])
def test_replay_buffers(dictionary: bool, steps: int) -> None:
    buffer_class, space = (DictReplayBuffer, DICT) if dictionary else (ReplayBuffer, BOX)
    buffer = buffer_class(16, space, ACTIONS, "cpu", n_envs=2)
    expected = expected_order(fill(buffer, steps), capacity=8)
    dataset = OfflineDataset.load(buffer)
    observations, following = dataset.observations, dataset.next_observations
    if dictionary:
        observations, following = observations["state"], following["state"]
    np.testing.assert_array_equal(observations, np.float32([entry["state"] for entry in expected]))
    np.testing.assert_array_equal(following, np.float32([entry["following"] for entry in expected]))
    np.testing.assert_array_equal(dataset.rewards, np.float32([entry["reward"] for entry in expected]))
    # They are scaled already, although the bounds are not [-1, 1]
    np.testing.assert_array_equal(dataset.actions, np.float32([entry["action"] for entry in expected]))
    np.testing.assert_array_equal(dataset.terminations, [entry["terminated"] for entry in expected])
    np.testing.assert_array_equal(dataset.truncations, [entry["truncated"] for entry in expected])
    assert dataset.action_space == ACTIONS


@pytest.mark.parametrize("steps", [5, 11])
def test_replay_buffer_with_one_array_for_both(steps: int) -> None:
    options = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    buffer = ReplayBuffer(8, BOX, ACTIONS, "cpu", n_envs=1, **options)
    for step in range(steps):
        rows = [np.array([[0.0, step]]), np.array([[0.0, step + 1]])]
        buffer.add(*rows, np.zeros((1, 2)), np.array([step]), np.array([False]), [{}])
    dataset = OfflineDataset.load(buffer)
    # Once it is full, the oldest observation has been overwritten
    first = 0 if steps < 8 else steps - 7
    np.testing.assert_array_equal(dataset.rewards, np.arange(first, steps))
    np.testing.assert_array_equal(dataset.next_observations[:, 1], np.arange(first, steps) + 1)
    np.testing.assert_array_equal(dataset.observations[:, 1], np.arange(first, steps))


def test_pickled_replay_buffer(tmp_path: Path) -> None:
    buffer = ReplayBuffer(16, BOX, ACTIONS, "cpu", n_envs=2)
    fill(buffer, 11)
    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(buffer))
    dataset = OfflineDataset.load(tmp_path / "buffer.pkl")
    assert dataset.fingerprint == OfflineDataset.load(buffer).fingerprint
    assert dataset.reopenable
    assert not OfflineDataset.load(buffer).reopenable


def test_environments_are_not_joined_even_if_their_observations_would_fit() -> None:
    buffer = ReplayBuffer(8, BOX, ACTIONS, "cpu", n_envs=2)
    for _ in range(3):
        zeros = np.zeros((2, 2))
        buffer.add(zeros, zeros, zeros, np.zeros(2), np.zeros(2), [{}, {}])
    np.testing.assert_array_equal(OfflineDataset.load(buffer).episode_starts, [0, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "buffer.pkl cannot be unpickled"),
        (pickle.dumps([1, 2, 3])[:-4], "buffer.pkl cannot be unpickled"),
        (pickle.dumps({"a": 1}), "buffer.pkl .*no field 'observations'.*: it has a \\(int\\)"),
    ],
)
def test_pickles_of_something_else(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "buffer.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load(tmp_path / "buffer.pkl")


def test_replay_buffers_that_are_refused() -> None:
    with pytest.raises(ValueError, match="ReplayBuffer is an empty replay buffer"):
        OfflineDataset.load(ReplayBuffer(8, BOX, ACTIONS, "cpu"))
    with pytest.raises(ValueError, match="only continuous actions"):
        OfflineDataset.load(ReplayBuffer(8, BOX, spaces.Discrete(3), "cpu"))
    buffer = ReplayBuffer(8, BOX, ACTIONS, "cpu", n_envs=2)
    fill(buffer, 3)
    buffer.rewards[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"rewards\[4\] is nan"):
        OfflineDataset.load(buffer)
