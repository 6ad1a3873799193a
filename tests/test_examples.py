"""Every example runs, at a size that takes seconds."""

import importlib.util
import inspect
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from stable_baselines3 import SAC

from sb3_o2o import O2OPPO, O2OSAC, OfflineDataset
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


def test_decision_transformer(
    example: Callable[[str], ModuleType],
    tiny_dataset: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    module = example("decision_transformer")
    sizes = {"context": 4, "train_steps": 3, "clone_steps": 3, "steps": 16, "wait": 5, "eval_episodes": 1}
    dataset = tiny_dataset()
    module.main(dataset, tiny.BOX, **sizes, folder=tmp_path)
    printed = check_told(capsys, ["Before fine-tuning", "After 16 steps"], [tmp_path / "model.zip"])
    assert re.search(r"Clone: cloned Trained, .* return -?[\d.]+ \(source: -?[\d.]+\)", printed)
    # in an environment it is what it is along a dataset: a window of its own steps, and what is left of its target
    data = OfflineDataset.load(dataset)
    policy = module.train(data, 4, 2)
    observations, target = data.observations[:6].astype(np.float32), policy.target
    state, actions, wanted = None, [], []
    for step in range(6):
        starts, reward = np.array([step == 0]), np.array([0.0 if step == 0 else 1.5])
        action, state = policy.predict(observations[step : step + 1], state, starts, reward=reward)
        actions.append(action[0])
        wanted.append(state[3][0])
    assert wanted == pytest.approx([target - 1.5 * step for step in range(6)])
    before = np.stack([policy.middle, *actions[:-1]])
    tokens = policy.tokens(np.array(wanted), observations, before)
    assert state[0][0] == pytest.approx(tokens[2:], abs=1e-5)  # the last four


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


def test_subproc_vec_env(
    example: Callable[[str], ModuleType], tiny_dataset: Callable[..., str], capsys: pytest.CaptureFixture
) -> None:
    arguments = {"n_envs": 2, "gradient_steps": 2, "steps": 10, "start_method": "fork"}
    example("subproc_vec_env").main(tiny_dataset(), tiny.BOX, **arguments)
    # four updates for each step of one environment, as in the recipe
    assert "2 environments in processes of their own: 10 steps, 40 updates online." in capsys.readouterr().out


def test_vec_normalize(
    example: Callable[[str], ModuleType],
    tiny_dataset: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    dataset = tiny_dataset()
    example("vec_normalize").main(dataset, tiny.BOX, gradient_steps=2, steps=15, folder=tmp_path)
    first, second, third = (line.partition(": ")[2] for line in capsys.readouterr().out.splitlines())
    observations = OfflineDataset.load(dataset).observations
    assert (
        first
        == second
        == f"{len(observations)} observations, the first entry with mean {observations[:, 0].mean():.3f}"
    )
    assert third.startswith("16 observations")


def test_custom_environment(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture) -> None:
    example("custom_environment").main(episodes=3, gradient_steps=2, steps=4, eval_episodes=1)
    assert re.fullmatch(
        r"Returns: the recorded controller -[\d.]+, offline -[\d.]+, fine-tuned -[\d.]+\n", capsys.readouterr().out
    )


def test_goals_with_her(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture) -> None:
    goals = example("goals_with_her")
    goals.main(episodes=3, gradient_steps=2, steps=130, eval_episodes=1)
    assert "after 130 steps with HerReplayBuffer -" in capsys.readouterr().out
    env = goals.Reach()  # what it returned stays as it was: Gymnasium warns of environments that share arrays
    (first, _), (second, *_) = env.reset(seed=0), env.step(np.ones(2))
    arrays = [array for observation in (first, second) for array in observation.values()]
    assert not any(np.shares_memory(one, other) for one, other in combinations(arrays, 2))


def test_images(example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture) -> None:
    example("images").main(transitions=60, gradient_steps=2, steps=4, batch_size=4)
    output = capsys.readouterr().out
    assert "60 pictures of 36 x 36 in 0.1 MB" in output
    assert "4 steps, 6 updates; the network sees (1, 36, 36)" in output


def test_tune_by_hand(
    example: Callable[[str], ModuleType],
    tiny_dataset: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    sizes = {"gradient_steps": 2, "steps": 30, "eval_episodes": 2, "n_trials": 6, "n_jobs": 2}
    study = example("tune_by_hand").main(tiny_dataset(), tiny.BOX, **sizes, folder=tmp_path)
    assert len(study.trials) == 6
    complete = [each for each in study.trials if each.state.name == "COMPLETE"]
    assert {each.state.name for each in study.trials} <= {"COMPLETE", "PRUNED"}
    assert len(complete) >= 3
    for trial in complete:
        model = O2OSAC.load(tmp_path / f"trial_{trial.number}")
        assert model.gradient_steps == trial.params["gradient_steps"]
        assert model.qf_learning_rate == trial.params["qf_learning_rate"]
        assert len(trial.intermediate_values) == 5
    assert f"Best: {study.best_value:.1f} with" in capsys.readouterr().out


def test_tuning_by_hand_goes_on_after_a_run_of_nan(
    example: Callable[[str], ModuleType],
    tiny_dataset: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, load_offline, made = example("tune_by_hand"), O2OSAC.load_offline, []

    def of_nan_at_first(*args: Any, **kwargs: Any) -> O2OSAC:
        made.append(load_offline(*args, **kwargs))
        if len(made) == 1:
            made[0].actor.mu.bias.data.fill_(np.nan)
        return made[-1]

    monkeypatch.setattr(O2OSAC, "load_offline", of_nan_at_first)
    sizes = {"gradient_steps": 2, "steps": 10, "eval_episodes": 1, "n_trials": 2, "n_jobs": 1}
    study = module.main(tiny_dataset(), tiny.BOX, **sizes, folder=tmp_path)
    assert [each.state.name for each in study.trials] == ["FAIL", "COMPLETE"]


def test_hugging_face_hub(
    example: Callable[[str], ModuleType],
    tiny_dataset: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    module, dataset = example("hugging_face_hub"), tiny_dataset()
    sizes = {"gradient_steps": 2, "steps": 10, "eval_episodes": 2, "folder": tmp_path}
    monkeypatch.setattr(module, "HfApi", lambda: module.FolderHub(tmp_path / "theirs"))
    module.main("someone/tiny", dataset, tiny.BOX, **sizes)
    assert "after: the same." in capsys.readouterr().out
    found = tmp_path / "theirs" / "someone" / "tiny"
    card = hub.ModelCard.load(found / "README.md")
    (result,) = card.data.eval_results
    assert (card.data.model_name, result.dataset_name) == ("someone/tiny", tiny.BOX)
    assert float(result.metric_value.split()[0]) < 0
    for text in ("recipe: wsrl", "n_critics: 5", "60 transitions in 6 episodes", "| offline |", "learning_curve.png"):
        assert text in card.content
    assert {path.name for path in found.iterdir()} == {
        *("README.md", "learning_curve.png", "model.zip", "offline", "online"),
    }
    # the calls are those that the Hub's client has
    for name in ("create_repo", "upload_folder", "snapshot_download"):
        ours = inspect.signature(getattr(module.FolderHub, name)).parameters
        assert set(ours) <= set(inspect.signature(getattr(hub.HfApi, name)).parameters)


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
    assert "as recorded" in dataset.summary(print_table=False)["episode_ends"]
    assert 0 < dataset.ref_min_score < 200


def test_the_demo_dataset_is_what_it_says() -> None:
    assert DEMO_DATASET.stat().st_size <= 5e6
    dataset = OfflineDataset.load(DEMO_DATASET)
    assert len(dataset) == 20_000
    assert len(dataset.episode_starts) == 470
    assert dataset.env_id == "InvertedDoublePendulum-v5"
    assert dataset.observations.dtype == np.float32
    assert dataset.summary(print_table=False)["episode_ends"].startswith("Minari, 'terminations' and 'truncations'")
    assert dataset.normalized_score(dataset.episode_returns).mean() == pytest.approx(3.6, abs=0.1)
