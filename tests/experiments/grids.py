"""Small grids on a tiny environment, and how tests run them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch as th

from sb3_o2o.algorithms import algorithm_of
from sb3_o2o.experiments.check import check
from sb3_o2o.experiments.grid import read_grid
from sb3_o2o.experiments.grid_folder import Status, open_experiment
from sb3_o2o.experiments.local import InThisProcess
from sb3_o2o.experiments.plan import Plan, make_plan
from sb3_o2o.experiments.schedule import Launcher, Schedule
from sb3_o2o.plain.allowlist import trusting

SMALL = {"policy_kwargs.net_arch": [4], "batch_size": 4, "buffer_size": 200, "learning_starts": 0}
#: that other processes find as well
OWN_ENV = f"tiny_module:{tiny.BOX}"


def grid(dataset: str, **changes: Any) -> dict[str, Any]:
    """Two recipes that share a pre-training, and one without."""
    return {
        "name": "small",
        "datasets": [{"dataset": dataset, "name": "tiny"}],
        "recipes": [
            "cql",
            {"recipe": "cql", "name": "warm", "set": {"finetuning": [{"Warmup": {"steps": 5}}]}},
            {"recipe": "sac", "name": "scratch"},
        ],
        "seeds": [0],
        "pretrain_steps": 8,
        "steps": 20,
        "eval_episodes": 2,
        "evaluations": 2,
        "checkpoints": 0,
        "threads": 1,
        "set": SMALL,
        **changes,
    }


def plan_of(document: dict[str, Any], log_dir: Path) -> Plan:
    plan = make_plan(read_grid(document), log_dir)
    check(plan)
    return plan


def run(
    document: dict[str, Any],
    log_dir: Path,
    launcher: Launcher | None = None,
    watcher: Callable[[Any], None] | None = None,
) -> tuple[Plan, dict[str, Status]]:
    """Checks and runs a grid, in this process unless told otherwise."""
    with trusting():
        plan = plan_of(document, log_dir)
        open_experiment(plan, "sb3-o2o run small.yml")
        return plan, dict(Schedule(plan, launcher or InThisProcess(), watcher).run())


def states(statuses: dict[str, Status]) -> dict[str, str]:
    """By the last part of the run's name, without hash and seed for pre-trainings."""
    return {name: status.state for name, status in statuses.items()}


def parameters(path: Path, phase: str) -> th.Tensor:
    zip_path = path / phase / "model.zip"
    algorithm = algorithm_of(zip_path)
    assert algorithm is not None
    model = algorithm.load(zip_path)
    return th.cat([parameter.flatten() for parameter in model.policy.parameters()])


def assert_same_run(one: Path, other: Path, phase: str = "online") -> None:
    """Weights and evaluations, bit for bit."""
    assert th.equal(parameters(one, phase), parameters(other, phase))
    with np.load(one / phase / "evaluations.npz") as expected, np.load(other / phase / "evaluations.npz") as found:
        assert set(expected) == set(found)
        for key in expected:
            assert np.array_equal(expected[key], found[key]), key
