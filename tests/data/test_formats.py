"""Other projects' formats: what goes in comes out, and what cannot be read is refused by name."""

import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_o2o import UntrustedError
from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.formats.reading import READING_OPTIONS
from sb3_o2o.data.sources import _FILES

from . import foreign
from .foreign import COLUMNS, NEXT_COLUMNS, Episode, make

#: The extra ``parquet`` is part of ``dev``: only a bare installation leaves these out.
needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs the extra [parquet]")
LENGTHS = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=12)


def list_of(**fields: Callable[[Episode], Any]) -> Callable[[Path, list[Episode]], Any]:
    """A list of dictionaries, one for each episode."""
    return lambda _, episodes: [{name: value(each) for name, value in fields.items()} for each in episodes]


VALUES: dict[str, Callable[[Episode], Any]] = {"actions": lambda e: e.actions, "rewards": lambda e: e.rewards}
ONE_MORE: dict[str, Callable[[Episode], Any]] = {**VALUES, "observations": lambda e: e.observations}
EQUAL: dict[str, Callable[[Episode], Any]] = {**VALUES, "observations": lambda e: e.observations[:-1]}


def npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


#: name: how it is written, options of ``load``, whether the last observation of each episode is known
FORMATS: dict[str, tuple[Callable[[Path, list[Episode]], Any], dict[str, Any], bool]] = {
    "OGBench, compact": (lambda _, e: foreign.ogbench_compact(e), {}, True),
    "OGBench, single task": (lambda _, e: foreign.ogbench_single_task(e), {}, True),
    "OGBench, compact, file": (lambda p, e: npz(p, foreign.ogbench_compact(e)), {}, True),
    "robomimic": (
        lambda p, e: foreign.robomimic(p / "r.hdf5", e),
        {"observation_keys": ["object", "eef_pos"], "dones": "terminations"},
        True,
    ),
    "robomimic, without next_obs": (
        lambda p, e: foreign.robomimic(p / "r.hdf5", e, next_obs=False),
        {"observation_keys": ["object", "eef_pos"], "dones": "terminations"},
        False,
    ),
    "d3rlpy 1": (lambda p, e: foreign.d3rlpy_1(p / "d.h5", e), {}, False),
    "d3rlpy 2": (lambda p, e: foreign.d3rlpy_2(p / "d.h5", e), {}, False),
    "LeRobot": (
        lambda p, e: foreign.lerobot(p / "l", e),
        {"observation_keys": "state", "dones": "terminations"},
        False,
    ),
    "CSV": (lambda p, e: foreign.csv(p / "t.csv", foreign.columns(e)), {"columns": COLUMNS}, False),
    "CSV, semicolons": (lambda p, e: foreign.csv(p / "t.csv", foreign.columns(e), ";"), {"columns": COLUMNS}, False),
    "CSV, next observations": (
        lambda p, e: foreign.csv(p / "t.csv", foreign.columns(e, True)),
        {"columns": NEXT_COLUMNS},
        True,
    ),
    "Parquet": (lambda p, e: foreign.parquet(p / "t.parquet", foreign.columns(e)), {"columns": COLUMNS}, False),
    "Parquet, vectors": (lambda p, e: foreign.parquet(p / "t.parquet", foreign.flat(e)), {}, False),
    "imitation": (lambda _, e: foreign.trajectories(e), {}, True),
    "imitation, folder": (lambda p, e: foreign.imitation_folder(p / "i", e), {}, True),
    "imitation, npz": (lambda p, e: foreign.imitation_npz(p / "i.npz", e), {"dones": "terminations"}, True),
    "episodes": (list_of(**ONE_MORE, terminated=lambda e: e.terminated), {}, True),
    "episodes, flags of each step": (
        list_of(
            **ONE_MORE,
            terminations=lambda e: e.ends & e.terminated,
            truncations=lambda e: e.ends & (not e.terminated),
        ),
        {},
        True,
    ),
    "episodes, next observations": (
        list_of(**EQUAL, next_observations=lambda e: e.observations[1:], terminals=lambda e: e.ends & e.terminated),
        {},
        True,
    ),
    "episodes, as many observations as actions": (
        list_of(**EQUAL, terminated=lambda e: e.terminated),
        {},
        False,
    ),
}


PYARROW = {"LeRobot", "Parquet", "Parquet, vectors", "imitation, folder"}


def cases(*names: str) -> list[Any]:
    """Names of formats, marked where they need an extra."""
    return [pytest.param(name, marks=needs_pyarrow) if name in PYARROW else name for name in names]


def load(name: str, folder: Path, episodes: list[Episode]) -> OfflineDataset:
    writer, options, _ = FORMATS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return OfflineDataset.load(writer(folder, episodes), cache=False, **options)


def check(dataset: OfflineDataset, episodes: list[Episode], known: bool) -> None:
    """All transitions are there, in order, with the right ends; where a next observation is unknown, it is left out."""
    kept = [each for each in episodes if known or each.terminated or len(each.actions) > 1]
    counts = [len(each.actions) - (0 if known or each.terminated else 1) for each in kept]
    pairs = list(zip(kept, counts, strict=True))
    np.testing.assert_array_equal(dataset.episode_lengths, counts)
    for name in ("actions", "rewards"):
        expected = np.concatenate([getattr(each, name)[:count] for each, count in pairs])
        np.testing.assert_array_equal(getattr(dataset, name), expected)
    np.testing.assert_array_equal(
        dataset.observations, np.concatenate([each.observations[:count] for each, count in pairs])
    )
    following = np.concatenate([each.observations[1 : count + 1] for each, count in pairs])
    certain = np.ones(len(dataset), dtype=bool) if known else ~dataset.terminations
    np.testing.assert_array_equal(dataset.next_observations[certain], following[certain])
    ends = dataset.episode_ends - 1
    np.testing.assert_array_equal(dataset.terminations[ends], [each.terminated for each in kept])
    np.testing.assert_array_equal(dataset.truncations[ends], [not each.terminated for each in kept])
    assert dataset.terminations.sum() + dataset.truncations.sum() == len(kept)


@pytest.mark.parametrize("name", cases(*FORMATS))
@settings(max_examples=12, deadline=None)
@given(drawn=LENGTHS)
def test_what_goes_in_comes_out(name: str, drawn: list[tuple[int, bool]]) -> None:
    episodes = make([length for length, _ in drawn], [ended for _, ended in drawn])
    known = FORMATS[name][2]
    with tempfile.TemporaryDirectory() as folder:
        if not known and not any(each.terminated or len(each.actions) > 1 for each in episodes):
            with pytest.raises(ValueError, match="holds no transitions"):
                load(name, Path(folder), episodes)
        else:
            check(load(name, Path(folder), episodes), episodes, known)


@settings(max_examples=12, deadline=None)
@given(drawn=LENGTHS)
def test_ogbench_files_know_no_terminations(drawn: list[tuple[int, bool]]) -> None:
    episodes = make([length for length, _ in drawn], [False] * len(drawn))
    with tempfile.TemporaryDirectory() as folder:
        dataset = OfflineDataset.load(npz(Path(folder), foreign.ogbench(episodes)), reward=0.0)
    for each in episodes:
        each.rewards = np.zeros_like(each.rewards)
    check(dataset, episodes, known=True)


THREE = ([3, 1, 4], [True, False, False])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("OGBench, compact", "as in OGBench, 'valids' are 0 at the last .* terminations where 'masks' are 0"),
        (
            "OGBench, single task",
            "as in OGBench, 'terminals' mark the ends of trajectories; terminations where 'masks'",
        ),
        ("robomimic", "robomimic, 3 demonstrations, 'dones' are terminations, as the caller says"),
        ("d3rlpy 1", "d3rlpy 1, 'terminals' are terminations, other 'episode_terminals' are time limits"),
        ("d3rlpy 2", "d3rlpy 2, 'terminated' are terminations"),
        pytest.param(
            "LeRobot",
            "'next.done' are terminations, as the caller says.*where 'episode_index' changes",
            marks=needs_pyarrow,
        ),
        ("CSV", "'end' are terminations; where 'trial' changes, the recording stopped"),
        ("imitation", "imitation's trajectories, time limits from 'TimeLimit.truncated' in infos"),
        ("imitation, npz", "imitation's trajectories, 'terminal' are terminations, as the caller says"),
        ("episodes", "a list of episodes, 'terminated' are terminations"),
    ],
)
def test_the_summary_says_how_ends_were_told(name: str, told: str, tmp_path: Path) -> None:
    import re

    summary = load(name, tmp_path, make(*THREE)).summary(print_table=False)
    assert re.search(told, summary["episode_ends"])


CACHED = ["robomimic", "d3rlpy 1", "d3rlpy 2", "LeRobot", "CSV", "Parquet"]


@pytest.mark.parametrize("name", cases(*CACHED, "imitation, folder", "imitation, npz", "OGBench, compact, file"))
def test_files_open_again_by_name_and_options(name: str, tmp_path: Path) -> None:
    writer, options, _ = FORMATS[name]
    source = writer(tmp_path, make(*THREE))
    dataset = OfflineDataset.load(source, fraction=0.9, **options)
    assert dataset.reopenable
    again = pickle.loads(pickle.dumps(dataset))
    assert again.fingerprint == dataset.fingerprint
    assert again.summary(print_table=False) == dataset.summary(print_table=False)
    assert bool(list((tmp_path / "cache").glob("*/manifest.json"))) == (name in CACHED)


# ------------------------------------------------------------------------------------------------------------ OGBench


def test_ogbench_without_a_reward_says_what_to_do(tmp_path: Path) -> None:
    source = npz(tmp_path, foreign.ogbench(make(*THREE)))
    with pytest.raises(ValueError, match=r"no field 'rewards': it has actions \(11, 2\).*qpos.* pass reward=0.0"):
        OfflineDataset.load(source)
    told = OfflineDataset.load(source, reward=0.0).summary(print_table=False)["episode_ends"]
    assert told == "as in OGBench, 'terminals' mark the ends of trajectories; no terminations known"


def test_a_success_within_a_trajectory_of_ogbench() -> None:
    arrays = foreign.ogbench_compact(make([5], [False]))
    arrays["masks"][2] = 0
    dataset = OfflineDataset.load(arrays)
    np.testing.assert_array_equal(np.flatnonzero(dataset.terminations), [2])
    # What was seen after it is known, although nothing is bootstrapped from it
    np.testing.assert_array_equal(dataset.next_observations[:, 1], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(np.flatnonzero(dataset.truncations), [4])


def test_ogbench_with_discrete_actions(tmp_path: Path) -> None:
    arrays = {**foreign.ogbench(make(*THREE)), "actions": np.zeros(11, np.int32)}
    with pytest.raises(ValueError, match=r"actions has the shape \(11,\).*Discrete actions are not supported"):
        OfflineDataset.load(npz(tmp_path, arrays), reward=0.0)


# ---------------------------------------------------------------------------------------------------------- robomimic


def test_robomimic_observations_and_environment(tmp_path: Path) -> None:
    path = foreign.robomimic(tmp_path / "r.hdf5", make([3] * 11, [False] * 11), env_type=2)
    dataset = OfflineDataset.load(path)
    assert set(dataset.observations) == {"eef_pos", "object"}
    np.testing.assert_array_equal(dataset.observations["object"][:, 0], np.repeat(np.arange(11), 3))
    assert dataset.env_id == "Lift-v1"
    assert OfflineDataset.load(path, observation_keys="object").observation_space.shape == (1,)
    assert (
        OfflineDataset.load(foreign.robomimic(tmp_path / "s.hdf5", make(*THREE)), dones="terminations").env_id is None
    )


def test_robomimic_dones_are_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"r.hdf5: time limits cannot be told from terminations by 'dones'"):
        OfflineDataset.load(foreign.robomimic(tmp_path / "r.hdf5", make(*THREE)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OfflineDataset.load(foreign.robomimic(tmp_path / "none.hdf5", make([3], [False])))


def test_robomimic_that_cannot_be_read(tmp_path: Path) -> None:
    path = foreign.robomimic(tmp_path / "r.hdf5", make(*THREE))
    with pytest.raises(ValueError, match=r"no observation 'gripper': it has eef_pos \(3, 1\), object \(3, 1\)"):
        OfflineDataset.load(path, observation_keys=["gripper"])
    with h5py.File(path, "a") as file:
        del file["data/demo_2/rewards"]
    with pytest.raises(ValueError, match=r"Episode 2 of .*r.hdf5 has actions .*expected the fields of the first"):
        OfflineDataset.load(path, dones="terminations")
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs"]
    with pytest.raises(
        ValueError, match=r"a robomimic file of 3 demonstrations without obs: demo_0 has actions \(3, 2"
    ):
        OfflineDataset.load(path)


def test_a_demonstration_with_a_longer_field(tmp_path: Path) -> None:
    path = foreign.robomimic(tmp_path / "r.hdf5", make(*THREE))
    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/object"]
        file["data/demo_1/obs/object"] = np.zeros((3, 1))
    with pytest.raises(ValueError, match=r"r.hdf5: observations/object in episode 1 has 3 rows, expected 1"):
        OfflineDataset.load(path, dones="terminations")


# ------------------------------------------------------------------------------------------------------------- d3rlpy


def test_d3rlpy_1_without_a_version(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"no 'version': it may be from d3rlpy before 1.0"):
        dataset = OfflineDataset.load(foreign.d3rlpy_1(tmp_path / "d.h5", make(*THREE), version=None))
    check(dataset, make(*THREE), known=False)


def test_d3rlpy_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a dataset of d3rlpy 1 with discrete actions"):
        OfflineDataset.load(foreign.d3rlpy_1(tmp_path / "d.h5", make(*THREE), discrete=True))
    with h5py.File(foreign.d3rlpy_1(tmp_path / "e.h5", make(*THREE)), "a") as file:
        del file["episode_terminals"]
    with pytest.raises(ValueError, match=r"d3rlpy 1 without 'episode_terminals'.* it has actions \(8, 2\)"):
        OfflineDataset.load(tmp_path / "e.h5")
    path = foreign.d3rlpy_2(tmp_path / "f.h5", make(*THREE))
    with pytest.raises(ValueError, match=r"a dataset of d3rlpy 2: it does not take reward, dones \(it takes none"):
        OfflineDataset.load(path, reward=0.0, dones="terminations")
    with h5py.File(path, "a") as file:
        del file["rewards_2"]
    with pytest.raises(ValueError, match=r"f.h5 is damaged at episode 2"):
        OfflineDataset.load(path)
    with h5py.File(path, "a") as file:
        del file["actions_0"]
        file["actions_0"] = np.zeros((3, 1), np.int32)
    with pytest.raises(ValueError, match=r"d3rlpy 2 \(3 episodes\) that has discrete actions"):
        OfflineDataset.load(path)
    with h5py.File(path, "a") as file:
        file["observations_0_0"] = np.zeros((3, 1))
    with pytest.raises(ValueError, match=r"has tuples of observations, which Stable-Baselines3 has not"):
        OfflineDataset.load(path)


# ------------------------------------------------------------------------------------------------------------- tables


@needs_pyarrow
def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    table = foreign.columns(make(*THREE))
    names = {"x": "obs_0", "v": "obs_1", "a0": "action.0", "a1": "action.1", "r": "reward", "end": "terminated"}
    renamed = {names.get(name, name): values for name, values in table.items()}
    renamed["episode_id"] = np.array([f"run {trial}" for trial in renamed.pop("trial")])
    for source in (foreign.csv(tmp_path / "t.csv", renamed), foreign.parquet(tmp_path / "t.parquet", renamed)):
        check(OfflineDataset.load(source), make(*THREE), known=False)


def test_columns_of_a_dictionary(tmp_path: Path) -> None:
    path = foreign.csv(tmp_path / "t.csv", foreign.columns(make(*THREE)))
    columns = {**COLUMNS, "observations": {"place": "x", "both": ["v", "x"]}}
    dataset = OfflineDataset.load(path, columns=columns)
    assert dataset.observation_space["both"].shape == (2,)
    np.testing.assert_array_equal(dataset.observations["place"][:, 0], dataset.observations["both"][:, 1])
    assert dataset.options == {"columns": columns}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": "reward"}, r"t.csv has no column 'reward': it has 'x', 'v', 'a0', .*"),
        ({"observations": ["x", "w"]}, r"has no column 'w': it has 'x'"),
        ({"obs": ["x"]}, r"columns has 'obs': expected some of observations, actions"),
    ],
)
def test_columns_that_do_not_exist(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = foreign.csv(tmp_path / "t.csv", foreign.columns(make(*THREE)))
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load(path, columns={**COLUMNS, **change})


def test_tables_that_lack_something(tmp_path: Path) -> None:
    table = foreign.columns(make(*THREE))
    path = foreign.csv(tmp_path / "t.csv", table)
    with pytest.raises(
        ValueError, match=r"is a table with the columns 'x', .*: none of them is observations or actions"
    ):
        OfflineDataset.load(path)
    without = {field: names for field, names in COLUMNS.items() if field not in ("episode", "terminations")}
    with pytest.raises(ValueError, match="no field 'terminations', 'terminals' or 'dones'"):
        OfflineDataset.load(path, columns=without)
    with pytest.raises(ValueError, match="no field 'timeouts' and no 'next_observations'"):
        OfflineDataset.load(path, columns={**without, "terminations": "end"})
    part = {"obs_0": table["x"], "obs_2": table["v"], "action": table["a0"]}
    with pytest.raises(ValueError, match=r"'obs_0', 'obs_2': some of observations are missing"):
        OfflineDataset.load(foreign.csv(tmp_path / "u.csv", part))
    both = {"done": table["end"], "dones": table["end"]}
    with pytest.raises(ValueError, match=r"'done' and 'dones', which mean the same: pick one"):
        OfflineDataset.load(foreign.csv(tmp_path / "v.csv", both))


def test_columns_resolve_what_names_leave_open(tmp_path: Path) -> None:
    """As the errors for two columns of one meaning, and for entries of which some are missing, say."""
    table = foreign.columns(make(*THREE), next_observations=True)
    gap = {**table, "obs_0": table["x"], "obs_2": table["v"]}
    twice = {**table, "reward": table["r"], "rewards": 2 * table["r"]}
    columns = {name: value for name, value in NEXT_COLUMNS.items() if name != "rewards"}
    for rewards, factor in (("reward", 1), ("rewards", 2)):
        found = OfflineDataset.load(foreign.csv(tmp_path / "t.csv", twice), columns={**columns, "rewards": rewards})
        np.testing.assert_allclose(found.rewards, factor * table["r"], rtol=1e-6)
    found = OfflineDataset.load(
        foreign.csv(tmp_path / "u.csv", gap), columns={**NEXT_COLUMNS, "observations": ["obs_0", "obs_2"]}
    )
    check(found, make(*THREE), known=True)


def test_episodes_may_have_words_for_names_in_any_column(tmp_path: Path) -> None:
    table = foreign.columns(make(*THREE))
    table["trial"] = np.array([f"run {trial}" for trial in table["trial"]])
    path = foreign.csv(tmp_path / "t.csv", table)
    check(OfflineDataset.load(path, columns=COLUMNS), make(*THREE), known=False)
    with pytest.raises(ValueError, match=r"column 'trial', row 0 is 'run 0': expected a number"):
        OfflineDataset.load(path, columns={**COLUMNS, "rewards": "trial"} | {"episode": "end"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv is empty"),
        ("obs,obs,action\n1,2,3\n", "has the column 'obs' more than once"),
        ("obs,action,r,episode\n1,0,1,0\n2,0,,0\n", r"column 'r', row 1 is empty: expected a number"),
        ("obs,action,r,episode\n1,0,1,0\n2,0,one,0\n", r"column 'r', row 1 is 'one': expected a number"),
        ("obs,action,r,episode\n1,0,1,0\n2,0\n", r"t.csv is not a table of 4 columns"),
        ("obs,action,r,episode\n1,0,nan,0\n2,0,0,0\n", r"rewards\[0\] is nan"),
    ],
)
def test_csv_that_is_no_table_of_numbers(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load(tmp_path / "t.csv", columns={"rewards": "r"} if text[3:4] == "," and "r," in text else None)


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    lines = ['\ufeff"obs","action","reward","terminated","episode"', "1,0.5,0,FALSE,a", '2,"0.5",1,TRUE,a', ""]
    (tmp_path / "t.csv").write_text("\r\n".join(lines), encoding="utf-8", newline="")
    dataset = OfflineDataset.load(tmp_path / "t.csv")
    np.testing.assert_array_equal(dataset.terminations, [False, True])
    np.testing.assert_array_equal(dataset.observations[:, 0], [1, 2])


@needs_pyarrow
@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, None, 2.0], r"column 'rewards' is empty in 1 of 3 rows"),
        (["a", "b", "c"], r"rewards has dtype"),
        ([[1.0], [1.0, 2.0], [1.0]], r"column 'rewards' has rows of 1 to 2 numbers"),
        ([{"a": 1}] * 3, r"column 'rewards' has the type struct<a: int64>: expected numbers"),
    ],
)
def test_parquet_columns_that_are_no_numbers(column: list[Any], message: str, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = {"observations": [[0.0]] * 3, "actions": [[0.0]] * 3, "rewards": column, "episode": [0] * 3}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=message):
        OfflineDataset.load(tmp_path / "t.parquet")


@needs_pyarrow
def test_parquet_vectors_of_every_kind(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    rows = np.arange(6, dtype=np.float32)
    table = {
        "observations": pa.FixedSizeListArray.from_arrays(pa.array(rows), 2),
        "actions": pa.array([[0.0], [0.25], [0.5]], pa.large_list(pa.float32())),
        "rewards": pa.array([1, 2, 3]),
        "dones": pa.array([False, False, False]),
    }
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    dataset = OfflineDataset.load(tmp_path / "t.parquet")
    np.testing.assert_array_equal(dataset.observations, rows.reshape(3, 2)[:2])
    np.testing.assert_array_equal(dataset.actions[:, 0], np.float32([0, 0.25]))


@needs_pyarrow
def test_damaged_parquet(tmp_path: Path) -> None:
    path = foreign.parquet(tmp_path / "t.parquet", foreign.flat(make(*THREE)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"t.parquet cannot be read as Parquet"):
        OfflineDataset.load(path)


@needs_pyarrow
def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [
        foreign.parquet(tmp_path / "t.parquet", foreign.flat(make(*THREE))),
        foreign.lerobot(tmp_path / "l", make(*THREE)),
        foreign.imitation_folder(tmp_path / "i", make(*THREE)),
    ]
    for name in ("pyarrow", "pyarrow.parquet", "pyarrow.ipc"):
        monkeypatch.setitem(sys.modules, name, None)
    for source in sources:
        with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'sb3_o2o\[parquet\]'"):
            OfflineDataset.load(source)


# ------------------------------------------------------------------------------------------------------------ LeRobot


@needs_pyarrow
def test_lerobot_observations(tmp_path: Path) -> None:
    folder = foreign.lerobot(tmp_path / "l", make([3] * 4, [True] * 4))
    with pytest.warns(UserWarning, match="l") as caught:
        dataset = OfflineDataset.load(folder)
    messages = [str(warning.message) for warning in caught]
    assert any("observation.images.top are pictures and stay unread" in message for message in messages)
    assert any("time limits cannot be told from terminations by 'next.done'" in message for message in messages)
    assert set(dataset.observations) == {"environment_state", "state"}
    keys = ["observation.state", "environment_state"]
    joined = OfflineDataset.load(folder, observation_keys=keys, dones="truncations")
    assert joined.observation_space.shape == (3,)
    assert not joined.terminations.any()
    assert pickle.loads(pickle.dumps(joined)).fingerprint == joined.fingerprint


@needs_pyarrow
def test_lerobot_without_rewards_needs_one(tmp_path: Path) -> None:
    folder = foreign.lerobot(tmp_path / "l", make(*THREE), rewards=False)
    options = {"observation_keys": "state", "dones": "terminations"}
    with pytest.raises(ValueError, match=r"no field 'rewards': .*pass reward=0.0"):
        OfflineDataset.load(folder, **options)
    assert not OfflineDataset.load(folder, **options, reward=0.0).rewards.any()


@needs_pyarrow
def test_lerobot_that_cannot_be_read(tmp_path: Path) -> None:
    folder = foreign.lerobot(tmp_path / "l", make(*THREE), version="v1.6")
    with pytest.raises(ValueError, match=r"a LeRobot dataset of version v1.6: versions 2 and 3 are supported"):
        OfflineDataset.load(folder)
    folder = foreign.lerobot(tmp_path / "m", make(*THREE))
    with pytest.raises(ValueError, match=r"no low-dimensional observation 'images.top': it has LeRobot's features act"):
        OfflineDataset.load(folder, observation_keys="images.top")
    for file in folder.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(ValueError, match=r"a LeRobot dataset without data/\*/\*.parquet"):
        OfflineDataset.load(folder)
    (folder / "meta" / "info.json").write_text("{}")
    with pytest.raises(ValueError, match=r"info.json is not that of a LeRobot dataset"):
        OfflineDataset.load(folder)


# ---------------------------------------------------------------------------------------------------------- imitation


def test_trajectories_whose_infos_do_not_tell_time_limits() -> None:
    episodes = make(*THREE)
    with pytest.warns(UserWarning, match="time limits cannot be told from terminations by 'terminal'"):
        dataset = OfflineDataset.load(foreign.trajectories(episodes, infos=False))
    assert dataset.terminations.sum() == 3
    told = OfflineDataset.load(foreign.trajectories(episodes, infos=False), dones="truncations")
    assert not told.terminations.any()


def test_trajectories_without_rewards() -> None:
    silent = [
        foreign.Trajectory(each.obs, each.acts, each.infos, each.terminal)
        for each in foreign.trajectories(make(*THREE))
    ]
    with pytest.raises(ValueError, match=r"no field 'rewards': it has acts .*pass reward=0.0"):
        OfflineDataset.load(silent)
    assert not OfflineDataset.load(silent, reward=0.0).rewards.any()


def test_pickled_trajectories_and_episodes(tmp_path: Path) -> None:
    values = {
        "trajectories": foreign.trajectories(make(*THREE)),
        "episodes": FORMATS["episodes"][0](tmp_path, make(*THREE)),
    }
    for name, value in values.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(value))
        asks = name == "trajectories"  # objects of another package's classes
        if asks:
            with pytest.raises(UntrustedError, match="Trajectory"):
                OfflineDataset.load(tmp_path / f"{name}.pkl")
        dataset = OfflineDataset.load(tmp_path / f"{name}.pkl", trust=asks)
        check(dataset, make(*THREE), known=True)
        assert dataset.reopenable
    (tmp_path / "arrays.pkl").write_bytes(pickle.dumps(foreign.flat(make(*THREE))))
    check(OfflineDataset.load(tmp_path / "arrays.pkl"), make(*THREE), known=False)


@needs_pyarrow
def test_folders_of_hugging_face_that_hold_something_else(tmp_path: Path) -> None:
    import pyarrow

    folder = foreign.imitation_folder(tmp_path / "i", make(*THREE))
    table = pyarrow.table({"text": ["a"]})
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:  # noqa: SIM117
        with pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match=r"Hugging Face's datasets with the columns \['text'\]: expected imitation's"):
        OfflineDataset.load(folder)
    (folder / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(ValueError, match=r"is damaged: data-00000-of-00001.arrow missing"):
        OfflineDataset.load(folder)


# ----------------------------------------------------------------------------------------------------------- episodes


def test_episodes_that_differ() -> None:
    episodes = FORMATS["episodes"][0](Path(), make(*THREE))
    with pytest.raises(ValueError, match="entry 1 is a int, while the first is a dictionary"):
        OfflineDataset.load([episodes[0], 3])
    with pytest.raises(
        ValueError, match=r"Episode 1 of episodes has actions \(3, 2\).*expected the fields of the first"
    ):
        OfflineDataset.load([episodes[0], {**episodes[0], "truncated": False}])
    longer = {**episodes[1], "observations": np.zeros((4, 2))}
    with pytest.raises(
        ValueError, match=r"observations in episode 1 has 4 rows, expected 1 .*Or 2, with the one after"
    ):
        OfflineDataset.load([episodes[0], longer])
    with pytest.raises(ValueError, match=r"rewards in episode 1 has 3 rows, expected 1"):
        OfflineDataset.load([episodes[0], {**episodes[1], "rewards": np.zeros(3)}])
    with pytest.raises(ValueError, match=r"terminated in episode 0 is 2: expected False or True"):
        OfflineDataset.load([{**episodes[0], "terminated": 2}])
    step = {name: values[0] for name, values in episodes[0].items() if name != "terminated"}
    with pytest.raises(ValueError, match=r"actions has the shape \(2,\): expected \(N, action_dim\)"):
        OfflineDataset.load([step])


def test_a_list_of_episodes_has_dictionary_observations_too() -> None:
    rows = np.arange(8.0).reshape(4, 2)
    episode = {"actions": np.zeros((3, 1)), "rewards": np.zeros(3), "truncated": True}
    nested = OfflineDataset.load([{**episode, "observations": {"state": rows, "goal": rows[:, :1]}}])
    named = OfflineDataset.load([{**episode, "observations/state": rows, "observations/goal": rows[:, :1]}])
    assert nested.fingerprint == named.fingerprint
    chosen = OfflineDataset.load([{**episode, "observations": {"state": rows, "goal": rows}}], observation_keys="goal")
    np.testing.assert_array_equal(chosen.next_observations, rows[1:])


def test_the_documentation_lists_what_can_be_read() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "dataset.md").read_text()
    table = page.partition("\n## All sources")[2].partition("\n## ")[0]
    assert all(f"`{suffix}`" in table for suffix in _FILES)
    assert all(name in table for name in ("Minari", "OGBench", "robomimic", "d3rlpy 1 and 2", "LeRobot", "imitation"))
    assert all(f"`{option}=" in table for option in READING_OPTIONS)
