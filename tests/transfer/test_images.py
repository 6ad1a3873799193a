"""Policies that see images, from datasets and from models of other kinds, whose environments have the channels last."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv
from toy_tasks import FAST, Drift, arrays, assert_same

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.data import OfflineDataset

IMAGE = spaces.Box(0, 255, (36, 38, 1), np.uint8)
SMALL: dict[str, Any] = {"net_arch": [4], "features_extractor_kwargs": {"features_dim": 16}}
BUILT: dict[str, Any] = {"buffer_size": 100, "batch_size": 8, "seed": 3, "device": "cpu"}


class Pictures(Drift):
    """Shows how far the point is."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Any = IMAGE

    def _observe(self) -> Any:
        return picture(np.array([np.linalg.norm(self.position)]))[0]


def picture(values: np.ndarray) -> np.ndarray:
    """Half of each picture is as bright as its value."""
    pictures = np.zeros((len(values), *IMAGE.shape), np.uint8)
    pictures[:, :18] = np.clip(100 + 40 * values, 0, 255).astype(np.uint8)[:, None, None, None]
    return pictures


def image_vec() -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Pictures())])


def image_arrays() -> dict[str, Any]:
    found = arrays()
    return {
        **found,
        **{name: picture(found[name][:, 0]) for name in ("observations", "next_observations")},
    }


def image_dataset() -> OfflineDataset:
    return OfflineDataset.load(image_arrays(), action_space=Pictures().action_space)


def extractor(model: Any) -> type:
    return type(model.policy.features_extractor if isinstance(model, O2OPPO) else model.actor.features_extractor)


def stock(policy: str = "CnnPolicy", algorithm: Any = SAC) -> Any:
    kwargs = SMALL if policy == "CnnPolicy" else {"net_arch": [4]}
    return algorithm(policy, image_vec(), policy_kwargs={**kwargs}, **FAST).learn(8)


@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3, O2OPPO])
def test_load_offline_of_a_dataset_builds_a_convolutional_policy(algorithm: Any) -> None:
    built = {"n_steps": 8, "batch_size": 8, "device": "cpu"} if algorithm is O2OPPO else BUILT
    objective = "bc" if algorithm is O2OPPO else None
    model = algorithm.load_offline(
        image_dataset(), image_vec(), pretrain_steps=2, policy_kwargs=SMALL, objective=objective, **built
    )
    assert extractor(model) is NatureCNN
    before = {name: value.clone() for name, value in model.policy.state_dict().items() if "cnn" in name}
    assert before
    model.learn(40)
    assert any(not th.equal(value, model.policy.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("kind", ["CnnPolicy", "MlpPolicy"])
def test_networks_of_another_family_are_copied_whatever_they_look_with(
    kind: str, in_file: bool, tmp_path: Path
) -> None:
    theirs = stock(kind)
    theirs.save(tmp_path / "theirs")
    model = O2OTD3.load_offline(tmp_path / "theirs.zip" if in_file else theirs, image_vec(), **BUILT)
    assert extractor(model) is (NatureCNN if kind == "CnnPolicy" else FlattenExtractor)
    assert model.clone_report is not None
    assert model.clone_report.copied == ("actor", "critics")
    looked = {name: value for name, value in theirs.actor.state_dict().items() if "extractor" in name}
    assert_same({name: model.actor.state_dict()[name] for name in looked}, looked)
    seen = image_arrays()["observations"][:5]
    there, here = (each.predict(seen, deterministic=True)[0] for each in (theirs, model))
    assert np.allclose(there, here, atol=1e-5)


class Colours(Pictures):
    """In three channels: what puts them first leaves another order of the same bytes, in pickles as well."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space: Any = spaces.Box(0, 255, (36, 38, 3), np.uint8)

    def _observe(self) -> Any:
        return np.repeat(super()._observe(), 3, axis=-1)


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_stock_models_of_colour_images_open_without_trust(algorithm: Any, tmp_path: Path) -> None:
    built = FAST if algorithm is SAC else {"n_steps": 8, "batch_size": 8, "device": "cpu"}
    theirs = algorithm("CnnPolicy", DummyVecEnv([lambda: Monitor(Colours())]), policy_kwargs={**SMALL}, **built)
    theirs.learn(8).save(tmp_path / "theirs")
    ours: Any = O2OSAC if algorithm is SAC else O2OPPO
    model = ours.load(tmp_path / "theirs", DummyVecEnv([lambda: Monitor(Colours())]), device="cpu")
    seen = np.random.default_rng(0).integers(0, 255, (5, 36, 38, 3), np.uint8)
    there, here = (each.predict(seen, deterministic=True)[0] for each in (theirs, model))
    assert np.allclose(there, here, atol=1e-5)


def test_a_clone_of_another_kind_looks_as_its_source() -> None:
    model = O2OPPO.load_offline(
        stock(algorithm=TD3), image_vec(), dataset=image_dataset(), pretrain_steps=2, n_steps=8, batch_size=8
    )
    assert extractor(model) is NatureCNN
    model = O2OSAC.load_offline(
        lambda observations: np.zeros((len(observations), 2)),
        image_vec(),
        dataset=image_dataset(),
        pretrain_steps=2,
        **BUILT,
    )
    assert extractor(model) is NatureCNN
    model = O2OSAC.load_offline(image_dataset(), image_vec(), policy="MlpPolicy", pretrain_steps=2, **BUILT)
    assert extractor(model) is FlattenExtractor


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["arrays", "file", "episodes"])
def test_pretraining_on_images_as_they_were_recorded(kind: str, first: bool, tmp_path: Path) -> None:
    """Channels last, or first, as a replay buffer of Stable-Baselines3 has them."""
    recorded = image_arrays()
    if first:
        recorded.update({name: np.moveaxis(recorded[name], -1, 1) for name in ("observations", "next_observations")})
    source: Any = recorded
    if kind == "file":
        source = str(tmp_path / "images.npz")
        np.savez(source, **recorded)
    elif kind == "episodes":
        source = [{name: values[start : start + 10] for name, values in recorded.items()} for start in range(0, 60, 10)]
    models = [
        O2OSAC("CnnPolicy", image_vec(), policy_kwargs={**SMALL}, **FAST).pretrain(data, 3)
        for data in (source, image_dataset())
    ]
    assert_same(*(model.policy.state_dict() for model in models))
    models[0].save(tmp_path / "model")
    again = O2OSAC.load(tmp_path / "model", image_vec(), device="cpu")
    again.pretrain(source, 2)
    again.learn(8)


def test_images_in_dictionaries_as_they_were_recorded() -> None:
    space = spaces.Dict(camera=spaces.Box(0, 255, (1, 36, 38), np.uint8), place=spaces.Box(-10, 10, (3,)))
    recorded = arrays()
    for name in ("observations", "next_observations"):
        recorded[name] = {"camera": picture(recorded[name][:, 0]), "place": recorded[name]}
    found = OfflineDataset.load(recorded, observation_space=space, action_space=Pictures().action_space)
    assert found.observation_space["camera"].shape == (1, 36, 38)  # type: ignore[index]
    expected = np.moveaxis(recorded["observations"]["camera"], -1, 1)
    assert np.array_equal(found.observations["camera"], expected)  # type: ignore[call-overload]
