"""Fields of different lengths are refused whole; how episode ends were told apart is decided once, and said."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer
from sb3_o2o.data.formats import hdf5

from .toys import ACTIONS, BOX, DICT, make_arrays, observation


def steps(lengths: tuple[int, ...] = (3, 4), dictionary: bool = False) -> dict[str, Any]:
    """Episodes one after the other, in D4RL's names, the first terminated, the others timed out."""
    rows = np.array([observation(index, step) for index, length in enumerate(lengths) for step in range(length)])
    last = np.isin(np.arange(len(rows)), np.cumsum(lengths) - 1)
    first = np.arange(len(rows)) < lengths[0]
    return {
        "observations": {"goal": rows[:, :1], "state": rows} if dictionary else rows,
        "actions": np.linspace(-1, 1, 2 * len(rows)).reshape(-1, 2),
        "rewards": np.arange(len(rows), dtype=np.float64),
        "terminals": last & first,
        "timeouts": last & ~first,
    }


def write_hdf5(path: Path, fields: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            for key, value in (values if isinstance(values, dict) else {"": values}).items():
                file[f"{name}/{key}" if key else name] = value
    return path


def write_npz(path: Path, fields: dict[str, Any]) -> Path:
    flat: dict[str, Any] = {}
    for name, values in fields.items():
        entries = values if isinstance(values, dict) else {"": values}
        flat |= {f"{name}/{key}" if key else name: value for key, value in entries.items()}
    np.savez(path, **flat)
    return path


def open_as(kind: str, fields: dict[str, Any], folder: Path) -> OfflineDataset:
    """Load the same steps from a dictionary, an HDF5 file or an ``.npz``."""
    if kind == "dictionary":
        return OfflineDataset.load(fields)
    writer = {"hdf5": write_hdf5, "npz": write_npz}[kind]
    return OfflineDataset.load(writer(folder / f"data.{kind}", fields), cache=False)


KINDS = ("dictionary", "hdf5", "npz")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slab", [2, 65536])
@pytest.mark.parametrize("field", ["observations", "observations/goal", "rewards", "terminals", "timeouts", "actions"])
def test_a_field_that_is_too_long(
    field: str, slab: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "SLAB", slab)
    name, _, key = field.partition("/")
    fields = steps(dictionary=bool(key))
    values = fields[name][key] if key else fields[name]
    longer = np.concatenate([values, values[:2]])
    fields[name] = {**fields[name], key: longer} if key else longer
    # Actions are what the others are compared with
    message = f"{field} has 9 rows, expected 7" if name != "actions" else "has 7 rows, expected 9"
    with pytest.raises(ValueError, match=message):
        open_as(kind, fields, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_next_observation_too_many(kind: str, tmp_path: Path) -> None:
    fields = steps()
    fields["next_observations"] = np.concatenate([fields["observations"], fields["observations"][:1]])
    with pytest.raises(ValueError, match="next_observations has 8 rows, expected 7 to go with actions"):
        open_as(kind, fields, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_one_more_observation_for_each_episode_is_named(kind: str, tmp_path: Path) -> None:
    fields = steps()
    fields["observations"] = np.zeros((9, 2))
    with pytest.raises(ValueError, match=r"observations has 9 rows, expected 7 .*one more for each of 2 episodes"):
        open_as(kind, fields, tmp_path)


@pytest.mark.parametrize("dictionary", [False, True])
def test_the_same_rule_for_dictionaries_and_files(dictionary: bool, tmp_path: Path) -> None:
    fields = steps(dictionary=dictionary)
    datasets = [open_as(kind, fields, tmp_path) for kind in KINDS]
    assert len({dataset.fingerprint for dataset in datasets}) == 1
    assert len({dataset.summary(print_table=False)["episode_ends"] for dataset in datasets}) == 1
    # What came after the last step of the second episode is unknown: it is dropped, the one before is truncated
    np.testing.assert_array_equal(datasets[0].rewards, [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(np.flatnonzero(datasets[0].terminations), [2])
    np.testing.assert_array_equal(np.flatnonzero(datasets[0].truncations), [5])


@pytest.mark.parametrize("kind", KINDS)
def test_two_names_for_one_field(kind: str, tmp_path: Path) -> None:
    fields = steps()
    with pytest.raises(ValueError, match=r"has both 'termina.*' and 'termina.*', which mean the same"):
        open_as(kind, {**fields, "terminations": fields["terminals"]}, tmp_path)


# ------------------------------------------------------------------------------------------------------------- tensors


def as_tensors(fields: Any) -> Any:
    if isinstance(fields, dict):
        return {name: as_tensors(value) for name, value in fields.items()}
    return th.from_numpy(np.array(fields)).requires_grad_(fields.dtype.kind == "f")


@pytest.mark.parametrize("dictionary", [False, True])
def test_torch_tensors_are_arrays(dictionary: bool) -> None:
    fields = steps(dictionary=dictionary)
    dataset = OfflineDataset.load(fields)
    assert OfflineDataset.load(as_tensors(fields)).fingerprint == dataset.fingerprint
    episode = {name: fields[name] for name in ("observations", "actions", "rewards")}
    as_lists = OfflineDataset.load([as_tensors({**episode, "terminated": np.array(False)})])
    assert as_lists.fingerprint == OfflineDataset.load([{**episode, "terminated": False}]).fingerprint
    mask = th.from_numpy(dataset.rewards > 2)
    assert dataset.subset(indices=mask).fingerprint == dataset.subset(indices=mask.numpy()).fingerprint
    np.testing.assert_array_equal(dataset.get(th.tensor([3, 0])).rewards, [3, 0])


def test_tensors_in_from_arrays_and_in_lists() -> None:
    arrays = make_arrays(6)
    expected = OfflineDataset.from_arrays(**arrays).fingerprint
    assert OfflineDataset.from_arrays(**as_tensors(arrays)).fingerprint == expected
    lists = {name: list(th.from_numpy(np.array(values))) for name, values in arrays.items()}
    assert OfflineDataset.from_arrays(**lists).fingerprint == expected
    halves = {**arrays, "rewards": th.tensor(arrays["rewards"]).bfloat16()}
    assert OfflineDataset.from_arrays(**halves).fingerprint == expected


def test_tensors_of_no_numbers() -> None:
    with pytest.raises(ValueError, match="rewards has dtype complex64: expected numbers"):
        OfflineDataset.load({**make_arrays(6), "rewards": th.zeros(6, dtype=th.complex64)})


# -------------------------------------------------------------------------------------------------------- episode ends

MEANING = [
    ({"terminals": True, "timeouts": True}, "'terminals' are terminations, 'timeouts' are time limits", [2], [5]),
    ({"dones": True, "timeouts": True}, "'dones' that are not 'timeouts' are terminations", [2], [5]),
    ({"terminals": True, "dones": True}, "'terminals' are terminations, other 'dones' are time limits", [2], [5]),
    ({"terminals": True, "episode": True}, "where 'episode' changes, the recording stopped", [2], [5]),
    ({"episode": True}, "no terminations known; where 'episode' changes", [], [1, 4]),
]


@pytest.mark.parametrize(("names", "told", "terminations", "truncations"), MEANING)
def test_what_flags_mean_together(
    names: dict[str, bool], told: str, terminations: list[int], truncations: list[int]
) -> None:
    fields = steps()
    every = {
        **{name: fields.pop(name) for name in ("terminals", "timeouts")},
        "episode": np.array(["a"] * 3 + ["b"] * 4),
    }
    every["dones"] = every["terminals"] | every["timeouts"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = OfflineDataset.load({**fields, **{name: every[name] for name in names}})
    np.testing.assert_array_equal(np.flatnonzero(dataset.terminations), terminations)
    np.testing.assert_array_equal(np.flatnonzero(dataset.truncations), truncations)
    assert told in dataset.summary(print_table=False)["episode_ends"]


def test_dones_alone_warn_unless_the_caller_says_what_they_are() -> None:
    fields = steps()
    dones = fields.pop("terminals") | fields.pop("timeouts")
    fields["dones"] = dones
    with pytest.warns(UserWarning, match=r"time limits cannot be told from terminations by 'dones'.*dones="):
        dataset = OfflineDataset.load(fields)
    np.testing.assert_array_equal(np.flatnonzero(dataset.terminations), [2, 6])
    assert "cannot be told" in dataset.summary(print_table=False)["episode_ends"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert OfflineDataset.load(fields, dones="terminations").fingerprint == dataset.fingerprint
        limits = OfflineDataset.load(fields, dones="truncations")
        OfflineDataset.load({**fields, "dones": np.zeros(7)})  # none is set: nothing to be told apart
    np.testing.assert_array_equal(np.flatnonzero(limits.terminations), [])
    np.testing.assert_array_equal(limits.rewards, [0, 1, 3, 4, 5])
    assert limits.options["dones"] == "truncations"


def test_dones_are_not_to_be_said_where_they_are_known(two_episodes: str) -> None:
    with pytest.raises(ValueError, match=r"dones='truncations' is for sources that do not tell"):
        OfflineDataset.load(steps(), dones="truncations")
    with pytest.raises(ValueError, match=r"is a Minari dataset: it does not take dones"):
        OfflineDataset.load(two_episodes, dones="truncations")
    with pytest.raises(
        ValueError, match=r"dones of OfflineDataset.load must be 'terminations', 'truncations' or None, not 'limits'"
    ):
        OfflineDataset.load(steps(), dones="limits")


@pytest.mark.parametrize("dones", ["terminations", "truncations"])
def test_terminals_that_are_all_ends(dones: str) -> None:
    fields = steps()
    del fields["timeouts"]
    with pytest.raises(ValueError, match=r"no field 'timeouts' and no 'next_observations'.*dones='terminations'"):
        OfflineDataset.load(fields)
    dataset = OfflineDataset.load(fields, dones=dones)
    np.testing.assert_array_equal(np.flatnonzero(dataset.terminations), [2] if dones == "terminations" else [])
    assert f"taken as {dones}" in dataset.summary(print_table=False)["episode_ends"]


def test_episodes_that_come_back() -> None:
    with pytest.raises(ValueError, match=r"episode: .*1.* comes back after another episode"):
        OfflineDataset.load({**steps(), "episode": [1, 1, 1, 2, 2, 1, 1]})


def test_the_summary_says_it(two_episodes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = OfflineDataset.load(two_episodes).subset(fraction=0.5)
    assert "Minari, 'terminations' and 'truncations' as recorded" in dataset.summary()["episode_ends"]
    assert "episode ends: Minari" in capsys.readouterr().out
    dataset.save(tmp_path / "saved.npz")
    again = OfflineDataset.load(tmp_path / "saved.npz")
    assert again.summary(print_table=False)["episode_ends"] == dataset.summary(print_table=False)["episode_ends"]


# --------------------------------------------------------------------------------------------------------- SB3 buffers


def a_buffer(space: Any = BOX, **options: Any) -> ReplayBuffer:
    """Ten steps, episodes of four that a time limit ends; nothing of one is seen in the next."""
    buffer = ReplayBuffer(16, space, ACTIONS, "cpu", **options)
    for step in range(10):
        rows = [np.array([[step // 4, step]]), np.array([[step // 4, step + 1]])]
        done = np.array([step % 4 == 3])
        buffer.add(*rows, np.zeros((1, 2)), np.array([step]), done, [{"TimeLimit.truncated": bool(done[0])}])
    return buffer


def test_buffers_that_know_time_limits_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = OfflineDataset.load(a_buffer())
    assert not dataset.terminations.any()
    assert "those with 'timeouts' time limits" in dataset.summary(print_table=False)["episode_ends"]
    with pytest.raises(ValueError, match="is for buffers without time limits: ReplayBuffer has recorded them"):
        OfflineDataset.load(a_buffer(), dones="truncations")


@pytest.mark.parametrize("shared", [False, True])
def test_buffers_that_cannot_tell_time_limits_warn(shared: bool, tmp_path: Path) -> None:
    buffer = a_buffer(handle_timeout_termination=False, optimize_memory_usage=shared)
    (tmp_path / "buffer.pkl").write_bytes(pickle.dumps(buffer))
    for source in (buffer, tmp_path / "buffer.pkl"):
        with pytest.warns(UserWarning, match="time limits cannot be told from terminations"):
            assert OfflineDataset.load(source).terminations.sum() == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert OfflineDataset.load(buffer, dones="terminations").terminations.sum() == 2
        dataset = OfflineDataset.load(buffer, dones="truncations")
    assert not dataset.terminations.any()
    # with one array for both, the first observation of an episode stands where the last one of the one before it stood
    np.testing.assert_array_equal(dataset.episode_starts, [0, 3, 6] if shared else [0, 4, 8])
    np.testing.assert_array_equal(dataset.next_observations[:, 0], dataset.observations[:, 0])
    np.testing.assert_array_equal(dataset.next_observations[:, 1], dataset.rewards + 1)


def test_a_time_limit_at_the_newest_step_is_kept() -> None:
    buffer = ReplayBuffer(4, BOX, ACTIONS, "cpu", optimize_memory_usage=True, handle_timeout_termination=False)
    for step in range(9):
        rows = [np.array([[0.0, step]]), np.array([[0.5, step + 1]])]
        buffer.add(*rows, np.zeros((1, 2)), np.array([step]), np.array([step in (0, 2, 5, 6, 8)]), [{}])
    dataset = OfflineDataset.load(buffer, dones="truncations")  # of its last three steps
    np.testing.assert_array_equal(dataset.rewards, [7, 8])
    np.testing.assert_array_equal(dataset.truncations, [False, True])
    np.testing.assert_array_equal(dataset.next_observations[-1], [0.5, 9.0])


@pytest.mark.parametrize("shared", [False, True])
def test_old_buffers_are_read_as_sb3_reads_them(shared: bool, tmp_path: Path) -> None:
    buffer = a_buffer(handle_timeout_termination=False, optimize_memory_usage=shared)
    expected = OfflineDataset.load(buffer, dones="terminations")
    for name in ("timeouts", "handle_timeout_termination", "optimize_memory_usage"):
        delattr(buffer, name)
    if shared:
        buffer.next_observations = None
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(buffer))
    with pytest.warns(UserWarning, match=r"old.pkl .*or an old version.*: time limits cannot be told"):
        assert OfflineDataset.load(tmp_path / "old.pkl").fingerprint == expected.fingerprint


def test_buffers_without_what_every_version_has(tmp_path: Path) -> None:
    buffer = a_buffer()
    del buffer.actions
    with pytest.raises(ValueError, match=r"is a ReplayBuffer without actions: it holds .*observations \(16, 1, 2\)"):
        OfflineDataset.load(buffer)
    buffer = a_buffer()
    buffer.observation_space = object()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"has a observation_space of builtins, from before Stable-Baselines3 2.0"):
        OfflineDataset.load(buffer)


def test_a_buffer_on_a_dataset_is_that_dataset() -> None:
    dataset = OfflineDataset.load(make_arrays(6))
    buffer = OfflineReplayBuffer(dataset, dataset.observation_space, dataset.action_space, "cpu")
    assert OfflineDataset.load(buffer) is dataset


# ---------------------------------------------------------------------------------------------------- options, names


def test_options_that_a_source_cannot_follow(two_episodes: str) -> None:
    with pytest.raises(ValueError, match=r"is a dictionary of arrays: it does not take columns \(it takes dones, obs"):
        OfflineDataset.load(steps(), columns={"rewards": "r"})
    with pytest.raises(ValueError, match=r"is a replay buffer: it does not take reward"):
        OfflineDataset.load(a_buffer(), reward=1.0)
    with pytest.raises(ValueError, match=r"observation_keys is for several observations: arrays has one array"):
        OfflineDataset.load(steps(), observation_keys="state")
    with pytest.raises(ValueError, match=r"reward=1.0 is for sources without rewards: arrays has 'rewards'"):
        OfflineDataset.load(steps(), reward=1.0)
    with pytest.raises(ValueError, match=r"reward of OfflineDataset.load must be a finite number or None, not nan"):
        OfflineDataset.load(steps(), reward=np.nan)
    wrong: dict[str, Any] = {"reward": "none", "columns": ["x"], "observation_keys": [1]}
    for option, value in wrong.items():
        with pytest.raises(ValueError, match=f"{option} of OfflineDataset.load must be .*, not "):
            OfflineDataset.load(steps(), **{option: value})
    dataset = OfflineDataset.load(steps())
    with pytest.raises(ValueError, match=r"reward is about how a source is read: 'arrays' has been read already"):
        OfflineDataset.load(dataset, reward=0.0)


def test_one_reward_for_all() -> None:
    fields = {name: values for name, values in steps().items() if name != "rewards"}
    dataset = OfflineDataset.load(fields, reward=-1.0)
    np.testing.assert_array_equal(dataset.rewards, np.full(6, -1.0))
    assert dataset.options == {"reward": -1.0}
    assert OfflineDataset.load(dataset, reward=-1.0).fingerprint == dataset.fingerprint


def test_observations_that_are_chosen() -> None:
    fields = steps(dictionary=True)
    state = OfflineDataset.load(fields, observation_keys="state")
    joined = OfflineDataset.load(fields, observation_keys=["state", "goal"])
    np.testing.assert_array_equal(joined.observations[:, :2], state.observations)
    np.testing.assert_array_equal(joined.observations[:, 2], state.observations[:, 0])
    assert joined.options == {"observation_keys": ["state", "goal"]}
    both = OfflineDataset.load(fields, observation_keys=("state", "goal"), observation_space=DICT)
    assert set(both.observations) == {"goal", "state"}
    with pytest.raises(ValueError, match=r"has no observation 'speed': it has goal \(7, 1\), state \(7, 2\)"):
        OfflineDataset.load(fields, observation_keys=["speed"])
    images = {**fields, "observations": {**fields["observations"], "image": np.zeros((7, 4, 4, 3), np.uint8)}}
    with pytest.raises(ValueError, match=r"'image' has rows of shape \(4, 4, 3\): only vectors can be joined"):
        OfflineDataset.load(images, observation_keys=["image", "goal"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.zip", "a saved model, perhaps: give it to load_offline"),
        ("rewards.npy", "a single array: put observations"),
        ("notes.txt", r"no format that is known. Files that can be read end in .hdf5"),
    ],
)
def test_files_of_another_kind(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load(tmp_path / name)


def test_a_folder_of_another_kind_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "readme.md").write_text("")
    with pytest.raises(ValueError, match=r"it holds logs/, .*readme.md"):
        OfflineDataset.load(tmp_path)


def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path: Path) -> None:
    fields = steps()
    fields["rewards"][4] = np.nan
    with pytest.raises(ValueError, match=r"data.npz: rewards\[4\] is nan"):
        OfflineDataset.load(write_npz(tmp_path / "data.npz", fields))
