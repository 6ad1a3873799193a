"""Going on with an interrupted run: what may be said beside ``--resume``, and what Ctrl-C says."""

import errno
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import typer
import typer.main
from command_line import SHORT, SMALL, fails, sb3_o2o, succeeds

from sb3_o2o import ResumeBundle
from sb3_o2o.cli import app
from sb3_o2o.cli.run_progress import RunProgress
from sb3_o2o.files import locked

Interrupted = Callable[..., tuple[str, Path]]
#: of a recipe that says how many critics there are
SIZES = ["--set", "policy_kwargs.net_arch=[4]", "--set", "batch_size=4", "--set", "buffer_size=100"]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """Runs a command, presses Ctrl-C at its second step, and gives what it said and the run's folder."""

    def run(*arguments: Any) -> tuple[str, Path]:
        on_step = RunProgress._on_step

        def pressing(self: RunProgress) -> bool:
            if self.num_timesteps == 2:
                signal.raise_signal(signal.SIGINT)
            return on_step(self)

        with monkeypatch.context() as patch:
            patch.setattr(RunProgress, "_on_step", pressing)
            result = sb3_o2o(*arguments)
        assert result.exit_code == 130, result.output
        (folder,) = re.findall(r"Run folder: (\S+)", result.output)
        return result.output, Path(folder)

    return run


class TestOptionsBesideResume:
    @pytest.mark.parametrize(
        ("option", "words"),
        [
            (["--gradient-steps", "7"], "--gradient-steps is 6 there, not 7"),
            (["--seed", "3"], "--seed is 0 there, not 3"),
            (["--recipe", "bc"], "--recipe is cql there, not bc"),
            (["--env", tiny.GOAL], f"--env is {tiny.BOX} there, not {tiny.GOAL}"),
            (["other/data-v0"], "DATASET is tests/tinybox-v0/random-v0 there, not other/data-v0"),
            (["--evaluations", "1"], "--evaluations is 2 there, not 1"),
            (["--eval-episodes", "1"], "--eval-episodes is 2 there, not 1"),
            (["--checkpoints", "2"], "--checkpoints is 1 there, not 2"),
            (["--diagnostics"], "--diagnostics is False there, not True"),
            (["--log-dir", "elsewhere"], "--log-dir is runs there, not elsewhere"),
            (["--device", "meta"], "--device is auto there, not meta"),
            (["--set", "batch_size=8"], "--set batch_size is 4 there, not 8"),
            (["--set", "gamma=0.5"], "--set gamma is 0.99 there, not 0.5"),
            (["--set", "objective_kwargs.cql_weight=0.5"], "--set objective_kwargs.cql_weight is 10.0 there, not 0.5"),
            (["--seed", "3", "--checkpoints", "2"], "--seed is 0 there, not 3; --checkpoints is 1 there, not 2"),
        ],
    )
    def test_contradictions_are_refused(
        self, option: list[str], words: str, tiny_dataset: Callable[..., str], interrupted: Interrupted
    ) -> None:
        given = ["pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", "6", *SMALL, *SHORT]
        _, folder = interrupted(*given)
        before = sorted(folder.rglob("*"))
        assert f"goes on as it began: {words}. Leave that out" in fails("pretrain", "--resume", folder, *option)
        assert sorted(folder.rglob("*")) == before

    def test_what_the_run_says_too_is_welcome(self, tiny_dataset: Callable[..., str], interrupted: Interrupted) -> None:
        given = ["pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", "6", *SMALL, *SHORT]
        _, folder = interrupted(*given)
        same = ["--log-dir", folder.resolve().parent, "--seed", "0", "--device", "cpu", "--set", "gamma=0.99"]
        assert "offline policy" in succeeds(*given, "--resume", folder, *same)

    def test_a_module_that_the_run_names_is_trusted(
        self, tiny_dataset: Callable[..., str], interrupted: Interrupted
    ) -> None:
        env = f"tiny_module:{tiny.BOX}"
        given = ["--recipe", "cql", "--env", env, "--gradient-steps", "6", *SMALL, *SHORT]
        output, folder = interrupted("pretrain", tiny_dataset(), *given)
        assert f"Go on with: sb3-o2o pretrain --resume {folder} --trust" in output

    def test_of_finetuning(self, tiny_dataset: Callable[..., str], interrupted: Interrupted) -> None:
        Path("mine.yml").write_text("default: {batch_size: 4, buffer_size: 30}\nevaluation: {default: {eval_freq: 8}}")
        given = ["finetune", "--env", tiny.BOX, "--recipe", "mine.yml", "--steps", "6", "--eval-episodes", "1"]
        _, folder = interrupted(*given)
        wrong = ["--steps", "9", "--n-envs", "2", "--evaluations", "3"]
        words = "--steps is 6 there, not 9; --n-envs is 1 there, not 2; --evaluations is one every 8 steps there, not 3"
        assert words in fails("finetune", "--resume", folder, *wrong)
        succeeds(*given, "--resume", folder)

    @pytest.mark.parametrize("is_gone", [False, True])
    def test_it_is_the_run_that_counts_and_not_its_recipes_file(
        self, is_gone: bool, tiny_dataset: Callable[..., str], interrupted: Interrupted
    ) -> None:
        about = "about: {algorithm: O2OTD3}\n"
        entry = "batch_size: 4, n_critics: 2, policy_kwargs: {net_arch: [4]}, dataset_kwargs: {fraction: 0.5}"
        recipe = Path("mine.yml")
        recipe.write_text(f"{about}default: {{{entry}, buffer_size: 70, objective: td3_bc}}\n")
        given = ["finetune", "--dataset", tiny_dataset(), "--env", tiny.BOX, "--recipe", "mine.yml", "--steps", "6"]
        given += ["--pretrain-steps", "4", "--set", "gamma=0.9", "--set", "objective_kwargs.alpha=2.0", *SHORT]
        _, folder = interrupted(*given)
        if is_gone:
            recipe.unlink()
        else:
            recipe.write_text(f"{about}default: {{buffer_size: 50, dataset_kwargs: {{fraction: wrong}}}}\n")
        assert "--set buffer_size is 70 there, not 50" in fails(
            "finetune", "--resume", folder, "--set", "buffer_size=50"
        )
        wrong = "objective_kwargs.alpha=3.0"
        assert "alpha is 2.0 there, not 3.0" in fails("finetune", "--resume", folder, "--set", wrong)
        output = succeeds(*given, "--set", "buffer_size=70", "--set", "tau=0.005", "--resume", folder)
        assert "fine-tuned policy (6 steps)" in output

    def test_a_folder_of_data_that_is_named_again(self) -> None:
        from sb3_o2o.cli.resume_options import _values
        from sb3_o2o.runs.environments import Environment
        from sb3_o2o.runs.folder import RunConfig, RunFolder

        Path("lerobot").mkdir()
        config = RunConfig("pretrain", Environment(tiny.BOX), dataset=str(Path("lerobot").resolve()))
        here, given = _values("dataset", "lerobot", config, RunFolder(Path("runs/x")))
        assert here == given

    def test_of_the_demo(self, interrupted: Interrupted) -> None:
        sizes = ["--gradient-steps", "4", "--steps", "30", "--warmup", "10", "--n-critics", "2"]
        short = ["--eval-episodes", "1", "--evaluations", "1", "--set", "batch_size=8"]
        _, folder = interrupted("demo", *sizes, *short)
        wrong = ["--warmup", "11", "--n-critics", "3", "--n-actions", "2"]
        words = "--warmup is 10 there, not 11; --n-critics is 2 there, not 3; --n-actions is 4 there, not 2"
        assert words in fails("demo", *sizes, *wrong, "--resume", folder)

    def test_every_option_is_known(self) -> None:
        """A new option of these commands needs a value of the run to be compared with."""
        from sb3_o2o.cli.resume_options import _FIELDS
        from sb3_o2o.runs.folder import RunConfig

        special = {"settings", "resume", "trust", "env", "log_dir", "warmup", "n_critics", "n_actions"}
        commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
        for command in ("pretrain", "finetune", "demo"):
            for parameter in commands[command].params:
                if parameter.name not in {*special, "help"}:
                    assert _FIELDS.get(parameter.name, parameter.name) in RunConfig.__dataclass_fields__


class TestCtrlC:
    """No traceback, and a word on what was saved."""

    def pressed_in(self, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
        def press(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(target, press)

    @pytest.mark.parametrize("where", ["runs.training.OfflineDataset.load", "runs.folder.RunFolder.write_start"])
    def test_before_training(
        self, where: str, tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = tiny_dataset()
        self.pressed_in(monkeypatch, f"sb3_o2o.{where}")
        result = sb3_o2o("pretrain", dataset, "--recipe", "cql", "--gradient-steps", "2", *SMALL, *SHORT)
        assert (result.exit_code, result.stderr) == (130, "Interrupted before training started: nothing was saved.\n")
        assert not Path("runs").exists()

    def test_twice_before_the_first_step(
        self, tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset = tiny_dataset()
        self.pressed_in(monkeypatch, "sb3_o2o.evaluation.eval_callback.evaluate")
        result = sb3_o2o("pretrain", dataset, "--recipe", "cql", "--gradient-steps", "2", *SMALL, *SHORT)
        assert (result.exit_code, result.stderr) == (130, "Interrupted before training started: nothing was saved.\n")
        assert not Path("runs").exists()

    def test_twice_while_training(self, tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = tiny_dataset()
        on_step = RunProgress._on_step

        def pressing(self: RunProgress) -> bool:
            for _ in range(2 if self.num_timesteps == 5 else 0):
                signal.raise_signal(signal.SIGINT)
            return on_step(self)

        monkeypatch.setattr(RunProgress, "_on_step", pressing)
        options = ["--gradient-steps", "6", *SMALL, "--eval-episodes", "1", "--checkpoints", "3"]
        result = sb3_o2o("pretrain", dataset, "--recipe", "cql", *options)
        folder = "runs/cql-TinyBox-v0_1"
        assert result.exit_code == 130
        assert f"last state was not saved. Run folder: {folder}\n" in result.stderr
        assert f"Its last saved model: {folder}/offline/checkpoints/model_4_steps.zip\n" in result.stderr

    def test_before_going_on(
        self, tiny_dataset: Callable[..., str], interrupted: Interrupted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, folder = interrupted("pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", "6", *SMALL, *SHORT)
        with monkeypatch.context() as patch:
            self.pressed_in(patch, "sb3_o2o.runs.training.OfflineDataset.load")
            result = sb3_o2o("pretrain", "--resume", folder)
        assert result.exit_code == 130
        (command,) = re.findall(r"Go on from where the run was before with: sb3-o2o (.+)", result.stderr)
        succeeds(*command.split())

    def test_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pressed_in(monkeypatch, "sb3_o2o.runs.environments.Environment.make")
        result = sb3_o2o("collect", tiny.BOX, "tests/x/y-v0", "--n-steps", "5")
        assert (result.exit_code, result.stderr) == (130, "Interrupted: nothing was saved.\n")


class TestKilled:
    """What the command line says of a run that ended without asking."""

    @pytest.fixture
    def failing(self, tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
        """Runs a command with bundles every two steps, which fails at its fifth; gives the run's folder."""

        def run(error: BaseException | None = None) -> Path:
            on_step = RunProgress._on_step

            def crashing(self: RunProgress) -> bool:
                if self.num_timesteps == 5:
                    raise error or RuntimeError("the simulator crashed")
                return on_step(self)

            given = ["pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", "6", *SMALL, *SHORT]
            with monkeypatch.context() as patch:
                patch.setattr(RunProgress, "_on_step", crashing)
                patch.setattr("sb3_o2o.runs.training.ResumeBundle", often)
                self.result = sb3_o2o(*given)
            assert self.result.exit_code != 0
            return Path("runs/cql-TinyBox-v0_1")

        return run

    def test_an_error_says_how_to_go_on(self, failing: Callable[..., Path]) -> None:
        folder = failing()
        said = self.result.stderr
        assert "The run stopped with an error. Its last resume bundle: 4 gradient steps of pre-training" in said
        assert said.rstrip().endswith(f"sb3-o2o pretrain --resume {folder}")
        output = succeeds("pretrain", "--resume", folder)
        assert "Going on from bundle_000002: 4 gradient steps of pre-training (phase: pretraining), saved 20" in output
        assert "offline policy" in output
        assert not (folder / "resume").exists()

    def test_a_full_disk(self, failing: Callable[..., Path]) -> None:
        folder = failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "evaluations.npz"))
        assert self.result.exit_code == 2
        assert "Error: [Errno 28] No space left on device: 'evaluations.npz'" in self.result.stderr
        assert "offline policy" in succeeds("pretrain", "--resume", folder)

    @pytest.mark.parametrize(
        "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "log"), KeyboardInterrupt(), ValueError("no")]
    )
    def test_in_a_phase_before_the_first_step(
        self, error: BaseException, tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its updates are no steps of either kind, and as much work."""
        data = tiny_dataset()
        succeeds("pretrain", data, "--recipe", "o2sac", "--gradient-steps", 2, *SIZES, *SHORT)
        heard = RunProgress.on_phase_step

        def crashing(self: RunProgress, name: str, done: int, *rest: Any) -> None:
            if done == 5:
                raise error
            heard(self, name, done, *rest)

        folder, phase = Path("runs/o2sac-TinyBox-v0_2"), "finetuning=[{PolicyReevaluation: {gradient_steps: 6}}]"
        with monkeypatch.context() as patch:
            patch.setattr(RunProgress, "on_phase_step", crashing)
            patch.setattr("sb3_o2o.runs.training.ResumeBundle", often)
            options = ("--recipe", "o2sac", "--steps", 8, "--set", phase, *SIZES, *SHORT)
            result = sb3_o2o("finetune", "runs/o2sac-TinyBox-v0_1", *options)
        assert result.exit_code != 0
        said = re.sub(r"\s+", " ", result.stderr)
        assert "4 updates of reevaluation" in said
        assert f"sb3-o2o finetune --resume {folder}" in said
        assert "Going on from bundle_000002: 2 gradient steps of pre-training, 4 updates of" in succeeds(
            "finetune", "--resume", folder
        )

    def test_a_damaged_bundle_is_passed_over(self, failing: Callable[..., Path]) -> None:
        folder = failing()
        (folder / "resume" / "bundle_000002" / "state.zip").write_bytes(b"")
        result = sb3_o2o("pretrain", "--resume", folder)
        assert result.exit_code == 0
        assert re.search(r"Warning: .*bundle_000002 is damaged: state.zip has 0 bytes .* The one before", result.stderr)
        assert "Going on from bundle_000001: 2 gradient steps" in result.output

    def test_before_the_first_bundle_it_begins_again(self, failing: Callable[..., Path]) -> None:
        folder = failing()
        shutil.rmtree(folder / "resume")
        left = folder / "offline" / "checkpoints" / "of_before.zip"
        left.parent.mkdir(exist_ok=True)
        left.write_text("")
        output = succeeds("pretrain", "--resume", folder)
        assert "ended before its first resume bundle was written: it begins again" in output
        assert "offline policy" in output
        assert not left.exists()

    def test_a_run_that_goes_on_is_refused_to_others(self, failing: Callable[..., Path]) -> None:
        folder = failing()
        with locked(folder):
            text = fails("pretrain", "--resume", folder)
        assert re.search(rf"in use by process {os.getpid()} on \S+ \(since 20", text)
        succeeds("pretrain", "--resume", folder)

    def test_what_killed_writers_left_is_removed(self, failing: Callable[..., Path]) -> None:
        folder = failing()
        (folder / ".evaluations.npz.abc.incomplete").write_text("")
        (folder / "resume" / ".bundle_000003.abc.incomplete").mkdir()
        succeeds("pretrain", "--resume", folder)
        assert not list(folder.rglob("*.incomplete"))

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_other_signals(
        self, number: signal.Signals, tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_step = RunProgress._on_step

        def pressing(self: RunProgress) -> bool:
            if self.num_timesteps == 2:
                signal.raise_signal(number)
            return on_step(self)

        with monkeypatch.context() as patch:
            patch.setattr(RunProgress, "_on_step", pressing)
            result = sb3_o2o("pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", "6", *SMALL, *SHORT)
        assert result.exit_code == 128 + number
        assert "Interrupted and saved. Go on with:" in result.output
        assert "2 gradient steps of pre-training" in succeeds("pretrain", "--resume", "runs/cql-TinyBox-v0_1")


def often(path: Path, evaluation_seconds: float) -> ResumeBundle:
    """A bundle every two steps."""
    assert evaluation_seconds == 60.0
    return ResumeBundle(path, every=2, min_seconds=0.0, max_share=None)
