"""The scripts around the suite: other code's curves, D4RL's layout, and what counts as a regression."""

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import minari
import numpy as np
import pytest
from stable_baselines3 import SAC

from sb3_o2o import OfflineDataset
from sb3_o2o.demo_data import DEMO_DATASET
from sb3_o2o.experiments.grid import Entry, read_grid
from sb3_o2o.experiments.plan import make_plan
from sb3_o2o.reporting import make_report
from sb3_o2o.reporting.run_finding import find_runs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(name).stem, BENCHMARKS / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_exported_is_the_dataset(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    dataset_id = tiny_dataset()
    n_rows = script("official/export.py").export(dataset_id, tmp_path / "tiny.hdf5")
    ours, theirs = (OfflineDataset.load(each, cache=False) for each in (dataset_id, tmp_path / "tiny.hdf5"))
    assert n_rows == len(ours) == minari.load_dataset(dataset_id).total_steps
    for name in ("observations", "actions", "next_observations", "rewards", "terminations", "truncations"):
        one, other = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        assert one == pytest.approx(other, rel=1e-6), name
    assert ours.episode_returns == pytest.approx(theirs.episode_returns, rel=1e-5)


def test_other_codes_curve_is_a_line_of_the_report(tmp_path: Path) -> None:
    module, out = script("official/to_results.py"), tmp_path / "official.csv"
    (tmp_path / "data.json").write_text(json.dumps({"steps": [0, 1000, 2000], "eval_returns": [30.0, 20.0, 40.0]}))
    (tmp_path / "data.csv").write_text("steps,eval_returns\n0,34\n1000,10\n2000,60\n")
    about = {"dataset": "hopper-medium-v0", "env": "Hopper-v5", "recipe": "o2td3 (official)"}
    for seed, name in enumerate(("data.json", "data.csv")):
        module.add(out, module.read(tmp_path / name), {**about, "seed": seed}, raw=False)
    table = make_report(find_runs([out]), "test", after=1000).tables[0]
    row = dict(zip(table.columns, (cell.text for cell in table.rows[0]), strict=True))
    assert (row["task"], row["method"], row["seeds"]) == ("hopper-medium-v0", "o2td3 (official)", "2")
    assert row["switch"].startswith("32.0")
    assert row["lowest"].startswith("15.0")
    assert row["after 1,000"].startswith("15.0")
    assert row["last"].startswith("50.0")


def test_luck_is_what_confidence_is_against() -> None:
    takes_over, rng = script("champion.py").takes_over, np.random.default_rng(0)
    found = {
        confidence: np.mean([takes_over(-0.5, confidence, 5, 10, rng) for _ in range(60)]) for confidence in (0.0, 3.5)
    }
    assert found[0.0] > 0.5 > 0.2 > found[3.5]
    assert takes_over(5.0, 1.5, 5, 1, rng)
    assert not takes_over(-5.0, 1.5, 5, 10, rng)


def test_a_replay_buffer_of_sac_is_a_dataset(tmp_path: Path) -> None:
    script("replay_of_sac.py").main(["Pendulum-v1", "--steps", "210", "--out", str(tmp_path)])
    dataset = OfflineDataset.load(tmp_path / "replay.pkl", cache=False)
    assert len(dataset) == 210
    assert dataset.episode_lengths.tolist() == [200, 10]
    assert SAC.load(tmp_path / "sac.zip").num_timesteps == 210
    monitored = (tmp_path / "sac.monitor.csv").read_text().splitlines()[2]
    assert float(monitored.split(",")[0]) == pytest.approx(dataset.episode_returns[0], rel=1e-4)


def stored(path: Path, scores: dict[str, list[float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "recipe", "seed", "state", "last_5"])
        for recipe, values in scores.items():
            writer.writerows(["pendulum", recipe, seed, "finished", value] for seed, value in enumerate(values))


class TestRegression:
    def test_probability_and_chance_by_hand(self) -> None:
        module = script("regression.py")
        new = {("a", "b"): np.array([1.0, 2.0]), ("a", "c"): np.array([5.0, 5.0])}
        old = {("a", "b"): np.array([0.0, 3.0]), ("a", "c"): np.array([5.0, 4.0])}
        # pairs won: 1 > 0 and 2 > 0 of four; 5 > 4 twice and two ties of four
        assert module.probability(new, old) == pytest.approx((2 / 4 + (2 + 1) / 4) / 2)
        worse = {("a", "b"): np.array([0.0, 1.0, 2.0])}
        better = {("a", "b"): np.array([3.0, 4.0, 5.0])}
        # one of the twenty ways to choose three of six is as bad
        assert module.chance(worse, better) == pytest.approx(1 / 20, abs=0.006)
        assert module.chance(better, worse) == pytest.approx(1.0)

    def test_worse_runs_are_found_and_equal_ones_pass(self, tmp_path: Path) -> None:
        module = script("regression.py")
        high = {"wsrl": [90.0, 91.0, 92.0], "td3_bc": [50.0, 51.0, 52.0]}
        low = {"wsrl": [10.0, 11.0, 12.0], "td3_bc": [5.0, 6.0, 7.0]}
        for name, scores in (("high", high), ("low", low)):
            stored(tmp_path / f"{name}.csv", scores)
        good, bad = (module.scores(module.read(tmp_path / f"{name}.csv")) for name in ("high", "low"))
        assert module.compare(good, good)
        assert module.compare(good, bad)
        assert not module.compare(bad, good)

    def test_a_missing_recipe_is_no_pass(self, tmp_path: Path) -> None:
        module = script("regression.py")
        with pytest.raises(SystemExit, match=r"no finished run of pendulum with wsrl"):
            module.compare({}, {("pendulum", "wsrl"): np.array([1.0])})

    def test_the_grid_and_what_is_stored_speak_of_the_same_runs(self) -> None:
        module = script("regression.py")
        grid = read_grid(module.GRID)
        stored_runs = {(row["dataset"], row["recipe"], int(row["seed"])) for row in module.read(module.STORED)}
        assert stored_runs == {(d.name, r.name, s) for d in grid.datasets for r in grid.recipes for s in grid.seeds}


@pytest.mark.parametrize(
    "name", ["suite/o2o-small.yml", "suite/ablations.yml", "suite/unseen.yml", "suite/regression.yml"]
)
def test_grids_of_the_suite_can_be_planned(name: str, tmp_path: Path) -> None:
    """Their recipes, arguments and callbacks exist; the datasets need not be here, the package's stands for them."""
    grid = read_grid(BENCHMARKS / name)
    environments = {
        "hopper": "Hopper-v5",
        "halfcheetah": "HalfCheetah-v5",
        "walker2d": "Walker2d-v5",
        "pointmaze": "PointMaze_UMaze-v3",
    }
    datasets = [
        Entry(each.name, str(DEMO_DATASET), each.env or environments.get(each.name.split("-")[0], "Pendulum-v1"))
        for each in grid.datasets
    ]
    plan = make_plan(type(grid)(**{**vars(grid), "datasets": datasets}), tmp_path)
    fine_tunings = [each for each in plan.runs if each.phase == "online"]
    assert len(fine_tunings) == len(grid.datasets) * len(grid.recipes) * len(grid.seeds)
