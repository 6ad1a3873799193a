"""Other places than this process: what a run comes to is the same wherever it was made, and a death loses nothing."""

import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import fails

from experiments.grids import OWN_ENV, assert_same_run, grid, run, states
from sb3_o2o.experiments.execution import StatusListener
from sb3_o2o.experiments.grid_folder import Status
from sb3_o2o.experiments.local import InThisProcess
from sb3_o2o.experiments.ray_launcher import RayTasks
from sb3_o2o.experiments.slurm_launcher import SlurmJobs, _Run
from sb3_o2o.resume.series import bundles


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
    plan, statuses = run(
        document, tmp_path / "jobs", SlurmJobs(tmp_path / "jobs" / "slurm", cluster="local", trust=True)
    )
    assert set(states(statuses).values()) == {"finished"}
    alone, _ = run(document, tmp_path / "alone", InThisProcess())
    for each in plan.runs:
        assert_same_run(alone.folder / each.name, plan.folder / each.name, each.phase)


def test_a_job_whose_time_is_over_goes_on_in_another(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What submitit puts into the next job goes on from the last bundle."""
    document["recipes"] = [{"recipe": "sac", "name": "long"}]
    original = StatusListener._on_step

    def stopped_at_13(listener: StatusListener) -> bool:
        if listener.num_timesteps == 13:
            signal.raise_signal(signal.SIGTERM)
        return original(listener)

    with monkeypatch.context() as patch:
        patch.setattr(StatusListener, "_on_step", stopped_at_13)
        plan, statuses = run(document, tmp_path / "jobs")
    assert states(statuses) == {"tiny-long-s0": "interrupted"}
    path = plan.folder / "tiny-long-s0"
    following = pickle.loads(pickle.dumps(_Run(str(path), 1, True).checkpoint()))
    assert following.result() == "finished"
    alone, _ = run(document, tmp_path / "alone")
    assert_same_run(alone.folder / path.name, path)


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
    long = {**document, "recipes": recipes, "steps": 1_000, "evaluations": 4, "bundle_seconds": 0.2}
    killed: list[str] = []

    def kill_the_first(statuses: dict[str, Status]) -> None:
        for name, status in statuses.items():
            if not killed and status.pid and bundles(tmp_path / "ray" / "small" / name / "resume"):
                killed.append(name)
                cluster.remove_node(node_of(cluster, status.pid), allow_graceful=False)

    plan, statuses = run(long, tmp_path / "ray", RayTasks(cluster.address, trust=True), kill_the_first)
    assert set(states(statuses).values()) == {"finished"}
    assert {name for name, status in statuses.items() if status.attempts > 1} == set(killed) != set()
    alone, _ = run({**long, "recipes": recipes[:1]}, tmp_path / "alone")
    for each in plan.runs:  # they differ in nothing but their names
        assert_same_run(alone.folder / alone.runs[0].name, plan.folder / each.name)


def node_of(cluster: Any, pid: int) -> Any:
    """The node that has started a process."""
    parents = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        parents.append(pid)
    return next(node for node in cluster.nodes_of_runs if node.all_processes["raylet"][0].process.pid in parents)


def test_options(document: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Slurm's jobs cannot be made"):
        SlurmJobs(tmp_path, {"no_such_option": 1}, cluster="local")
    with pytest.raises(ValueError, match="Slurm's jobs cannot be made"):
        SlurmJobs(tmp_path)  # there is none here
    path = tmp_path / "small.yml"
    path.write_text(yaml.safe_dump(document))
    assert "--launch is for clusters" in fails("run", path, "--launch", "num_cpus=2")
    assert "--launch takes NAME=VALUE" in fails("run", path, "--launcher", "ray", "--launch", "num_cpus")
