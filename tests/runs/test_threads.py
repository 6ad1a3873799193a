"""How many threads a run takes: one where more are slower, as many as a user says, and the run says and keeps it."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch as th
import yaml
from toy_tasks import make, make_ppo, make_td3, state
from typer.testing import CliRunner

from sb3_o2o.cli import app
from sb3_o2o.cli.run_progress import RunProgress
from sb3_o2o.runs import threads as room
from sb3_o2o.runs.threads import Threads, choose_threads, given_threads

SMALL = ["--set", "policy_kwargs.net_arch=[4]", "--set", "batch_size=4", "--set", "buffer_size=100"]
SMALL += ["--set", "n_critics=2", "--eval-episodes", "1", "--evaluations", "1", "--checkpoints", "0"]


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of eight cores, and no word from its user. The number of threads of before is put back."""
    for name in room.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(room, "usable_cores", lambda: 8)
    before = th.get_num_threads()
    yield
    th.set_num_threads(before)


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> list[int]:
    """Every network is large, and its forward pass takes so long by a clock of ours; collects the threads in force."""
    clock, asked, forward = SimpleNamespace(now=0.0), [], room._forward

    def slow(model: Any) -> None:
        forward(model)
        asked.append(th.get_num_threads())
        clock.now += seconds[asked[-1]]

    monkeypatch.setattr(room, "SMALL_PRODUCT", 0)
    monkeypatch.setattr(room, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(room, "_forward", slow)
    return asked


def test_the_users_word_counts_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_threads(None) is None
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    assert given_threads(None) == Threads(3, "MKL_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert given_threads(None) == Threads(2, "OMP_NUM_THREADS")
    assert str(given_threads(5)) == "Threads: 5 of 8 cores (as asked)"
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")  # nested levels, which PyTorch does not have
    assert given_threads(None) == Threads(3, "MKL_NUM_THREADS")


def test_one_core_leaves_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "usable_cores", lambda: 1)
    assert given_threads(None) == Threads(1, "there is one")


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_small_networks_take_one_unmeasured(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(room, "measure")
    assert choose_threads(build()) == Threads(1, "the networks are small; --threads N changes it")


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_large_networks_are_measured(
    build: Callable[..., Any], dictionary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four threads are three times as fast, eight hardly more; the model and the random streams stay as they are."""
    asked = timed(monkeypatch, {1: 0.003, 2: 0.0025, 4: 0.001, 8: 0.0009})
    model, threads = build(dictionary=dictionary), th.get_num_threads()
    before, stream, numpy_stream = state(model), th.get_rng_state(), np.random.get_state()[1]
    chosen = choose_threads(model)
    assert chosen.count == 4
    assert chosen.reason.startswith("measured, 1: 3.0 ms, 2: 2.5 ms, 4: 1.0 ms, 8: 0.9 ms")
    assert asked == [1, 2, 4, 8] * (room.ROUNDS + 1)
    assert th.get_num_threads() == threads
    assert all(th.equal(value, before[name]) for name, value in state(model).items())
    assert th.equal(stream, th.get_rng_state())
    assert np.array_equal(numpy_stream, np.random.get_state()[1])


def test_cores_that_are_taken_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, {1: 0.0008, 2: 0.031, 4: 0.032, 8: 0.03})
    assert choose_threads(make()).count == 1


def test_the_measurement_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, {count: 1.0 for count in (1, 2, 4, 8)})
    assert choose_threads(make()).count == 1
    assert asked == [1, 2, 4, 8] * 2


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code in (0, 130), result.output
    return result.output


def recorded(folder: str) -> int:
    return yaml.safe_load(Path(folder, "config.yml").read_text())["threads"]


def test_commands_set_say_and_record_it(tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    on_step = RunProgress._on_step
    monkeypatch.setattr(RunProgress, "_on_step", lambda self: used.append(th.get_num_threads()) or on_step(self))
    dataset = tiny_dataset()
    output = run("pretrain", dataset, "--recipe", "cql", "--gradient-steps", 2, *SMALL)
    assert "Threads: 1 of 8 cores (the networks are small; --threads N changes it)" in output
    assert recorded("runs/cql-TinyBox-v0_1") == 1
    assert set(used) == {1}
    used.clear()
    options = ("--recipe", "cql", "--steps", 6, "--threads", 2, *SMALL)
    assert "Threads: 2 of 8 cores (as asked)" in run("finetune", "runs/cql-TinyBox-v0_1", *options)
    assert recorded("runs/cql-TinyBox-v0_2") == 2
    assert set(used) == {2}
    for acting in (
        ("evaluate", "runs/cql-TinyBox-v0_2", "--episodes", 1),
        ("collect", tiny.BOX, "tests/threads/short-v0", "--n-steps", 5),
    ):
        assert "Threads: 1 of 8 cores (enough for one observation at a time)" in run(*acting)
        assert th.get_num_threads() == 1
        assert "Threads: 2 of 8" in run(*acting, "--threads", 2, *(["--force"] if acting[0] == "collect" else []))
        assert th.get_num_threads() == 2


def test_an_interrupted_run_goes_on_with_its_own(
    tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_step = RunProgress._on_step

    def pressing(self: RunProgress) -> bool:
        if self.num_timesteps == 3:
            signal.raise_signal(signal.SIGINT)
        return on_step(self)

    monkeypatch.setattr(RunProgress, "_on_step", pressing)
    run("pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", 6, "--threads", 2, *SMALL)
    monkeypatch.setattr(RunProgress, "_on_step", on_step)
    th.set_num_threads(1)
    output = run("pretrain", "--resume", "runs/cql-TinyBox-v0_1")
    assert "Threads: 2 of 8 cores (as before)" in output
    assert th.get_num_threads() == 2
