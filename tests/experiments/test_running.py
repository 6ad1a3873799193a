"""An experiment from its grid to its tables: interrupted, killed, failing, and on a full disk."""

import csv
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import yaml
from command_line import fails, sb3_o2o, succeeds

from experiments.grids import OWN_ENV, assert_same_run, grid, run, states
from sb3_o2o import O2OSAC
from sb3_o2o.evaluation import Evaluation
from sb3_o2o.experiments import execution
from sb3_o2o.experiments.execution import StatusListener
from sb3_o2o.experiments.grid_folder import Job, Status
from sb3_o2o.experiments.local import LocalProcesses
from sb3_o2o.experiments.results import EVALUATION_COLUMNS, RUN_COLUMNS, add_to_tables, read_table
from sb3_o2o.experiments.schedule import Schedule
from sb3_o2o.reporting.run_finding import find_runs
from sb3_o2o.runs import training
from sb3_o2o.runs.folder import RunFolder
from sb3_o2o.version import __version__


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second each, and tested elsewhere."""
    monkeypatch.setattr(training, "draw", lambda prepared, folder: folder.picture)


@pytest.fixture
def own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the tiny environments."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


class FailsAt(gym.Wrapper):
    """An environment that breaks."""

    def __init__(self, env: gym.Env, step: int):
        super().__init__(env)
        self.left = step

    def step(self, action: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the robot fell over\nand lies there")
        return super().step(action)


def failing_recipe(path: Path, **wrapper: Any) -> str:
    document = {
        "about": {"algorithm": "O2OSAC"},
        "default": {
            "objective": "cql",
            "pretrain_steps": 4,
            "env_wrapper": [{f"{FailsAt.__module__}.FailsAt": wrapper}] if wrapper else [],
        },
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_tables_hold_what_the_runs_came_to(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    plan, statuses = run(grid(tiny_dataset(), seeds=2), tmp_path)
    assert set(states(statuses).values()) == {"finished"}
    rows = read_table(plan.folder / "results.csv", EVALUATION_COLUMNS)
    assert len(rows) == 2 * 3 + 6 * 3  # two pre-trainings, six others, three evaluations each
    for row in rows:
        with np.load(plan.folder / row["run"] / row["phase"] / "evaluations.npz") as saved:
            index = saved["timesteps"].tolist().index(row["step"])
            assert row["return"] == saved["results"][index].mean()
        assert row["score"] == pytest.approx(100 * (row["return"] + 5) / 5)
        assert row["seconds"] >= 0
    runs = {row["run"]: row for row in read_table(plan.folder / "runs.csv", RUN_COLUMNS)}
    assert runs.keys() == statuses.keys()
    warm = runs["tiny-warm-s1"]
    scores = [row["score"] for row in rows if row["run"] == "tiny-warm-s1"]
    assert (warm["switch"], warm["last"], warm["lowest_10k"]) == (scores[0], scores[-1], min(scores))
    assert warm["last_5"] == pytest.approx(np.mean(scores))
    assert warm["regret"] == pytest.approx(1 - np.trapezoid(scores, [0, 10, 20]) / 20 / 100)
    assert (warm["offline"], warm["unit"], warm["regret_of"]) == (warm["switch"], "score", "scores")
    assert (warm["sb3_o2o"], warm["threads"], warm["state"]) == (__version__, 1, "finished")
    assert warm["pretraining"] == runs["tiny-cql-s1"]["pretraining"] != runs["tiny-cql-s0"]["pretraining"]
    assert runs["tiny-scratch-s0"]["pretraining"] is None
    assert statuses["tiny-warm-s1"].versions["mujoco"] == version("mujoco")  # of an environment's simulator too
    for name, columns in (("results", EVALUATION_COLUMNS), ("runs", RUN_COLUMNS)):
        parquet = pq.read_table(plan.folder / f"{name}.parquet").to_pylist()
        assert parquet == read_table(plan.folder / f"{name}.csv", columns)


def test_a_run_is_what_the_command_line_makes(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    name = tiny_dataset()
    plan, _ = run(grid(name, recipes=[grid(name)["recipes"][1]]), tmp_path / "grids")
    before, after = (plan.folder / each.name for each in plan.runs)
    options = ["--set", "policy_kwargs.net_arch=[4]", "--set", "batch_size=4", "--set", "buffer_size=200"]
    options += ["--eval-episodes", 2, "--evaluations", 2, "--checkpoints", 0, "--threads", 1]
    options += ["--set", "learning_starts=0", "--set", "finetuning=[{Warmup: {steps: 5}}]", "--recipe", "cql"]
    succeeds("pretrain", name, "--gradient-steps", 8, *options)
    succeeds("finetune", "runs/cql-TinyBox-v0_1", "--steps", 20, *options)
    assert_same_run(before, Path("runs/cql-TinyBox-v0_1"), "offline")
    assert_same_run(after, Path("runs/cql-TinyBox-v0_2"))
    assert (after / "command.txt").read_text() == "sb3-o2o run small.yml\n"
    assert "3 episodes" in succeeds("evaluate", after, "--episodes", 3)


def test_finished_runs_are_not_made_again(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    document = grid(tiny_dataset())
    plan, before = run(document, tmp_path)
    _, after = run({**document, "seeds": 2}, tmp_path)
    assert len(after) == 2 * len(before) == 8
    assert {status.attempts for status in after.values()} == {1}
    assert len(read_table(plan.folder / "runs.csv", RUN_COLUMNS)) == 8


def test_other_settings_are_refused(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    document = grid(tiny_dataset(), recipes=["cql"])
    plan, _ = run(document, tmp_path)
    text = (plan.folder / "grid.yml").read_text()
    with pytest.raises(ValueError, match="made with other settings: online_steps is 20 there, not 30"):
        run({**document, "steps": 30}, tmp_path)
    with pytest.raises(ValueError, match=r"arguments.n_critics is 2 there, not 3"):
        run({**document, "set": {**document["set"], "n_critics": 3}}, tmp_path)
    assert (plan.folder / "grid.yml").read_text() == text
    (tmp_path / "new" / "tiny-cql-s0").mkdir(parents=True)
    (tmp_path / "new" / "tiny-cql-s0" / "mine").touch()
    with pytest.raises(ValueError, match="something else than a run of this grid"):
        run({**document, "name": "new"}, tmp_path)


def test_a_folder_older_than_an_option_has_its_default(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    document = grid(tiny_dataset(), recipes=["cql"])
    plan, _ = run(document, tmp_path)
    file = plan.folder / plan.runs[-1].name / "job.json"
    job = json.loads(file.read_text())
    del job["asked"]["more_sources"], job["asked"]["n_envs"]
    file.write_text(json.dumps(job))
    _, after = run(document, tmp_path)
    assert {status.attempts for status in after.values()} == {1}
    with pytest.raises(ValueError, match="made with other settings: n_envs is 1 there, not 2"):
        run({**document, "n_envs": 2}, tmp_path)


@pytest.mark.parametrize(("phase", "step"), [("offline", 3), ("online", 13)])
def test_interrupted_equals_uninterrupted(
    phase: str, step: int, tiny_dataset: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = grid(tiny_dataset(), recipes=grid("")["recipes"][:2])
    whole, _ = run(document, tmp_path / "whole")
    original = StatusListener._on_step

    def with_ctrl_c(listener: StatusListener) -> bool:
        if (listener.status.phase, listener.num_timesteps) == (phase, step):
            signal.raise_signal(signal.SIGINT)
        return original(listener)

    with monkeypatch.context() as patch:
        patch.setattr(StatusListener, "_on_step", with_ctrl_c)
        plan, statuses = run(document, tmp_path / "parts")
    found = list(statuses.values())
    assert [status.state for status in found] == (
        ["interrupted"] * 3 if phase == "offline" else ["finished", "interrupted", "interrupted"]
    )
    assert found[1].step == (0 if phase == "offline" else step)
    _, statuses = run(document, tmp_path / "parts")
    assert set(states(statuses).values()) == {"finished"}
    for each in plan.runs:
        assert_same_run(whole.folder / each.name, plan.folder / each.name, each.phase)
    rows = [read_table(each.folder / "results.csv", EVALUATION_COLUMNS) for each in (whole, plan)]
    without_seconds = [[{**row, "seconds": None} for row in table] for table in rows]
    assert without_seconds[0] == without_seconds[1]
    assert all(row["seconds"] is not None for row in rows[1])  # those before the interruption included


def test_a_run_stopped_while_its_picture_is_drawn_keeps_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing left to train then."""
    document = grid("", datasets=[{"env": tiny.GOAL, "name": "goal"}], recipes=["sac"])

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "draw", stopped)
        plan, statuses = run(document, tmp_path)
    path = plan.folder / "goal-sac-s0"
    first, before = statuses["goal-sac-s0"], read_table(plan.folder / "runs.csv", RUN_COLUMNS)[0]
    assert (first.state, first.step, first.episodes) == ("interrupted", 20, 2)
    assert RunFolder(path).resume_bundle.is_dir()
    _, statuses = run(document, tmp_path)
    kept = ("step", "seconds", "times", "episodes", "successes", "score")
    second, after = statuses["goal-sac-s0"], read_table(plan.folder / "runs.csv", RUN_COLUMNS)[0]
    assert second.state == "finished"
    assert {name: getattr(second, name) for name in kept} == {name: getattr(first, name) for name in kept}
    assert after == {**before, "state": "finished", "error": None}
    assert after["regret_of"] == "episodes"
    assert after["seconds"] > 0
    assert all(row["seconds"] is not None for row in read_table(plan.folder / "results.csv", EVALUATION_COLUMNS))
    (path / "online" / "model.zip").unlink()  # made anew, it counts from the beginning
    _, statuses = run(document, tmp_path)
    assert (statuses["goal-sac-s0"].step, statuses["goal-sac-s0"].episodes) == (20, 2)


def test_a_finished_run_whose_last_word_was_lost_is_finished(tmp_path: Path) -> None:
    """On a full disk, or killed in that moment: its model is there, and its bundles are gone."""
    document = grid("", datasets=[{"env": tiny.GOAL, "name": "goal"}], recipes=["sac"])
    plan, _ = run(document, tmp_path)
    path = plan.folder / "goal-sac-s0"
    weights = (path / "online" / "model.zip").read_bytes()
    whole = Status.read(path)
    replace(whole, state="running", error="").write(path)
    _, statuses = run(document, tmp_path)
    assert statuses["goal-sac-s0"] == Status.read(path) == replace(whole, speed=None)
    assert read_table(plan.folder / "runs.csv", RUN_COLUMNS)[0]["state"] == "finished"
    assert find_runs([plan.folder]).remarks == []
    replace(whole, state="running").write(path)
    assert execution.execute(path) == "finished"  # as a scheduler starts it again: it is not made anew
    assert Status.read(path).attempts == whole.attempts
    assert (path / "online" / "model.zip").read_bytes() == weights


def test_a_recipe_edited_while_a_grid_runs_is_no_other_seed_of_it(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yml"
    text = "about: {algorithm: O2OSAC}\ndefault: {gamma: 0.9}\n"
    recipe.write_text(text)
    document = grid("", datasets=[{"env": tiny.GOAL, "name": "goal"}], recipes=[str(recipe)], seeds=[0, 1, 2])

    def edit(_: Any) -> None:
        recipe.write_text(text.replace("0.9", "0.5"))

    plan, statuses = run(document, tmp_path, watcher=edit)
    assert [status.state for status in statuses.values()] == ["finished", "finished", "failed"]
    assert (
        "mine.yml' was edited since this experiment was started: gamma is 0.9 there" in statuses["goal-mine-s2"].error
    )
    recipe.write_text(f"# a word\n{text}")
    _, statuses = run(document, tmp_path)
    assert {status.state for status in statuses.values()} == {"finished"}
    assert {O2OSAC.load(plan.folder / name / "online" / "model.zip").gamma for name in statuses} == {0.9}


def test_threads_of_runs_that_have_yet_to_begin_are_what_the_grid_says_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = grid("", datasets=[{"env": tiny.GOAL, "name": "goal"}], recipes=["sac"], seeds=[0, 1])
    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "run", lambda self: {})
        plan, _ = run(document, tmp_path)
    first, second = plan.folder / "goal-sac-s0", plan.folder / "goal-sac-s1"
    execution.execute(first)
    run({**document, "threads": 2, "bundle_seconds": 5}, tmp_path)
    assert [RunFolder(path).read_config().threads for path in (first, second)] == [1, 2]
    assert [Job.read(path).bundle_seconds for path in (first, second)] == [None, 5]


def test_a_run_that_fails_stops_no_other(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    recipe = failing_recipe(tmp_path / "breaking.yml", step=15)
    document = grid(tiny_dataset(), recipes=[recipe, "cql"])
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(document))
    result = sb3_o2o("run", path, "--workers", 0, "--trust")
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    folder = Path("runs/small")
    # evaluations have environments of their own, which break first
    assert "RuntimeError: the robot fell over" in result.output
    assert "1 failed, 2 finished, 1 blocked" in result.output
    failed = list(folder.rglob("error.txt"))
    assert len(failed) == 1
    assert "raise RuntimeError" in failed[0].read_text()
    rows = {row["run"]: row for row in read_table(folder / "runs.csv", RUN_COLUMNS)}
    assert rows["tiny-cql-s0"]["state"] == "finished"
    assert rows[str(failed[0].parent.relative_to(folder))]["error"] == "RuntimeError: the robot fell over"


def test_what_failed_is_made_again(
    tiny_dataset: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = grid(tiny_dataset(), recipes=["cql"])
    calls: list[Any] = []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(execution, "train", full)
        plan, statuses = run(document, tmp_path)
    assert list(states(statuses).values()) == ["failed", "blocked"]
    assert len(calls) == 1
    first, second = statuses.values()
    assert first.error == "OSError: [Errno 28] No space left on device"
    assert "failed" in second.error
    _, statuses = run(document, tmp_path)
    assert set(states(statuses).values()) == {"finished"}
    assert not list(plan.folder.rglob("error.txt"))


def test_a_full_disk_leaves_tables_readable(
    tiny_dataset: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = grid(tiny_dataset(), recipes=["cql"])
    plan, _ = run(document, tmp_path / "runs")
    before = {path.name: path.read_bytes() for path in plan.folder.glob("r*.*")}
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump({**document, "seeds": 2}))

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sb3_o2o.files.os.replace", full)  # nothing more becomes whole
        result = sb3_o2o("run", path, "--workers", 0)
    assert result.exit_code in (1, 2), result.output
    assert "No space left on device" in result.output
    assert {path.name: path.read_bytes() for path in plan.folder.glob("r*.*")} == before
    assert "4 finished" in succeeds("run", path, "--workers", 0)


def test_tables_of_another_version_are_refused(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    document = grid(tiny_dataset(), recipes=["cql"])
    plan, _ = run(document, tmp_path / "runs")
    table = plan.folder / "runs.csv"
    text = table.read_text()
    table.write_text(text.replace("lowest_10k", "lowest"))
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(document))
    message = fails("run", path)
    assert "runs.csv was written by another version: it lacks lowest_10k, and has lowest. Move it" in message
    table.unlink()
    run({**document, "seeds": 2}, tmp_path / "runs")
    assert len(read_table(table, RUN_COLUMNS)) == 4


def test_several_processes_write_one_table(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    plan, _ = run(grid(tiny_dataset(), recipes=["cql"], seeds=2), tmp_path)
    whole = {name: (plan.folder / name).read_text() for name in ("results.csv", "runs.csv")}
    for name in whole:
        (plan.folder / name).unlink()
    with ThreadPoolExecutor(8) as pool:  # locks are of open files: threads exclude each other as processes do
        list(pool.map(lambda each: add_to_tables(plan.folder, [plan.folder / each.name]), plan.runs))
    assert {name: (plan.folder / name).read_text() for name in whole} == whole


@pytest.mark.usefixtures("own_processes")
def test_processes_of_their_own(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    """Through the command line; another process is refused meanwhile; results are those of one process."""
    document = grid(tiny_dataset(), recipes=["cql"])
    document["datasets"][0]["env"] = OWN_ENV
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(document))
    output = succeeds("run", path, "--workers", 2, "--trust")
    assert "tiny-cql-s0 finished online 20/20 score" in output
    assert "2 finished" in output
    alone, _ = run(document, tmp_path / "alone")
    for each in alone.runs:
        assert_same_run(alone.folder / each.name, Path("runs/small") / each.name, each.phase)
        assert "Fatal" not in (Path("runs/small") / each.name / "log.txt").read_text()  # Python's, at its very end


@pytest.mark.usefixtures("own_processes")
def test_stopped_and_killed_processes(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    """Ctrl-C reaches every worker, which saves itself; one that was killed is a failed run."""
    recipes = [{"recipe": "sac", "name": name} for name in ("stopped", "killed")]
    document = grid(tiny_dataset(), recipes=recipes, steps=1_000_000, evaluations=200_000)
    document["datasets"][0]["env"] = OWN_ENV
    done: list[str] = []

    def watch(statuses: dict[str, Status]) -> None:
        killed, stopped = statuses["tiny-killed-s0"], statuses["tiny-stopped-s0"]
        if "kill" not in done and killed.step > 0 and stopped.step > 0:
            done.append("kill")
            os.kill(killed.pid, signal.SIGKILL)
        elif "stop" not in done and killed.state == "failed":
            done.append("stop")
            signal.raise_signal(signal.SIGINT)

    plan, statuses = run(document, tmp_path, LocalProcesses(2, 1, trust=True), watch)
    assert states(statuses) == {"tiny-stopped-s0": "interrupted", "tiny-killed-s0": "failed"}
    assert statuses["tiny-killed-s0"].error == "its process was killed by SIGKILL"
    assert RunFolder(plan.folder / "tiny-stopped-s0").resume_bundle.is_dir()
    with (plan.folder / "runs.csv").open() as file:
        assert {row["run"]: row["state"] for row in csv.DictReader(file)} == states(statuses)


def test_a_plan_is_listed_with_what_it_takes(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(grid(tiny_dataset())))
    output = succeeds("run", path, "--dry-run")
    assert "small: 4 runs" in output
    assert "-s0 8 gradient steps of" in output
    assert "for 2" in output
    assert "tiny-warm-s0 20 environment steps of" in output
    assert "one after the other" in output
    assert not Path("runs").exists()


def test_errors_are_one_line(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(grid(tiny_dataset(), recipes=["nothing"])))
    assert "Unknown recipe 'nothing'" in fails("run", path)
    assert "There is no grid at" in fails("run", "nowhere.yml")
    assert "Unknown launcher 'rya'" in fails("run", path, "--launcher", "rya")
    assert not Path("runs").exists()


def test_an_evaluation_is_part_of_the_time_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Ten updates a second, and after every 100 of them an evaluation of ten seconds: five a second, whenever one looks,
    also at the evaluation's end, where the last word was an update ago.
    """
    now = [0.0]
    monkeypatch.setattr(execution, "Pace", partial(execution.Pace, clock=lambda: now[0]))
    listener = StatusListener(tmp_path, Status(state="running"))
    listener.begin_phase("offline", 0, 2000, None)  # type: ignore[arg-type]
    said = []
    for listener.num_timesteps in range(1, 1001):
        now[0] += 0.1
        listener._on_step()
        if listener.num_timesteps % 100 == 0:
            now[0] += 10.0
            listener.evaluated(listener.num_timesteps, Evaluation(np.ones(1), np.ones(1, int), None, None, ""))
            said.append(Status.read(tmp_path))
    assert [status.speed for status in said] == pytest.approx([5.0] * 10, rel=0.05)
    assert said[-1].seconds_left == pytest.approx(200.0, rel=0.05)
    listener.on_phase_step("alignment", 1, 10, {})
    now[0] += 60.0
    listener.on_phase_step("alignment", 2, 10, {})
    assert Status.read(tmp_path).speed is None  # of another kind of step
    now[0] += 10.0
    listener.write(1100)
    assert Status.read(tmp_path).speed == pytest.approx(10.0)


def test_a_part_of_a_grid_and_then_the_rest(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    """Both in one folder and one table, and what the first part made is not made again."""
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(grid(tiny_dataset(), seeds=2)))
    succeeds("run", path, "--workers", "0", "--recipes", "scratch,cql", "--seeds", "1", "--datasets", "tiny")
    folder = Path("runs/small")
    assert finished(folder) == {("cql", "1"), ("scratch", "1")}
    model = folder / "tiny-cql-s1" / "online" / "model.zip"
    made = model.stat().st_mtime_ns
    succeeds("run", path, "--workers", "0")
    assert finished(folder) == {(recipe, seed) for recipe in ("cql", "warm", "scratch") for seed in "01"}
    assert model.stat().st_mtime_ns == made


def finished(folder: Path) -> set[tuple[str, str]]:
    with (folder / "runs.csv").open(newline="") as file:
        return {(row["recipe"], row["seed"]) for row in csv.DictReader(file) if "pretraining" not in row["run"]}


def test_parts_that_a_grid_does_not_have(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(grid(tiny_dataset())))
    for option, value, message in (
        ("--recipes", "warn", "'warn'. Did you mean 'warm'?"),
        ("--datasets", "tinny", "'tinny'. Did you mean 'tiny'?"),
        ("--seeds", "3", "'3'."),
        ("--seeds", "one", "--seeds takes whole numbers with commas between them, got 'one'."),
        ("--recipes", "warm,", "--recipes takes names with commas between them, got 'warm,'."),
    ):
        assert message in fails("run", path, option, value)
    assert not Path("runs").exists()


@pytest.mark.parametrize("recipe", ["o2td3", "o2ppo", "spot"])
def test_what_follows_evaluations_or_needs_preparation_is_timed_too(
    recipe: str, tiny_dataset: Callable[..., str], tmp_path: Path
) -> None:
    """The short runs that are timed have no evaluations, and no pre-trained model to start from."""
    small = {"policy_kwargs.net_arch": [4], "batch_size": 4}
    if recipe == "spot":
        small["objective_kwargs.density_net_arch"] = [4]
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(grid(tiny_dataset(), recipes=[recipe], set=small)))
    output = succeeds("run", path, "--dry-run")
    assert f"tiny-{recipe}-s0 20 environment steps of" in output


def test_arguments_of_pretraining_are_set_for_it_alone(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    faster = {"recipe": "cql", "name": "faster", "set": {"pretrain_kwargs": {"learning_rate": 0.1}}}
    plan, statuses = run(grid(tiny_dataset(), recipes=["cql", faster]), tmp_path)
    assert list(states(statuses).values()) == ["finished"] * 4
    offline = [plan.folder / each.name / "offline" / "model.zip" for each in plan.runs if each.phase == "offline"]
    usual, other = (O2OSAC.load(path, device="cpu").actor.state_dict() for path in offline)
    assert all((usual[name] != other[name]).any() for name in usual if name.endswith("weight"))
