"""A study as a user meets it: trials, workers that share it, what it refuses, and what it leaves."""

import csv
import io
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import minari
import numpy as np
import optuna
import pytest
import tiny
import yaml
from command_line import SHORT, fails, succeeds
from command_line import SMALL as SMALL_OPTIONS
from matplotlib.image import imread
from optuna.trial import TrialState

from sb3_o2o import O2OSAC
from sb3_o2o.evaluation import Evaluation, read_evaluations
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.recipes import load_recipe, open_recipe
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.training import Interrupted
from sb3_o2o.search_space import Choice, Range
from sb3_o2o.tuning import (
    TuningConfig,
    TuningTask,
    make_pruner,
    make_sampler,
    open_storage,
    open_study,
    suggest,
    trials_table,
    tune,
    write_best_recipe,
)
from sb3_o2o.tuning.pictures import importances_of
from sb3_o2o.tuning.storages import signs_of_life
from sb3_o2o.tuning.trials import PruningListener

SMALL = {"policy_kwargs": {"net_arch": [4]}, "batch_size": 4, "buffer_size": 100, "n_critics": 2}


class DivergesAbove(FineTuningCallback):
    """Makes NaN of the policy above a threshold, as a learning rate that is too high would."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def _on_step(self) -> bool:
        if self.rate > 0.5:
            for parameter in self.model.policy.parameters():  # type: ignore[attr-defined]
                parameter.data.fill_(np.nan)
        return True


@pytest.fixture
def config(tiny_dataset: Callable[..., str]) -> Callable[..., TuningConfig]:
    """A study of runs that take a fraction of a second."""

    recorded: list[str] = []

    def make(**changes: Any) -> TuningConfig:
        if not recorded:
            recorded.append(tiny_dataset())
        arguments: dict[str, Any] = {
            "recipe": load_recipe("cql"),
            "environment": Environment(tiny.BOX),
            "space": {"gradient_steps": Choice((1, 2)), "buffer_size": Range(50, 100)},
            "dataset": recorded[0],
            "overrides": {**SMALL, "finetuning": []},
            "pretrain_steps": 2,
            "online_steps": 10,
            "seeds": (0, 1),
            "n_eval_episodes": 1,
            "n_evaluations": 1,
        }
        return TuningConfig(**{**arguments, **changes})

    return make


def states(study: optuna.Study) -> list[str]:
    return [each.state.name for each in study.get_trials()]


def test_trials_share_pre_training_and_are_means_over_seeds(
    config: Callable[..., TuningConfig], tmp_path: Path
) -> None:
    study = tune(config(), tmp_path / "study", 3, name="study", n_startup_trials=2)
    assert states(study) == ["COMPLETE"] * 3
    shared = sorted(tmp_path.glob("study/pretraining/recipe-*/seed_*/offline/model.zip"))
    assert [each.parent.parent.name for each in shared] == ["seed_0", "seed_1"]
    for trial in study.get_trials():
        runs = [Path(trial.user_attrs["folder"]) / f"seed_{seed}" for seed in (0, 1)]
        means = [read_evaluations(run / "online")[1][-1].mean() for run in runs]  # type: ignore[index]
        # the dataset's references are -5 and 0
        assert trial.value == pytest.approx(np.mean([(mean + 5) / 5 * 100 for mean in means]))
        assert list(trial.intermediate_values) == [0, 1]
        assert all((run / "online" / "model.zip").is_file() for run in runs), "models can be collected afterwards"
        settings = yaml.safe_load((runs[0] / "config.yml").read_text())
        assert settings["overrides"]["gradient_steps"] == trial.params["gradient_steps"]


class TestSeveralDatasets:
    """Each trial learns every dataset in its own environment, with the recipe's entry for that."""

    @pytest.fixture
    def several(self, config: Callable[..., TuningConfig], tiny_dataset: Callable[..., str]) -> TuningConfig:
        recipe = replace(load_recipe("cql"), policy="MultiInputPolicy")
        overrides = {**SMALL, "finetuning": []}
        goal = TuningTask(recipe, Environment(tiny.GOAL), tiny_dataset(env_id=tiny.GOAL), overrides)
        return config(also=[goal])

    def test_a_trial_is_the_mean_over_tasks_and_seeds(self, several: TuningConfig, tmp_path: Path) -> None:
        first, second = (task.name for task in several.tasks)
        study = tune(several, tmp_path / "study", 2, name="study", n_startup_trials=2)
        assert states(study) == ["COMPLETE"] * 2
        made = [each.parts[-4:-2] for each in tmp_path.glob("study/pretraining/recipe-*/*/*/*/model.zip")]
        assert sorted(made) == sorted((task, f"seed_{seed}") for task in (first, second) for seed in (0, 1))
        for trial in study.get_trials():
            keys = [f"{first}/0", f"{second}/0", f"{first}/1", f"{second}/1"]
            lasts = [trial.user_attrs["evaluations"][key][1][-1] for key in keys]
            assert trial.value == pytest.approx(np.mean(lasts))
            assert [trial.intermediate_values[place] for place in range(4)] == pytest.approx(lasts)
            for task, env_id in ((first, tiny.BOX), (second, tiny.GOAL)):
                run = Path(trial.user_attrs["folder"]) / task / "seed_1"
                settings = yaml.safe_load((run / "config.yml").read_text())
                assert settings["environment"]["id"] == env_id
                assert settings["overrides"]["gradient_steps"] == trial.params["gradient_steps"]

    def test_the_best_has_an_entry_for_each_environment(
        self, config: Callable[..., TuningConfig], several: TuningConfig, tmp_path: Path
    ) -> None:
        (goal,) = several.also
        entries = config(also=[replace(goal, recipe=replace(goal.recipe, pattern="Other*"))])
        study = tune(entries, tmp_path / "study", 1, name="study")
        path = write_best_recipe(study, entries, tmp_path / "best.yml")
        tuned = study.best_trial.params["gradient_steps"]
        for env_id, policy in ((tiny.BOX, "MlpPolicy"), ("Other-v0", "MultiInputPolicy")):
            recipe = open_recipe(str(path)).entry(env_id)
            assert (recipe.policy, recipe.arguments["gradient_steps"]) == (policy, tuned)

    def test_what_cannot_be_compared_is_refused(
        self, config: Callable[..., TuningConfig], several: TuningConfig
    ) -> None:
        with pytest.raises(ValueError, match="different datasets"):
            config(also=[several.tasks[0]])
        without_steps = replace(several.also[0], recipe=replace(load_recipe("iql"), online_steps=0))
        with pytest.raises(ValueError, match="nothing to train on tests-tinygoal"):
            config(also=[without_steps], pretrain_steps=0, online_steps=None)
        with pytest.raises(ValueError, match="same recipe"):
            config(also=[replace(several.also[0], recipe=load_recipe("iql"))])
        with pytest.raises(ValueError, match="runs of 2 tasks have scores of their own size"):
            make_pruner("median", 4, n_tasks=2)
        assert isinstance(make_pruner(None, 4, n_tasks=2), optuna.pruners.NopPruner)
        assert isinstance(make_pruner(None, 6, n_tasks=2), optuna.pruners.WilcoxonPruner)
        assert isinstance(make_pruner(None, 2), optuna.pruners.MedianPruner)

    def test_raw_returns_have_no_mean(
        self, several: TuningConfig, tiny_dataset: Callable[..., str], tmp_path: Path
    ) -> None:
        minari.delete_dataset(several.also[0].dataset)
        tiny_dataset(env_id=tiny.GOAL, with_references=False)
        with pytest.raises(ValueError, match="no reference scores"):
            tune(several, tmp_path / "study", 1, name="study")

    def test_another_dataset_is_another_study(
        self, config: Callable[..., TuningConfig], several: TuningConfig, tmp_path: Path
    ) -> None:
        tune(several, tmp_path / "study", 1, name="study")
        with pytest.raises(ValueError, match="made for something else: also is"):
            tune(config(), tmp_path / "study", 1, name="study")


def test_what_matters_to_pre_training_is_not_shared(config: Callable[..., TuningConfig], tmp_path: Path) -> None:
    space = {"objective_kwargs.cql_weight": Choice((1.0, 2.0, 3.0, 4.0)), "gradient_steps": Choice((1, 2))}
    study = tune(config(space=space, seeds=(0,)), tmp_path, 4, name="study", sampler="random")
    weights = {each.params["objective_kwargs.cql_weight"] for each in study.get_trials()}
    assert len(list(tmp_path.glob("pretraining/*/seed_0/offline/model.zip"))) == len(weights) > 1


def test_a_new_study_in_the_same_folder_takes_only_models_that_were_made_alike(
    config: Callable[..., TuningConfig], tmp_path: Path
) -> None:
    recipe = load_recipe("cql")
    edited = replace(recipe, arguments={**recipe.arguments, "gamma": 0.5})
    studies: list[dict[str, Any]] = [{}, {"pretrain_steps": 3}, {"recipe": edited}, {}]
    for number, changes in enumerate(studies, start=1):
        made = config(seeds=(0,), **changes)
        study = tune(made, tmp_path, 1, name="study", storage=str(tmp_path / f"{number}.db"))
        (trial,) = study.get_trials()
        asked = yaml.safe_load((Path(trial.user_attrs["folder"]) / "seed_0" / "config.yml").read_text())
        before = yaml.safe_load((Path(asked["source"]).parents[1] / "config.yml").read_text())
        assert before["pretrain_steps"] == made.pretrain_steps
        assert before["arguments"]["gamma"] == made.recipe.arguments["gamma"]
        assert len(list(tmp_path.glob("pretraining/*/seed_0"))) == min(number, 3)


def test_what_pre_training_has_apart_is_tuned_for_fine_tuning_alone(
    config: Callable[..., TuningConfig], tmp_path: Path
) -> None:
    recipe = load_recipe("cql")
    recipe = replace(recipe, arguments={**recipe.arguments, "pretrain_kwargs": {"learning_rate": 0.003}})
    space = {"learning_rate": Choice((0.01, 0.02))}
    study = tune(config(recipe=recipe, space=space, seeds=(0,)), tmp_path, 3, name="study", sampler="random")
    assert states(study) == ["COMPLETE"] * 3
    (shared,) = tmp_path.glob("pretraining/*/seed_0")
    assert O2OSAC.load(shared / "offline" / "model.zip").actor.optimizer.param_groups[0]["lr"] == 0.003
    for trial in study.get_trials():
        model = O2OSAC.load(Path(trial.user_attrs["folder"]) / "seed_0" / "online" / "model.zip")
        assert model.actor.optimizer.param_groups[0]["lr"] == trial.params["learning_rate"]


def test_pre_training_alone(config: Callable[..., TuningConfig], tmp_path: Path) -> None:
    space = {"objective_kwargs.cql_weight": Range(1.0, 10.0)}
    study = tune(config(space=space, online_steps=0, seeds=(0,)), tmp_path, 1, name="study")
    (trial,) = study.get_trials()
    steps, _ = trial.user_attrs["evaluations"]["0"]
    assert steps == [0, 2]
    assert (Path(trial.user_attrs["folder"]) / "seed_0" / "offline" / "model.zip").is_file()
    assert trial.params == {"objective_kwargs.cql_weight": 10.0}, "the first trial is the recipe"


def test_the_same_call_goes_on_and_repeats_itself(config: Callable[..., TuningConfig], tmp_path: Path) -> None:
    made = config(seeds=(0,))
    for folder, counts in (("once", (3,)), ("twice", (1, 3, 3))):
        for count in counts:
            study = tune(made, tmp_path / folder, count, name="study", n_startup_trials=1)
            assert len(study.get_trials()) == count
    both = [open_storage(str(tmp_path / folder / "study.db")) for folder in ("once", "twice")]
    once, twice = (optuna.load_study(study_name="study", storage=each).get_trials() for each in both)
    assert [(each.params, each.value) for each in once] == [(each.params, each.value) for each in twice]


class TestRefusals:
    def opened(self, config: TuningConfig, where: Path) -> optuna.Study:
        return open_study(open_storage(str(where)), "study", config, make_sampler("random"), make_pruner("none", 1))

    @pytest.mark.parametrize("name", ["study.db", "study.log"])
    def test_another_search_space(self, config: Callable[..., TuningConfig], tmp_path: Path, name: str) -> None:
        self.opened(config(), tmp_path / name)
        assert self.opened(config(), tmp_path / name).study_name == "study"
        other = config(space={"gradient_steps": Choice((1, 2)), "buffer_size": Range(50, 99)})
        with pytest.raises(ValueError, match=r"search space of buffer_size is .*100.* there and .*99.* here"):
            self.opened(other, tmp_path / name)
        with pytest.raises(ValueError, match=r"online_steps is 10 there and 11 here"):
            self.opened(config(online_steps=11), tmp_path / name)

    def test_a_recipe_or_an_environment_that_was_changed(
        self, config: Callable[..., TuningConfig], tmp_path: Path
    ) -> None:
        def with_recipe(text: str, **changes: Any) -> TuningConfig:
            (tmp_path / "mine.yml").write_text(f"default: {{gamma: 0.9, policy_kwargs: {{net_arch: [4]}}{text}}}\n")
            return config(recipe=load_recipe(str(tmp_path / "mine.yml")), **changes)

        self.opened(with_recipe(""), tmp_path / "study.db")
        task = config().tasks[0].name
        self.opened(with_recipe(" "), tmp_path / "study.db")
        with pytest.raises(ValueError, match=rf"\.tau of .* \({task}\) is None there and 0\.1 here\. Give"):
            self.opened(with_recipe(", tau: 0.1"), tmp_path / "study.db")
        hard = Environment(tiny.BOX, {"start": 2.0})
        with pytest.raises(ValueError, match=r"environment\.kwargs\.start of .* is None there and 2\.0 here"):
            self.opened(with_recipe("", environment=hard), tmp_path / "study.db")

    def test_an_older_study_is_joined(self, config: Callable[..., TuningConfig], tmp_path: Path) -> None:
        study = self.opened(config(), tmp_path / "study.db")
        older = {name: value for name, value in study.user_attrs["sb3_o2o"].items() if name != "contents"}
        study.set_user_attr("sb3_o2o", older)
        self.opened(config(), tmp_path / "study.db")
        edited = replace(load_recipe("cql"), arguments={**load_recipe("cql").arguments, "gamma": 0.5})
        with pytest.raises(ValueError, match=r"arguments\.gamma of .* is .* there and 0\.5 here"):
            self.opened(config(recipe=edited), tmp_path / "study.db")

    def test_an_older_study_was_evaluated_as_its_recipe_says(
        self, config: Callable[..., TuningConfig], tmp_path: Path
    ) -> None:
        often = replace(load_recipe("cql"), eval_freq=5)
        for recipe, goes_on, is_refused in ((often, None, 4), (load_recipe("cql"), 4, 5), (load_recipe("cql"), 10, 5)):
            where = tmp_path / f"{goes_on}.db"
            study = self.opened(config(recipe=recipe, n_evaluations=goes_on), where)
            older = {name: value for name, value in study.user_attrs["sb3_o2o"].items() if name != "eval_freq"}
            study.set_user_attr("sb3_o2o", {**older, "n_evaluations": goes_on or 4})
            with pytest.raises(ValueError, match=r"eval_freq is 5 there and None|n_evaluations is .* there and 5 here"):
                self.opened(config(recipe=recipe, n_evaluations=is_refused), where)
            self.opened(config(recipe=recipe, n_evaluations=goes_on), where)
        self.opened(config(n_evaluations=None), where)  # ten are what it makes by itself

    def test_another_direction(self, config: Callable[..., TuningConfig], tmp_path: Path) -> None:
        optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="study", direction="minimize")
        with pytest.raises(ValueError, match=r"another direction \(minimize\)"):
            self.opened(config(), tmp_path / "study.db")

    def test_a_study_of_somebody_else(self, config: Callable[..., TuningConfig], tmp_path: Path) -> None:
        foreign = optuna.create_study(
            storage=f"sqlite:///{tmp_path}/study.db", study_name="study", direction="maximize"
        )
        foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        with pytest.raises(ValueError, match="was not made by sb3-o2o tune"):
            self.opened(config(), tmp_path / "study.db")

    def test_storages(self, tmp_path: Path) -> None:
        (tmp_path / "text.db").write_text("no database, but long enough to be looked at as one" * 100)
        for where, message in (
            ("study", "ends in .db or .log"),
            ("grpc://nowhere", "grpc://HOST:PORT"),
            ("nosuch://x/y", "cannot be opened"),
            (str(tmp_path / "text.db"), "cannot be opened"),
        ):
            with pytest.raises(ValueError, match=message):
                open_storage(where)

    def test_samplers_and_pruners(self) -> None:
        with pytest.raises(ValueError, match="Did you mean 'tpe'"):
            make_sampler("tpu")
        with pytest.raises(ValueError, match="Did you mean 'median'"):
            make_pruner("medium", 3)
        with pytest.raises(ValueError, match=r"at least 5 seeds: with 3 its smallest p before the last is 0\.25"):
            make_pruner("wilcoxon", 3)
        assert isinstance(make_pruner("wilcoxon", 5), optuna.pruners.WilcoxonPruner)

    def test_runs_that_no_trial_could_make(self, config: Callable[..., TuningConfig], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="different seeds"):
            config(seeds=(1, 1))
        with pytest.raises(ValueError, match="Did you mean 'last'"):
            config(metric="lest")
        misfit = config(environment=Environment(tiny.GOAL))
        with pytest.raises(ValueError, match="observation"):
            tune(misfit, tmp_path / "study", 1, name="study")
        assert not (tmp_path / "study").exists()
        study = tune(config(seeds=(0,)), tmp_path / "study", 1, name="study")
        assert states(study) == ["COMPLETE"], "what was refused would have been another study of this name"


class TestBadTrials:
    def test_one_that_diverges_is_pruned_with_its_reason(
        self, config: Callable[..., TuningConfig], tmp_path: Path
    ) -> None:
        made = config(
            space={"finetuning.DivergesAbove.rate": Choice((0.0, 1.0))},
            overrides={**SMALL, "finetuning": [{"DivergesAbove": {"rate": 1.0}}]},
            seeds=(0,),
            n_evaluations=2,
        )
        study = tune(made, tmp_path, 4, name="study", sampler="random", seed=1)
        by_rate = {each.params["finetuning.DivergesAbove.rate"]: each for each in study.get_trials()}
        assert by_rate[1.0].state is TrialState.PRUNED
        reason = by_rate[1.0].user_attrs["reason"].lower()
        assert "nan" in reason or "finite" in reason
        assert by_rate[0.0].state is TrialState.COMPLETE, "the study goes on"

    def test_a_run_that_falls_behind(self) -> None:
        others = [[[0, 5, 10], [0.0, 5.0 + place, 9.0]] for place in range(3)]

        def evaluation(score: float) -> Evaluation:
            return Evaluation(np.array([score]), np.array([10]), None, None, "")

        listener = PruningListener(others, "seed 7", n_startup=3, n_evaluations=3)
        listener.evaluated(0, evaluation(-3.0))
        with pytest.raises(optuna.TrialPruned, match=r"seed 7 at step 5: score 4\.9, .* median of 3 other trials"):
            listener.evaluated(5, evaluation(4.9))
        good, alone = (PruningListener(each, "seed 7", 3, 3) for each in (others, others[:2]))
        for each, score in ((good, 6.1), (alone, -99.0)):
            each.evaluated(0, evaluation(score))
            each.evaluated(5, evaluation(score))
        with pytest.raises(FloatingPointError, match="score at step 9 is nan"):
            good.evaluated(9, evaluation(np.nan))

    @pytest.mark.parametrize("n_evaluations", [TuningConfig.n_evaluations, 6, 17])
    def test_the_first_third_of_the_evaluations_that_a_run_makes_is_left_alone(
        self, config: Callable[..., TuningConfig], tmp_path: Path, n_evaluations: int | None
    ) -> None:
        recipe, storage = replace(load_recipe("cql"), eval_freq=1), str(tmp_path / "study.db")
        steps: dict[str, Any] = {"pretrain_steps": 0, "online_steps": 30, "n_evaluations": n_evaluations}
        made = config(recipe=recipe, seeds=(0,), **steps)
        study = open_study(open_storage(storage), "study", made, make_sampler("random"), make_pruner("none", 1))
        unreachable = {"evaluations": {"0": [list(range(40)), [1e6] * 40]}}
        study.add_trial(optuna.create_trial(value=1e6, user_attrs=unreachable))
        study = tune(made, tmp_path, 2, name="study", storage=storage, sampler="random", n_startup_trials=1)
        assert "seed 0 at step 10: " in study.get_trials()[1].user_attrs["reason"]

    def test_a_trial_is_pruned_between_its_seeds(self, config: Callable[..., TuningConfig], tmp_path: Path) -> None:
        class Never(optuna.pruners.BasePruner):
            def prune(self, study: Any, trial: Any) -> bool:
                return trial.last_step == 0

        study = tune(config(), tmp_path, 1, name="study", pruner=Never())
        (trial,) = study.get_trials()
        assert trial.state is TrialState.PRUNED
        assert "after seed 0" in trial.user_attrs["reason"]
        assert list(trial.user_attrs["evaluations"]) == ["0"]
        (row,) = csv.DictReader(io.StringIO(trials_table(study)))
        assert row["run_0"] != ""
        assert row["value"] == "", "one seed is no mean over seeds, and would stand above better trials"


def _join(where: str, config: TuningConfig, ready: Any, found: Any) -> None:
    ready.wait()
    try:
        open_study(open_storage(where), "study", config, make_sampler("random"), make_pruner("none", 1))
    except ValueError as error:
        found.put(str(error))
    else:
        found.put("joined")


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_workers_may_start_together(config: Callable[..., TuningConfig], tmp_path: Path, name: str) -> None:
    """Each of them finds that there is no study yet, and makes it: all but one ended with an error of the database."""
    context, where, made = multiprocessing.get_context("fork"), str(tmp_path / "new" / name), config()
    ready, found = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_join, args=(where, made, ready, found)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [found.get(timeout=60) for _ in workers] == ["joined"] * 4
    for worker in workers:
        worker.join()


def _die(where: str, config: TuningConfig) -> None:
    study = open_study(open_storage(where), "study", config, make_sampler("random"), make_pruner("none", 1))
    trial = study.ask()
    with signs_of_life(trial):
        suggest(trial, config.space)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_the_trial_of_a_killed_worker_is_taken_over(
    config: Callable[..., TuningConfig], tmp_path: Path, name: str
) -> None:
    made, where = config(seeds=(0,)), str(tmp_path / name)
    worker = multiprocessing.get_context("fork").Process(target=_die, args=(where, made))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    study = tune(made, tmp_path, 2, name="study", storage=where, sampler="random")
    dead, *others = study.get_trials()
    assert dead.state is TrialState.FAIL
    assert [each.state.name for each in others] == ["COMPLETE"] * 2
    assert others[0].params == dead.params
    assert others[0].system_attrs["failed_trial"] == dead.number


def test_ctrl_c_leaves_the_trial_to_whoever_comes_next(
    config: Callable[..., TuningConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sb3_o2o.tuning import trials

    made, often = config(seeds=(0,)), 5
    with monkeypatch.context() as patched:
        patched.setattr(trials, "train", lambda *_, **__: (_ for _ in ()).throw(Interrupted))
        for _ in range(often):  # it was dropped after the fourth
            with pytest.raises(Interrupted):
                tune(made, tmp_path, 1, name="study")
    assert not list(tmp_path.glob("trials/*"))
    study = tune(made, tmp_path, 1, name="study")
    assert states(study) == ["FAIL"] * often + ["COMPLETE"]
    assert study.get_trials()[0].params == study.get_trials()[-1].params


def test_what_mattered() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + 0 * trial.suggest_float("y", 0, 1), n_trials=40)
    importances = importances_of(study)
    assert list(importances) == ["x", "y"]
    assert sum(importances.values()) == pytest.approx(1)
    assert importances["x"] > 0.8


class TestCommand:
    def command(self, dataset: str, *more: str) -> list[str]:
        sets = ["policy_kwargs.net_arch=[4]", "batch_size=4", "buffer_size=100", "n_critics=2"]
        options = [each for setting in sets for each in ("--set", setting)]
        short = ["--steps", "10", "--pretrain-steps", "2", "--eval-episodes", "1", "--evaluations", "1"]
        return ["tune", "--recipe", "cql", "--dataset", dataset, "--seeds", "1", *options, *short, *more]

    def test_from_the_command_to_a_run_of_the_best(self, tiny_dataset: Callable[..., str]) -> None:
        dataset = tiny_dataset()
        command = self.command(dataset, "--tune", "learning_rate", "--tune", "gamma={low: 0.9, high: 0.99}")
        output = succeeds(*command, "--dry-run")
        assert "learning_rate 1e-05 to 0.001, log 3e-05 both" in output
        assert not Path("tuning").exists()
        output = succeeds(*command, "--trials", "5")
        assert "Trial 0: " in output
        folder = Path("tuning/cql-TinyBox-v0")
        best = yaml.safe_load((folder / "best.yml").read_text())
        rows = (folder / "trials.csv").read_text().splitlines()
        assert len(rows) == 6
        tuned = best["about"]["tuned"]
        assert (tuned["study"], tuned["dataset"]) == ("cql-TinyBox-v0", dataset)
        assert f"{tuned['trial']},complete,{tuned['value']}" in rows[tuned["trial"] + 1]
        assert best["default"]["learning_rate"] == tuned["hyperparameters"]["learning_rate"]
        for name in ("history", "importances", "parallel_coordinates"):
            picture = imread(folder / f"{name}.png")
            assert picture.shape[0] > 200
            assert picture.std() > 0.05
        succeeds("finetune", "--dataset", dataset, "--env", tiny.BOX, "--recipe", folder / "best.yml", *SHORT)
        config = yaml.safe_load(Path("runs/best-TinyBox-v0_1/config.yml").read_text())
        assert config["arguments"]["gamma"] == tuned["hyperparameters"]["gamma"]
        assert (config["pretrain_steps"], config["online_steps"]) == (2, 10)

    def test_evaluations(self, tmp_path: Path) -> None:
        """Asked for, they come as often as asked; else as often as the recipe says, and the best says what they did."""
        document = {
            "about": {"algorithm": "O2OSAC"},
            "evaluation": {"default": {"eval_freq": 8, "n_eval_episodes": 2}},
            "default": {"n_timesteps": 12, "learning_starts": 5},
        }
        (tmp_path / "own.yml").write_text(yaml.dump(document))
        own = ["--recipe", str(tmp_path / "own.yml"), "--env", tiny.BOX, "--tune", "gamma={low: 0.9, high: 0.99}"]
        own += ["--trials", "1", "--seeds", "1", *SMALL_OPTIONS]
        for study, asked, steps, every, episodes in (
            ("recipe", [], [0, 8, 12], 8, 2),
            ("asked", ["--evaluations", "4", "--eval-episodes", "1"], [0, 3, 6, 9, 12], 3, 1),
        ):
            succeeds("tune", *own, *asked, "--study", study)
            folder = Path("tuning") / study
            with np.load(folder / "trials/0000/seed_0/online/evaluations.npz") as made:
                assert made["timesteps"].tolist() == steps
                assert made["results"].shape[1] == episodes
            best = load_recipe(str(folder / "best.yml"))
            assert (best.eval_freq, best.n_eval_episodes) == (every, episodes)

    def test_several_datasets(self, tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
        entries = {"learning_rate": 1e-3, "objective": "bc", "online_objective": "sac"}
        document = {
            "about": {"algorithm": "O2OSAC"},
            "default": entries,
            "TinyGoal*": {**entries, "policy": "MultiInputPolicy", "gamma": 0.9},
        }
        (tmp_path / "own.yml").write_text(yaml.dump(document))
        first, second = tiny_dataset(), tiny_dataset(env_id=tiny.GOAL)
        own = ["--recipe", str(tmp_path / "own.yml"), "--dataset", second, "--tune", "learning_rate", "--trials", "1"]
        output = succeeds(*self.command(first, *own))
        assert "2 runs a trial: 2 datasets, 1 seed each" in output
        best = Path("tuning/own-TinyBox-v0-TinyGoal-v0/best.yml")
        for env_id, policy, gamma in ((tiny.BOX, "MlpPolicy", None), (tiny.GOAL, "MultiInputPolicy", 0.9)):
            entry = open_recipe(str(best)).entry(env_id)
            assert (entry.policy, entry.arguments.get("gamma")) == (policy, gamma)
        assert output.count("sb3-o2o finetune --dataset") == 2

    def test_each_dataset_has_the_sizes_of_its_entry(self, tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
        """Whichever is named first; a number of the user's holds for all."""
        learns = {"learning_rate": 1e-3, "objective": "bc", "online_objective": "sac", "learning_starts": 2}
        goal = {"policy": "MultiInputPolicy", "n_timesteps": 8, "pretrain_steps": 3, "n_envs": 2}
        document = {
            "about": {"algorithm": "O2OSAC"},
            "evaluation": {"default": {"n_eval_episodes": 1}, "TinyGoal*": {"n_eval_episodes": 2}},
            "default": {**learns, "n_timesteps": 6, "pretrain_steps": 2},
            "TinyGoal*": {**learns, **goal},
        }
        (tmp_path / "own.yml").write_text(yaml.dump(document))
        own = ["--recipe", str(tmp_path / "own.yml"), "--tune", "learning_rate", "--trials", "1", "--seeds", "1"]
        both = {tiny.BOX: tiny_dataset(), tiny.GOAL: tiny_dataset(env_id=tiny.GOAL)}
        for order, more, of_box, of_goal in (
            ((tiny.BOX, tiny.GOAL), [], (2, 6, 1, 1), (3, 8, 2, 2)),
            ((tiny.GOAL, tiny.BOX), [], (2, 6, 1, 1), (3, 8, 2, 2)),
            ((tiny.GOAL, tiny.BOX), ["--steps", "4", "--n-envs", "1"], (2, 4, 1, 1), (3, 4, 1, 2)),
        ):
            datasets = [each for env_id in order for each in ("--dataset", both[env_id])]
            study = f"{order[0]}{len(more)}"
            output = succeeds("tune", *own, *datasets, *more, *SMALL_OPTIONS, "--evaluations", "1", "--study", study)
            folder = Path("tuning") / study
            for env_id, sizes in ((tiny.BOX, of_box), (tiny.GOAL, of_goal)):
                name = both[env_id].replace("/", "-")
                online = yaml.safe_load((folder / f"trials/0000/{name}/seed_0/config.yml").read_text())
                before = yaml.safe_load((Path(online["source"]).parents[1] / "config.yml").read_text())
                made = (online["online_steps"], online["n_envs"], online["n_eval_episodes"])
                assert (before["pretrain_steps"], *made) == sizes
                best = load_recipe(str(folder / "best.yml"), env_id)
                assert (best.pretrain_steps, best.online_steps, best.n_envs, best.n_eval_episodes) == sizes
            for sizes in (of_box, of_goal):
                assert f": {sizes[0]} gradient steps, {sizes[1]} environment steps" in output

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--tune", "learing_rate"], "Did you mean 'learning_rate'"),
            (["--tune", "gamma="], "leave the = out"),
            (["--tune", "gamma={low"], "not YAML"),
            (["--sampler", "tpu"], "Did you mean 'tpe'"),
            (["--storage", "somewhere"], "ends in .db or .log"),
            (["--metric", "lest"], "Did you mean 'last'"),
        ],
    )
    def test_mistakes(self, tiny_dataset: Callable[..., str], more: list[str], message: str) -> None:
        error = fails(*self.command(tiny_dataset(), *more))
        assert message in error
        assert not Path("tuning/cql-TinyBox-v0/trials").exists()
