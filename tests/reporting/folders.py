"""Run folders as trainings leave them, made of numbers."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sb3_o2o.experiments.grid_folder import Job, Status
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig

REFERENCE = {"minimum": 0.0, "maximum": 200.0, "provenance": "made up"}


def evaluations(folder: Path, steps: Sequence[int], returns: ArrayLike) -> None:
    """Three episodes each, 10 apart."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.asarray(returns, dtype=np.float64)[:, None] + np.array([-10.0, 0.0, 10.0])
    np.savez(folder / "evaluations.npz", timesteps=np.array(steps), results=values, ep_lengths=np.ones_like(values))


def experiment_run(
    top: Path, recipe: str, seed: int, returns: ArrayLike, dataset: str = "hopper-medium", **status: Any
) -> Path:
    """A finished run of a grid, evaluated every 100 environment steps, scores being half of the returns."""
    path = top / f"{dataset}-{recipe}-s{seed}"
    path.mkdir(parents=True)
    steps = [100 * index for index in range(len(np.asarray(returns)))]
    evaluations(path / "online", steps, returns)
    evaluations(path / "offline", [0, 50], np.asarray(returns)[[0, 0]] / [2, 1])
    (path / "online" / "model.zip").touch()
    config = RunConfig("finetune", Environment("Hopper-v5"), recipe="cql", seed=seed, online_steps=400)
    (path / "config.yml").write_text(config.to_yaml())
    (path / "job.json").write_text(json.dumps(asdict(Job(path.name, dataset, recipe, None, {}))))
    known = {"state": "finished", "reference": REFERENCE, "seconds": 100.0 + seed, "versions": {"sb3_o2o": "1.2.3"}}
    Status(**{**known, **status}).write(path)
    return path


def experiment(top: Path, seeds: int = 3) -> Path:
    """Two methods on two tasks: one that gains, one that falls and comes back."""
    for task, gain in (("hopper-medium", 0.0), ("hopper-expert", 40.0)):
        for seed in range(seeds):
            experiment_run(top, "good", seed, [60 + gain, 80 + gain, 100 + gain + 4 * seed], task)
            experiment_run(top, "weak", seed, [60 + gain, 20 + seed, 62 + gain], task)
    return top


def zoo_run(top: Path, env_id: str, seed: int, returns: ArrayLike) -> Path:
    """As RL Zoo leaves one."""
    path = top / "sac" / f"{env_id}_{seed + 1}"
    evaluations(path, [100 * (index + 1) for index in range(len(np.asarray(returns)))], returns)
    (path / env_id).mkdir()
    text = "!!python/object/apply:collections.OrderedDict\n"
    text += "- - - algo\n    - sac\n  - - env\n    - {}\n  - - seed\n    - {}\n"
    (path / env_id / "args.yml").write_text(text.format(env_id, seed))
    return path
