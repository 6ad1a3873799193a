"""Bad input gets one clear error and changes nothing."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import FAST, Drift, arrays, assert_same, dataset, dataset_file, make, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.data import OfflineDataset
from sb3_o2o.finetuning import DatasetReplay, SymmetricReplay, Warmup

# -- arguments -----------------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "objective": ({"objective": "cqll"}, r"Unknown objective for O2OSAC 'cqll'\. Did you mean 'cql'\?"),
    "online objective": ({"online_objective": "sacc"}, r"'sacc'\. Did you mean 'sac'\?"),
    "objective's argument": (
        {"objective": "cql", "objective_kwargs": {"cql_wieght": 1.0}},
        r"Unknown argument of objective 'cql' 'cql_wieght'\. Did you mean 'cql_weight'\?",
    ),
    "online objective's argument": ({"online_objective_kwargs": {"n_action": 3}}, r"Did you mean 'n_actions'\?"),
    "recipe": ({"recipe": "wsrll"}, r"Unknown recipe 'wsrll'\. Did you mean 'wsrl'\?"),
    "callback": ({"finetuning": ["Warmupp"]}, r"'Warmupp'\. Did you mean 'Warmup'\?"),
    "callback's argument": (
        {"finetuning": [{"Warmup": {"step": 3}}]},
        r"Unknown argument of Warmup 'step'\. Did you mean 'steps'\?",
    ),
    "callbacks that are no list": ({"finetuning": Warmup(3)}, "must be a list"),
    "policy delay": ({"policy_delay": 0}, "policy_delay must be a whole number of at least 1, not 0"),
    "actor batch": (
        {"actor_batch": "blocks", "policy_delay": 2},
        "must be 'minibatch' or 'block', not 'blocks'",
    ),
    "block without delay": ({"actor_batch": "block"}, "needs policy_delay > 1"),
    "actor critics": ({"actor_critics": "max"}, "actor_critics must be 'min', 'mean', 'first' or 'pairs', not 'max'"),
    "precision": ({"precision": "fp16"}, "precision must be 'fp32' or 'bf16', not 'fp16'"),
    "empty subset": ({"critic_subset": 0}, "critic_subset must be a whole number of at least 1 or None, not 0"),
    "large subset": ({"critic_subset": 3}, r"critic_subset must lie in \[1, n_critics=2\], not 3"),
    "no critics": ({"n_critics": 0}, "n_critics must be a whole number of at least 1, not 0"),
    "half a critic": ({"n_critics": 2.5}, "whole number of at least 1, not 2.5"),
    "critics in words": ({"n_critics": "3"}, "whole number of at least 1, not .3."),
    "pretrain steps": ({"pretrain_steps": -1}, "pretrain_steps must be a whole number of at least 0, not -1"),
    "reduction": ({"online_objective_kwargs": {"critic_reduction": "max"}}, "critic_reduction .*must be.*not 'max'"),
    "sampled actions": (
        {"objective": "cql", "objective_kwargs": {"n_actions": 0}},
        "n_actions .*must be a whole number of at least 1, not 0",
    ),
    "weight": (
        {"objective": "cql", "objective_kwargs": {"cql_weight": -1.0}},
        "cql_weight .*must be a finite number of at least 0, not -1.0",
    ),
    "temperature": (
        {"objective": "cql", "objective_kwargs": {"temperature": 0.0}},
        "temperature .*must be a finite number above 0, not 0.0",
    ),
    "subset of the gap": (
        {"objective": "cql", "objective_kwargs": {"critic_subset": 3}},
        r"critic_subset must lie in \[1, n_critics=2\]",
    ),
    "loss": (
        {"objective": "bc", "objective_kwargs": {"loss": "l1"}},
        "loss .*must be 'likelihood', 'mse' or None, not 'l1'",
    ),
    "clip": (
        {"objective": "bc", "objective_kwargs": {"action_clip": 1.0}},
        r"action_clip .*must be a number in \(0, 1\), not 1.0",
    ),
    "gSDE and cql": ({"objective": "cql", "use_sde": True}, "use_sde=False"),
    "gSDE and likelihood": ({"objective": "bc", "use_sde": True}, "loss='mse'"),
    "n-step calql": ({"online_objective": "calql", "n_steps": 3}, "needs n_steps=1, not 3"),
    "target entropy": ({"target_entropy": "auto_half"}, "target_entropy must be.*not 'auto_half'"),
    "reward scale": ({"reward_scale": 0.0}, "reward_scale must be a finite number other than 0, not 0.0"),
    "reward shift": ({"reward_shift": float("nan")}, "reward_shift must be a finite number, not nan"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    arguments, message = ARGUMENTS[name]
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("name", ["policy delay", "objective", "callback's argument"])
def test_arguments_of_load(name: str, tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    arguments, message = ARGUMENTS[name]
    with pytest.raises(ValueError, match=message):
        O2OSAC.load(tmp_path / "model", device="cpu", **arguments)
    with pytest.raises(ValueError, match=message):
        O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu", **arguments)


@pytest.mark.parametrize("load", [O2OSAC.load, O2OSAC.load_offline])
def test_unknown_arguments_of_load(load: Callable[..., Any], tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Unknown argument of O2OSAC 'polcy_delay'\. Did you mean 'policy_delay'\?"):
        load(tmp_path / "model", env=vec(), polcy_delay=2)


def test_unknown_recipe_of_load_offline(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Unknown recipe 'rldp'\. Did you mean 'rlpd'\?"):
        O2OSAC.load_offline(tmp_path / "model", vec(), recipe="rldp")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Warmup(-1), "steps of Warmup must be a whole number of at least 0, not -1"),
        (lambda: SymmetricReplay(1.5), r"must be a number in \[0, 1\], not 1.5"),
        (lambda: DatasetReplay("half"), "SymmetricReplay"),
        (lambda: DatasetReplay("part", 0), "n_trajectories.*at least 1"),
    ],
)
def test_arguments_of_callbacks(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# -- environments --------------------------------------------------------------------------------------------------


class Discrete(Drift):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Discrete(2)  # type: ignore[assignment]


class Wider(Drift):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-3.0, 3.0, (2,), np.float32)


class Longer(Drift):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-10.0, 10.0, (4,), np.float32)

    def _observe(self) -> np.ndarray:
        return np.append(super()._observe(), np.float32(0))


def test_discrete_actions() -> None:
    with pytest.raises(AssertionError, match=r"only supports.*Box.*Discrete"):
        make(env=Discrete())


@pytest.mark.parametrize(
    ("env", "message"),
    [(Wider(), r"action"), (Longer(), r"observation"), (Drift(dictionary=True), r"observation")],
)
def test_datasets_of_another_environment(env: gym.Env[Any, Any], message: str) -> None:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model = make(policy, env)
    before = unchanged(model)
    with pytest.raises(ValueError, match=message):
        model.pretrain(dataset(), 3)
    assert_unchanged(model, before)


@pytest.mark.parametrize("load", [O2OSAC.load, O2OSAC.load_offline])
def test_models_of_another_environment(load: Callable[..., Any], tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"spaces do not match|the shapes are \(3,\) and \(4,\)"):
        load(tmp_path / "model", env=Longer())


def test_rewards_are_scaled_in_one_place() -> None:
    normalised = VecNormalize(vec())
    with pytest.raises(ValueError, match=r"reward_scale and reward_shift cannot be combined with VecNormalize"):
        make(env=normalised, reward_scale=2.0).learn(3)
    with pytest.raises(ValueError, match="VecNormalize"):
        make(env=normalised, reward_shift=1.0).pretrain(dataset(), 3)


# -- datasets ------------------------------------------------------------------------------------------------------


def unchanged(model: O2OSAC) -> dict[str, Any]:
    names = ("phase", "n_pretrain_steps", "num_timesteps", "learning_starts", "dataset", "offline_buffer", "_n_updates")
    return {"state": state(model), **{name: getattr(model, name) for name in names}}


def assert_unchanged(model: O2OSAC, before: dict[str, Any]) -> None:
    """And it can still be trained."""
    after = unchanged(model)
    assert_same(before.pop("state"), after.pop("state"))
    assert before == after
    model.learn(6)


def broken(**changes: Any) -> dict[str, Any]:
    fields = arrays()
    for name, change in changes.items():
        fields[name] = change(fields[name].copy())
    return fields


def with_nan(values: np.ndarray) -> np.ndarray:
    values[7] = np.nan
    return values


SOURCES: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": (None, ValueError, "needs a dataset"),
    "no such file": ("nowhere.npz", FileNotFoundError, "nowhere"),
    "no such id": ("no/such/dataset-v0", FileNotFoundError, "no/such/dataset-v0"),
    "a number": (3, ValueError, "dataset of O2OSAC.pretrain must be a Minari id, .*, not 3"),
    "NaN": (broken(observations=with_nan), ValueError, r"observations.*7"),
    "too short": (broken(rewards=lambda rewards: rewards[:-1]), ValueError, "rewards"),
    "out of bounds": (broken(actions=lambda actions: actions + 5.0), ValueError, "actions"),
    "empty": ({name: values[:0] for name, values in arrays().items()}, ValueError, "empty|no transitions"),
    "another shape": (broken(actions=lambda actions: actions[:, :1]), ValueError, "action"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_datasets(name: str) -> None:
    source, error, message = SOURCES[name]
    model = make()
    before = unchanged(model)
    with pytest.raises(error, match=message):
        model.pretrain(source, 3)
    assert_unchanged(model, before)


def test_a_bad_dataset_leaves_the_good_one_in_place() -> None:
    model = make().pretrain(dataset(), 3)
    before = unchanged(model)
    with pytest.raises(ValueError, match="rewards"):
        model.pretrain(SOURCES["too short"][0], 3)
    after = unchanged(model)
    assert_same(before.pop("state"), after.pop("state"))
    assert before == after
    model.pretrain(None, 2, reset_gradient_steps=False)
    assert model.n_pretrain_steps == 5


@pytest.mark.parametrize("steps", [0, -3])
def test_numbers_of_steps(steps: int) -> None:
    model = make()
    before = unchanged(model)
    with pytest.raises(ValueError, match=r"gradient_steps.*at least 1"):
        model.pretrain(dataset(), steps)
    assert_unchanged(model, before)


@pytest.mark.parametrize("steps", ["hopper/medium-v0", 2.5])
def test_numbers_of_steps_that_are_none(steps: Any) -> None:
    with pytest.raises(
        ValueError, match=f"gradient_steps of O2OSAC.pretrain must be a whole number of .*, not {steps!r}"
    ):
        make().pretrain(dataset(), steps)


@pytest.mark.parametrize("arguments", [(), ("hopper/medium-v0",)])
def test_pretrain_without_a_number_of_steps_says_how_to_give_one(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"not told how many gradient steps.* pretrain\(dataset, gradient_steps=…\)"):
        make().pretrain(*arguments)
    with pytest.raises(ValueError, match="not told how many gradient steps"):
        make(recipe="rlpd").pretrain(*arguments)  # which does not pre-train


def test_a_callback_that_cannot_start_changes_nothing() -> None:
    class Bad(BaseCallback):
        def _init_callback(self) -> None:
            raise OSError("read-only")

        def _on_step(self) -> bool:
            return True

    model = make().pretrain(dataset(), 3)
    before = unchanged(model)
    with pytest.raises(OSError, match="read-only"):
        model.pretrain(None, 3, callback=Bad())
    after = unchanged(model)
    assert_same(before.pop("state"), after.pop("state"))
    assert before == after


def test_a_log_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = make(tensorboard_log=str(tmp_path / "file" / "logs"))
    before = unchanged(model)
    with pytest.raises(OSError, match="file"):
        model.pretrain(dataset(), 3)
    after = unchanged(model)
    assert_same(before.pop("state"), after.pop("state"))
    assert (after["phase"], after["n_pretrain_steps"], after["num_timesteps"]) == (None, 0, 0)


def test_callbacks_without_a_dataset() -> None:
    with pytest.raises(ValueError, match="SymmetricReplay needs a dataset"):
        make(finetuning=[SymmetricReplay()]).learn(6)
    with pytest.raises(ValueError, match="DatasetReplay needs a dataset"):
        make(finetuning=["DatasetReplay"]).learn(6)


def test_a_dataset_larger_than_the_buffer(tmp_path: Path) -> None:
    model = make(finetuning=["DatasetReplay"], dataset=dataset_file(tmp_path), buffer_size=40)
    with pytest.raises(ValueError, match=r"60 transitions.*room for 40.*buffer_size to at least 60"):
        model.learn(6)
    assert model.replay_buffer.size() == 0  # type: ignore[union-attr]


# -- files ---------------------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(entries).items():
            archive.writestr(name, content)
    return path


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut in half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "truncated|not a zip"),
    "text": (lambda path: path.write_text("hello"), "not a zip file"),
    "another zip": (lambda path: rewritten(path, lambda _: {"readme": b"hello"}), "has no data, policy.pth"),
    "without policy": (
        lambda path: rewritten(path, lambda all_: {n: c for n, c in all_.items() if n != "policy.pth"}),
        "has no policy.pth",
    ),
    "binary data": (lambda path: rewritten(path, lambda all_: {**all_, "data": b"\xff\xfe\x00\xd8"}), "no JSON"),
    "data that is a list": (lambda path: rewritten(path, lambda all_: {**all_, "data": b"[1, 2]"}), "no JSON object"),
}


@pytest.mark.parametrize("load", [O2OSAC.load, O2OSAC.load_offline])
@pytest.mark.parametrize("name", FILES)
def test_files(name: str, load: Callable[..., Any], tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    change, message = FILES[name]
    change(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model.zip", env=vec())


def test_no_such_file() -> None:
    for load in (O2OSAC.load, O2OSAC.load_offline):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load("nowhere.zip", env=vec())
    with pytest.raises(FileNotFoundError):
        O2OSAC.load("nowhere", env=vec())


FAMILIES: dict[str, Callable[[], Any]] = {
    "TQC": lambda: TQC("MlpPolicy", vec(), policy_kwargs={"net_arch": [8]}, **FAST),
    "TD3": lambda: TD3("MlpPolicy", vec(), policy_kwargs={"net_arch": [8]}, buffer_size=20),
    "PPO": lambda: PPO("MlpPolicy", vec(), policy_kwargs={"net_arch": [8]}, n_steps=8, batch_size=8),
    "CrossQ": lambda: CrossQ("MlpPolicy", vec(), policy_kwargs={"net_arch": [8]}, buffer_size=20),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_another_family(family: str, tmp_path: Path) -> None:
    FAMILIES[family]().save(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"holds a {family} model, not a SAC model\..*load_offline"):
        O2OSAC.load(tmp_path / "model")


def test_models_that_nobody_can_use(tmp_path: Path) -> None:
    DQN("MlpPolicy", Discrete(), policy_kwargs={"net_arch": [8]}, buffer_size=20).save(tmp_path / "model")
    with pytest.raises(ValueError, match="no model that can be recognised"):
        O2OSAC.load(tmp_path / "model")
    with pytest.raises(ValueError, match="not SAC, TQC, CrossQ, TD3, DDPG or PPO"):
        O2OSAC.load_offline(tmp_path / "model.zip", vec())


def test_a_stream_of_something_else() -> None:
    with pytest.raises(ValueError, match="not a zip file"):
        O2OSAC.load(io.BytesIO(b"hello"))


def test_crossq_can_be_cloned(tmp_path: Path) -> None:
    FAMILIES["CrossQ"]().save(tmp_path / "model")
    model = O2OSAC.load_offline(
        tmp_path / "model.zip", vec(), dataset=dataset(), pretrain_steps=2, policy_kwargs={"net_arch": [8]}, **FAST
    )
    assert isinstance(model, SAC)
    assert isinstance(model.load_dataset(model.dataset), OfflineDataset)


def test_other_networks_than_saved(tmp_path: Path) -> None:
    make(critic_layer_norm=True).save(tmp_path / "model")
    with pytest.raises(ValueError, match="other shapes than asked for by critic_layer_norm=False"):
        O2OSAC.load(tmp_path / "model", device="cpu", critic_layer_norm=False)
    with pytest.raises(ValueError, match="other shapes than asked for by n_critics=3"):
        O2OSAC.load(tmp_path / "model", device="cpu", n_critics=3)


def test_a_subset_of_critics_named_as_stock_names_them() -> None:
    assert make(policy_kwargs={"net_arch": [8], "n_critics": 5}, critic_subset=4).n_critics == 5


@pytest.mark.parametrize("build", [make, make_td3])
def test_a_number_of_critics_that_is_none(build: Any, tmp_path: Path) -> None:
    build(n_critics=4).save(tmp_path / "model")
    for number in (2.5, "3"):
        with pytest.raises(ValueError, match="n_critics must be a whole number"):
            O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu", n_critics=number)


@pytest.mark.parametrize("n_critics", [3, 5])
def test_another_number_of_critics_than_saved(n_critics: int, tmp_path: Path) -> None:
    SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [8]}, **FAST).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"2 critics.*n_critics=2"):
        O2OSAC.load(tmp_path / "model", device="cpu", n_critics=n_critics)
