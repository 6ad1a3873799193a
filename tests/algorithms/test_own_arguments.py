"""What a user passes stays as it was: one dictionary, or list, for two models."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.torch_layers import FlattenExtractor
from toy_tasks import FAST, FAST_PPO, dataset, make, make_ppo, make_td3, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.data import OfflineDataset


class Extractor(FlattenExtractor):
    """With an argument that comes in a nested dictionary."""

    def __init__(self, observation_space: spaces.Space, things: list[int]):
        super().__init__(observation_space)  # type: ignore[arg-type]
        things.append(0)  # as a careless extractor of a user's might


def policy_kwargs() -> dict[str, Any]:
    return {
        "net_arch": [16],
        "features_extractor_class": Extractor,
        "features_extractor_kwargs": {"things": []},
        "optimizer_kwargs": {"eps": 1e-5},
    }


def test_one_dictionary_for_every_algorithm() -> None:
    kwargs = policy_kwargs()
    for algorithm in (O2OSAC, O2OTD3, O2OPPO, O2OSAC):
        fast = FAST_PPO if algorithm is O2OPPO else FAST
        algorithm("MlpPolicy", vec(), policy_kwargs=kwargs, **fast).learn(8)  # type: ignore[arg-type]
        assert kwargs == policy_kwargs()


ARGUMENTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "objectives": (
        make,
        {
            "objective": "cql",
            "online_objective": "calql",
            "objective_kwargs": {"n_actions": 3},
            "online_objective_kwargs": {"n_actions": 2},
        },
    ),
    "buffers": (make, {"replay_buffer_kwargs": {"handle_timeout_termination": False}, "n_steps": 3}),
    "returns": (make, {"online_objective": "calql", "replay_buffer_kwargs": {}}),
    "datasets": (make, {"dataset_kwargs": {"fraction": 0.5}, "finetuning": ["SymmetricReplay"]}),
    "callbacks": (make, {"finetuning": [{"BalancedReplay": {"ratio_net_arch": [8]}}, "Warmup"]}),
    "spot": (
        make_td3,
        {"objective": "spot", "objective_kwargs": {"density_steps": 2, "density_net_arch": [8]}},
    ),
    "rollouts": (make_ppo, {"rollout_buffer_kwargs": {}, "objective_kwargs": {}}),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_other_containers_stay_as_they_were(name: str, tmp_path: Path) -> None:
    build, arguments = ARGUMENTS[name]
    before = copy.deepcopy(arguments)
    for _ in range(2):
        model = build(dataset=dataset(), **arguments)
        model.pretrain(None, 2).learn(8)
        assert arguments == before
    model.save(tmp_path / "model")
    type(model).load_offline(tmp_path / "model", vec(), dataset=dataset(), **{"device": "cpu", **arguments}).learn(8)
    type(model).load(tmp_path / "model", vec(), device="cpu", dataset=dataset(), **arguments).learn(8)
    assert arguments == before


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_what_is_saved_is_what_was_given(build: Any, tmp_path: Path) -> None:
    """``load`` compares: Stable-Baselines3's own entry for gSDE is none of the user's."""
    kwargs = {"net_arch": [16], "activation_fn": th.nn.Tanh}
    build(policy_kwargs=kwargs).save(tmp_path / "model")
    model = type(build()).load(tmp_path / "model", vec(), device="cpu", policy_kwargs=kwargs)
    assert model.policy_kwargs == kwargs


def test_gsde_reaches_policies_and_stock_models(tmp_path: Path) -> None:
    model = make(use_sde=True).learn(12)
    assert model.actor.use_sde
    model.to_sb3().save(tmp_path / "stock")
    assert SAC.load(tmp_path / "stock", vec()).policy_kwargs["use_sde"]
    model.save(tmp_path / "ours")
    for again in (O2OSAC.load(tmp_path / "ours"), O2OSAC.load(tmp_path / "stock")):
        assert again.actor.use_sde
    make_ppo().to_sb3().save(tmp_path / "ppo")
    PPO.load(tmp_path / "ppo", vec())


def test_a_dataset_stays_the_callers() -> None:
    """Data are not copied with the dictionaries around them."""
    data: OfflineDataset = dataset()
    from sb3_o2o.data import MixedReplayBuffer

    model = make(replay_buffer_class=MixedReplayBuffer, replay_buffer_kwargs={"dataset": data}, dataset=data)
    assert model.dataset is data
    assert model.replay_buffer_kwargs["dataset"] is data


def test_the_buffer_follows_the_steps_of_load(tmp_path: Path) -> None:
    """Stable-Baselines3 writes its choice of a buffer where the user's would be: it then outlives its reason."""
    make(n_steps=3).save(tmp_path / "model")
    for n_steps, gamma in ((1, 0.99), (2, 0.5), (3, 0.9)):
        for load in (O2OSAC.load, O2OSAC.load_offline):
            buffer = load(tmp_path / "model", vec(), device="cpu", n_steps=n_steps, gamma=gamma).replay_buffer
            assert getattr(buffer, "n_steps", 1) == n_steps
            assert getattr(buffer, "gamma", gamma) == gamma


def test_drawing_with_replacement_needs_something_to_draw() -> None:
    for build in (make, make_td3):
        with pytest.raises(ValueError, match="subset_replacement=True is about how critic_subset draws"):
            build(subset_replacement=True)
        build(subset_replacement=True, critic_subset=2)
    make(subset_replacement=True, objective="cql", objective_kwargs={"critic_subset": 1})
    make(subset_replacement=True, pretrain_kwargs={"critic_subset": 1})
