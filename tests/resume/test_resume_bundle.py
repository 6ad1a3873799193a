"""Bundles that are written while a run goes on: when, what they cost, and which of them a run goes on from."""

import copy
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from toy_tasks import assert_same, dataset_file, make, make_ppo, make_td3, vec

from sb3_o2o import O2OSAC, O2OTD3, ResumeBundle
from sb3_o2o.finetuning import PolicyReevaluation, ValueAlignment
from sb3_o2o.resume import newest_bundle, series, stop_on_signals

from .test_bundle import everything
from .test_rows import inodes


def always(path: Path, **kwargs: Any) -> ResumeBundle:
    """Bundles that depend on steps alone."""
    return ResumeBundle(path, **{"min_seconds": 0.0, "max_share": None, **kwargs})


class Failing(BaseCallback):
    """Stands for an environment or a side file that fails at one step."""

    keeps_no_state = True

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            raise RuntimeError("failed")
        return True


class FailingInPhase(Failing):
    """In a phase without environment steps."""

    def __init__(self) -> None:
        super().__init__(0)

    def on_phase_step(self, name: str, done: int, *_: Any) -> None:
        if (name, done) == ("alignment", 5):
            raise RuntimeError("failed")


class Clock(BaseCallback):
    """Time that goes by the steps of a run: each takes a second, and a bundle, of which nothing is written, three."""

    keeps_no_state = True

    def __init__(self) -> None:
        super().__init__()
        self.now, self.bundle_seconds = 0.0, 3.0
        self.written: list[int] = []

    def _on_step(self) -> bool:
        self.now += 1.0
        return True

    def write(self, model: Any, *_: Any) -> Path:
        self.now += self.bundle_seconds
        self.written.append(model.num_timesteps)
        return Path()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("sb3_o2o.resume.bundle_callback.time.monotonic", lambda: found.now)
    monkeypatch.setattr("sb3_o2o.resume.series.write", found.write)
    monkeypatch.setattr("sb3_o2o.resume.bundle_callback.Manifest.read", lambda _: None)
    return found


def position(path: Path) -> tuple[int, int]:
    found = newest_bundle(path)
    assert found is not None
    return found[1].gradient_steps, found[1].environment_steps


# -- when ----------------------------------------------------------------------------------------------------------


def test_in_learn_after_a_failure(tmp_path: Path) -> None:
    straight = everything(make().learn(20, callback=always(tmp_path / "other", every=4)))
    with pytest.raises(RuntimeError, match="failed"):
        make().learn(20, callback=[always(tmp_path / "bundles", every=4), Failing(15)])
    assert position(tmp_path / "bundles") == (0, 12)
    resumed = O2OSAC.load_resume(tmp_path / "bundles", vec(), device="cpu")
    resumed.learn(8, callback=always(tmp_path / "bundles", every=4), reset_num_timesteps=False)
    assert_same(straight, everything(resumed))
    assert position(tmp_path / "bundles") == (0, 20)


class Rows(KVWriter):
    """Keeps what is logged, without times of the clock."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        assert key_excluded.keys() == key_values.keys()
        self.rows.append((step, {key: value for key, value in key_values.items() if not key.startswith("time/")}))

    def close(self) -> None:
        pass

    @classmethod
    def of(cls, model: Any) -> "Rows":
        rows = cls()
        model.set_logger(Logger(None, [rows]))
        return rows


@pytest.mark.parametrize(
    ("build", "at", "steps"),
    [(make, 11, 24), (make_td3, 10, 24), (make_ppo, 20, 40)],
    ids=["sac", "td3", "ppo"],
)
def test_what_waits_to_be_logged_is_logged_after_an_interruption(
    build: Callable[..., Any], at: int, steps: int, tmp_path: Path
) -> None:
    """PPO logs an update after the next rollout: the row was empty. A mean was one of the values that came later."""

    class Means(BaseCallback):
        def _on_step(self) -> bool:
            self.logger.record_mean("mine/mean", float(self.num_timesteps))
            self.logger.record("mine/last", self.num_timesteps, exclude="tensorboard")
            return True

    straight = build()
    expected = Rows.of(straight)
    straight.learn(steps, callback=Means(), log_interval=1)
    with pytest.raises(RuntimeError, match="failed"):
        build().learn(steps, callback=[Means(), always(tmp_path / "bundles"), Failing(at)], log_interval=1)
    resumed = type(straight).load_resume(tmp_path / "bundles", vec(), device="cpu")
    resumed.save_resume(tmp_path / "again")  # hands on what it was given
    resumed = copy.deepcopy(type(straight).load_resume(tmp_path / "again", vec(), device="cpu"))
    done, found = resumed.num_timesteps, Rows.of(resumed)
    resumed.learn(steps - done, callback=Means(), reset_num_timesteps=False, log_interval=1)
    assert found.rows
    assert found.rows == [row for row in expected.rows if row[0] > done]


def test_in_pretrain(tmp_path: Path) -> None:
    data = dataset_file(tmp_path)
    straight = everything(make().pretrain(data, 9))
    with pytest.raises(RuntimeError, match="failed"):
        make().pretrain(data, 9, callback=[always(tmp_path / "bundles", every=3), Failing(8)])
    assert position(tmp_path / "bundles") == (6, 0)
    resumed = O2OSAC.load_resume(tmp_path / "bundles", vec(), device="cpu")
    resumed.pretrain(None, 3, reset_gradient_steps=False)
    assert_same(straight, everything(resumed))


def test_in_the_constructors_pretraining(tmp_path: Path) -> None:
    """RL Zoo knows only the constructor and ``learn``."""
    arguments: dict[str, Any] = {"dataset": dataset_file(tmp_path), "pretrain_steps": 7}
    straight = everything(make(**arguments).learn(6))
    model = make(**arguments)
    original, calls = model.loop.run, []

    def update(*numbers: Any) -> None:
        calls.append(numbers)
        if len(calls) == 6:
            raise RuntimeError("failed")
        original(*numbers)

    model.loop.run = update  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="failed"):
        model.learn(6, callback=always(tmp_path / "bundles", every=2))
    assert position(tmp_path / "bundles") == (4, 0)
    resumed = O2OSAC.load_resume(tmp_path / "bundles", vec(), device="cpu")
    assert_same(straight, everything(resumed.learn(6, callback=always(tmp_path / "bundles", every=2))))


def test_in_phases_of_gradient_steps(tmp_path: Path) -> None:
    def phases() -> list[Any]:
        return [PolicyReevaluation(gradient_steps=5), ValueAlignment(gradient_steps=6)]

    data = dataset_file(tmp_path)
    straight = everything(make(finetuning=phases()).pretrain(data, 3).learn(10))
    model = make(finetuning=phases()).pretrain(data, 3)
    with pytest.raises(RuntimeError, match="failed"):
        model.learn(10, callback=[always(tmp_path / "bundles", every=2), FailingInPhase()])
    found = newest_bundle(tmp_path / "bundles")
    assert found is not None
    assert found[1].phase_steps == {"reevaluation": 5, "alignment": 3}
    assert "updates of reevaluation, 3 updates of alignment (phase: alignment)" in str(found[1])
    resumed = O2OSAC.load_resume(tmp_path / "bundles", vec(), device="cpu")
    assert_same(straight, everything(resumed.learn(10, reset_num_timesteps=False)))


def test_in_what_an_objective_trains_first(tmp_path: Path) -> None:
    """No gradient step counts yet, and it is the same run."""

    class FailingEarly(Failing):
        def on_preparation_step(self, name: str, done: int, total: int) -> None:
            if done == 5:
                raise RuntimeError("failed")

    def spot() -> Any:
        kwargs = {"density_steps": 6, "density_net_arch": [8]}
        return make_td3(objective="spot", objective_kwargs=kwargs, online_objective="spot")

    data = dataset_file(tmp_path)
    straight = everything(spot().pretrain(data, 3))
    with pytest.raises(RuntimeError, match="failed"):
        spot().pretrain(data, 3, callback=[always(tmp_path / "bundles", every=2), FailingEarly(0)])
    assert position(tmp_path / "bundles") == (0, 0)
    resumed = O2OTD3.load_resume(tmp_path / "bundles", vec(), device="cpu")
    resumed.pretrain(None, 3, callback=always(tmp_path / "bundles", every=2))
    assert_same(straight, everything(resumed))


def test_where_a_call_is_stopped_and_at_its_end(tmp_path: Path) -> None:
    class Stopping(Failing):
        def _on_step(self) -> bool:
            if self.n_calls == self.at:
                self.model.request_stop()  # type: ignore[attr-defined]
            return True

    rarely = always(tmp_path / "bundles", every=1000)
    straight = everything(make().learn(12))
    make().learn(12, callback=[rarely, Stopping(7)])
    assert position(tmp_path / "bundles") == (0, 7)
    resumed = O2OSAC.load_resume(tmp_path / "bundles", vec(), device="cpu")
    again = always(tmp_path / "bundles", every=1000)
    assert_same(straight, everything(resumed.learn(5, callback=again, reset_num_timesteps=False)))
    assert (rarely.n_written, again.n_written) == (1, 1)
    assert position(tmp_path / "bundles") == (0, 12)


def test_seconds_and_share(clock: Clock, tmp_path: Path) -> None:
    """A step takes a second and a bundle three: one a minute would be five percent."""
    model = make(learning_starts=10_000)
    model.learn(400, callback=[clock, ResumeBundle(tmp_path / "a", min_seconds=60.0, max_share=None)])
    assert clock.written == [60, 120, 180, 240, 300, 360, 400]  # the last at the end
    clock.written.clear()
    bundles = ResumeBundle(tmp_path / "a", min_seconds=60.0, max_share=0.02)
    model.learn(800, callback=[clock, bundles])
    # the second where twice three seconds are two percent, and so on
    assert clock.written == [60, 297, 444, 591, 738, 800]
    assert bundles.seconds == 18.0
    assert bundles.seconds - 3.0 <= 0.02 * clock.now


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # evaluations at 40, 80, ..., 400: one a minute after the last bundle or later brings the next
        ({"max_share": None}, [80, 160, 240, 320, 400]),
        # where time is due before that, it is first: its bundle pushes the evaluation's back
        ({"max_share": None, "min_seconds": 70.0}, [70, 140, 200, 270, 340, 400]),
        # twice three seconds are two percent of three hundred
        ({"max_share": 0.02}, [80, 320, 400]),
        ({"max_share": None, "evaluation_seconds": None}, [400]),
    ],
)
@pytest.mark.parametrize("last", [False, True], ids=["bundles after", "bundles before"])
def test_evaluations_bring_bundles(
    last: bool,
    options: dict[str, Any],
    expected: list[int],
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step takes a second, and a bundle three which are counted apart; whichever callback comes first."""
    clock.bundle_seconds = 0.0
    given = {"min_seconds": 500.0, "evaluation_seconds": 60.0, **options}
    bundles = ResumeBundle(tmp_path / "a", **given)
    original = bundles._write

    def costly(**how: bool) -> None:
        original(**how)
        bundles._cost, bundles.seconds = 3.0, 3.0 * len(clock.written)

    monkeypatch.setattr(bundles, "_write", costly)
    evaluation = EvalCallback(vec(), n_eval_episodes=1, eval_freq=40, warn=False, verbose=0)
    callbacks = [bundles, evaluation] if last else [evaluation, bundles]
    make(learning_starts=10_000).learn(400, callback=[clock, *callbacks])
    # before the evaluations, it hears of them a step later
    assert [each - last * (each % 10 == 1) for each in clock.written] == expected


def test_what_bundles_cost_is_remembered(clock: Clock, tmp_path: Path) -> None:
    """``learn`` after ``pretrain`` knows it from its first bundle on."""
    bundles = ResumeBundle(tmp_path / "a", min_seconds=10.0)
    model = make(learning_starts=10_000).pretrain(dataset_file(tmp_path), 5, callback=[clock, bundles])
    clock.written.clear()
    model.learn(200, callback=[clock, bundles])
    assert clock.written == [150, 200]  # three seconds are two percent of a hundred and fifty


@pytest.mark.parametrize(
    "arguments",
    [
        *({"every": 0}, {"every": True}, {"every": 2.5}, {"keep": 0}),
        *({"min_seconds": -1.0}, {"min_seconds": float("nan")}, {"max_share": 0.0}, {"max_share": 2.0}),
        {"evaluation_seconds": -1.0},
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], tmp_path: Path) -> None:
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"{name} of ResumeBundle must be"):
        ResumeBundle(tmp_path, **arguments)


def test_stock_models_have_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SAC has no resume bundles"):
        SAC("MlpPolicy", vec(), device="cpu").learn(1, callback=ResumeBundle(tmp_path))


# -- which ---------------------------------------------------------------------------------------------------------


def test_the_newest_whole_one_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bundles"
    straight = everything(make().learn(20))
    make().learn(14, callback=always(path, every=4))
    assert [each.name for each in series.bundles(path)] == ["bundle_000003", "bundle_000004"]
    (path / "bundle_000004" / "model.zip").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"bundle_000004 is damaged: model\.zip has 4 bytes.*one before it is read"):
        resumed = O2OSAC.load_resume(path, vec(), device="cpu")
    assert "bundle_000003: 12 environment steps (phase: finetuning), saved 20" in capsys.readouterr().out
    resumed.learn(8, callback=always(path, every=4), reset_num_timesteps=False)
    assert_same(straight, everything(resumed))
    assert [each.name for each in series.bundles(path)] == ["bundle_000005", "bundle_000006"]


def test_where_none_is_whole(tmp_path: Path) -> None:
    make().learn(8, callback=always(tmp_path / "bundles", every=4))
    for each in series.bundles(tmp_path / "bundles"):
        (each / "state.zip").unlink()
    with pytest.raises(ValueError, match=r"No resume bundle in .* is whole\. .*000002 .*000001 is damaged: state\.zip"):
        O2OSAC.load_resume(tmp_path / "bundles", vec())


def test_a_damaged_one_does_not_push_out_a_whole_one(tmp_path: Path) -> None:
    path, model = tmp_path / "bundles", make().learn(4)
    series.write(model, path)
    series.write(model, path)
    (path / "bundle_000002" / "model.zip").unlink()
    series.write(model, path)
    assert [each.name for each in series.bundles(path)] == ["bundle_000001", "bundle_000003"]
    series.write(model, path, keep=1)
    assert [each.name for each in series.bundles(path)] == ["bundle_000004"]


def test_bundles_of_another_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "bundles"
    make().learn(4, callback=always(path))
    before = sorted(path.rglob("*"))
    model = make()
    with pytest.raises(ValueError, match="holds the resume bundles of another run"):
        model.learn(4, callback=always(path))
    assert sorted(path.rglob("*")) == before
    assert model.num_timesteps == 0


def test_another_process_is_refused(tmp_path: Path) -> None:
    """Here the same one: whoever has the lock."""
    other = make()

    class Other(Failing):
        def _on_step(self) -> bool:
            other.learn(2, callback=always(tmp_path / "bundles"))
            return True

    with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on .* \(since "):
        make().learn(4, callback=[always(tmp_path / "bundles"), Other(0)])
    make().learn(4, callback=always(tmp_path / "bundles"))  # it is free again


# -- disks and signals ---------------------------------------------------------------------------------------------


def test_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links")

    model = make().learn(6)
    first = series.write(model, tmp_path / "bundles")
    monkeypatch.setattr(os, "link", link)
    second = series.write(model, tmp_path / "bundles")
    assert inodes(first).keys() == inodes(second).keys()
    assert not set(inodes(first).values()) & set(inodes(second).values())
    assert_same(everything(model), everything(O2OSAC.load_resume(second, vec(), device="cpu")))


def test_rollouts_of_ppo(tmp_path: Path) -> None:
    model = make_ppo().learn(16, callback=always(tmp_path / "bundles"))
    resumed = type(model).load_resume(tmp_path / "bundles", vec(), device="cpu")
    assert model.rollout_buffer.full
    for name in ("observations", "actions", "rewards", "advantages", "returns", "values", "log_probs"):
        array = getattr(model.rollout_buffer, name)
        assert np.abs(array).sum() > 0
        assert np.array_equal(array, getattr(resumed.rollout_buffer, name))


class FullDisk:
    """From a moment on nothing can be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.is_full = False
        original = os.fsync

        def fsync(descriptor: int) -> None:
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


def test_a_full_disk_leaves_the_last_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, says so once, and writes again when there is room."""
    disk, path = FullDisk(monkeypatch), tmp_path / "bundles"
    found: list[list[str]] = []

    class Filling(Failing):
        def _on_step(self) -> bool:
            found.append([each.name for each in path.iterdir()] if path.exists() else [])
            disk.is_full = 5 <= self.n_calls < 9
            return True

    straight = everything(make().learn(12))
    with pytest.warns(
        UserWarning, match=r"No resume bundle.*No space left on device\): the last one is .*_000002"
    ) as w:
        model = make().learn(12, callback=[always(path, every=2), Filling(0)])
    assert len(w) == 1
    assert set(found[8]) == {"bundle_000001", "bundle_000002"}
    assert_same(straight, everything(model))
    assert position(path) == (0, 12)


def test_a_stop_on_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, path = FullDisk(monkeypatch), tmp_path / "bundles"

    class Filling(Failing):
        def _on_step(self) -> bool:
            disk.is_full = self.n_calls == 7
            if disk.is_full:
                self.model.request_stop()  # type: ignore[attr-defined]
            return True

    with pytest.raises(OSError, match=r"No resume bundle .*No space left on device\): the last one is .*bundle_000001"):
        make().learn(12, callback=[always(path, every=5), Filling(0)])
    disk.is_full = False
    assert position(path) == (0, 5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_run_with_a_bundle(number: signal.Signals, tmp_path: Path) -> None:
    class Sending(Failing):
        def _on_step(self) -> bool:
            if self.n_calls == self.at:
                signal.raise_signal(number)
            return True

    model, before = make(), signal.getsignal(number)
    with stop_on_signals(model) as stopped:
        model.learn(12, callback=[always(tmp_path / "bundles", every=1000), Sending(5)])
    assert stopped.by == number
    assert signal.getsignal(number) is before
    assert position(tmp_path / "bundles") == (0, 5)


def test_signals_that_are_ignored_stay_ignored() -> None:
    """As under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(make()):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
