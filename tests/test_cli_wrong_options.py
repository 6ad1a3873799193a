"""Whatever is wrong with a command's options: one message that names the option, and nothing is written.

At 80 columns and through a pipe, as in a continuous integration's log.
"""

import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
import tiny
from command_line import sb3_o2o
from stable_baselines3 import SAC

from sb3_o2o.data.collect import collect

DATASET = "tests/tinybox-v0/random-v0"
BOX, GOAL = tiny.BOX, tiny.GOAL
PRETRAIN = f"pretrain {DATASET} --recipe cql --gradient-steps 2"
FINETUNE = f"finetune stock --env {BOX} --recipe sac --steps 5"
EVALUATE = f"evaluate stock --env {BOX} --episodes 1"
SELECT = f"select stock file --env {BOX}"
COLLECT = f"collect {BOX} tests/new/one-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a stock model, and files that are none."""
    path = tmp_path_factory.mktemp("wrong_options")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patch.setenv("MINARI_DATASETS_PATH", str(path / "minari"))
        patch.setenv("SB3_O2O_CACHE", str(path / "cache"))
        collect(None, BOX, DATASET, n_episodes=3, seed=0)
        SAC("MlpPolicy", gym.make(BOX), policy_kwargs={"net_arch": [4]}, seed=0).save(path / "stock")
    (path / "empty").mkdir()
    (path / "file").touch()
    for name in ("text.zip", "text.npz", "text.yml"):
        (path / name).write_text("a: [1")
    (path / "lots.yml").write_text("default: {batch_size: lots}")
    return path


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    monkeypatch.setenv("SB3_O2O_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    yield folder
    shutil.rmtree(folder / "runs", ignore_errors=True)


def values_out_of_range() -> Iterator[tuple[str, str]]:
    """Every number that an option takes: below its least, a word, and a fraction of what is counted."""
    least = {
        EVALUATE: {"--episodes": 1, "--seed": 0, "--threads": 1},
        SELECT: {"--episodes": 1, "--seed": 0, "--threads": 1},
        COLLECT: {"--n-steps": 1, "--n-episodes": 1, "--seed": 0, "--threads": 1},
        PRETRAIN: {
            "--gradient-steps": 1,
            "--seed": 0,
            "--threads": 1,
            "--eval-episodes": 1,
            "--evaluations": 1,
            "--checkpoints": 0,
        },
        FINETUNE: {
            "--steps": 1,
            "--pretrain-steps": 0,
            "--n-envs": 1,
            "--seed": 0,
            "--threads": 1,
            "--eval-episodes": 1,
            "--evaluations": 1,
            "--checkpoints": 0,
        },
        "demo": {
            "--gradient-steps": 1,
            "--steps": 1,
            "--warmup": 0,
            "--n-critics": 2,
            "--n-actions": 1,
            "--eval-episodes": 1,
            "--evaluations": 1,
            "--seed": 0,
            "--threads": 1,
        },
        "bench speed": {"--rounds": 1, "--updates": 1, "--threads": 1},
        "bench env": {"--steps": 1, "--rounds": 1, "--transitions": 2000, "--threads": 1},
        "bench run": {"--n-envs": 1, "--steps": 1, "--eval-freq": 1, "--eval-episodes": 1, "--threads": 1},
    }
    for command, options in least.items():
        for option, number in options.items():
            for value in (number - 1, "many", 1.5):
                yield f"{command} {option} {value}", f"Invalid value for '{option}'"
    for command in (EVALUATE, COLLECT, PRETRAIN, FINETUNE, "demo"):
        yield f"{command} --seed {2**32}", "Invalid value for '--seed'"


def not_there() -> Iterator[tuple[str, str]]:
    """Options, arguments and sub-commands that do not exist, and those that are missing."""
    whole = (EVALUATE, f"{COLLECT} --n-steps 5", PRETRAIN, FINETUNE, "demo", "bench speed", "bench env", "bench run")
    for command in (*whole, "recipes list", "recipes show wsrl"):
        yield f"{command} --nonsense", "No such option: --nonsense"
        if command != FINETUNE:
            yield f"{command} extra", "unexpected extra argument(s) (extra)"
    yield f"{FINETUNE} extra", "no saved model and no run folder at 'extra'"
    yield "finetune stock --env", "Option '--env' requires an argument"
    yield "evaluate", "Missing argument 'model'"
    yield f"{SELECT} --nonsense", "No such option: --nonsense"
    yield "select", "Missing argument 'models"
    yield "collect", "Missing argument 'env'"
    yield f"collect {BOX}", "Missing argument 'dataset_id'"
    yield "recipes show", "Missing argument 'name'"
    yield "pretrain", "DATASET: give a dataset (or --resume DIR)"
    yield "finetune", "SOURCE: give a SOURCE, a --dataset or an --env"
    for group in ("bench", "recipes"):
        yield f"{group} nonsense", "No such command 'nonsense'"


#: What only the command itself finds out: a command line, and what it says.
OTHERS = [
    # files that are missing, folders instead of files, files of another kind
    ("evaluate nowhere", "no saved model and no run folder at 'nowhere'"),
    (f"evaluate empty --env {BOX}", "There is no run in 'empty': it has no config.yml"),
    (f"evaluate text.zip --env {BOX}", "text.zip is not a zip file"),
    (f"evaluate '' --env {BOX}", "'' names neither a saved model nor a run folder"),
    (f"{EVALUATE} --video empty", "--video empty"),
    (f"{COLLECT} --n-steps 5 --policy nowhere", "no saved model and no run folder at 'nowhere'"),
    (f"{COLLECT} --n-steps 5 --policy empty", "There is no run in 'empty'"),
    (f"pretrain nowhere.npz --env {BOX}", "There is no file nowhere.npz"),
    ("pretrain nowhere.npz", "There is no file nowhere.npz"),
    ("pretrain no/such-v0", "There is no Minari dataset 'no/such-v0'"),
    (f"pretrain text.npz --env {BOX}", "text.npz cannot be read as an .npz of plain arrays: it is no zip file"),
    (f"pretrain empty --env {BOX}", "empty is not a Minari dataset that can be read"),
    (f"pretrain stock.zip --env {BOX}", "a saved model, perhaps"),
    (f"pretrain '' --env {BOX}", "Cannot load ''"),
    (f"pretrain {DATASET} --recipe nope", "Unknown recipe 'nope'"),
    (f"pretrain {DATASET} --recipe nope.yml", "There is no recipe file 'nope.yml'"),
    (f"pretrain {DATASET} --recipe empty", "Unknown recipe 'empty'"),
    (f"pretrain {DATASET} --recipe text.yml", "text.yml is not a recipe: it is not YAML"),
    (f"pretrain {DATASET} --recipe lots.yml", "batch_size of entry 'default' in"),
    (f"{PRETRAIN} --log-dir file", "Choose another --log-dir"),
    (f"{PRETRAIN} --resume nowhere", "There is no run in 'nowhere'"),
    (f"finetune nowhere --env {BOX}", "no saved model and no run folder at 'nowhere'"),
    (f"finetune empty --env {BOX}", "There is no run in 'empty'"),
    (f"finetune '' --env {BOX}", "'' names neither a saved model nor a run folder"),
    (f"{FINETUNE} --dataset nowhere.npz", "There is no file nowhere.npz"),
    (f"{FINETUNE} --log-dir file", "Choose another --log-dir"),
    ("finetune --resume empty", "There is no run in 'empty'"),
    ("demo --resume file", "There is no run in 'file'"),
    ("demo --log-dir file", "Choose another --log-dir"),
    ("recipes show nope.yml", "There is no recipe file 'nope.yml'"),
    ("recipes show ''", "Unknown recipe ''"),
    ("bench speed --rows sac --peers nowhere", "--peers takes the path of one"),
    ("bench speed --rows sac --peers empty", "--peers takes the path of one"),
    ("bench speed --rows sac --out file", "--out file: this cannot be a folder"),
    ("bench env --out file", "--out file: this cannot be a folder"),
    ("bench run --out file", "--out file: this cannot be a folder"),
    # environments that do not exist or do not fit
    ("evaluate stock", "add --env"),
    ("evaluate stock --env Nope-v0", "Unknown environment 'Nope-v0'"),
    ("evaluate stock --env ''", "Unknown environment ''"),
    (f"evaluate stock --env {GOAL}", f"than {GOAL} has: one is a Box, the other a Dict"),
    (f"collect {GOAL} tests/new/one-v0 --n-steps 5 --policy stock", f"than {GOAL} has: one is a Box, the other a Dict"),
    ("collect CartPole-v1 tests/new/one-v0 --n-steps 5", "Discrete(2)"),
    ("collect Nope-v0 tests/new/one-v0 --n-steps 5", "Unknown environment 'Nope-v0'"),
    (f"{PRETRAIN} --env Nope-v0", "Unknown environment 'Nope-v0'"),
    (f"{PRETRAIN} --env {GOAL}", "observation"),
    ("finetune stock", "add --env"),
    ("finetune stock --env CartPole-v1", "CartPole-v1 has the action space Discrete(2)"),
    (f"finetune stock --env {GOAL} --recipe sac", "observations"),
    ("bench env --env Nope-v0", "Unknown environment 'Nope-v0'"),
    ("bench env --env CartPole-v1", "--env CartPole-v1 has the action space Discrete(2)"),
    ("bench run --env CartPole-v1", "--env CartPole-v1 has the action space Discrete(2)"),
    (f"bench run --env {GOAL}", f"--env {GOAL} observes Dict"),
    # names, devices, combinations
    (COLLECT, "give one of --n-steps and --n-episodes"),
    (f"{COLLECT} --n-steps 5 --n-episodes 2", "give one of --n-steps and --n-episodes"),
    (f"collect {BOX} noversion --n-steps 5", "'noversion' is not a Minari id"),
    (f"collect {BOX} ../up/one-v0 --n-steps 5", "'../up/one-v0' is not a Minari id"),
    (f"collect {BOX} {DATASET} --n-steps 5", "pass --force to replace it"),
    (f"{PRETRAIN} --device tpu", "device must be"),
    (f"{PRETRAIN} --device cuda", "--device cuda: this PyTorch finds no GPU"),
    (f"{FINETUNE} --device cuda:1", "--device cuda:1: this PyTorch finds no GPU"),
    (f"{PRETRAIN} --set batch_size=-1", "batch_size must be a whole number of at least 1, not -1"),
    (f"{PRETRAIN} --set =3", "--set takes NAME=VALUE"),
    (f"{PRETRAIN} --set dataset_kwargs.nope=3", "Unknown dataset argument 'nope'"),
    (f"pretrain {DATASET} --recipe rlpd", "--gradient-steps"),
    (f"{FINETUNE} --pretrain-steps 5", "--pretrain-steps 5 are steps on a dataset: add --dataset"),
    (f"finetune stock --env {BOX} --recipe rlpd --steps 5", "Recipe 'rlpd' needs a dataset: add --dataset"),
    ("pretrain data --steps 5", "No such option: --steps (Possible options: --gradient-steps)"),
    ("finetune --gradient-steps 5", "No such option: --gradient-steps (Possible options: --pretrain-steps, --steps)"),
    ("finetune --step 5", "--steps)"),
    ("demo --device cuda", "--device cuda: this PyTorch finds no GPU"),
    ("demo --warmup 10 --steps 10", "--warmup 10 leaves no step of --steps 10"),
    ("demo --set n_critics=1", "n_critics"),
    ("bench speed --rows nope", "Unknown row 'nope'"),
    ("bench speed --rows ,", "--rows takes names with commas between them, got ','"),
    ("bench speed --rows sac --precision fp8", "Unknown precision 'fp8'"),
    ("bench speed --rows sac --precision ''", "--precision takes names with commas between them, got ''"),
    ("bench speed --rows sac,,wsrl", "--rows takes names with commas between them, got 'sac,,wsrl'"),
    ("bench speed --rows sac --device tpu", "Unknown device 'tpu'"),
    ("bench run --runs nope", "Unknown run 'nope'"),
    ("bench run --runs ''", "--runs takes names with commas between them, got ''"),
    ("bench run --steps 7 --eval-freq 3", "--steps 7 must be a multiple of --eval-freq 3"),
]


@pytest.mark.parametrize(("command", "message"), [*values_out_of_range(), *not_there(), *OTHERS])
def test_a_wrong_option_is_named(command: str, message: str, in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = sorted(in_folder.rglob("*"))
    arguments = [part.strip("'") if part != "''" else "" for part in command.split()]
    result = sb3_o2o(*arguments, columns=80)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    # a box of 80 columns breaks what the parser says
    assert message in re.sub(r"[\s│╭╮╰╯─]+", " ", result.stderr)
    written = [path for path in sorted(in_folder.rglob("*")) if path not in before and "cache" not in path.parts]
    assert written == []


def test_an_environment_that_is_registered_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe can be looked up for it, and a slip of the pen is seen."""
    result = sb3_o2o("recipes", "show", "wsrl", "--env", "Hoper-v5", columns=80)
    assert result.exit_code == 0
    told = re.sub(r"\s+", " ", result.stderr)
    assert "Warning: Unknown environment 'Hoper-v5'. Did you mean 'Hopper-v" in told
    assert "Shown is the entry that its name would have." in told
