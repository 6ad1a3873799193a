"""Runs: what a folder holds, that an interruption costs nothing, and that nothing is written before all is checked."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch as th
import yaml

from sb3_o2o import O2OSAC, NonFiniteError, ResumeBundle
from sb3_o2o.algorithms import algorithm_of
from sb3_o2o.diagnostics import read_diagnostics
from sb3_o2o.diagnostics.reporting import _environment_of
from sb3_o2o.evaluation import Evaluation
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig, RunFolder, saved_model
from sb3_o2o.runs.training import Interrupted, RunListener, prepare, train
from sb3_o2o.updates.finite import FiniteWatch

SMALL = {
    "objective": "cql",
    "batch_size": 4,
    "buffer_size": 200,
    "policy_kwargs": {"net_arch": [4]},
    "finetuning": [{"Warmup": {"steps": 10}}],
    "learning_starts": 0,
}


def configuration(dataset: str | None, **changes: Any) -> RunConfig:
    config = RunConfig(
        command="finetune",
        environment=Environment(tiny.BOX),
        dataset=dataset,
        overrides=SMALL,
        pretrain_steps=20 if dataset else 0,
        online_steps=40,
        n_eval_episodes=2,
        n_evaluations=4,
        n_checkpoints=2,
    )
    return replace(config, **changes)


class Interrupting(RunListener):
    """Presses Ctrl-C at one step of one phase, and notes the evaluations."""

    def __init__(self, phase: str = "", step: int = -1):
        super().__init__()
        self.when = (phase, step)
        self.phase = ""
        self.heard: list[tuple[str, int]] = []

    def begin_phase(self, phase: str, *args: Any) -> None:
        super().begin_phase(phase, *args)
        self.phase = phase

    def evaluated(self, step: int, result: Evaluation) -> None:
        self.heard.append((self.phase, step))

    def _on_step(self) -> bool:
        if (self.phase, self.num_timesteps) == self.when:
            signal.raise_signal(signal.SIGINT)
        return super()._on_step()


def run(config: RunConfig, log_dir: Path, listener: RunListener | None = None) -> RunFolder:
    prepared = prepare(config)
    folder = RunFolder.create(log_dir, "run")
    folder.write_start(config, prepared.arguments())
    train(prepared, folder, listener)
    return folder


def parameters(folder: RunFolder) -> th.Tensor:
    algorithm = algorithm_of(folder.model)
    assert algorithm is not None
    model = algorithm.load(folder.model, buffer_size=1)
    return th.cat([parameter.flatten() for parameter in model.policy.parameters()])


def test_a_run_folder_holds_everything(
    tiny_dataset: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/sb3-o2o", "finetune", "--set", "a=[1, 2]"])
    listener = Interrupting()
    folder = run(configuration(tiny_dataset()), tmp_path, listener)
    for phase, steps in (("offline", [0, 5, 10, 15, 20]), ("online", [0, 10, 20, 30, 40])):
        with np.load(folder.path / phase / "evaluations.npz") as saved:
            assert saved["timesteps"].tolist() == steps
            assert saved["results"].shape == (5, 2)
        assert (folder.path / phase / "model.zip").is_file()
        assert (folder.path / phase / "best_model.zip").is_file()
        checkpoints = sorted(path.name for path in (folder.path / phase / "checkpoints").iterdir())
        assert checkpoints == [f"model_{steps[-1] // 2}_steps.zip", f"model_{steps[-1]}_steps.zip"]
        assert list((folder.tensorboard / f"{phase}_1").glob("events.*"))
        assert [step for name, step in listener.heard if name == phase] == steps
    assert folder.picture.stat().st_size > 10_000
    assert folder.model == folder.path / "online" / "model.zip"
    assert not folder.resume_bundle.exists()
    assert (folder.path / "command.txt").read_text() == "sb3-o2o finetune --set 'a=[1, 2]'\n"
    document = yaml.safe_load(folder.config_file.read_text())
    assert document["arguments"]["objective"] == "cql"
    assert document["environment"]["id"] == tiny.BOX


@pytest.mark.parametrize(
    ("phase", "step"), [("offline", 7), ("offline", 20), ("online", 5), ("online", 23), ("online", 40)]
)
def test_interrupted_equals_uninterrupted(
    phase: str, step: int, tiny_dataset: Callable[..., str], tmp_path: Path
) -> None:
    config = configuration(tiny_dataset())
    whole = run(config, tmp_path / "whole")

    prepared = prepare(config)
    folder = RunFolder.create(tmp_path / "parts", "run")
    folder.write_start(config, prepared.arguments())
    try:
        train(prepared, folder, Interrupting(phase, step))
        assert (phase, step) == ("online", 40)  # there is nothing left to stop
    except Interrupted:
        assert folder.picture.is_file()
        train(prepare(folder.read_config(), folder.resume_bundle), folder, Interrupting())

    assert th.equal(parameters(whole), parameters(folder))
    for name in ("offline", "online"):
        with (
            np.load(whole.path / name / "evaluations.npz") as expected,
            np.load(folder.path / name / "evaluations.npz") as found,
        ):
            for key in expected:
                assert np.array_equal(expected[key], found[key]), f"{name}/{key}"


@pytest.mark.parametrize("recipe", ["td3_bc", "iql"])
def test_an_interrupted_run_of_another_recipe(recipe: str, tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    """Its algorithm is found by what it saved."""
    overrides = {name: value for name, value in SMALL.items() if name != "objective"}
    config = configuration(tiny_dataset(), recipe=recipe, overrides=overrides)
    whole = run(config, tmp_path / "whole")
    prepared = prepare(config)
    folder = RunFolder.create(tmp_path / "parts", "run")
    folder.write_start(config, prepared.arguments())
    with pytest.raises(Interrupted):
        train(prepared, folder, Interrupting("online", 25))
    train(prepare(folder.read_config(), folder.resume_bundle), folder, Interrupting())
    assert th.equal(parameters(whole), parameters(folder))


def test_a_second_ctrl_c_stops_at_once(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    class Impatient(Interrupting):
        def _on_step(self) -> bool:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            return True

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(configuration(tiny_dataset()), tmp_path, Impatient())
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.rglob("resume"))


def test_several_environments(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    folder = run(configuration(tiny_dataset(), n_envs=2), tmp_path)
    with np.load(folder.path / "online" / "evaluations.npz") as saved:
        assert saved["timesteps"].tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("n_envs", [1, 2])
def test_evaluations_of_fine_tuning_at_an_interval(
    n_envs: int, tiny_dataset: Callable[..., str], tmp_path: Path
) -> None:
    folder = run(configuration(tiny_dataset(), n_envs=n_envs, eval_freq=12), tmp_path)
    for phase, steps in (("offline", [0, 5, 10, 15, 20]), ("online", [0, 12, 24, 36, 40])):
        with np.load(folder.path / phase / "evaluations.npz") as saved:
            assert saved["timesteps"].tolist() == steps


def test_without_a_dataset(tmp_path: Path) -> None:
    overrides = {**SMALL, "objective": "sac", "finetuning": [], "learning_starts": 5}
    folder = run(configuration(None, overrides=overrides), tmp_path)
    assert not (folder.path / "offline").exists()
    assert folder.picture.is_file()


def test_diagnostics_beside_the_learning_curve(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    """They are written and drawn, and the run is the same without them."""
    dataset = tiny_dataset()
    plain, watched = (run(configuration(dataset, diagnostics=on), tmp_path) for on in (False, True))
    assert not (plain.path / "diagnostics.png").exists()
    assert (watched.path / "diagnostics.png").is_file()
    offline, online = (read_diagnostics(watched.path / phase) for phase in ("offline", "online"))
    assert offline["q_offline"][0].tolist() == [0, 20]
    assert {"kendall_tau", "td_error_online", "policy_kl_offline", "drop"} <= set(online)
    models = [O2OSAC.load(folder.path / "online" / "model", device="cpu") for folder in (plain, watched)]
    for one, other in zip(*(model.policy.state_dict().values() for model in models), strict=True):
        assert th.equal(one, other)


def test_diagnostics_of_deterministic_policies(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    """They have no KL, and the rest is there."""
    overrides = {"batch_size": 4, "buffer_size": 200, "policy_kwargs": {"net_arch": [4]}}
    config = configuration(tiny_dataset(), overrides=overrides, recipe="td3_bc", diagnostics=True)
    found = read_diagnostics(run(config, tmp_path).path / "online")
    assert {"kendall_tau", "td_error_online", "q_kl_offline", "drop"} <= set(found)
    assert np.isnan(found["policy_kl_offline"][1]).all()


def test_diagnostics_of_a_model_without_critics(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    """What it has nothing for is left out, and said before anything is written."""
    fast = {"batch_size": 8, "n_steps": 8, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}
    overrides = {**fast, "finetuning": []}
    config = configuration(tiny_dataset(), overrides=overrides, recipe="o2ppo", diagnostics=True)
    with pytest.warns(UserWarning, match=r"left out: QValueDiag.*, DataDiag.*, DriftDiag.* O2OPPO has no critics"):
        folder = run(config, tmp_path)
    assert not (folder.path / "offline" / "diagnostics").exists()
    assert set(read_diagnostics(folder.path / "online")) == {"drop", "steps_to_recover", "regret"}
    assert (folder.path / "diagnostics.png").is_file()


class TestSources:
    def test_a_run_is_fine_tuned_by_a_recipe(self, tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
        first = run(configuration(tiny_dataset(), command="pretrain", online_steps=0), tmp_path)
        config = configuration(
            None,
            source=saved_model(str(first.path)),
            recipe="wsrl",
            overrides={"batch_size": 4, "buffer_size": 100, "finetuning": []},
        )
        with pytest.warns(UserWarning, match="What was trained wins over recipe 'wsrl'"):
            folder = run(config, tmp_path)
        document = yaml.safe_load(folder.config_file.read_text())
        assert document["arguments"]["n_critics"] == 2  # the recipe's ten give way to what was trained
        assert document["arguments"]["gradient_steps"] == 4

    def test_a_source_that_was_pre_trained_is_pre_trained_for_as_long_as_asked(
        self, tiny_dataset: Callable[..., str], tmp_path: Path
    ) -> None:
        dataset = tiny_dataset()
        first = run(configuration(dataset, command="pretrain", online_steps=0), tmp_path)  # 20 steps
        for n in (20, 8, 32):
            config = configuration(dataset, source=saved_model(str(first.path)), pretrain_steps=n, online_steps=10)
            listener = Interrupting()
            once = run(config, tmp_path, listener)
            assert [step for phase, step in listener.heard if phase == "offline"] == [n * i // 4 for i in range(5)]
            source, made = (O2OSAC.load(each.path / "offline" / "model.zip", buffer_size=1) for each in (first, once))
            assert made.n_pretrain_steps == n
            before, after = (each.actor.mu.weight for each in (source, made))
            assert not th.equal(before, after)
        twice = RunFolder.create(tmp_path, "run")
        with pytest.raises(Interrupted):
            train(prepare(config), twice, Interrupting("offline", 23))
        train(prepare(config, twice.resume_bundle), twice)
        assert th.equal(parameters(twice), parameters(once))

    def test_saved_model_finds_zips_and_runs(self, tmp_path: Path) -> None:
        (tmp_path / "model.zip").touch()
        assert saved_model(str(tmp_path / "model")) == saved_model(str(tmp_path / "model.zip"))
        with pytest.raises(ValueError, match="no saved model and no run folder at"):
            saved_model(str(tmp_path / "nothing"))
        with pytest.raises(ValueError, match=r"has no config\.yml"):
            saved_model(str(tmp_path))
        (tmp_path / "config.yml").touch()
        with pytest.raises(ValueError, match="has not saved a model yet"):
            saved_model(str(tmp_path))


class TestConfig:
    def test_survives_yaml(self) -> None:
        environment = Environment("X-v0", {"maze": [[1, 0], [0, 1]], "goal": False}, 300, ["a.B", {"c.D": {"e": 1}}])
        config = RunConfig("finetune", environment, "wsrl", "data", "zip", {"a": {"b": [1, 2.5]}}, 3, 4, n_envs=2)
        assert RunConfig.from_yaml(config.to_yaml({"learning_rate": 1e-4, "train_freq": (1, "step")})) == config

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("", "it is empty"),
            ("- a", "it has no names of settings"),
            ("[", "while parsing"),
            ("recipe: x", "it has no command and no environment"),
            ("environment: {}", "it has no command"),
            ("command: x\nenvironment: {id: 1, b: 2}", "'b'"),
            ("command: x\nenvironment: 3", "mapping"),
        ],
    )
    def test_damaged_files(self, text: str, fault: str) -> None:
        with pytest.raises(ValueError, match=rf"(?s)here\.yml is not the configuration of a run .*{fault}"):
            RunConfig.from_yaml(text, "here.yml")

    def test_a_file_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config.yml").write_bytes(b"command: \xff\x00")
        for read in (RunFolder(tmp_path).read_config, lambda: _environment_of(tmp_path / "config.yml")):
            with pytest.raises(ValueError, match=r"config\.yml is not the configuration of a run .*can't decode"):
                read()

    @pytest.mark.parametrize(
        "changes",
        [
            {"online_steps": -1},
            {"n_envs": 0},
            {"n_evaluations": 0},
            {"eval_freq": 0},
            {"n_checkpoints": -1},
            {"pretrain_steps": 1},
        ],
    )
    def test_rejections(self, changes: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=f"{next(iter(changes))}|dataset"):
            configuration(None, **changes)


class TestFolders:
    def test_numbers_never_overwrite(self, tmp_path: Path) -> None:
        assert [RunFolder.create(tmp_path / "a" / "b", "x").path.name for _ in range(3)] == ["x_1", "x_2", "x_3"]

    def test_unwritable(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match=r"Cannot write runs to .*/file/runs' .* --log-dir"):
            RunFolder.create(tmp_path / "file" / "runs", "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment": Environment("TinyBix-v0")}, "Did you mean 'TinyBox-v0'"),
        ({"environment": Environment(tiny.GOAL)}, "observation"),
        ({"environment": Environment(tiny.BOX, {"gravity": 3})}, "refuses its arguments"),
        ({"environment": Environment(tiny.BOX, wrappers=["sb3_o2o.wrappers.Nothing"])}, "no environment wrapper"),
        ({"recipe": "wslr"}, "Did you mean 'wsrl'"),
        ({"overrides": {"objective": "cqll"}}, "Did you mean 'cql'"),
        ({"source": "nowhere.zip"}, "no saved model"),
        ({"recipe": "opt_td3", "overrides": {}, "online_steps": 9}, "collects longer than learn would last: 9 steps"),
    ],
)
def test_nothing_is_written_unless_all_fits(
    changes: dict[str, Any], message: str, tiny_dataset: Callable[..., str], tmp_path: Path
) -> None:
    config = configuration(tiny_dataset(), **changes)
    before = set(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        prepare(config)
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"cache"}


class TestRollback:
    """Where earlier weights in memory do not help, a run goes back to its newest bundle."""

    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
        """The critic's loss is NaN from the 20th step on, in so many attempts; gives the first steps of these."""

        def fail(n_attempts: int) -> list[int]:
            check, failed, began = FiniteWatch.check_losses, [], []

            def checking(self: FiniteWatch, losses: dict[str, th.Tensor], batch: Any) -> None:
                model = self.model
                if not any(self is each for each in failed) and len(failed) < n_attempts:
                    failed.append(self)
                    began.append(model.num_timesteps)
                spoilt = any(self is each for each in failed) and "critic" in losses and model.num_timesteps >= 20
                check(self, {**losses, "critic": th.full((), float("nan"))} if spoilt else losses, batch)

            monkeypatch.setattr(FiniteWatch, "check_losses", checking)
            return began

        return fail

    def trained(self, log_dir: Path, on_nonfinite: str) -> RunFolder:
        config = configuration(None, overrides={**SMALL, "objective": "sac", "on_nonfinite": on_nonfinite})
        prepared, folder = prepare(config), RunFolder.create(log_dir, "run")
        folder.write_start(config, prepared.arguments())
        train(prepared, folder, None, ResumeBundle(folder.resume_bundle, every=6, min_seconds=0.0, max_share=None))
        assert prepared.model.num_timesteps == 40
        return folder

    def test_it_goes_on_from_the_newest_bundle(self, failing: Callable[[int], list[int]], tmp_path: Path) -> None:
        began = failing(1)
        words = (
            r"'critic' is nan at .* \(The run has gone back 3 times\.\).* Going back to .*bundle_000003: 18 environment"
        )
        with pytest.warns(UserWarning, match=words) as said:
            folder = self.trained(tmp_path, "rollback")
        assert sum("Time 1 of at most 3" in str(each.message) for each in said) == 1
        assert len(began) == 1
        with np.load(folder.path / "online" / "evaluations.npz") as saved:
            assert saved["timesteps"].tolist() == [0, 10, 20, 30, 40]  # none twice
        assert [each.name for each in folder.path.rglob("nonfinite*")] == ["nonfinite_1.npz"]
        assert not folder.resume_bundle.exists()
        assert folder.model.is_file()

    def test_at_most_three_times(self, failing: Callable[[int], list[int]], tmp_path: Path) -> None:
        began = failing(10)
        with (
            pytest.warns(UserWarning, match="Time 3 of at most 3"),
            pytest.raises(NonFiniteError, match="'critic' is nan"),
        ):
            self.trained(tmp_path, "rollback")
        assert began[1:] == [19] * 3  # the first step after the bundle
        (folder,) = tmp_path.iterdir()
        assert {each.name for each in folder.rglob("nonfinite*")} == {
            *("nonfinite_1.npz", "nonfinite_2.npz", "nonfinite_3.npz", "nonfinite.npz")
        }
        assert (folder / "nonfinite.npz").is_file()

    def test_not_unless_asked_for(self, failing: Callable[[int], list[int]], tmp_path: Path) -> None:
        began = failing(10)
        with pytest.raises(NonFiniteError, match="'critic' is nan at update"):
            self.trained(tmp_path, "raise")
        assert len(began) == 1
