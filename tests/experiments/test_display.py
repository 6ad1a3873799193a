"""What a running experiment shows, in a terminal and in a log."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from experiments.grids import grid, plan_of
from sb3_o2o.cli.experiment_display import ExperimentDisplay
from sb3_o2o.experiments import run
from sb3_o2o.experiments.grid_folder import Status


def shown(tmp_path: Path, terminal: bool, height: int = 40) -> str:
    """A waiting run, one in the middle, and one that has failed; then the second is finished."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, height=height, no_color=True)
    recipes = [{"recipe": "sac", "name": name} for name in ("late", "now", "broken")]
    plan = plan_of(grid("", datasets=[{"env": "TinyBox-v0", "name": "tiny"}], recipes=recipes), tmp_path)
    running = Status("running", "online", 1_000, 5_000, 12.34, "score", 100.0, 10.0, times={"online": {"0": 1.0}})
    statuses = {
        "tiny-late-s0": Status(),
        "tiny-now-s0": running,
        "tiny-broken-s0": Status("failed", error="ValueError: it broke"),
    }
    with ExperimentDisplay(console, plan) as display:
        display.show(statuses)
        display.show({**statuses, "tiny-now-s0": Status("finished", "online", 5_000, 5_000, 20.0)})
    return stream.getvalue()


def test_a_terminal_shows_a_table(tmp_path: Path) -> None:
    output = shown(tmp_path, terminal=True)
    assert "small: 1 running, 1 failed, 1 waiting" in output
    line = next(line for line in output.splitlines() if "tiny-now-s0" in line)
    assert line.split()[-7:] == ["tiny-now-s0", "running", "online", "1,000/5,000", "12.3", "100/s", "0:00:40"]
    assert "small: 1 failed, 1 waiting, 1 finished" in output


def test_a_small_terminal_shows_what_runs(tmp_path: Path) -> None:
    output = shown(tmp_path, terminal=True, height=4)
    assert "tiny-now-s0" in output
    assert "small:" in output


def test_a_log_has_a_line_for_each_change(tmp_path: Path) -> None:
    lines = shown(tmp_path, terminal=False).splitlines()
    assert len(lines) == 3
    assert lines[0].split() == [
        *("tiny-now-s0", "running", "online", "1,000/5,000", "score", "12.3", "100/s", "0:00:40", "left")
    ]
    assert lines[1].split("  ")[-1].strip() == "ValueError: it broke"
    assert "finished" in lines[2]


def test_one_call_in_python(tmp_path: Path) -> None:
    document = grid("", datasets=[{"env": "TinyBox-v0", "name": "tiny"}], recipes=["sac"])
    statuses = run(document, tmp_path, workers=0)
    assert {name: status.state for name, status in statuses.items()} == {"tiny-sac-s0": "finished"}
    assert (tmp_path / "small" / "runs.csv").is_file()


def test_a_part_in_python_and_then_the_rest(tmp_path: Path) -> None:
    recipes = [{"recipe": "sac", "name": name} for name in ("one", "other")]
    document = grid("", datasets=[{"env": "TinyBox-v0", "name": "tiny"}], recipes=recipes, seeds=2)
    assert list(run(document, tmp_path, workers=0, recipes=["other"], seeds=[1])) == ["tiny-other-s1"]
    assert sorted(each.parent.name for each in tmp_path.glob("small/*/online")) == ["tiny-other-s1"]
    for part, message in (({"datasets": ["tinny"]}, "Did you mean 'tiny'"), ({"seeds": [7]}, "Unknown seed .*'7'")):
        with pytest.raises(ValueError, match=message):
            run(document, tmp_path, workers=0, **part)
    assert len(run(document, tmp_path, workers=0, datasets=["tiny"])) == 4
