"""What all tests share: one thread, folders of their own, tiny environments and datasets."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
import torch as th
from hypothesis import settings

from sb3_o2o.data.collect import collect

th.set_num_threads(1)
tiny.register()
# a first call may import or compile: how long it takes says nothing about what is tested
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets, caches and runs of a test stay in its own folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("SB3_O2O_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """A compiler that has compiled nothing, before and after the test."""
    import torch._dynamo  # seconds to import, and few tests need it

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


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
