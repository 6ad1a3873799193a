"""``--trust``: commands that open what a user names have it, mean all files by it, and say it for what comes next."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import typer
from command_line import SHORT, SMALL, fails, succeeds
from plain.hostile import Calls
from reporting.folders import evaluations

from sb3_o2o.cli import app
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig

#: commands that open models, bundles, datasets, recipes' environments and wrappers, or folders with such in them
OPENING = {"advise", "demo", "pretrain", "finetune", "evaluate", "tune", "run", "report", "collect", "select"}
#: read text and metadata, or open nothing that a user names
OTHERS = {"inspect", "recipes list", "recipes show", "bench speed", "bench env", "bench run"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A buffer as a pickle whose observations are made by a function, which no list has."""
    n = 60
    content = {
        "observations": Calls(np.zeros, (n, 2)),
        "actions": np.random.default_rng(0).uniform(-1, 1, size=(n, 1)).astype(np.float32),
        "rewards": np.ones(n),
        "next_observations": np.ones((n, 2)),
        "terminals": np.zeros(n, bool),
        "timeouts": np.arange(n) % 10 == 9,
    }
    path = tmp_path / "mine.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def test_every_command_that_opens_files_has_it() -> None:
    found: dict[str, bool] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        below = {f"{name} {each}": one for each, one in getattr(command, "commands", {}).items()} or {name: command}
        found |= {each: any("--trust" in parameter.opts for parameter in one.params) for each, one in below.items()}
    assert {name for name, has in found.items() if has} == OPENING
    assert {name for name, has in found.items() if not has} == OTHERS


def test_tuning(dataset: Path) -> None:
    command = ["tune", "--recipe", "cql", "--dataset", dataset, "--env", tiny.BOX, "--tune", "learning_rate", *SMALL]
    command += ["--steps", 4, "--pretrain-steps", 2, "--eval-episodes", 1, "--evaluations", 1]
    command += ["--seeds", 1, "--trials", 1]
    assert "mine.pkl needs numpy.zeros" in (error := fails(*command))
    assert "on the command line --trust" in error
    assert not Path("tuning").exists()
    output = succeeds(*command, "--trust")
    assert "--recipe tuning/cql-TinyBox-v0/best.yml --seed 100 --trust" in output
    (run,) = Path("tuning/cql-TinyBox-v0/trials").glob("*/seed_0/online/model.zip")
    assert run.is_file()
    succeeds(*command[:-1], 2, "--trust")  # it holds for trials that a later call makes, and ends with it
    assert "needs numpy.zeros" in fails(*command[:-1], 3)


def test_what_is_to_be_typed_next_has_it_as_well(dataset: Path) -> None:
    command = ["pretrain", dataset, "--env", tiny.BOX, "--recipe", "cql", "--gradient-steps", 2, *SMALL, *SHORT]
    assert "needs numpy.zeros" in fails(*command)
    assert not Path("runs").exists()
    run = f"runs/cql-{tiny.BOX}_1"
    assert f"sb3-o2o finetune {run} --recipe cql --trust" in succeeds(*command, "--trust")
    finetune = ["finetune", run, "--recipe", "cql", "--steps", 4, *SMALL, *SHORT]
    assert "needs numpy.zeros" in fails(*finetune)
    assert f"sb3-o2o evaluate {run[:-1]}2 --trust" in succeeds(*finetune, "--trust")
    assert f"sb3-o2o pretrain --resume {run} --trust" in fails("finetune", "--resume", run, "--trust")
    output = succeeds("select", run, f"{run[:-1]}2", "--episodes", 2, "--trust")
    assert "Fine-tune the best: sb3-o2o finetune runs/" in output
    assert output.rstrip().endswith("--trust")


def test_reports_open_datasets_for_their_references(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "cql_1"
    evaluations(run / "online", [0, 100], [-20.0, 30.0])
    config = RunConfig("finetune", Environment("Hopper-v5"), recipe="cql", dataset=str(dataset), online_steps=100)
    (run / "config.yml").write_text(config.to_yaml())
    words = "The run's dataset tells no reference returns any more"
    output = succeeds("report", run.parent)
    assert words in output
    assert "needs numpy.zeros" in output
    assert words not in succeeds("report", run.parent, "--trust")


def test_the_environment_of_a_benchmark_is_named_by_its_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So its module is imported, as for the other commands."""

    def measure(env_id: str, **_: Any) -> None:
        raise OSError(f"{env_id} is measured")

    monkeypatch.setattr("sb3_o2o.benchmarking.environment_loop.measure", measure)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "benchmarked.py").write_text(
        "import gymnasium\n\ngymnasium.register('Benchmarked-v0', entry_point='tiny:TinyBox')\n"
    )
    assert "benchmarked:Benchmarked-v0 is measured" in fails("bench", "env", "--env", "benchmarked:Benchmarked-v0")
    assert "There is no module 'no_such'" in fails("bench", "env", "--env", "no_such:Thing-v0")
