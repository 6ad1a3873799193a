"""The bars of a run in a terminal."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from rich.console import Console

from sb3_o2o.cli.progress import Bars
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig, RunFolder
from sb3_o2o.runs.training import Interrupted, prepare, train

PHASES = [{"PolicyReevaluation": {"gradient_steps": 5}}, {"ValueAlignment": {"gradient_steps": 7}}]


class Watched(Bars):
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
        for task in self._tasks.progress.tasks if self._tasks.progress is not None else ():
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
    shown = resumed.shown[len(stopped.shown) :]  # what a callback noted comes along in the bundle
    assert shown[0] == ("online", "environment steps", 6, 6)
    assert shown[-1] == ("alignment", "gradient steps", 7, 7)
    assert len(shown) == (3 if phase == "reevaluation" else 2)


def test_outside_a_terminal_there_are_none(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    config, folder = start(tiny_dataset(), tmp_path)
    bars = Watched(terminal=False)
    train(prepare(config), folder, bars)
    assert bars.shown == []
    written = bars.console.file.getvalue()  # type: ignore[attr-defined]
    assert "gradient steps" in written  # the lines of the evaluations
    assert "reevaluation" not in written


def test_preparation_has_a_bar() -> None:
    bars = Watched()
    bars.begin_phase("offline", 0, 9, None)  # type: ignore[arg-type]
    for done in (1, 2):
        bars.on_preparation_step("density (VAE)", done, 4)
    bars.close()
    assert bars.shown == [("offline", "gradient steps", 0, 9), ("density (VAE)", "gradient steps", 2, 4)]
