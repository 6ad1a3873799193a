"""RL Zoo's own programs with our algorithms: flags, folders and what is trained are those that its users know."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
import tiny
import yaml
from command_line import succeeds
from stable_baselines3 import PPO, SAC, TD3

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.search_space import Choice, SearchSpace

pytest.importorskip("rl_zoo3")
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_o2o.zoo import enjoy, plot, train
from sb3_o2o.zoo.registration import ALGORITHMS, convert, recipe_of, zoo_entry

ENTRY: dict[str, Any] = {
    "policy": "MlpPolicy",
    "n_timesteps": 30,
    "batch_size": 4,
    "learning_starts": 5,
    "buffer_size": 100,
    "policy_kwargs": "dict(net_arch=[4])",
}
PPO_ENTRY: dict[str, Any] = {
    **{name: ENTRY[name] for name in ("policy", "n_timesteps", "policy_kwargs")},
    "n_steps": 10,
}
FLAGS = ["--eval-freq", "15", "--eval-episodes", "1", "--seed", "3", "--num-threads", "1", "--device", "cpu"]


class MakesNaN(FineTuningCallback):
    """Makes NaN of the policy where it is on, as a learning rate that is too high would."""

    search_space: ClassVar[SearchSpace] = {"strength": Choice((0, 1))}

    def __init__(self, strength: int = 0):
        super().__init__()
        self.strength = strength

    def _on_step(self) -> bool:
        if self.strength:
            for parameter in self.model.policy.parameters():  # type: ignore[attr-defined]
                parameter.data.fill_(np.nan)
        return True


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs ``main`` of a program with arguments."""

    def run(module: Any, *arguments: Any) -> None:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()

    return run


def write(entry: dict[str, Any], name: str = "entry.yml") -> str:
    Path(name).write_text(yaml.safe_dump({tiny.BOX: entry}))
    return name


def files(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def parameters(path: str, algorithm: Any) -> dict[str, np.ndarray]:
    actor = algorithm.load(path, device="cpu").policy.state_dict()
    return {name: value.numpy() for name, value in actor.items() if "critic" not in name and "value" not in name}


@pytest.mark.parametrize(
    ("algo", "stock", "entry"),
    [
        ("o2o_sac", SAC, ENTRY),
        ("o2o_td3", TD3, {**ENTRY, "noise_type": "normal", "noise_std": 0.1}),
        ("o2o_ppo", PPO, PPO_ENTRY),
    ],
)
def test_the_same_file_gives_the_same_folder_and_policy_as_stock(
    program: Callable[..., None], algo: str, stock: Any, entry: dict[str, Any]
) -> None:
    conf = write(entry)
    for name, folder in ((algo, "ours"), (algo.removeprefix("o2o_"), "stock")):
        program(train, "--algo", name, "--env", tiny.BOX, "-f", folder, "--conf-file", conf, *FLAGS)
    here, there = (f"{folder}/{name}/{tiny.BOX}_1" for folder, name in (("ours", algo), ("stock", algo[4:])))
    assert (
        files(here) == files(there) >= {"best_model.zip", "evaluations.npz", f"{tiny.BOX}/config.yml", "0.monitor.csv"}
    )
    ours = parameters(f"{here}/{tiny.BOX}.zip", ALGORITHMS[algo])
    theirs = parameters(f"{there}/{tiny.BOX}.zip", stock)
    assert ours.keys() >= theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-6, err_msg=name)
    program(enjoy, "--algo", algo, "--env", tiny.BOX, "-f", "ours", "-n", "25", "--no-render", "--load-best")


@pytest.mark.parametrize(
    ("algo", "algorithm", "recipe", "changes"),
    [
        ("o2o_sac", O2OSAC, "wsrl", "finetuning:[{'Warmup':{'steps':5}}]"),
        ("o2o_td3", O2OTD3, "td3_bc", "gamma:0.9"),
        ("o2o_ppo", O2OPPO, "o2ppo", "finetuning:None"),
    ],
)
def test_recipes_are_hyper_parameter_files(
    program: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    tiny_dataset: Callable[..., str],
    algo: str,
    algorithm: Any,
    recipe: str,
    changes: str,
) -> None:
    dataset = f"dataset:'{tiny_dataset()}'"
    small = ["policy_kwargs:dict(net_arch=[4])", "pretrain_steps:3", changes]
    small += ["n_steps:10"] if algo == "o2o_ppo" else ["buffer_size:100", "batch_size:4"]
    program(
        train, "--algo", algo, "--env", tiny.BOX, "-n", "20", "--conf-file", recipe, "-params", dataset, *small, *FLAGS
    )
    assert f"Recipe '{recipe}', entry 'default'" in capsys.readouterr().out
    folder = Path(f"logs/{algo}/{tiny.BOX}_1")
    model = algorithm.load(folder / tiny.BOX, device="cpu")
    assert (model.n_pretrain_steps, model.num_timesteps) == (3, 20)
    saved = yaml.unsafe_load((folder / tiny.BOX / "config.yml").read_text())
    assert saved["objective"] == model.objective
    program(enjoy, "--algo", algo, "--env", tiny.BOX, "-f", "logs", "-n", "12", "--no-render")
    assert "Mean reward" in capsys.readouterr().out


def test_a_trained_agent_goes_on_with_its_entry(program: Callable[..., None], tiny_dataset: Callable[..., str]) -> None:
    """Its ``pretrain_kwargs`` are applied when a model is built."""
    conf = write({**ENTRY, "dataset": tiny_dataset(), "pretrain_steps": 3, "pretrain_kwargs": {"batch_size": 8}})
    arguments = ["--algo", "o2o_sac", "--env", tiny.BOX, "--conf-file", conf, *FLAGS]
    program(train, *arguments)
    first = Path(f"logs/o2o_sac/{tiny.BOX}_1/{tiny.BOX}.zip")
    program(train, *arguments, "-i", first, "-params", "qf_learning_rate:0.125")
    before, after = (O2OSAC.load(path, device="cpu") for path in (first, f"logs/o2o_sac/{tiny.BOX}_2/{tiny.BOX}.zip"))
    assert after._n_updates > before._n_updates
    assert after.batch_size == before.batch_size == 4
    assert after.critic.optimizer.param_groups[0]["lr"] == 0.125 != before.critic.optimizer.param_groups[0]["lr"]


def test_a_trained_agent_that_was_pretrained_alone(
    program: Callable[..., None], tiny_dataset: Callable[..., str]
) -> None:
    """It still has the arguments and critics of pre-training."""
    dataset = tiny_dataset()
    entry = {**ENTRY, "n_critics": 3, "learning_rate": 1e-3, "pretrain_kwargs": {"n_critics": 2, "learning_rate": 1e-4}}
    arguments = {name: value for name, value in entry.items() if name not in ("policy", "n_timesteps", "policy_kwargs")}
    model = O2OSAC("MlpPolicy", tiny.BOX, policy_kwargs={"net_arch": [4]}, device="cpu", **arguments)
    model.pretrain(dataset, 2).save("offline")
    conf = write({**entry, "dataset": dataset})
    program(train, "--algo", "o2o_sac", "--env", tiny.BOX, "--conf-file", conf, "-i", "offline.zip", *FLAGS)
    after = O2OSAC.load(f"logs/o2o_sac/{tiny.BOX}_1/{tiny.BOX}.zip", device="cpu")
    assert (after.n_critics, after.learning_rate, after.num_timesteps) == (3, 1e-3, 30)
    assert after.actor.optimizer.param_groups[0]["lr"] == 1e-3


def test_a_recipe_of_another_algorithm_is_refused(program: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="'td3_bc' is for O2OTD3, not for O2OSAC"):
        program(train, "--algo", "o2o_sac", "--env", tiny.BOX, "--conf-file", "td3_bc")


def test_without_a_file_our_algorithms_take_the_stock_ones(
    program: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    program(train, "--algo", "o2o_sac", "--env", "Pendulum-v1", "-n", "5", "--eval-freq", "-1", "--num-threads", "1")
    output = capsys.readouterr().out
    assert "hyperparams/sac.yml" in output
    assert "('learning_rate', 0.001)" in output


class TestOptimize:
    COMMAND = ("--algo", "o2o_sac", "--env", tiny.BOX, *FLAGS)

    def test_what_the_parts_declare_is_tuned_and_a_trial_can_be_run(
        self, program: Callable[..., None], tiny_dataset: Callable[..., str]
    ) -> None:
        entry = {**ENTRY, "objective": "cql", "dataset": tiny_dataset(), "pretrain_steps": 2, "batch_size": 128}
        entry["finetuning"] = [{"SymmetricReplay": {"offline_fraction": 0.5}}]
        command = (*self.COMMAND, "--conf-file", write(entry), "--storage", "study.log", "--study-name", "mine")
        optimize = (
            "--optimize",
            "--n-trials",
            "2",
            "--n-startup-trials",
            "1",
            "--no-optim-plots",
            "--n-evaluations",
            "1",
        )
        program(train, *command, *optimize)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("study.log"))
        first, second = optuna.load_study(study_name="mine", storage=storage).trials
        names = {
            "objective_kwargs.cql_weight",
            "finetuning.SymmetricReplay.offline_fraction",
            "learning_rate",
            "n_critics",
        }
        assert names <= set(first.params) == set(second.params)
        assert first.value is not None
        assert [path.suffix for path in sorted(Path("logs/o2o_sac").glob("report_*"))] == [".csv", ".pkl"]
        shutil.rmtree("logs")
        program(train, *command, "--trial-id", "1", "-params", "gamma:0.9")
        (saved,) = Path("logs").rglob("config.yml")
        config = yaml.unsafe_load(saved.read_text())
        fraction = second.params["finetuning.SymmetricReplay.offline_fraction"]
        assert config["finetuning"] == [{"SymmetricReplay": {"offline_fraction": fraction}}]
        assert config["objective_kwargs"] == {"cql_weight": second.params["objective_kwargs.cql_weight"]}
        assert config["gamma"] == 0.9

    @pytest.mark.parametrize(
        ("tuned", "entry", "is_bad"),
        [
            ("finetuning.MakesNaN.strength", {"finetuning": [{"MakesNaN": {"strength": 0}}], "n_critics": 3}, 1),
            ("n_critics", {"actor_critics": "pairs", "n_critics": 2}, 5),
        ],
    )
    def test_a_trial_with_bad_constants_is_pruned_and_the_study_goes_on(
        self,
        program: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
        tuned: str,
        entry: dict[str, Any],
        is_bad: int,
    ) -> None:
        made: list[Any] = []
        closed: list[Any] = []
        stock_create, stock_close = ExperimentManager.create_envs, DummyVecEnv.close

        def create(manager: Any, *args: Any, **kwargs: Any) -> Any:
            made.append(stock_create(manager, *args, **kwargs))
            return made[-1]

        def close(env: DummyVecEnv) -> None:
            closed.append(env)
            stock_close(env)

        monkeypatch.setattr(ExperimentManager, "create_envs", create)
        monkeypatch.setattr(DummyVecEnv, "close", close)
        alone = {"learning_rate": 0.5, "tau": 0.5, "gradient_steps": 3}  # not what they are tuned in
        command = (*self.COMMAND, "--conf-file", write({**ENTRY, **alone, **entry}), "--storage", "study.log")
        optimize = ("--optimize", "--n-trials", "6", "--sampler", "random", "--pruner", "none", "--seed", "0")
        program(train, *command, "--study-name", "mine", *optimize, "--no-optim-plots", "--n-evaluations", "1")
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("study.log"))
        trials = optuna.load_study(study_name="mine", storage=storage).trials
        assert len(trials) == 6
        assert {each.params[tuned] == is_bad for each in trials} == {True, False}
        for each in trials:
            assert each.state.name == ("PRUNED" if each.params[tuned] == is_bad else "COMPLETE")
        assert len(made) > 6
        assert {id(env.unwrapped) for env in made} <= {id(env) for env in closed}

    def test_what_no_trial_could_change_is_said_at_once(
        self, program: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(ValueError, match="gamma"):
            program(train, *self.COMMAND, "--conf-file", write({**ENTRY, "gamma": 1.5}), "--optimize")
        assert "Optimizing hyperparameters" not in capsys.readouterr().out

    def test_the_zoos_own_algorithms_are_as_they_were(self) -> None:
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER, sample_sac_params

        assert HYPERPARAMS_SAMPLER["sac"] is sample_sac_params

    def test_converters_also_work_without_a_file(self) -> None:
        assert convert({"gamma": 0.9, "objective_kwargs.cql_weight": 2.0}) == {
            "gamma": 0.9,
            "objective_kwargs": {"cql_weight": 2.0},
        }

    def test_a_named_recipe_is_tuned_like_a_written_one(self) -> None:
        assert recipe_of({"recipe": "wsrl"}, "o2o_sac", tiny.BOX).arguments["n_critics"] == 10


def test_the_best_of_a_study_of_ours_is_a_file_for_the_zoo(
    program: Callable[..., None], tiny_dataset: Callable[..., str]
) -> None:
    dataset = tiny_dataset()
    sets = ["policy_kwargs.net_arch=[4]", "batch_size=4", "buffer_size=100", "n_critics=2"]
    options = [each for setting in sets for each in ("--set", setting)]
    short = ["--steps", "10", "--pretrain-steps", "2", "--eval-episodes", "1", "--evaluations", "1", "--seeds", "1"]
    succeeds(
        "tune", "--recipe", "cql", "--dataset", dataset, "--trials", "1", "--tune", "learning_rate", *options, *short
    )
    best = "tuning/cql-TinyBox-v0/best.yml"
    program(
        train, "--algo", "o2o_sac", "--env", tiny.BOX, "--conf-file", best, "-params", f"dataset:'{dataset}'", *FLAGS
    )
    model = O2OSAC.load(f"logs/o2o_sac/{tiny.BOX}_1/{tiny.BOX}", device="cpu")
    assert (model.n_pretrain_steps, model.num_timesteps, model.batch_size) == (2, 10, 4)


def test_entries_hold_what_the_zoo_keeps_to_itself() -> None:
    from sb3_o2o.recipes import load_recipe

    entry = zoo_entry(load_recipe("wsrl", "AntMaze_UMaze-v5"))
    assert entry["policy"] == "MultiInputPolicy"
    assert entry["env_kwargs"] == {"continuing_task": False}
    assert entry["pretrain_steps"] == 1_000_000


class TestPlot:
    def test_the_zoos_programs(self, program: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("seaborn")
        from matplotlib import pyplot

        conf = write({**ENTRY, "n_timesteps": 60})
        for _ in range(2):
            program(train, "--algo", "o2o_sac", "--env", tiny.BOX, "--conf-file", conf, *FLAGS, "--eval-episodes", "2")
        program(plot, "plot_train", "-a", "o2o_sac", "-e", tiny.BOX, "-f", "logs", "-w", "2")
        (axis,) = pyplot.gcf().axes
        assert len(axis.lines) == 2
        pyplot.close("all")
        command = ("-a", "o2o_sac", "-e", tiny.BOX, "-f", "logs", "--no-million", "--no-display", "-o", "results")
        program(plot, "all_plots", *command)
        assert Path("results.pkl").is_file()

    def test_others(self, program: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
        program(plot)
        assert "plot_train, all_plots, plot_from_file" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="Did you mean 'plot_train'"):
            program(plot, "plot_trian")
