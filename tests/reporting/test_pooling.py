"""What counts as seeds of one method in a report, as its page says it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import succeeds

from reporting.folders import evaluations, experiment, experiment_run, zoo_run
from sb3_o2o.experiments.results import add_to_tables
from sb3_o2o.reporting import writing
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second each, and tested elsewhere."""
    monkeypatch.setattr(writing, "_curves", lambda *arguments: None)
    monkeypatch.setattr(writing, "_over_tasks", lambda *arguments: [])


def our_run(top: Path, number: int, seed: int, last: float, **asked: Any) -> None:
    """As ``sb3-o2o finetune`` leaves one."""
    path = top / f"wsrl-Hopper-v5_{number}"
    evaluations(path / "online", [0, 1000], [100, last])
    known = {"recipe": "wsrl", "online_steps": 1000, **asked}
    (path / "config.yml").write_text(RunConfig("finetune", Environment("Hopper-v5"), seed=seed, **known).to_yaml())
    (path / "online" / "model.zip").touch()


def report(*paths: Path) -> str:
    out = paths[0].parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    succeeds("report", *paths, "--out", out)
    return (out / "report.md").read_text()


def test_a_run_counts_once_however_often_it_is_found(tmp_path: Path) -> None:
    top = experiment(tmp_path / "hopper", seeds=2)
    add_to_tables(top, sorted(path.parent for path in top.glob("*/job.json")))
    for seed in range(2):
        zoo_run(tmp_path / "logs", "Hopper-v5", seed, [20, 40, 60])
    once = report(top, tmp_path / "logs")
    (tmp_path / "link").symlink_to(top)
    again = report(top, tmp_path / "logs", tmp_path / "link", top / "hopper-medium-weak-s0", top / "results.csv")
    said = "17 runs given more than once: each counts once."
    assert said in again
    assert said not in once
    assert tables(again) == tables(once)
    assert "| hopper-medium | weak | 2 |" in once


def tables(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_equal_seeds_and_other_settings_are_said(tmp_path: Path) -> None:
    our_run(tmp_path / "runs", 1, 0, 300)
    our_run(tmp_path / "runs", 2, 1, 400)
    assert "count as seeds" not in report(tmp_path / "runs")
    our_run(tmp_path / "runs", 3, 0, 2000)
    assert (
        "wsrl on Hopper-v5: seed 0 is there 2 times (runs/wsrl-Hopper-v5_1, runs/wsrl-Hopper-v5_3). All of these count "
        "as seeds of one method."
    ) in report(tmp_path / "runs")
    our_run(tmp_path / "runs", 3, 2, 2000, overrides={"gamma": 0.5, "policy_kwargs": {"net_arch": [4]}})
    assert (
        "wsrl on Hopper-v5: gamma is not set in runs/wsrl-Hopper-v5_1, 0.5 in runs/wsrl-Hopper-v5_3; "
        "policy_kwargs.net_arch is not set in runs/wsrl-Hopper-v5_1, [4] in runs/wsrl-Hopper-v5_3. All of these count"
    ) in report(tmp_path / "runs")
    our_run(tmp_path / "runs", 3, 2, 2000, recipe="/elsewhere/wsrl", online_steps=9000, n_envs=2)
    said = report(tmp_path / "runs")
    assert "n_envs is 1 in runs/wsrl-Hopper-v5_1, 2 in runs/wsrl-Hopper-v5_3" in said
    assert "steps is 1000 in runs/wsrl-Hopper-v5_1, 9000 in runs/wsrl-Hopper-v5_3" in said
    assert "recipe is" not in said  # folders are not compared
    our_run(tmp_path / "runs", 3, 2, 2000, n_envs=2, online_steps=9, overrides={"gamma": 1, "n_critics": 3})
    assert "; and 1 more. All" in report(tmp_path / "runs")


def test_experiments_with_the_same_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for index in range(7):
            experiment_run(tmp_path / name, f"m{index}", 0, [10, 20])
    text = report(tmp_path / "one", tmp_path / "two")
    assert text.count("seed 0 is there 2 times (one/hopper-medium-m") == 5
    assert "So it is with 2 more." in text
    assert "| hopper-medium | m0 | 2 |" in text


def test_a_pretraining_alone_is_no_seed(tmp_path: Path) -> None:
    our_run(tmp_path / "runs", 1, 0, 300)
    our_run(tmp_path / "runs", 2, 0, 300, online_steps=0, dataset=None)
    (tmp_path / "runs" / "wsrl-Hopper-v5_2" / "online").rename(tmp_path / "runs" / "wsrl-Hopper-v5_2" / "offline")
    assert "count as seeds" not in report(tmp_path / "runs")
