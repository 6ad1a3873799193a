"""README as its reader pastes it, and on the pages that it leads to; see :mod:`reader` and ``test_docs.py``."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from minari.storage.remotes import DEFAULT_REMOTE
from packaging.requirements import Requirement
from reader import GENERATED, ROOT, blocks, commands, parse, paste, shorter
from stable_baselines3 import SAC
from typer.testing import CliRunner

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.cli import app
from sb3_o2o.recipes import list_recipes

README = (ROOT / "README.md").read_text()
START, ZOO, FROM_STOCK, METHODS = (
    (ROOT / "docs" / name).read_text()
    for name in ("start.md", "migrating/rl-zoo.md", "migrating/stable-baselines3.md", "methods/index.md")
)
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if not GENERATED & set(path.parts))]
PYTHON, SHELL = (blocks(README, language) for language in ("python", "bash"))
COMMANDS = commands(README)
ALL_COMMANDS = sorted({line for page in PAGES for line in commands(page.read_text())})
#: commands in running text; what stands in for a number there is filled in
IN_TEXT = sorted(
    {
        text.replace("--seed N", "--seed 1").replace("\n", " ")
        for page in PAGES
        for text in re.findall(r"`(sb3-o2o [^`]*)`", page.read_text())
        if "..." not in text and "…" not in text
    }
)


class TestPython:
    def test_sizes_are_the_only_change(self) -> None:
        assert shorter('learn(500_000) # v5 250000 "x/y-v0", 1e-4, 2_500') == 'learn(20) # v5 10 "x/y-v0", 1e-4, 2_500'
        assert shorter("{steps: 5000} size: 1_000_000", r"steps: {}\b") == "{steps: 2} size: 1_000_000"

    def test_the_headline_is_wsrl(self, reader: Path) -> None:
        names = paste(PYTHON[0])
        assert (reader / "wsrl_hopper.zip").is_file()
        offline, model = O2OSAC.load("wsrl_hopper"), names["model"]
        for each in (offline, model):
            assert (each.recipe, each.n_critics, each.critic_subset, each.objective) == ("wsrl", 10, 2, "cql")
            assert each.critic_layer_norm
            assert each.actor_layer_norm
        assert offline.n_pretrain_steps == model.n_pretrain_steps == 10
        assert model.online_objective == "sac"
        assert [type(callback).__name__ for callback in model.finetuning] == ["Warmup"]
        # two steps of warm-up, and four updates for each of the others, on what was collected alone
        assert model._n_updates - offline._n_updates == 4 * (20 - 2)
        assert model.replay_buffer.size() == model.num_timesteps == 20

    def test_there_is_no_other_block(self) -> None:
        """Those of the pages are run by ``test_docs.py``, from the top of each page to its end."""
        assert len(PYTHON) == 1

    def test_a_file_of_the_zoo(self, reader: Path) -> None:
        """What is changed in it are arguments of the constructor, and the command keeps its options."""
        settings, command = blocks(ZOO, "diff")
        stock, ours = (
            yaml.safe_load(shorter("\n".join(line[1:] for line in settings.splitlines() if line[:1] != other)))[
                "Hopper-v5"
            ]
            for other in ("+", "-")
        )
        small = {"policy_kwargs": {"net_arch": [4]}, "batch_size": 8}
        assert (stock.pop("policy"), stock.pop("n_timesteps")) == (ours.pop("policy"), ours.pop("n_timesteps"))
        SAC("MlpPolicy", "Hopper-v5", **stock, **small).learn(4)
        model = O2OSAC("MlpPolicy", "Hopper-v5", **ours, **small).learn(4)
        assert (model.objective, model.n_pretrain_steps, model.num_timesteps) == ("cql", 4, 4)
        assert [type(callback).__name__ for callback in model.finetuning] == ["Warmup"]
        before, after = (line[1:].split(" --env ") for line in command.splitlines())
        assert before[1] == after[1]
        assert (before[0], after[0]) == (
            "python -m rl_zoo3.train --algo sac",
            "python -m sb3_o2o.zoo.train --algo o2o_sac",
        )

    def test_lines_of_d3rlpy(self) -> None:
        page = (ROOT / "docs" / "migrating" / "d3rlpy-corl.md").read_text()
        lines = re.findall(r"`(O2O(?:SAC|TD3)\([^`]*objective_kwargs[^`]*\))`", page)
        models = [
            eval(line.replace("...", '"MlpPolicy", env'), {"O2OSAC": O2OSAC, "O2OTD3": O2OTD3, "env": "Pendulum-v1"})
            for line in lines
        ]
        assert [model.objective for model in models] == ["cql", "td3_bc", "iql"]
        assert [model.objective_kwargs for model in models] == [{"cql_weight": 5.0}, {"alpha": 2.5}, {"expectile": 0.7}]

    def test_a_stock_script(self, reader: Path) -> None:
        (difference,) = blocks(FROM_STOCK, "diff")
        before, after = (
            "\n".join(line[1:] for line in difference.splitlines() if line[:1] != other) for other in ("+", "-")
        )
        stock = paste(before)["model"]
        assert type(stock) is SAC
        stock.save_replay_buffer("my_replay_buffer")
        model = paste(after)["model"]
        assert (type(model), model.objective, model.n_pretrain_steps, model.num_timesteps) == (O2OSAC, "cql", 4, 4)


class TestShell:
    @pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("sb3-o2o ")])
    def test_our_commands_are_understood(self, command: str) -> None:
        parse(command)

    @pytest.mark.parametrize("command", IN_TEXT)
    def test_so_are_those_in_running_text(self, command: str) -> None:
        if " -" in command:
            parse(command)
        else:  # named only, without what it needs
            assert CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"]).exit_code == 0

    def test_no_command_is_left_out(self) -> None:
        known = ("sb3-o2o ", "make ", "pip install ", "minari download ", "git clone ", "python -m sb3_o2o.zoo.")
        assert [line for line in ALL_COMMANDS if not line.startswith((*known, "python benchmarks/"))] == []

    def test_benchmarks_are_there(self) -> None:
        asked = {line.split()[1] for line in ALL_COMMANDS if line.startswith("python benchmarks/")}
        asked |= set(re.findall(r"`python (benchmarks/\w+\.py)", "".join(page.read_text() for page in PAGES)))
        assert "benchmarks/ocr_cft.py" in asked
        assert [name for name in sorted(asked) if not (ROOT / name).is_file()] == []

    def test_make_knows_its_targets(self) -> None:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
        asked = [line.split()[1] for line in ALL_COMMANDS if line.startswith("make ")]
        asked += re.findall(r"`make ([a-z-]+)[ `]", "".join(page.read_text() for page in PAGES))
        assert asked
        assert set(asked) <= targets

    def test_extras_exist(self) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"pip install '\.\[(\w+)\]'", START)
        assert set(asked) == set(extras) - {"docs", "dev"}

    def test_what_downloads_the_dataset_is_installed_with_the_package(self) -> None:
        """Minari's command needs another package for the place where its datasets lie."""
        needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        (minari,) = [each for each in map(Requirement, needed) if each.name == "minari"]
        assert "minari download mujoco/hopper/medium-v0" in COMMANDS
        assert DEFAULT_REMOTE.partition("://")[0] in minari.extras
        importlib.import_module("minari.storage.remotes.huggingface")

    def test_the_quick_start_runs(self, reader: Path) -> None:
        """Pre-train, fine-tune and evaluate: folders are named as README says, with the files that are listed."""
        (block,) = [block for block in SHELL if "sb3-o2o pretrain" in block]
        few = ["--evaluations", "1", "--eval-episodes", "1", "--checkpoints", "1"]
        for command in ("pretrain", "finetune", "evaluate"):
            (line,) = re.findall(rf"^sb3-o2o {command} .*$", block, re.M)
            line, _, folder = line.partition("# -> ")
            arguments = [shorter(part, r"^{}$") for part in shlex.split(line)[1:]]
            sizes = ["--episodes", "1"] if command == "evaluate" else few
            result = CliRunner().invoke(app, [*arguments, *sizes], env={"COLUMNS": "200"})
            assert result.exit_code == 0, result.output
            assert "Warning" not in result.output
            if command == "pretrain":  # what is advised is what README does next
                assert "Fine-tune it: sb3-o2o finetune runs/wsrl-Hopper-v5_1 --recipe wsrl\n" in result.output
            if folder:
                assert (reader / folder / "config.yml").is_file()
        listed = re.findall(r"^  ([\w.]+)/? ", START[START.index("## What came out") :].partition("```\n\n")[0], re.M)
        assert "learning_curve.png" in listed
        left = {path.name for path in (reader / "runs" / "wsrl-Hopper-v5_2").iterdir()}
        assert {name for name in left if not name.startswith(".")} == set(listed)
        with np.load(reader / "runs" / "wsrl-Hopper-v5_2" / "online" / "evaluations.npz") as evaluations:
            assert evaluations["timesteps"].tolist() == [0, 4]


@pytest.mark.parametrize(("text", "heading"), [(README, "## Methods"), (METHODS, "## All recipes")])
def test_the_table_lists_every_recipe(text: str, heading: str) -> None:
    table = text[text.index(heading) :].partition("\n## ")[0]
    assert sorted(name for name in list_recipes() if f"`{name}`" not in table) == []


def test_it_is_read_in_a_minute() -> None:
    """What is longer belongs on a page, and every link leads to one."""
    assert len(README.splitlines()) < 150
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    assert len(links) > 40
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_zoos_programs_run(
    reader: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rl_zoo3")
    small = {
        "train": ["-n", "40", "--eval-freq", "20", "--eval-episodes", "1", "--num-threads", "1"],
        "enjoy": ["-n", "20"],
        "plot": [],
    }
    for name, more in small.items():
        (line,) = [line for line in commands(ZOO) if line.startswith(f"python -m sb3_o2o.zoo.{name} ")]
        program = importlib.import_module(f"sb3_o2o.zoo.{name}")
        arguments = [shorter(part, r"^{}$") for part in shlex.split(line)[3:]]
        if name == "train":
            place = arguments.index("-params") + 1
            arguments[place:place] = [
                "pretrain_steps:2",
                "n_critics:2",
                "batch_size:8",
                "policy_kwargs:dict(net_arch=[4])",
            ]
        monkeypatch.setattr("sys.argv", [name, *arguments, *more])
        program.main()
    assert (reader / "logs" / "o2o_sac" / "Hopper-v5_1" / "evaluations.npz").is_file()
    assert "Recipe 'wsrl', entry 'default'" in capsys.readouterr().out
