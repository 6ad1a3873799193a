"""Files that are cut, damaged or hold something else: one error of ours, which names the file and the field."""

import json
import pickle
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sb3_o2o
from sb3_o2o import OfflineDataset

from .toys import make_arrays

N = 20
PACKAGE = str(Path(sb3_o2o.__file__).parent)
#: nothing is shared between two examples of a test but a folder
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, derandomize=True)


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def write_hdf5(path: Path, arrays: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def write_pickle(path: Path, arrays: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(arrays))


WRITERS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    ".npz": write_npz,
    ".hdf5": write_hdf5,
    ".pkl": write_pickle,
}


def refused(path: Path, *words: str, **options: Any) -> None:
    """Opening it raises an error of ours that names it and the words."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        OfflineDataset.load(path, **options)
    assert type(caught.value) in (ValueError, FileNotFoundError)
    for word in (path.name, *words):
        assert word in str(caught.value), str(caught.value)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename.startswith(PACKAGE)


# -- whole formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_that_was_cut(ending: str, part: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{ending}"
    WRITERS[ending](path, make_arrays(N))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refused(path)


ENDINGS = (".npz", ".hdf5", ".h5", ".csv", ".tsv", ".parquet", ".pkl", ".pickle")
CONTENTS = {
    "nothing": b"",
    "bytes": bytes(range(256)) * 8,
    "a page of a web server": b"<html><body>404 Not Found</body></html>\n",
    "text": "Résumé, naïve\n".encode("latin1"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_something_else_under_the_name(ending: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / f"other{ending}"
    path.write_bytes(CONTENTS[content])
    refused(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_or_nothing_under_the_name(ending: str, tmp_path: Path) -> None:
    refused(tmp_path / f"missing{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    refused(tmp_path / f"folder{ending}")


@SHARED
@given(data=st.data(), ending=st.sampled_from([".npz", ".hdf5"]))
def test_flipped_bits_are_refused_or_only_change_numbers(data: st.DataObject, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"flipped{ending}"
    WRITERS[ending](path, make_arrays(N))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    error, dataset = error_or_dataset(path)
    if error is not None:
        assert type(error) is ValueError
        assert path.name in str(error)
    else:
        assert np.isfinite(dataset.observations).all()
        assert np.isfinite(dataset.rewards).all()


def error_or_dataset(path: Path) -> tuple[Exception | None, Any]:
    try:
        return None, OfflineDataset.load(path, cache=False)
    except Exception as error:
        return error, None


# -- fields --------------------------------------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "text": np.array([b"a"] * N),
    "objects": np.array([{}] * N, dtype=object),
    "complex": np.ones(N, complex),
    "one number": np.float64(3),
    "too few": np.zeros(3),
    "no rows": np.zeros(0),
    "records": np.zeros(N, dtype=[("a", float)]),
    "NaN": np.full(N, np.nan),
    "absurd": np.full(N, 1e30),
}


@pytest.mark.parametrize(
    ("ending", "what"),
    [(ending, what) for ending in WRITERS for what in WRONG if (ending, what) != (".hdf5", "objects")],
)
@pytest.mark.parametrize("field", ["observations", "actions", "rewards", "next_observations", "terminations"])
def test_a_field_that_is_none(ending: str, field: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / f"wrong{ending}"
    WRITERS[ending](path, {**make_arrays(N), field: WRONG[what]})
    refused(path, field.removeprefix("next_"))


@pytest.mark.parametrize("kind", ["external link", "soft link", "no shape", "ragged", "type", "external storage"])
def test_a_name_in_an_hdf5_file_that_leads_nowhere(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "recorded.hdf5", tmp_path / "other.hdf5"
    arrays = make_arrays(N)
    write_hdf5(other, arrays)
    rewards = arrays.pop("rewards")
    write_hdf5(path, arrays)
    with h5py.File(path, "a") as file:
        if kind == "external link":  # a file may not read another one behind the user's back
            file["rewards"] = h5py.ExternalLink(str(other), "/rewards")
        elif kind == "soft link":
            file["rewards"] = h5py.SoftLink("/nowhere")
        elif kind == "no shape":
            file["rewards"] = h5py.Empty("f")
        elif kind == "type":
            file["rewards"] = np.dtype("f8")
        elif kind == "external storage":
            rewards.tofile(tmp_path / "raw")
            file.create_dataset("rewards", (N,), "f8", external=[(str(tmp_path / "raw"), 0, N * 8)])
        else:
            ragged = file.create_dataset("rewards", (N,), dtype=h5py.vlen_dtype(np.float64))
            ragged[0] = np.ones(3)
    refused(path, "rewards")


def test_headers_of_arrays_that_are_none(tmp_path: Path) -> None:
    def header(text: str) -> bytes:
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()

    shapes = {"huge": "(1000000000000,)", "negative": "(-5,)", "code": "__import__('os').abort()"}
    for name, shape in shapes.items():
        path = tmp_path / f"{name}.npz"
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n"
        with zipfile.ZipFile(path, "w") as file:
            for field in make_arrays(N):
                file.writestr(f"{field}.npy", header(text) + bytes(80))
        refused(path, "observations")
    path = tmp_path / "text.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("observations.txt", "hello")
    refused(path, "observations.txt")


# -- tables --------------------------------------------------------------------------------------------------------

HEAD = "observations_0,observations_1,actions_0,rewards,terminations,episode\n"
ROWS = "".join(f"0.1,0.2,0.3,1.5,{int(i % 5 == 4)},{i // 5}\n" for i in range(N))


def test_the_table_that_the_next_ones_spoil(tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text(HEAD + ROWS)
    assert len(OfflineDataset.load(tmp_path / "good.csv")) == N


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (HEAD + ROWS.replace("0.3", "abc", 1), "actions"),
        (HEAD + ROWS[::-1].replace("5.1", "dab", 1)[::-1], "rewards"),
        (HEAD + ROWS.replace("0.3", "", 1), "actions"),
        (HEAD + ROWS.replace("1.5", "1e30", 1), "rewards"),
        (HEAD + ROWS.replace("1.5", "inf", 1), "rewards"),
        (HEAD + ROWS + "1,2,3\n", ""),
        (HEAD + ROWS + "1,2,3,4,5,6,7,8\n", ""),
        (HEAD, ""),
        (ROWS, ""),
        (HEAD.replace("observations_1", "observations_0") + ROWS, "observations_0"),
        ((HEAD + ROWS).encode("utf-16"), ""),
        (HEAD.encode() + ROWS.encode().replace(b"0.3", b"\0", 1), ""),
    ],
)
def test_a_table_that_is_none(content: str | bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(path, word)


@pytest.mark.parametrize("values", [[None] + [1.0] * (N - 1), ["a"] * N, [[1.0, 2.0]] * N, [{"a": 1}] * N])
def test_a_column_that_is_none(values: list[Any], tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {f"observations_{i}": [0.1] * N for i in range(2)} | {"actions_0": [0.3] * N, "rewards": values}
    ends = {"terminations": [i % 5 == 4 for i in range(N)], "episode": [i // 5 for i in range(N)]}
    path = tmp_path / "table.parquet"
    parquet.write_table(arrow.table(columns | ends), path)
    refused(path, "rewards")


# -- descriptions --------------------------------------------------------------------------------------------------

NO_JSON = ("", "{", "[]", "null", "3", '{"a": 1}', "\x00\x01")


@pytest.mark.parametrize("text", NO_JSON)
def test_descriptions_that_are_none(text: str, tmp_path: Path) -> None:
    files = {"minari": "data/metadata.json", "lerobot": "meta/info.json", "imitation": "state.json"}
    for name, file in files.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.write_text(text)
        if name == "imitation":
            (path.parent / "dataset_info.json").write_text("{}")
        refused(tmp_path / name)
    OfflineDataset.load(make_arrays(N)).save(tmp_path / "saved.npz")
    with np.load(tmp_path / "saved.npz") as saved:
        arrays = dict(saved)
    (described,) = (name for name, array in arrays.items() if array.dtype.kind == "U")
    for spoilt in (text, json.dumps({"observation_space": "x", "action_space": text})):
        write_npz(tmp_path / "saved.npz", {**arrays, described: np.array(spoilt)})
        refused(tmp_path / "saved.npz", described)


@pytest.mark.parametrize("value", [3, [], [1, 2], None, {}, "text", [{"observations": np.ones((3, 2))}, 3]])
def test_a_pickle_of_something_else(value: Any, tmp_path: Path) -> None:
    write_pickle(tmp_path / "other.pkl", value)
    refused(tmp_path / "other.pkl")
