"""Files that Stable-Baselines3 writes in place are whole at every moment in our calls."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
)
from toy_tasks import dataset, make, make_ppo, vec

FILE = "evaluations.npz"


def evaluation(folder: Path, kind: type[EvalCallback] = EvalCallback, **kwargs: Any) -> EvalCallback:
    return kind(vec(), n_eval_episodes=1, eval_freq=5, log_path=str(folder), warn=False, verbose=0, **kwargs)


def steps(path: Path) -> list[int]:
    with np.load(path) as saved:
        return saved["timesteps"].tolist()  # type: ignore[no-any-return]


class Reading(BaseCallback):
    """Reads what an evaluation has written, as one that is told of it or that comes after it."""

    def __init__(self, evaluation: EvalCallback | None = None):
        super().__init__()
        self.evaluation = evaluation
        self.found: list[list[int]] = []

    def _on_step(self) -> bool:
        evaluation: Any = self.evaluation or self.parent
        assert isinstance(evaluation.log_path, str)
        path = Path(f"{evaluation.log_path}.npz")
        self.found.append(steps(path) if path.exists() else [])
        return True


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[int]]:
    """What a process that is killed while it writes an array of an evaluation would leave."""
    found: list[list[int]] = []
    write = npy.write_array

    def writing(file: Any, *args: Any, **kwargs: Any) -> None:
        found.append(steps(tmp_path / FILE) if (tmp_path / FILE).exists() else [])
        write(file, *args, **kwargs)

    monkeypatch.setattr(npy, "write_array", writing)
    return found


@pytest.mark.parametrize("build", [make, make_ppo])
def test_evaluations_are_whole_at_every_moment(build: Any, moments: list[list[int]], tmp_path: Path) -> None:
    callback = evaluation(tmp_path, callback_after_eval=StopTrainingOnNoModelImprovement(100))
    reading = Reading(callback)
    build().learn(16, callback=CallbackList([callback, reading]))
    assert moments == [[]] * 3 + [[5]] * 3 + [[5, 10]] * 3  # steps, results and lengths each time
    assert steps(tmp_path / FILE) == [5, 10, 15]
    assert reading.found == [*4 * [[]], *5 * [[5]], *5 * [[5, 10]], *2 * [[5, 10, 15]]]
    assert "_on_step" not in vars(callback)
    assert [each.name for each in tmp_path.iterdir()] == [FILE]


def test_in_pretrain_and_where_a_call_fails(moments: list[list[int]], tmp_path: Path) -> None:
    class Failing(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 12:
                raise RuntimeError("failed")
            return True

    callback = evaluation(tmp_path)
    with pytest.raises(RuntimeError, match="failed"):
        make().pretrain(dataset(), 20, callback=[callback, Failing()])
    assert moments == [[]] * 3 + [[5]] * 3
    assert steps(tmp_path / FILE) == [5, 10]
    assert callback.log_path == str(tmp_path / "evaluations")
    assert "_on_step" not in vars(callback)


def test_those_of_ones_own_are_left_alone(tmp_path: Path) -> None:
    """A class that derives from it, and one that is told of evaluations."""

    class Own(EvalCallback):
        def _on_step(self) -> bool:
            assert isinstance(self.log_path, str)
            return super()._on_step()

    make().learn(6, callback=evaluation(tmp_path, Own))
    assert steps(tmp_path / FILE) == [5]
    reading = Reading()
    make().learn(11, callback=evaluation(tmp_path, callback_after_eval=reading))
    assert reading.found == [[5], [5, 10]]


def test_a_full_disk_leaves_the_last_evaluations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, callback = make(), evaluation(tmp_path)
    model.learn(6, callback=callback)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*evaluations\.npz"):
        model.learn(6, callback=callback, reset_num_timesteps=False)
    assert steps(tmp_path / FILE) == [5]


def test_replay_buffers_replace_others_when_they_are_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = make().learn(12)
    for name in ("buffer", "other.pkl"):
        model.save_replay_buffer(tmp_path / name)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert sorted(before) == ["buffer.pkl", "other.pkl"]
    model.learn(6)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            model.save_replay_buffer(tmp_path / "buffer")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
    model.save_replay_buffer(str(tmp_path / "buffer"))
    with (tmp_path / "open.pkl").open("wb") as file:
        model.save_replay_buffer(file)
    other = make()
    for name in ("buffer", "open"):
        other.load_replay_buffer(tmp_path / name)
        assert other.replay_buffer.pos == 18  # type: ignore[union-attr]


def test_an_evaluation_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    callback = evaluation(tmp_path)
    model = make().learn(10, callback=callback)
    before = (tmp_path / FILE).read_bytes()
    callback.n_eval_episodes = 2  # as many results as before no longer: no array
    with pytest.raises(ValueError, match="inhomogeneous"):
        model.learn(10, callback=callback, reset_num_timesteps=False)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_step_of_the_objects_own_stays(tmp_path: Path) -> None:
    callback = evaluation(tmp_path)
    stock, calls = callback._on_step, []

    def own() -> bool:
        calls.append(callback.n_calls)
        return stock()

    callback._on_step = own  # type: ignore[method-assign]
    make().learn(10, callback=callback)
    assert calls == list(range(1, 11))
    assert vars(callback)["_on_step"] is own
    assert steps(tmp_path / FILE) == [5, 10]
