"""Other places than this process: what a run comes to is the same wherever it was made, and a death loses nothing."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import fails

from experiments.grids import OWN_ENV, assert_same_run, grid, run, states
from sb3_o2o.experiments.grid_folder import Status
from sb3_o2o.experiments.local import InThisProcess
from sb3_o2o.experiments.ray_launcher import RayTasks
from sb3_o2o.experiments.slurm_launcher import SlurmJobs
from sb3_o2o.resume.series import bundles
from sb3_o2o.runs.folder import RunFolder


@pytest.fixture
def document(tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A grid whose processes find the tiny environments."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    found = grid(tiny_dataset(), recipes=["cql"])
    found["datasets"][0]["env"] = OWN_ENV
    return found


def test_jobs_of_submitit(document: dict[str, Any], tmp_path: Path) -> None:
    """Its local executor stands in for Slurm."""
    plan, statuses = run(document, tmp_path / "jobs", SlurmJobs(tmp_path / "jobs" / "slurm", cluster="local"))
    assert set(states(statuses).values()) == {"finished"}
    alone, _ = run(document, tmp_path / "alone", InThisProcess())
    for each in plan.runs:
        assert_same_run(alone.folder / each.name, plan.folder / each.name, each.phase)


def test_a_job_whose_time_is_over_goes_on_in_another(document: dict[str, Any], tmp_path: Path) -> None:
    launcher = SlurmJobs(tmp_path / "slurm", cluster="local")
    recipes = [{"recipe": "sac", "name": "long"}]
    long = {**document, "recipes": recipes, "steps": 400, "evaluations": 4, "bundle_seconds": 0.1}
    started: list[Any] = []
    original = launcher.start

    def start(folder: Path) -> Any:
        started.append(original(folder))
        return started[-1]

    def interrupt_once(statuses: dict[str, Status]) -> None:
        (status,) = statuses.values()
        if len(started) == 1 and status.step > 0 and bundles(plan_folder / "resume"):
            started.append("interrupted")
            started[0].job._interrupt()

    plan_folder = tmp_path / "jobs" / "small" / "tiny-long-s0"
    launcher.start = start  # type: ignore[method-assign]
    plan, statuses = run(long, tmp_path / "jobs", launcher, interrupt_once)
    assert set(states(statuses).values()) == {"finished"}
    assert statuses["tiny-long-s0"].attempts == len([each for each in started if each == "interrupted"]) + 1
    alone, _ = run(long, tmp_path / "alone")
    assert_same_run(alone.folder / plan.runs[0].name, plan.folder / plan.runs[0].name)


@pytest.fixture
def cluster(document: dict[str, Any]) -> Iterator[Any]:
    """A head that makes no runs, and two nodes for one run each; they have the environment of this moment."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made.nodes_of_runs = [made.add_node(num_cpus=1, **small) for _ in range(2)]
    yield made
    made.shutdown()


def test_a_node_that_dies(cluster: Any, document: dict[str, Any], tmp_path: Path) -> None:
    """Its run goes on on the other one; no run is lost, and all come to what one machine comes to, bit for bit."""
    recipes = [{"recipe": "sac", "name": name} for name in ("one", "two")]
    long = {**document, "recipes": recipes, "steps": 800, "evaluations": 4, "bundle_seconds": 0.2}
    killed: list[str] = []

    def kill_one(statuses: dict[str, Status]) -> None:
        folders = {name: tmp_path / "ray" / "small" / name for name in statuses}
        if not killed and all(bundles(RunFolder(path).resume_bundle) for path in folders.values()):
            killed.extend(name for name, status in statuses.items() if status.state == "running")
            cluster.remove_node(cluster.nodes_of_runs.pop(), allow_graceful=False)

    plan, statuses = run(long, tmp_path / "ray", RayTasks(cluster.address), kill_one)
    assert set(states(statuses).values()) == {"finished"}
    assert len(killed) == 2
    assert sorted(status.attempts for status in statuses.values()) == [1, 2]
    alone, _ = run(long, tmp_path / "alone")
    for each in plan.runs:
        assert_same_run(alone.folder / each.name, plan.folder / each.name)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_options(document: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Slurm's jobs cannot be made"):
        SlurmJobs(tmp_path, {"no_such_option": 1}, cluster="local")
    with pytest.raises(ValueError, match="Slurm's jobs cannot be made"):
        SlurmJobs(tmp_path)  # there is none here
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(document))
    assert "--launch is for clusters" in fails("run", path, "--launch", "num_cpus=2")
    assert "--launch takes NAME=VALUE" in fails("run", path, "--launcher", "ray", "--launch", "num_cpus")
