"""The command line, as a user meets it: what works, what it leaves, and one line for what does not."""

import errno
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch as th
import yaml
from command_line import SHORT, SMALL, fails, sb3_o2o, succeeds
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3, OfflineDataset
from sb3_o2o.__main__ import main
from sb3_o2o.cli.run_progress import RunProgress
from sb3_o2o.evaluation import evaluate
from sb3_o2o.finetuning import ChampionChallenger
from sb3_o2o.runs import training
from sb3_o2o.runs.folder import RunFolder, saved_model
from sb3_o2o.version import __version__


@pytest.fixture
def pretrained(tiny_dataset: Callable[..., str]) -> Path:
    """A small pre-training run."""
    output = succeeds("pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", 4, *SMALL, *SHORT)
    assert "Fine-tune it: sb3-o2o finetune runs/cql-TinyBox-v0_1 --recipe cql" in output
    return Path("runs/cql-TinyBox-v0_1")


class TestHelp:
    @pytest.mark.parametrize(
        "command",
        ["demo", "collect", "pretrain", "finetune", "evaluate", "select", "run", "report", "recipes", "bench"],
    )
    def test_every_command_explains_itself(self, command: str) -> None:
        output = succeeds(command, "--help")
        assert f"sb3-o2o {command}" in output
        assert len(output) > 300

    def test_without_arguments(self) -> None:
        output = sb3_o2o().output
        assert "Start with sb3-o2o demo" in re.sub(r"\s+", " ", output)

    def test_version(self) -> None:
        assert succeeds("--version").strip() == f"sb3_o2o {__version__}"

    def test_a_reader_that_stops_reading_is_no_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in ``sb3-o2o pretrain --help | head``."""

        def leave(_: str) -> None:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        monkeypatch.setattr("sb3_o2o.runs.inspection.inspect", leave)
        result = sb3_o2o("inspect", "model.zip")
        assert result.exit_code == 1
        assert not result.output

    def test_the_installed_command(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr("sys.argv", ["sb3-o2o", "--version"])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()
        assert capsys.readouterr().out.strip() == f"sb3_o2o {__version__}"


class TestRecipes:
    def test_list(self) -> None:
        output = succeeds("recipes", "list")
        for name in ("calql", "cql", "rlpd", "sac", "wsrl"):
            assert f" {name} " in output
        assert "warm-start" in output

    def test_show_has_constants_and_sources(self) -> None:
        output = succeeds("recipes", "show", "wsrl", "--env", "AntMaze_UMaze-v5")
        assert "Entry 'AntMaze*' for O2OSAC" in output
        assert "arXiv:2412.07762" in output
        assert "reward_scale 10.0 paper: +5 at the goal, -5 elsewhere" in output
        assert "lagrange_gap 0.8 paper: the dual version, gap 0.8" in output
        assert "eval_freq" not in output
        assert "Note: The official code's ten critics share one output layer" in output

    def test_show_has_evaluations_that_are_part_of_the_algorithm(self) -> None:
        output = succeeds("recipes", "show", "o2ppo", "--env", "AntMaze_Large-v5")
        assert "eval_freq 2,500 code: AntMaze n_eval_episodes 100 code: AntMaze" in output

    def test_unknown(self) -> None:
        assert "Unknown recipe 'wslr'. Did you mean 'wsrl'?" in fails("recipes", "show", "wslr")


class TestTraining:
    def test_several_environments_make_as_many_updates(self, pretrained: Path) -> None:
        short = [*SHORT, "--set", "finetuning=[]", "--set", "batch_size=4", "--set", "learning_starts=0", "--steps", 16]
        wsrl = ("--recipe", "wsrl")
        output = succeeds("finetune", pretrained, *wsrl, "--n-envs", 4, *short)
        assert "Recipe 'wsrl' makes 4 updates for each environment step: with 4 environments 16 follow a step" in output
        output = succeeds("finetune", pretrained, *wsrl, "--n-envs", 4, *short, "--set", "gradient_steps=2")
        assert "updates for each environment step" not in output
        offline = O2OSAC.load(pretrained / "offline" / "model")._n_updates
        models = [O2OSAC.load(f"runs/wsrl-TinyBox-v0_{number}/online/model") for number in (1, 2)]
        assert [model._n_updates - offline for model in models] == [64, 8]
        Path("mine.yml").write_text("about: {algorithm: O2OSAC}\ndefault: {n_envs: 2, gradient_steps: 3}\n")
        output = succeeds("finetune", pretrained, "--recipe", "mine.yml", *short)  # has its own number of environments
        assert "updates for each" not in output
        assert O2OSAC.load("runs/mine-TinyBox-v0_1/online/model")._n_updates - offline == 24

    def test_where_nobody_names_a_recipe_it_is_our_own(self, pretrained: Path) -> None:
        """That of the algorithm that the source is."""
        short = [*SMALL, *SHORT, "--steps", 12]
        phases = [("--set", f"finetuning.{each}.gradient_steps=2") for each in ("PolicyReevaluation", "ValueAlignment")]
        short_phases = [argument for each in phases for argument in each]
        stock = TD3("MlpPolicy", tiny.BOX, policy_kwargs={"net_arch": [4]})
        stock.save("stock")
        dataset = ("--dataset", "tests/tinybox-v0/random-v0")  # what was pre-trained on
        warmup = ("--set", "finetuning.Warmup.steps=4")
        for source, recipe in (
            ([pretrained, *warmup], "o2o_sac"),
            (["stock", "--env", tiny.BOX, *dataset], "o2o"),
            ([*dataset, "--pretrain-steps", 2, *warmup], "o2o_sac"),
        ):
            assert f"Run folder: runs/{recipe}-TinyBox-v0_" in succeeds("finetune", *source, *short, *short_phases)
        succeeds("pretrain", dataset[1], "--gradient-steps", 2, *SMALL, *SHORT)
        run = Path("runs/o2o_sac-TinyBox-v0_3")
        assert yaml.safe_load((run / "config.yml").read_text())["recipe"] == "o2o_sac"
        output = succeeds("finetune", run, *short, *short_phases, *warmup)
        assert "Run folder: runs/o2o_sac-TinyBox-v0_4" in output
        finetuning = O2OSAC.load("runs/o2o_sac-TinyBox-v0_4/online/model").finetuning
        (champion,) = (each for each in finetuning if isinstance(each, ChampionChallenger))
        assert champion.policy is not None

    def test_pretrain_then_finetune_then_evaluate(self, pretrained: Path) -> None:
        output = succeeds(
            "finetune",
            pretrained,
            "--recipe",
            "wsrl",
            "--steps",
            20,
            "--set",
            "finetuning=[{Warmup: {steps: 5}}]",
            "--set",
            "batch_size=4",
            *SHORT,
        )
        folder = Path("runs/wsrl-TinyBox-v0_1")
        assert f"Run folder: {folder}" in output
        assert re.search(r"offline policy │ -?[\d.]+ ± [\d.]+ │ 2", output)
        assert "fine-tuned policy (20 steps)" in output
        assert f"Picture: {folder}/learning_curve.png" in output
        assert f"TensorBoard: tensorboard --logdir {folder}/tensorboard" in output
        # Both phases are in the picture's data, the offline one from the run it came from.
        assert (folder / "offline" / "evaluations.npz").is_file()
        with np.load(folder / "online" / "evaluations.npz") as saved:
            assert saved["timesteps"].tolist() == [0, 10, 20]
        config = yaml.safe_load((folder / "config.yml").read_text())
        assert config["source"].endswith("cql-TinyBox-v0_1/offline/model.zip")
        assert config["arguments"]["finetuning"] == [{"Warmup": {"steps": 5}}]
        assert config["dataset"] == "tests/tinybox-v0/random-v0"

        output = succeeds("evaluate", folder, "--episodes", 3, "--seed", 1)
        assert "TinyBox-v0, 3 episodes" in output
        assert "Normalised between -5 and 0 (metadata of tests/tinybox-v0/random-v0)." in output

    def test_scores_use_the_datasets_references(self, pretrained: Path) -> None:
        output = succeeds(
            "pretrain", "tests/tinybox-v0/random-v0", "--recipe", "cql", "--gradient-steps", 2, *SMALL, *SHORT
        )
        assert "normalised score" in output

    def test_scores_are_of_the_environments_rewards(
        self, tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the model is trained on; so is the dataset's line in the picture."""
        name, lines = tiny_dataset(), list[Any]()
        monkeypatch.setattr(training, "plot_learning_curve", lambda *_, **given: lines.append(given["dataset_return"]))
        options = ["--recipe", "cql", "--gradient-steps", 2, *SMALL, *SHORT]
        scaled = ["--set", "dataset_kwargs.reward_scale=10", "--set", "dataset_kwargs.reward_shift=-5"]
        OfflineDataset.load(name, reward_scale=10.0, reward_shift=-5.0).save("scaled.npz")
        rows = []
        for source in ([name], [name, *scaled], ["scaled.npz", "--env", tiny.BOX]):
            output = succeeds("pretrain", *source, *options)
            (found,) = re.findall(r"dataset \([^)]*\) │ +([\d.-]+ ± [\d.]+) │ +(\d+)", output)
            rows.append(found)
        assert rows == [rows[0]] * 3
        assert lines == pytest.approx([lines[0]] * 3, rel=1e-5)

    def test_from_a_file_of_a_run(self, pretrained: Path) -> None:
        """It comes with environment and dataset; evaluations lead to the model at the end of a phase alone."""
        options = ("--recipe", "rlpd", "--steps", 10, "--set", "learning_starts=0", *SMALL, *SHORT)
        for number, (name, has_evaluations) in enumerate((("model", True), ("checkpoints/model_4_steps", False)), 1):
            succeeds("finetune", pretrained / "offline" / name, *options)
            run = Path(f"runs/rlpd-TinyBox-v0_{number}")
            assert yaml.safe_load((run / "config.yml").read_text())["dataset"] == "tests/tinybox-v0/random-v0"
            assert (run / "offline" / "evaluations.npz").exists() is has_evaluations

    def test_from_a_stock_model(self) -> None:
        SAC("MlpPolicy", gym.make(tiny.BOX), policy_kwargs={"net_arch": [4]}).save("stock")
        output = succeeds("finetune", "stock", "--env", tiny.BOX, "--recipe", "sac", "--steps", 10, *SHORT)
        assert "fine-tuned policy (10 steps)" in output

    def test_ppo_from_pretraining_to_evaluation(self, tiny_dataset: Callable[..., str]) -> None:
        dataset = tiny_dataset()
        sizes = ("--set", "n_steps=8", "--set", "batch_size=8", "--set", "policy_kwargs.net_arch=[8]", *SHORT)
        output = succeeds("pretrain", dataset, "--recipe", "o2ppo", "--gradient-steps", 4, *sizes)
        assert "sb3-o2o finetune runs/o2ppo-TinyBox-v0_1 --recipe o2ppo" in output
        short = ("--set", "finetuning=[{PolicyReevaluation: {gradient_steps: 3}}, AuxiliaryAdvantage]")
        succeeds("finetune", "runs/o2ppo-TinyBox-v0_1", "--recipe", "o2ppo", "--steps", 10, *sizes, *short)
        model = O2OPPO.load("runs/o2ppo-TinyBox-v0_2/online/model.zip")
        assert (model.num_timesteps, model.n_pretrain_steps) == (16, 4)  # whole rollouts
        assert "2 episodes" in succeeds("evaluate", "runs/o2ppo-TinyBox-v0_2", "--episodes", 2)

    def test_td3_from_pretraining_to_evaluation(self, tiny_dataset: Callable[..., str]) -> None:
        dataset = tiny_dataset()
        output = succeeds("pretrain", dataset, "--recipe", "td3_bc", "--gradient-steps", 4, *SMALL, *SHORT)
        assert "sb3-o2o finetune runs/td3_bc-TinyBox-v0_1 --recipe td3_bc" in output
        options = ("--recipe", "td3_bc", "--steps", 10, "--set", "policy_delay=3")
        succeeds("finetune", "runs/td3_bc-TinyBox-v0_1", *options, *SMALL, *SHORT)
        model = O2OTD3.load("runs/td3_bc-TinyBox-v0_2/online/model.zip")
        assert (model.policy_delay, model.num_timesteps) == (3, 10)
        assert "2 episodes" in succeeds("evaluate", "runs/td3_bc-TinyBox-v0_2", "--episodes", 2)

    def test_a_recipe_with_settings_for_each_phase(self, tiny_dataset: Callable[..., str]) -> None:
        """Plain critics of the offline method, then the paper's, whether in one run or in two."""
        sizes = ("--set", "policy_kwargs.net_arch=[4]", "--set", "batch_size=4", "--set", "buffer_size=100")
        phases = "finetuning=[{PolicyReevaluation: {gradient_steps: 2}}, {ValueAlignment: {gradient_steps: 2}}]"
        options = ("--set", phases, "--steps", 10, *sizes, *SHORT)
        data = tiny_dataset()
        output = succeeds("pretrain", data, "--recipe", "o2sac", "--gradient-steps", 4, *sizes, *SHORT)
        assert "sb3-o2o finetune runs/o2sac-TinyBox-v0_1 --recipe o2sac" in output
        succeeds("finetune", "runs/o2sac-TinyBox-v0_1", "--recipe", "o2sac", *options)
        succeeds("finetune", "--dataset", data, "--pretrain-steps", 4, "--recipe", "o2sac", *options)
        for run, phase in ((1, "offline"), (2, "online"), (3, "offline"), (3, "online")):
            layer_norm = phase == "online"
            model = O2OSAC.load(f"runs/o2sac-TinyBox-v0_{run}/{phase}/model.zip", device="cpu")
            assert model.critic_layer_norm is layer_norm
            assert len(list(model.critic.ensemble.parameters())) == (6 if layer_norm else 4)
            assert model.learning_rate == (1e-4 if layer_norm else 3e-5)
            if phase == "online":
                assert model.finished_phases == ["reevaluation", "alignment"]
        written = yaml.safe_load(Path("runs/o2sac-TinyBox-v0_1/config.yml").read_text())
        assert written["arguments"]["critic_layer_norm"] is True
        assert written["arguments"]["pretrain_kwargs"]["critic_layer_norm"] is False

    def test_from_a_model_of_another_algorithm(self, tiny_dataset: Callable[..., str]) -> None:
        """The recipe says which algorithm goes on."""
        TD3("MlpPolicy", gym.make(tiny.BOX), policy_kwargs={"net_arch": [4]}).save("stock")
        options = ("--env", tiny.BOX, "--steps", 10, *SHORT)
        assert "From the source" not in succeeds("finetune", "stock", "--recipe", "td3", *options)
        assert isinstance(O2OTD3.load("runs/td3-TinyBox-v0_1/online/model.zip"), O2OTD3)
        output = succeeds("finetune", "stock", "--recipe", "sac", *options)
        score = r"-?[\d.]+"
        report = (
            rf"From the source: copied the actor and the critics of TD3, mean action distance [\d.e-]+, return {score} "
        )
        assert re.search(rf"{report}\(source: {score}\)", output)
        assert "The temperature starts at 1, as ent_coef='auto_1.0' says, for the source has tuned none." in output
        assert isinstance(O2OSAC.load("runs/sac-TinyBox-v0_1/online/model.zip"), O2OSAC)
        # the report stays in the saved model, but the next run starts from a policy of its own kind
        again = succeeds("finetune", "runs/sac-TinyBox-v0_1", "--recipe", "sac", "--steps", 10, *SHORT)
        assert "From the source" not in again
        assert "The temperature starts" not in again

    def test_from_nothing_but_a_dataset(self, tiny_dataset: Callable[..., str]) -> None:
        options = ("--recipe", "rlpd", "--steps", 12, "--set", "learning_starts=6")
        output = succeeds("finetune", "--dataset", tiny_dataset(), *options, *SMALL, *SHORT)
        assert "untrained policy" in output
        assert not Path("runs/rlpd-TinyBox-v0_1/offline").exists()

    def test_both_phases_at_once(self, tiny_dataset: Callable[..., str]) -> None:
        options = ("--recipe", "cql", "--steps", 12, "--pretrain-steps", 4)
        succeeds("finetune", "--dataset", tiny_dataset(tiny.GOAL), *options, *SMALL, *SHORT)
        for phase in ("offline", "online"):
            with np.load(f"runs/cql-TinyGoal-v0_1/{phase}/evaluations.npz") as saved:
                assert saved["successes"].shape[1] == 2

    def test_a_recipe_of_ones_own(self, tiny_dataset: Callable[..., str]) -> None:
        Path("mine.yml").write_text(
            "default: {objective: cql, pretrain_steps: 3, batch_size: 4, policy_kwargs: {net_arch: [4]}}\n"
        )
        succeeds("pretrain", tiny_dataset(), "--recipe", "mine.yml", *SHORT)
        assert Path("runs/mine-TinyBox-v0_1/offline/model.zip").is_file()

    def test_evaluations_are_the_recipes_unless_asked_for(self, tiny_dataset: Callable[..., str]) -> None:
        Path("mine.yml").write_text(
            "default: {objective: cql, pretrain_steps: 4, n_timesteps: 20, batch_size: 4, buffer_size: 30, "
            "policy_kwargs: {net_arch: [4]}}\n"
            "evaluation: {default: {eval_freq: 8, n_eval_episodes: 3}}\n"
        )
        options = ("finetune", "--dataset", tiny_dataset(), "--recipe", "mine.yml", "--checkpoints", 0)
        for asked, steps, episodes in (
            ((), [0, 8, 16, 20], 3),
            (("--evaluations", 2, "--eval-episodes", 1), [0, 10, 20], 1),
        ):
            succeeds(*options, *asked)
            for phase, expected in (("online", steps), ("offline", [0, 2, 4] if asked else [0, 1, 2, 3, 4])):
                (path,) = sorted(Path("runs").glob("mine-*"))[-1].glob(f"{phase}/evaluations.npz")
                with np.load(path) as saved:
                    assert saved["timesteps"].tolist() == expected
                    assert saved["results"].shape[1] == episodes

    def test_several_agents_become_one(self, tiny_dataset: Callable[..., str]) -> None:
        dataset = tiny_dataset()
        for seed in (0, 1):
            succeeds("pretrain", dataset, "--recipe", "cql", "--gradient-steps", 2, "--seed", seed, *SMALL, *SHORT)
        agents = ["runs/cql-TinyBox-v0_1", "runs/cql-TinyBox-v0_2/offline/model.zip"]
        rest = ("--recipe", "sac", "--steps", 6, "--set", "n_critics=4", "--set", "gradient_steps=0", *SHORT)
        succeeds("finetune", *agents, *rest)
        folder = Path("runs/sac-TinyBox-v0_1")
        ensemble = O2OSAC.load(folder / "online" / "model.zip")
        for index, agent in enumerate(agents):
            learned = O2OSAC.load(saved_model(agent))
            assert th.equal(ensemble.actor.members[index].mu.weight, learned.actor.mu.weight)
        assert ensemble.n_critics == 4
        config = RunFolder(folder).read_config()
        assert [config.source, *config.more_sources] == [str(Path(saved_model(each)).resolve()) for each in agents]
        assert "no saved model and no run folder at 'nowhere'" in fails("finetune", agents[0], "nowhere", *rest)

    def test_runs_are_reproducible(self, tiny_dataset: Callable[..., str]) -> None:
        dataset = tiny_dataset()
        for _ in range(2):
            succeeds("pretrain", dataset, "--recipe", "cql", "--gradient-steps", 6, *SMALL, *SHORT)
        files = [f"runs/cql-TinyBox-v0_{number}/offline/evaluations.npz" for number in (1, 2)]
        with np.load(files[0]) as one, np.load(files[1]) as other:
            assert np.array_equal(one["results"], other["results"])


class TestFiles:
    """Datasets in files that say neither what their columns are nor which environment they are for."""

    COLUMNS = (
        "--set",
        "dataset_kwargs.columns={observations: [x, time], actions: push, episode: trial}",
        "--set",
        "dataset_kwargs.columns.rewards=gain",
    )

    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        """Ten steps in two episodes, as a spreadsheet has them."""
        lines = ["trial,x,time,push,gain"]
        lines += [f"{step // 5},{step / 8},{step % 5 / 10},{step % 3 / 4},{-step}" for step in range(10)]
        (tmp_path / "log.csv").write_text("\n".join(lines))
        return tmp_path / "log.csv"

    def test_from_a_table_to_fine_tuning(self, log: Path) -> None:
        succeeds(
            "pretrain", log, "--recipe", "cql", "--env", tiny.BOX, "--gradient-steps", 2, *self.COLUMNS, *SMALL, *SHORT
        )
        run = Path(f"runs/cql-{tiny.BOX}_1")
        config = yaml.safe_load((run / "config.yml").read_text())
        assert config["overrides"]["dataset_kwargs"]["columns"]["rewards"] == "gain"
        # The source run's dataset is read as the source run read it
        succeeds("finetune", run, "--recipe", "cql", "--steps", 12, *SMALL, *SHORT)

    def test_what_is_missing_is_said(self, log: Path) -> None:
        options = ("--recipe", "cql", "--gradient-steps", 2)
        assert "Say which are: columns=" in fails("pretrain", log, *options, "--env", tiny.BOX)
        assert "log.csv does not say which environment it is for: add --env." in fails(
            "pretrain", log, *options, *self.COLUMNS
        )

    def test_actions_have_the_environments_bounds(self, tmp_path: Path) -> None:
        rows = np.random.default_rng(0).uniform(-1, 1, (13, 3))
        arrays = {
            "observations": rows[:-1],
            "next_observations": rows[1:],
            "actions": np.linspace(-2, 2, 12)[:, None],
            "rewards": np.zeros(12),
            "terminations": np.zeros(12),
        }
        np.savez(tmp_path / "pendulum.npz", **arrays)
        succeeds(
            "pretrain",
            tmp_path / "pendulum.npz",
            "--recipe",
            "cql",
            "--env",
            "Pendulum-v1",
            "--gradient-steps",
            2,
            *SMALL,
            "--eval-episodes",
            1,
            "--evaluations",
            1,
        )


class TestInterruption:
    @pytest.fixture
    def ctrl_c(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Ctrl-C at the third step of whatever runs; gives a function that takes it back."""
        on_step = RunProgress._on_step

        def pressing(self: RunProgress) -> bool:
            if self.num_timesteps == 3:
                signal.raise_signal(signal.SIGINT)
            return on_step(self)

        monkeypatch.setattr(RunProgress, "_on_step", pressing)
        return lambda: monkeypatch.setattr(RunProgress, "_on_step", on_step)

    def test_it_says_how_to_go_on_and_goes_on(
        self, tiny_dataset: Callable[..., str], ctrl_c: Callable[[], None]
    ) -> None:
        result = sb3_o2o(
            "finetune",
            "--dataset",
            tiny_dataset(),
            "--recipe",
            "cql",
            "--pretrain-steps",
            6,
            "--steps",
            10,
            *SMALL,
            *SHORT,
        )
        assert result.exit_code == 130
        (command,) = re.findall(r"Go on with: sb3-o2o (finetune --resume \S+)", result.output)
        ctrl_c()
        output = succeeds(*command.split())
        assert "fine-tuned policy (10 steps)" in output
        folder = Path(command.split()[-1])
        assert not (folder / "resume").exists()
        assert "nothing to go on with" in fails(*command.split())

    def test_only_the_same_command_goes_on(self, pretrained: Path) -> None:
        assert f"sb3-o2o pretrain --resume {pretrained}" in fails("finetune", "--resume", pretrained)
        assert "was not interrupted" in fails("pretrain", "--resume", pretrained)
        assert "no run in 'nowhere'" in fails("demo", "--resume", "nowhere")

    def test_a_bundle_of_another_version(
        self, tiny_dataset: Callable[..., str], ctrl_c: Callable[[], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = sb3_o2o("pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", 6, *SMALL, *SHORT)
        assert result.exit_code == 130
        monkeypatch.setattr("sb3_o2o.resume.manifest.__version__", "9.9.9")
        assert f"written by sb3_o2o {__version__}, this is 9.9.9" in fails(
            "pretrain", "--resume", "runs/cql-TinyBox-v0_1"
        )


class TestCollect:
    def test_random_and_policy(self, pretrained: Path) -> None:
        succeeds("collect", tiny.BOX, "tests/random/short-v0", "--n-steps", 25)
        assert len(OfflineDataset.load("tests/random/short-v0")) == 25
        output = succeeds(
            "collect", tiny.BOX, "tests/policy/short-v0", "--policy", pretrained, "--n-episodes", 3, "--deterministic"
        )
        assert "Pre-train on it: sb3-o2o pretrain tests/policy/short-v0" in output
        assert len(OfflineDataset.load("tests/policy/short-v0").episode_starts) == 3

    def test_references_come_along(self) -> None:
        succeeds("collect", "HalfCheetah-v5", "tests/cheetah/short-v0", "--n-steps", 5)
        assert OfflineDataset.load("tests/cheetah/short-v0").ref_max_score == 12135.0

    def test_rejections(self) -> None:
        assert "one of --n-steps and --n-episodes" in fails("collect", tiny.BOX, "tests/x/y-v0")
        succeeds("collect", tiny.BOX, "tests/x/y-v0", "--n-steps", 5)
        assert "tests/x/y-v0" in fails("collect", tiny.BOX, "tests/x/y-v0", "--n-steps", 5)
        succeeds("collect", tiny.BOX, "tests/x/y-v0", "--n-steps", 7, "--force")
        assert len(OfflineDataset.load("tests/x/y-v0")) == 7
        assert "Did you mean 'TinyBox-v0'" in fails("collect", "TinyBos-v0", "tests/x/z-v0", "--n-steps", 5)
        assert "no saved model" in fails("collect", tiny.BOX, "tests/x/z-v0", "--n-steps", 5, "--policy", "nowhere")


class TestEvaluate:
    def test_other_algorithms(self) -> None:
        PPO("MlpPolicy", gym.make(tiny.BOX), n_steps=8, batch_size=8).save("ppo")
        assert (
            "normalised" not in succeeds("evaluate", "ppo", "--env", tiny.BOX, "--episodes", 2).split("No reference")[0]
        )

    def test_a_policy_sees_what_it_was_trained_on(self) -> None:
        """Behind the statistics that it was saved with, and with the environment's own rewards."""
        env = VecNormalize(make_vec_env(tiny.BOX, 1, seed=0), training=False)
        env.obs_rms.mean, env.ret_rms.var = np.array([-40.0, 0.0]), np.array(400.0)
        O2OSAC("MlpPolicy", env, buffer_size=10, seed=0, policy_kwargs={"net_arch": [8]}).save("normalised")
        model = O2OSAC.load("normalised")
        env.norm_reward = False
        expected = evaluate(model, env, 3, seed=0).returns.mean()
        blind = evaluate(model.policy, env.venv, 3, seed=0).returns.mean()
        assert abs(expected - blind) > 0.02
        assert f"{expected:.2f}" in succeeds("evaluate", "normalised", "--env", tiny.BOX, "--episodes", 3)

    def test_a_file_of_a_run_is_evaluated_as_the_run(self, tiny_dataset: Callable[..., str]) -> None:
        """In its environment, behind its wrapper (the observations fit no other), with its dataset's references."""
        dataset = tiny_dataset()
        Path("mine.yml").write_text(
            "default: {objective: cql, pretrain_steps: 4, n_timesteps: 20, batch_size: 4, buffer_size: 30, "
            "policy_kwargs: {net_arch: [4]}, env_wrapper: [{tiny.Shifted: {by: 0.25}}]}\n"
        )
        options = ("--recipe", "mine.yml", "--gradient-steps", 4, "--eval-episodes", 1, "--checkpoints", 2, "--trust")
        succeeds("pretrain", dataset, *options)
        run = Path(f"runs/mine-{tiny.BOX}_1")
        whole = succeeds("evaluate", run, "--episodes", 2, "--trust")
        assert "Normalised between -5 and 0" in whole
        assert succeeds("evaluate", run / "offline" / "model", "--episodes", 2, "--trust") == whole
        assert succeeds("evaluate", run / "offline" / "model", "--env", tiny.BOX, "--episodes", 2, "--trust") == whole
        # the last checkpoint is the model at the end
        assert (
            succeeds("evaluate", run / "offline" / "checkpoints" / "model_4_steps.zip", "--episodes", 2, "--trust")
            == whole
        )
        assert "normalised score" in succeeds(
            "evaluate", run / "offline" / "best_model.zip", "--episodes", 2, "--trust"
        )
        shutil.copy(run / "offline" / "model.zip", "alone.zip")
        assert succeeds("evaluate", "alone", "--env", tiny.BOX, "--episodes", 2, "--trust") != whole
        shutil.rmtree(run.parent.parent / "minari")
        output = succeeds("evaluate", run, "--episodes", 2, "--trust")
        assert (
            f"The run's dataset tells no reference returns any more: There is no Minari dataset {dataset!r}" in output
        )
        assert "No reference returns are known" in output

    def test_a_config_of_another_project_is_no_run(self, pretrained: Path) -> None:
        Path("models").mkdir()
        Path("config.yml").write_text("lr: 1\n")
        Path("models/config.yml").write_text("{")
        shutil.copy(pretrained / "offline" / "model.zip", "models")
        assert "add --env" in fails("evaluate", "models/model.zip")

    def test_rejections(self, pretrained: Path) -> None:
        shutil.copy(pretrained / "offline" / "model.zip", "model.zip")
        model = "model.zip"
        assert "add --env" in fails("evaluate", model)
        assert "with other observations than TinyGoal-v0 has" in fails("evaluate", model, "--env", tiny.GOAL)
        Path("broken.zip").write_bytes(b"nonsense")
        assert "not a zip file" in fails("evaluate", "broken.zip", "--env", tiny.BOX)
        assert "no saved model" in fails("evaluate", "nowhere", "--env", tiny.BOX)


class TestBadInput:
    """One clear line, exit code 2, and nothing written."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--env", "TinyBix-v0"], "Did you mean 'TinyBox-v0'"),
            (["--env", tiny.GOAL], "observation"),
            (["--recipe", "calqll"], "Did you mean 'calql'"),
            (["--recipe", "rlpd"], "does not pre-train by itself"),
            (["--set", "learning_rat=1"], "Did you mean 'learning_rate'"),
            (["--set", "learning_rate"], "takes NAME=VALUE"),
            (["--set", "gamma=[1"], "is not YAML"),
            (["--set", "gamma.x=1"], "has no names inside"),
            (["--set", "objective=cqll"], "Did you mean 'cql'"),
            (["--set", "objective_kwargs.cql_wait=1"], "Did you mean 'cql_weight'"),
            (["--set", "finetuning=[{Warmpu: {}}]"], "Did you mean 'Warmup'"),
            (["--set", "seed=3"], "--set cannot change seed: use --seed."),
            (["--log-dir", "file/runs"], "Cannot write runs to"),
            (["--gradient-steps", "0"], "gradient-steps"),
        ],
    )
    def test_pretrain(self, options: list[str], message: str, tiny_dataset: Callable[..., str]) -> None:
        Path("file").touch()
        defaults = ["--recipe", "cql", "--gradient-steps", "2", *SMALL, *SHORT]
        given = [] if options[:2] == ["--recipe", "rlpd"] else defaults[2:4]
        recipe = [] if options[0] == "--recipe" else defaults[:2]
        assert message in fails("pretrain", tiny_dataset(), *recipe, *given, *defaults[4:], *options)
        assert not Path("runs").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["pretrain"], "give a dataset"),
            (["pretrain", "nobody/nothing-v0"], "nobody/nothing-v0"),
            (["pretrain", "nobody/nothing-v0", "--env", tiny.BOX], "minari download nobody/nothing-v0"),
            (["pretrain", "truncated.npz"], "truncated.npz"),
            (["finetune"], "give a SOURCE"),
            (["finetune", "nowhere"], "no saved model"),
            (["finetune", "text.zip", "--env", tiny.BOX], "not a zip file"),
            (["finetune", "--env", "Discrete-v0"], "Box"),
            (["finetune", "--env", tiny.BOX, "--recipe", "rlpd", "--steps", "5"], "needs a dataset"),
            (["evaluate"], "Missing argument"),
            (["nonsense"], "No such command"),
        ],
    )
    def test_other_commands(self, arguments: list[str], message: str) -> None:
        Path("truncated.npz").write_bytes(b"PK\x03\x04")
        Path("text.zip").write_text("text")
        if "Discrete-v0" not in gym.registry:
            gym.register("Discrete-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
        assert message in fails(*arguments)
        assert not Path("runs").exists()

    def test_the_traceback_can_be_asked_for(self) -> None:
        result = sb3_o2o("--traceback", "recipes", "show", "wslr")
        assert isinstance(result.exception, ValueError)


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's own dataset and environment, at a size that takes seconds."""
    monkeypatch.setattr(gym.registry["InvertedDoublePendulum-v5"], "max_episode_steps", 20)
    sizes = {"gradient-steps": 4, "steps": 30, "warmup": 10, "n-critics": 2, "eval-episodes": 1, "evaluations": 1}
    options = [part for name, value in sizes.items() for part in (f"--{name}", value)]
    output = succeeds("demo", *options, "--set", "policy_kwargs.net_arch=[8]", "--set", "batch_size=8")
    folder = Path("runs/wsrl-InvertedDoublePendulum-v5_1")
    assert "dataset (double-pendulum-medium-20k.npz) │ 3.6 ± 1.5 │ 470" in output
    assert "offline policy" in output
    assert "fine-tuned policy (30 steps)" in output
    assert f"Picture: {folder}/learning_curve.png" in output
    assert (folder / "learning_curve.png").is_file()
    # what it advises fits the networks that it trained
    (command,) = re.findall(r"Go on from its policy: sb3-o2o (.*)", output)
    assert "--steps 50000" in command
    output = succeeds(*shlex.split(command.replace("50000", "10")), *SHORT)
    assert "fine-tuned policy (10 steps)" in output
    assert "What was trained wins" not in output
