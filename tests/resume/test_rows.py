"""The rows of a replay buffer in resume bundles: what is new is read and written, and what was changed is found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from toy_tasks import assert_same, make, reach, vec

from sb3_o2o import O2OSAC
from sb3_o2o.plain.documents import read_document, write_document
from sb3_o2o.resume import manifest, rows, series

from .test_bundle import SaveAt, everything, never
from .test_untrusted_bundles import signed


def inodes(bundle: Path) -> dict[str, int]:
    """Of the files of rows."""
    return {each.name: each.stat().st_ino for each in bundle.glob("replay_buffer.rows.*")}


BUFFERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two environments": {"env": lambda: vec(2)},
    "dictionary": {"dictionary": True},
    "saves memory": {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
    "hindsight": {
        "env": lambda: reach(2),
        "policy": "MultiInputPolicy",
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": {"copy_info_dict": True},
        "learning_starts": 10_000,
    },
    "returns": {"online_objective": "calql", "online_objective_kwargs": {"n_actions": 2}},
}


@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.parametrize("compare_all", [False, True])
def test_a_bundle_has_the_rows_as_they_are(
    name: str, compare_all: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the buffer fills, where it is full, and when it begins again; unchanged files are those of before."""
    monkeypatch.setattr(rows, "BLOCK_BYTES", 256)
    monkeypatch.setattr(rows, "SMALL_BYTES", 8)  # rewards, ends and actions, and not observations
    arguments = {**BUFFERS[name]}
    env = arguments.pop("env", lambda: vec(dictionary=arguments.get("dictionary", False)))
    model = make(env=env(), buffer_size=40, **arguments)
    n_envs = model.n_envs
    n_rows: int = model.replay_buffer.buffer_size  # type: ignore[union-attr]
    shared, path = 0, tmp_path / "bundles"
    for _ in range(9):
        model.learn(6 * n_envs, reset_num_timesteps=False)
        last = series.bundles(path)[-1:]
        bundle = series.write(model, path, compare_all=compare_all)
        before, now = inodes(last[0]) if last else {}, inodes(bundle)
        shared += len(before.items() & now.items())
        resumed = O2OSAC.load_resume(bundle, env(), device="cpu")
        assert_same(everything(model), everything(resumed))
    assert model.replay_buffer.full  # type: ignore[union-attr]
    assert len(now) * 256 >= n_rows
    assert shared > len(now)


class Beginning(ReplayBuffer):
    """
    A user's, with an array that begins with other values than zeros, and samples by it.

    :param begin: what to begin with: an array for so many rows
    """

    def __init__(self, *args: Any, begin: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.own: Any = BEGINNINGS[begin](self.buffer_size)

    def add(self, *args: Any) -> None:
        if self.own.dtype == np.float32:
            self.own[max(self.pos - 3, 0)] += 1.0
        super().add(*args)

    def sample(self, batch_size: int, env: Any = None) -> Any:
        known = self.own[: self.size(), 0]
        total = 0.0 if known.dtype == object else np.abs(np.nan_to_num(known)).sum()
        return self._get_samples(np.arange(batch_size) % max(1, int(total) % self.size()), env)


BEGINNINGS: dict[str, Any] = {
    "one": lambda n: np.ones((n, 1), np.float32),
    "none": lambda n: np.full((n, 1), -1, np.int64),
    "NaN": lambda n: np.full((n, 1, 2), np.nan, np.float32),
    "another each": lambda n: np.arange(n, dtype=np.float32)[:, None],
    "objects": lambda n: np.array([{"row": row} for row in range(n)], object)[:, None],
    "zeros": lambda n: np.zeros((n, 1), np.float32),
}


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_what_a_buffer_of_ones_own_began_with(begin: str, tmp_path: Path) -> None:
    """Also in rows that nothing was written to before the bundle."""
    arguments: Any = {"replay_buffer_class": Beginning, "replay_buffer_kwargs": {"begin": begin}, "buffer_size": 60}
    straight = make(**arguments)
    straight.learn(40)
    make(**arguments).learn(40, callback=SaveAt(14, tmp_path / "bundle", stop=True))
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu", trust=True)
    resumed.learn(26, never(tmp_path), reset_num_timesteps=False)
    found = [everything(model) for model in (straight, resumed)]
    assert_same(*({name: value.nan_to_num() for name, value in each.items()} for each in found))
    owns = [repr(model.replay_buffer.own.tolist()) for model in (straight, resumed)]  # type: ignore[union-attr]
    assert owns[0] == owns[1]


def test_rows_of_named_fields(tmp_path: Path) -> None:
    model = make(replay_buffer_class=Own, buffer_size=60)
    model.learn(6)
    fields: Any = np.zeros((60, 1), [("age", "i4"), ("weight", "f8")])
    fields["age"] = np.arange(60)[:, None]
    model.replay_buffer.fields = fields  # type: ignore[union-attr]
    model.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(), device="cpu", trust=True)
    assert resumed.replay_buffer.fields.dtype == fields.dtype  # type: ignore[union-attr]
    assert np.array_equal(resumed.replay_buffer.fields, fields)  # type: ignore[union-attr]


def test_a_bundle_from_before_says_nothing_of_unused_rows(tmp_path: Path) -> None:
    model = make().learn(6)
    model.save_resume(tmp_path / "bundle")
    saved = read_document(tmp_path / "bundle" / "replay_buffer.zip")
    del saved["unused"]
    write_document(tmp_path / "bundle" / "replay_buffer.zip", saved)
    resumed = O2OSAC.load_resume(signed(tmp_path / "bundle"), vec(), device="cpu")
    assert_same(everything(model), everything(resumed))


def test_of_a_full_buffer_what_is_new_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK_BYTES", 2000)
    model = make(buffer_size=4000, learning_starts=10_000).learn(4100)
    first = series.write(model, tmp_path / "bundles")
    model.learn(100, reset_num_timesteps=False)
    before, now = inodes(first), inodes(series.write(model, tmp_path / "bundles"))
    new = {name for name, inode in now.items() if before[name] != inode}
    assert len(now) > 70
    assert 1 <= len(new) <= 4


def test_only_what_is_new_is_hashed_and_what_was_changed_by_hand_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BLOCK_BYTES", 2000)
    hashed: list[int] = []

    def sha256(*parts: Any) -> str:
        hashed.append(sum(part.nbytes for part in parts))
        return manifest.sha256(*parts)

    monkeypatch.setattr(rows, "sha256", sha256)
    model = make(buffer_size=4000, learning_starts=10_000).learn(4100)
    series.write(model, tmp_path / "bundles")
    assert len(hashed) > 70
    hashed.clear()
    series.write(model, tmp_path / "bundles")
    assert hashed == []
    model.learn(10, reset_num_timesteps=False)
    series.write(model, tmp_path / "bundles")
    assert 1 <= len(hashed) <= 2
    hashed.clear()
    model.replay_buffer.rewards[2000] += 1e-6  # type: ignore[union-attr]
    series.write(model, tmp_path / "bundles")
    assert len(hashed) == 1
    resumed = O2OSAC.load_resume(tmp_path / "bundles", vec(), device="cpu")
    assert_same(everything(model), everything(resumed))
    # another buffer under the same model, and a bundle in another folder
    model.replay_buffer = resumed.replay_buffer
    model.replay_buffer.rewards *= -1  # type: ignore[union-attr]
    series.write(model, tmp_path / "others")
    assert_same(everything(model), everything(O2OSAC.load_resume(tmp_path / "others", vec(), device="cpu")))


def _sign(array: np.ndarray, *places: int) -> np.ndarray:
    changed = array.copy()
    for place in places:
        changed[place] *= -1
    return changed


def test_the_quick_checksum_tells_what_changed() -> None:
    """Every place, in whole strides and in the rest; also changes that a sum, or a product alone, would not tell."""
    lanes = rows._LANES
    numbers = np.random.default_rng(0).normal(size=3 * lanes + 5)
    small = np.arange(7, dtype=np.int8)
    expected = rows.quick_checksum(numbers, small)
    assert rows.quick_checksum(numbers.copy(), small.copy()) == expected
    swapped = numbers.copy()
    swapped[[3, lanes + 3]] = swapped[[lanes + 3, 3]]
    others = [
        *(_sign(numbers, place) for place in (0, lanes - 1, lanes, 3 * lanes - 1, 3 * lanes, len(numbers) - 1)),
        *(_sign(numbers, 3, lanes + 3), _sign(numbers, lanes + 3, 2 * lanes + 3), _sign(numbers, 3, 3 * lanes + 3)),
        *(swapped, numbers[::-1].copy(), -numbers, numbers[:-1].copy()),
    ]
    found = [rows.quick_checksum(each, small) for each in others]
    found += [rows.quick_checksum(numbers, np.roll(small, 1)), rows.quick_checksum(small, numbers)]
    assert len({expected, *found}) == len(found) + 1
    unaligned = np.frombuffer(b"x" + numbers.tobytes(), dtype=np.uint8)[1:]
    assert rows.quick_checksum(unaligned, small) == expected


# -- what is read --------------------------------------------------------------------------------------------------


class Own(ReplayBuffer):
    """A user's: who knows what it changes."""


class Rows:
    """
    A full buffer of 4,000 rows, with observations that are large beside the rest.

    :param n_read: bytes of observations, current and next, that were compared since the last bundle
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: type[ReplayBuffer] = ReplayBuffer):
        monkeypatch.setattr(rows, "BLOCK_BYTES", 2000)
        monkeypatch.setattr(rows, "SMALL_BYTES", 8)
        original = rows.quick_checksum

        def checksum(*parts: np.ndarray) -> bytes:
            self.n_read += sum(part.nbytes for part in parts if part.shape[-1] == 3)
            return original(*parts)

        monkeypatch.setattr(rows, "quick_checksum", checksum)
        self.model = make(buffer_size=4000, learning_starts=10_000_000, replay_buffer_class=kind)
        self.folder, self.n_read = folder, 0
        self.buffer: Any = self.model.replay_buffer
        self.add(4100)
        self.write()

    def add(self, n_rows: int) -> None:
        rng = np.random.default_rng(self.buffer.pos)
        shape = (n_rows, 1, 3)
        for step in zip(rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=(n_rows, 1, 2)), strict=True):
            self.buffer.add(*step, np.zeros(1), np.zeros(1), [{}])

    def write(self, **how: Any) -> Path:
        self.n_read = 0
        return series.write(self.model, self.folder, **{"compare_all": False, **how})

    def is_right(self, path: Path) -> bool:
        """Whether the newest bundle has the buffer as it is."""
        found = O2OSAC.load_resume(path, vec(), device="cpu").replay_buffer
        assert found is not None
        names = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
        used = slice(None if self.buffer.full else self.buffer.pos)
        same = [np.array_equal(getattr(found, name)[used], getattr(self.buffer, name)[used]) for name in names]
        return all(same) and (found.pos, found.full) == (self.buffer.pos, self.buffer.full)


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(tmp_path / "bundles", monkeypatch)


def test_what_is_read_is_what_is_new(full: Rows) -> None:
    n_bytes = 2 * full.buffer.observations.nbytes
    for n_rows in (0, 10, 200):
        full.add(n_rows)
        assert full.is_right(full.write())
        new = 2 * 12 * n_rows + 3 * 2000  # the files at both ends, and one more
        assert full.n_read <= n_bytes / rows.ONE_OF + new
    full.write(compare_all=True)
    assert full.n_read == n_bytes


def test_all_of_it_is_looked_at_in_turn(full: Rows) -> None:
    """One observation that somebody changes is in the bundle sixteen bundles later, or in one that compares all."""
    found = []
    full.buffer.observations[1234] += 1.0
    for _ in range(rows.ONE_OF):
        found.append(full.is_right(full.write()))
    assert found[-1]
    assert not all(found)
    full.buffer.observations[1234] += 1.0
    assert full.is_right(full.write(compare_all=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda buffer: buffer.rewards.__setitem__(2000, 0.5),  # one reward that was computed anew
        lambda buffer: np.multiply(buffer.rewards, 2.0, out=buffer.rewards),
        lambda buffer: buffer.dones.__setitem__(buffer.pos - 1, 1.0),  # Stable-Baselines3, where memory is saved
        lambda buffer: np.divide(buffer.observations, 255.0, out=buffer.observations),
        lambda buffer: buffer.next_observations.fill(0.0),
    ],
    ids=["a reward", "rewards", "an end", "observations", "next observations"],
)
def test_what_is_changed_in_place(change: Any, full: Rows) -> None:
    full.buffer.rewards[:] = np.arange(4000, dtype=np.float32)[:, None]
    full.write()
    change(full.buffer)
    assert full.is_right(full.write())


@pytest.mark.parametrize("n_rows", [4000, 3 * 4000, 4000 - 1, 4000 + 1, 2 * 4000 + 50])
def test_all_the_way_round(n_rows: int, full: Rows) -> None:
    """The place says nothing of it; rewards and ends are the same everywhere."""
    full.add(n_rows)
    assert full.is_right(full.write())


@pytest.mark.parametrize("n_rows", [4000 + 1, 4000 + 1900])
def test_all_the_way_round_in_a_few_files(n_rows: int, full: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the one file whose turn it is happens to be where the place says that something was added."""
    monkeypatch.setattr(rows, "SMALL_BYTES", 4)  # actions are none of it, and the rest is the same everywhere
    row = sum(array[:1].nbytes for array in rows._Rows(full.buffer).arrays)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1000 * row)
    full.write(compare_all=True)
    for _ in range(4):  # each file has its turn
        full.add(n_rows)
        assert full.is_right(full.write())


def test_a_buffer_that_begins_again(full: Rows) -> None:
    full.buffer.reset()
    full.add(100)
    assert full.is_right(full.write())
    full.buffer.reset()
    full.add(50)
    assert full.is_right(full.write())
    full.add(3990)  # over the end, behind the place where it was
    assert full.is_right(full.write())


def test_buffers_of_others_are_compared_wholly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Rows(tmp_path / "bundles", monkeypatch, Own)
    full.buffer.observations[1234] += 1.0
    full.write()
    assert full.n_read == 2 * full.buffer.observations.nbytes


def test_going_on_from_an_older_bundle(full: Rows) -> None:
    """What the process knows is of its own buffer; what is loaded is another one, and its bundles are right."""
    older = full.folder / "bundle_000001"
    full.add(300)
    full.write()
    resumed = O2OSAC.load_resume(older, vec(), device="cpu")
    assert resumed.replay_buffer is not None
    resumed.replay_buffer.observations[7] = 0.5
    bundle = series.write(resumed, full.folder, compare_all=False)
    assert_same(everything(resumed), everything(O2OSAC.load_resume(bundle, vec(), device="cpu")))


def test_a_damaged_file_that_bundles_share_is_refused(full: Rows) -> None:
    full.write()
    first, second = series.bundles(full.folder)
    shared = next(name for name, inode in inodes(first).items() if inodes(second).get(name) == inode)
    content = bytearray((second / shared).read_bytes())
    content[5] ^= 1
    (second / shared).write_bytes(content)
    with pytest.raises(ValueError, match=rf"No resume bundle in .* is whole.*{shared} holds something else"):
        O2OSAC.load_resume(full.folder, vec(), device="cpu")
    content.pop()
    (second / shared).write_bytes(content)
    full.write()  # a file of another size is not taken over
    assert O2OSAC.load_resume(full.folder, vec(), device="cpu").replay_buffer is not None
