"""Whole runs side by side: who is asked what, what is summed, and what is shown."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sb3_o2o.benchmarking import whole_runs
from sb3_o2o.benchmarking.race import WorkerError
from sb3_o2o.benchmarking.whole_runs import PARTS, Result, WholeRun, ratio, runs_by_name
from sb3_o2o.cli import app


def parts(environment: float, evaluation: float, evaluated_steps: float) -> dict[str, float]:
    return {
        "environment": environment,
        "acting": 1.0,
        "updates": 2.0,
        "evaluation": evaluation,
        "rest": 0.5,
        "evaluated_steps": evaluated_steps,
    }


OURS = Result("ours", "us", [parts(1.0, 1.0, 100), parts(1.0, 2.0, 300)])
STOCK = Result("sb3", "SB3", [parts(1.0, 4.0, 100), parts(1.0, 3.5, 50)])


def test_sums() -> None:
    assert OURS.seconds == 12.0
    assert STOCK.seconds == 16.5
    assert ratio(OURS, STOCK) == 12.0 / 16.5
    # 275 steps each: ours 9 + 3 * 275/400, theirs 9 + 7.5 * 275/150
    assert ratio(OURS, STOCK, True) == pytest.approx((9 + 2.0625) / (9 + 13.75))


def test_without_evaluations_of_its_own_nothing_is_scaled() -> None:
    silent = Result("sb3", "SB3", [parts(1.0, 4.0, 0)])
    assert silent.seconds_with(100) == silent.seconds


class Asked:
    """A worker that notes what it is asked."""

    log: list[tuple[str, Any]] = []  # noqa: RUF012

    def __init__(self, competitor: Any, threads: int):
        self.key = competitor.key
        if self.key == "sb3":
            raise WorkerError("SB3: the worker ended.")

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if "prepare" in question:
            return {"ready": {"warm_up_seconds": 3.0}}
        self.log.append((self.key, question["run"]))
        return {"parts": parts(1.0, 1.0, 10)}

    def close(self) -> None:
        self.log.append((self.key, "closed"))


def test_they_advance_in_turn_and_one_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_runs, "Worker", Asked)
    monkeypatch.setattr(Asked, "log", [])
    run = replace(runs_by_name(["sac"])[0], steps=300, eval_freq=100)
    contestants = [each for each in whole_runs.competitors() if each.key != "sbx"]
    ((_, found),) = whole_runs.race_runs([run], contestants, threads=1)
    first, second = ("ours", 100), ("ours_compiled", 100)
    assert Asked.log[:6] == [first, second, second, first, first, second]
    assert sorted(Asked.log[6:]) == [("ours", "closed"), ("ours_compiled", "closed")]
    assert {each.key: len(each.slices) for each in found} == {"ours": 3, "ours_compiled": 3, "sb3": 0}
    assert found[2].missing == "SB3: the worker ended."


def test_table_and_picture(tmp_path: Path) -> None:
    run = WholeRun("sac", "SAC")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(whole_runs.table(run, [OURS, STOCK, Result("sbx", "SBX", missing="gone")]))
    text = console.export_text()
    for expected in ("whole                          12.0  16.5", "time / SB3's                   0.73  1.00"):
        assert expected.split() in [line.split() for line in text.splitlines()]
    assert "SBX" not in text
    whole_runs.draw(tmp_path / "run.png", [(run, [OURS, STOCK])], "here")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_end_to_end(tmp_path: Path) -> None:
    arguments = ["bench", "run", "--env", "Pendulum-v1", "--steps", "20", "--eval-freq", "10", "--eval-episodes", "2"]
    competitors = whole_runs.competitors
    with pytest.MonkeyPatch.context() as patch:  # eager ours and stock: compiling takes a minute
        patch.setattr(
            whole_runs, "competitors", lambda *asked: [each for each in competitors(*asked) if not each.compiles]
        )
        patch.setattr(whole_runs, "RUNS", [replace(whole_runs.RUNS[0], hidden=(8,), learning_starts=4, warm_up=8)])
        arguments += ["--runs", "sac", "--threads", "1", "--precision", "fp32,bf16", "--out", str(tmp_path)]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["settings"]["precision"] == ["fp32", "bf16"]
    (document,) = written["runs"]
    labels = [each["label"] for each in document["contestants"]]
    assert labels == ["us, eager", "us, eager bf16", "SB3"]
    for each in document["contestants"]:
        assert not each["missing"]
        assert len(each["slices"]) == 2
        for part in each["slices"]:
            assert {name for name in PARTS if part[name] <= 0} == set()
            assert part["evaluated_steps"] == 2 * 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "25", "--eval-freq", "10"], "multiple"),
        (["--eval-freq", "1000", "--n-envs", "3"], "multiple"),
        (["--runs", "sacc"], "sac"),
        (["--precision", "fp16"], "Unknown precision 'fp16'. Did you mean 'bf16'?"),
        (["--env", "Pendulum-v9"], "Pendulum-v"),
        (["--peers", "/nowhere/python"], "No Python interpreter"),
    ],
)
def test_bad_options(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", "run", *options])
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
