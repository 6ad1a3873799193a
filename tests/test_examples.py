"""Every example runs, at a size that takes seconds."""

import importlib.util
import re
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


def check_told(capsys: pytest.CaptureFixture, scores: list[str], files: list[Path]) -> str:
    """It said how good the policy was at each stage, and which files there are now."""
    printed = capsys.readouterr().out
    for stage in scores:
        assert re.search(rf"^{re.escape(stage)}: return -?[\d.]+ ± [\d.]+.*\(1 episodes\)$", printed, re.M), stage
    for path in files:
        assert path.exists()
        assert path.name in printed
    return printed


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
    stages = ["Untrained", "After 2 updates on the dataset", "After 8 steps of fine-tuning"]
    files = [tmp_path / name for name in ("offline_model.zip", "online_model.zip", "offline", "online", "tensorboard")]
    assert f"tensorboard --logdir {tmp_path}" in check_told(capsys, stages, files)


def test_from_stock_sac(example: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main = example("from_stock_sac").main
    main(env_id=tiny.BOX, stock_steps=120, gradient_steps=2, steps=10, eval_episodes=1, folder=tmp_path)
    stages = ["Stock SAC", "After 2 updates on its buffer", "After 10 steps of fine-tuning"]
    files = [tmp_path / name for name in ("stock_sac.zip", "stock_buffer.pkl", "fine_tuned_sac.zip")]
    printed = check_told(capsys, [*stages, "The same as stock SAC again"], files)
    assert len({line.split(": ")[1] for line in printed.splitlines()[-3:-1]}) == 1  # it is the same
    assert SAC.load(tmp_path / "fine_tuned_sac").observation_space.shape == (2,)


def test_any_policy_to_ppo(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    module = example("any_policy_to_ppo")
    module.main(transitions=450, clone_steps=3, gradient_steps=3, steps=10, eval_episodes=1, folder=tmp_path)
    files = [tmp_path / "model.zip"]
    printed = check_told(capsys, ["Before fine-tuning", "After 10 steps"], files)
    assert "Clone: cloned function, the critics are fresh, mean action distance" in printed
    assert O2OPPO.load(tmp_path / "model").finished_phases == ["reevaluation"]


def test_own_data(example: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main = example("own_data").main
    main(env_id=tiny.BOX, transitions=50, gradient_steps=2, steps=15, eval_episodes=1, folder=tmp_path)
    stages = ["Untrained", "After 2 updates on the dataset", "After 15 steps of fine-tuning"]
    check_told(capsys, stages, [tmp_path / "model.zip"])


def test_rl_zoo_style(example: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    module = example("rl_zoo_style")
    module.main(gradient_steps=2, steps=4, eval_episodes=1, folder=tmp_path)
    check_told(capsys, ["Untrained", "After 2 updates on the dataset and 4 steps"], [tmp_path / "model.zip"])
    assert set(yaml.safe_load(module.HYPERPARAMS)) >= {"policy", "n_timesteps", "recipe"}


def test_rl_zoo_stock(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The zoo's own programs, from the command that the example names to a policy that acts."""
    pytest.importorskip("rl_zoo3")
    from rl_zoo3.enjoy import enjoy
    from rl_zoo3.train import train

    module = example("rl_zoo_stock")
    _, command, look = (line for line in module.__doc__.splitlines() if line)
    small = ["-params", "callback:[{'sb3_o2o.zoo.stock.OfflineUpdates':{'gradient_steps':7}}]", "buffer_size:100"]
    for program, line, more in ((train, command, ["-n", "20", *small]), (enjoy, look, ["-n", "20", "--no-render"])):
        arguments = line.replace("examples/", f"{FOLDER}/").split()[3:]
        monkeypatch.setattr("sys.argv", ["zoo", *arguments, *more])
        program()
    assert "Mean reward" in capsys.readouterr().out
    model = SAC.load("logs/sac/InvertedDoublePendulum-v5_1/InvertedDoublePendulum-v5.zip")
    assert model._n_updates == 7 + 20
    assert type(model.replay_buffer).__name__ == "MixedReplayBuffer"


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
