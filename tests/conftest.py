"""What all tests share: one thread, folders of their own, tiny environments and datasets."""

import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import combinations
import pytest
import tiny
import torch as th
from hypothesis import settings
from plain import hostile
from reader import shorter

from sb3_o2o.data.collect import collect
from sb3_o2o.recipes import recipe_folder

th.set_num_threads(1)
# a shell that runs the tests in the background has interrupts ignored, which runs respect and tests must not depend on
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
tiny.register()
# a first call may import or compile: how long it takes says nothing about what is tested
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def log_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where loggers without a folder of their own make theirs, of which each `learn` would leave one in /tmp."""
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, log_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets, caches, runs and logs of a test stay in its own folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("SB3_O2O_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SB3_LOGDIR", str(log_folder))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """A compiler that has compiled nothing, before and after the test."""
    import torch._dynamo  # seconds to import, and few tests need it

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def quick_compiler(fresh_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """See :func:`combinations.quick_compiler`."""
    monkeypatch.setattr(th, "compile", combinations.quick_compiler())


@pytest.fixture
def tiny_dataset() -> Callable[..., str]:
    """Records random episodes of a tiny environment as a Minari dataset and gives its id."""

    def record(env_id: str = tiny.BOX, n_episodes: int = 6, with_references: bool = True) -> str:
        name = f"tests/{env_id.lower()}/random-v0"
        references = {"ref_min_score": -5.0, "ref_max_score": 0.0} if with_references else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no author, no code link
            collect(None, env_id, name, n_episodes=n_episodes, seed=0, **references)
        return name

    return record


#: what the documentation calls its dataset
DATASET = "mujoco/hopper/medium-v0"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset that the documentation speaks of, and shorter recipes."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Minari's: no author, no code link
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        collect(None, "Hopper-v5", DATASET, n_steps=300, seed=0)
    shutil.copytree(recipe_folder(), folder / "hyperparams")
    for path in (folder / "hyperparams").glob("*.yml"):
        path.write_text(shorter(path.read_text(), r"steps: {}\b"))
    return folder


@pytest.fixture
def reader(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder: what one block saves, the next one finds."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(home / "minari"))
    monkeypatch.setattr("sb3_o2o.recipes.recipe_files.recipe_folder", lambda: home / "hyperparams")
    return home


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What no hostile file may make appear, neither by itself nor by the module beside it that it names."""
    (tmp_path / "this_module_marks.py").write_text(hostile.touching(tmp_path / "marker"))
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("this_module_marks", None)
    yield tmp_path / "marker"
    sys.modules.pop("this_module_marks", None)  # some tests trust it
