"""What a run shows of its progress: bars in a terminal, lines elsewhere."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import tiny
from command_line import SHORT, SMALL, sb3_o2o, succeeds
from rich.console import Console
from stable_baselines3 import PPO

from sb3_o2o import O2OSAC
from sb3_o2o.cli.run_progress import RunProgress
from sb3_o2o.progress import Bars, Lines, Remarks
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig, RunFolder
from sb3_o2o.runs.training import Interrupted, prepare, train

PHASES = [{"PolicyReevaluation": {"gradient_steps": 5}}, {"ValueAlignment": {"gradient_steps": 7}}]


class Watched(RunProgress):
    """Notes where every bar stands just before it is taken down, and can press stop inside a phase."""

    def __init__(self, terminal: bool = True, stop_at: tuple[str, int] = ("", 0)):
        super().__init__(Console(file=io.StringIO(), force_terminal=terminal, width=200))
        self.stop_at = stop_at
        self.shown: list[tuple[str, str, float, float | None]] = []
        self.losses: dict[str, str] = {}

    def on_phase_step(self, name: str, done: int, *args: Any) -> None:
        super().on_phase_step(name, done, *args)
        if (name, done) == self.stop_at:
            self.model.request_stop()  # type: ignore[attr-defined]

    def close(self) -> None:
        progress = getattr(self.display, "progress", None)
        for task in progress.tasks if progress is not None else ():
            name = task.description.removeprefix("[bold]").removesuffix("[/]").strip()
            self.shown.append((name, task.fields["unit"], task.completed, task.total))
            self.losses[name] = task.fields["losses"]
        super().close()


def start(dataset: str, tmp_path: Path) -> tuple[RunConfig, RunFolder]:
    config = RunConfig(
        command="finetune",
        environment=Environment(tiny.BOX),
        dataset=dataset,
        overrides={"batch_size": 4, "buffer_size": 50, "policy_kwargs": {"net_arch": [4]}, "finetuning": PHASES},
        pretrain_steps=3,
        online_steps=6,
        n_eval_episodes=1,
        n_evaluations=1,
        n_checkpoints=0,
    )
    return config, RunFolder.create(tmp_path, "run")


OFFLINE = ("offline", "gradient steps", 3, 3)


def test_phases_of_gradient_steps_have_bars_of_their_own(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    config, folder = start(tiny_dataset(), tmp_path)
    bars = Watched()
    train(prepare(config), folder, bars)
    assert bars.shown == [
        OFFLINE,
        ("online", "environment steps", 6, 6),
        ("reevaluation", "gradient steps", 5, 5),
        ("alignment", "gradient steps", 7, 7),
    ]
    assert bars.losses["online"] == ""
    assert "critic_loss" in bars.losses["reevaluation"]
    assert "actor_loss" in bars.losses["alignment"]
    drawn = bars.console.file.getvalue()  # type: ignore[attr-defined]
    assert "reevaluation" in drawn
    assert "critic_loss" in drawn


@pytest.mark.parametrize("phase", ["reevaluation", "alignment"])
def test_bars_go_on_with_an_interrupted_run(phase: str, tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    config, folder = start(tiny_dataset(), tmp_path)
    stopped, resumed = Watched(stop_at=(phase, 2)), Watched()
    with pytest.raises(Interrupted):
        train(prepare(config), folder, stopped)
    assert stopped.shown[-1] == (phase, "gradient steps", 2, 5 if phase == "reevaluation" else 7)
    train(prepare(config, folder.resume_bundle), folder, resumed)
    n_bars = 3 if phase == "reevaluation" else 2
    before, shown = resumed.shown[:-n_bars], resumed.shown[-n_bars:]
    assert shown[0] == ("online", "environment steps", 6, 6)
    assert shown[-1] == ("alignment", "gradient steps", 7, 7)
    assert before == stopped.shown[: len(before)]  # what a callback noted comes along in the bundle


def test_outside_a_terminal_there_are_no_bars(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    config, folder = start(tiny_dataset(), tmp_path)
    bars = Watched(terminal=False)
    train(prepare(config), folder, bars)
    assert bars.shown == []
    written = bars.console.file.getvalue()  # type: ignore[attr-defined]
    assert "gradient steps" in written  # the lines of the evaluations
    assert "reevaluation         5 of 5 gradient steps in 0:00:0" in written
    assert "━" not in written


def test_preparation_has_a_bar() -> None:
    bars = Watched()
    bars.begin_phase("offline", 0, 9, None)  # type: ignore[arg-type]
    for done in (1, 2):
        bars.on_preparation_step("density (VAE)", done, 4)
    bars.close()
    assert bars.shown == [("offline", "gradient steps", 0, 9), ("density (VAE)", "gradient steps", 2, 4)]


class TestHeartbeat:
    """Outside a terminal a line now and then, with rate and time left, in every phase."""

    def test_every_phase_has_lines(self, tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
        config, folder = start(tiny_dataset(), tmp_path)
        progress = Watched(terminal=False)
        now, show = [0.0], progress.display.show

        def show_20_seconds_later(*what: Any) -> None:
            now[0] += 20.0
            show(*what)

        progress.display.clock = lambda: now[0]  # type: ignore[attr-defined]
        progress.display.show = show_20_seconds_later  # type: ignore[assignment]
        train(prepare(config), folder, progress)
        lines = progress.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        for expected in (
            "offline          2 of 3 gradient steps, 0.05/s, 0:00:20 left",
            "reevaluation         3 of 5 gradient steps, 0.05/s, 0:00:40 left",
            "alignment         3 of 7 gradient steps, 0.05/s, 0:01:20 left",
            "online           3 of 6 environment steps, 0.05/s, 0:01:00 left",
        ):
            assert [line for line in lines if line.startswith(expected)], (expected, lines)

    def test_it_is_not_more_often_than_every_half_minute(self) -> None:
        console, now = Console(file=io.StringIO(), width=200), 0.0
        lines = Lines(console, clock=lambda: now)
        lines.open()
        for step in range(1001):
            now = 0.1 * step
            lines.show("online", "environment steps", step, 2000)
        assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
            "online         300 of 2,000 environment steps, 10/s, 0:02:50 left",
            "online         600 of 2,000 environment steps, 10/s, 0:02:20 left",
            "online         900 of 2,000 environment steps, 10/s, 0:01:50 left",
        ]

    def test_a_pause_is_not_the_speed(self) -> None:
        """Ten steps a second, and after 100 an evaluation of 50 seconds: 100 steps a minute, and 19 minutes left."""
        console, now = Console(file=io.StringIO(), width=200), 0.0
        terminal = Console(file=io.StringIO(), force_terminal=True, width=200)
        lines, bars = Lines(console, clock=lambda: now), Bars(terminal, clock=lambda: now)
        for shown in (lines, bars):
            shown.open()
        for step in range(102):
            now = 0.1 * step + 50.0 * (step > 100)
            for shown in (lines, bars):
                shown.show("online", "environment steps", step, 2000)
        assert bars.progress is not None
        (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert line == "online         101 of 2,000 environment steps, 1.7/s, 0:18:50 left"
        paper = Console(file=io.StringIO(), width=200)
        paper.print(bars.progress.get_renderable())
        bars.close()
        assert "0:21:57 1.4/s" in paper.file.getvalue()  # type: ignore[attr-defined]

    def test_of_what_is_cloned(self, tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        """From a policy of another family the run begins with cloning, before there is a folder."""
        monkeypatch.setattr("sb3_o2o.progress.HEARTBEAT", 0.0)
        PPO("MlpPolicy", gym.make(tiny.BOX), n_steps=8, batch_size=8).save("ppo")
        dataset = tiny_dataset()
        monkeypatch.setattr("sb3_o2o.transfer.cloning.DEFAULT_STEPS", 3)
        options = ["--dataset", dataset, "--env", tiny.BOX, "--recipe", "sac", "--steps", "10", *SMALL, *SHORT]
        assert "cloning 2 of 3 gradient steps" in succeeds("finetune", "ppo", *options)

    def test_of_collecting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sb3_o2o.progress.HEARTBEAT", 0.0)
        result = sb3_o2o("collect", tiny.BOX, "tests/x/y-v0", "--n-steps", "5")
        assert "3 of 5 steps" in result.stderr

    def test_of_benchmarks(self) -> None:
        console, now = Console(file=io.StringIO(), width=200), 0.0
        say = Remarks(console, clock=lambda: now)
        for second in range(70):
            now = float(second)
            say(f"round {second}")
        assert console.file.getvalue().split("\n") == ["round 0", "round 30", "round 60", ""]  # type: ignore[attr-defined]


class TestNarrowTerminals:
    """A bar is one line of 80 columns, whatever its numbers."""

    @pytest.mark.parametrize("name", ["online", "reevaluation", "density (VAE)"])
    @pytest.mark.parametrize("width", [80, 120])
    def test_a_bar_is_one_whole_line(self, name: str, width: int) -> None:
        console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
        bars = Bars(console)
        bars.open()
        bars.show(name, "environment steps", 600_000, 1_000_000, "critic_loss 0.0123, actor_loss 2.2")
        assert bars.progress is not None
        task = bars.progress.tasks[0]
        task.start_time = bars.progress.get_time() - 36_000.0  # ten hours
        paper = Console(file=io.StringIO(), width=width)
        paper.print(bars.progress.get_renderable())
        bars.close()
        (line,) = paper.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert len(line) <= width
        assert line.startswith(f"{name} ")
        for part in (" 600000/1000000 environment steps", "10:00:00", ":--:--"):
            assert part in line
        assert "…" not in line
        assert ("critic_loss 0.0123" in line) is (width == 120)


def test_in_python_as_well(
    tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``progress_bar=True`` of pretrain and learn."""
    monkeypatch.setattr("sb3_o2o.progress.HEARTBEAT", 0.0)
    sizes: dict[str, Any] = {"batch_size": 4, "buffer_size": 50, "policy_kwargs": {"net_arch": [4]}}
    model = O2OSAC("MlpPolicy", tiny.BOX, dataset=tiny_dataset(), finetuning=PHASES[:1], **sizes)
    model.pretrain(None, 3, progress_bar=True)
    assert "pre-training         2 of 3 gradient steps, " in capsys.readouterr().out
    model.learn(2, progress_bar=True)
    assert re.search(r"reevaluation +5 of 5 gradient steps in 0:00:0\d   critic_loss", capsys.readouterr().err)
