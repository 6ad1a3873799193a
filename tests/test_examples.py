"""Every example runs, at a size that takes seconds."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny
import yaml
from stable_baselines3 import SAC

from sb3_o2o import O2OPPO, OfflineDataset
from sb3_o2o.demo_data import DEMO_DATASET

FOLDER = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def example() -> Callable[[str], ModuleType]:
    """Imports an example by its name."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_every_example_has_a_test() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert names <= tested


def test_pretrain_then_finetune(
    example: Callable[[str], ModuleType],
    tiny_dataset: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    example("pretrain_then_finetune").main(tiny_dataset(), tiny.BOX, 2, 8, eval_episodes=1, folder=tmp_path)
    assert (tmp_path / "online_model.zip").is_file()
    for phase in ("offline", "online"):
        assert (tmp_path / phase / "evaluations.npz").is_file()
    assert f"tensorboard --logdir {tmp_path}" in capsys.readouterr().out


def test_from_stock_sac(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    example("from_stock_sac").main(env_id=tiny.BOX, stock_steps=120, gradient_steps=2, steps=10, folder=tmp_path)
    assert SAC.load(tmp_path / "fine_tuned_sac").observation_space.shape == (2,)


def test_any_policy_to_ppo(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    module = example("any_policy_to_ppo")
    module.main(transitions=450, clone_steps=3, gradient_steps=3, steps=10, folder=tmp_path)
    assert "cloned function, the critics are fresh, mean action distance" in capsys.readouterr().out
    assert O2OPPO.load(tmp_path / "model").finished_phases == ["reevaluation"]


def test_own_data(example: Callable[[str], ModuleType]) -> None:
    module = example("own_data")
    module.main(env_id=tiny.BOX, transitions=50, gradient_steps=2, steps=15)


def test_rl_zoo_style(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture) -> None:
    module = example("rl_zoo_style")
    module.main(gradient_steps=2, steps=4)
    assert set(yaml.safe_load(module.HYPERPARAMS)) >= {"policy", "n_timesteps", "recipe"}


def test_make_demo_dataset(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = example("make_demo_dataset").make(tmp_path / "small.npz", training_steps=4, n_steps=60)
    assert len(dataset) == 60
    assert dataset.env_id == "InvertedDoublePendulum-v5"
    assert dataset.ref_max_score == 9359.0
    assert 0 < dataset.ref_min_score < 200


def test_the_demo_dataset_is_what_it_says() -> None:
    assert DEMO_DATASET.stat().st_size <= 5e6
    dataset = OfflineDataset.load(DEMO_DATASET)
    assert len(dataset) == 20_000
    assert len(dataset.episode_starts) == 470
    assert dataset.env_id == "InvertedDoublePendulum-v5"
    assert dataset.observations.dtype == np.float32
    assert dataset.normalized_score(dataset.episode_returns).mean() == pytest.approx(3.6, abs=0.1)
