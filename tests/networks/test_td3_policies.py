"""TD3's policies: the same start as stock ones, layer normalisation, images and dictionaries."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import TD3
from torch import nn
from toy_tasks import dataset, make, make_td3, state, vec

from networks.test_policies import Pictures
from sb3_o2o import O2OTD3
from sb3_o2o.networks import NormalizedExtractor, ValueNetwork
from sb3_o2o.transfer import conversion


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("n_critics", [2, 5])
def test_a_seed_gives_the_weights_of_stock_td3(dictionary: bool, n_critics: int) -> None:
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    kwargs = {"net_arch": [16, 16], "n_critics": n_critics}
    stock = TD3(policy, vec(dictionary=dictionary), policy_kwargs=kwargs, seed=7, buffer_size=10, device="cpu")
    ours = make_td3(env=vec(dictionary=dictionary), dictionary=dictionary, policy_kwargs=kwargs, seed=7)
    expected = stock.policy.state_dict()
    found = conversion.policy_to_stock(ours.policy.state_dict(), ours.critic)
    assert expected.keys() == found.keys()
    assert all(th.equal(value, found[name]) for name, value in expected.items())


def test_layer_norm_comes_before_the_activation() -> None:
    model = make_td3(actor_layer_norm=True, critic_layer_norm=True, policy_kwargs={"net_arch": [16, 16]})
    kinds = [type(layer) for layer in model.actor.mu]
    assert kinds == [*[nn.Linear, nn.LayerNorm, nn.ReLU] * 2, nn.Linear, nn.Tanh]
    for own, target in zip(model.actor.parameters(), model.actor_target.parameters(), strict=True):
        assert th.equal(own, target)
    optimised = {id(parameter) for group in model.actor.optimizer.param_groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in model.actor.parameters()}


def test_orthogonal_policies() -> None:
    kwargs = {"net_arch": [16, 16], "orthogonal_gain": 2.0, "last_hidden_gain": 0.01}
    model = make_td3(policy_kwargs=kwargs)
    first, _, last_hidden, _, head, _ = model.actor.mu
    assert th.allclose(first.weight.T @ first.weight, 4 * th.eye(3), atol=1e-5)
    assert th.allclose(last_hidden.weight @ last_hidden.weight.T, 1e-4 * th.eye(16), atol=1e-7)
    assert th.allclose(head.weight @ head.weight.T, 4 * th.eye(2), atol=1e-5)


@pytest.mark.parametrize("dictionary", [False, True])
def test_images(dictionary: bool) -> None:
    kwargs: dict[str, Any] = {"net_arch": [16]}
    kwargs["features_extractor_kwargs"] = {"cnn_output_dim" if dictionary else "features_dim": 16}
    policy = "MultiInputPolicy" if dictionary else "CnnPolicy"
    model = make_td3(policy, Pictures(dictionary), policy_kwargs=kwargs, buffer_size=20, batch_size=2)
    before = state(model)
    model.learn(8)
    assert any(not th.equal(value, state(model)[name]) for name, value in before.items() if "cnn" in name)


def test_normaliser_values_everywhere() -> None:
    model = make_td3(normalize_observations=True).pretrain(dataset(), 1)
    obs = dataset().observations
    expected = (obs - obs.mean(axis=0)) / (obs.std(axis=0) + 1e-3)
    for module in (model.actor, model.actor_target, model.critic, model.critic_target):
        extractor = module.features_extractor
        assert isinstance(extractor, NormalizedExtractor)
        assert np.allclose(extractor(th.from_numpy(obs)).numpy(), expected, atol=1e-5)


def test_policy_arguments_survive_saving(tmp_path: Any) -> None:
    model = make_td3(n_critics=4, critic_layer_norm=True, actor_layer_norm=True)
    model.policy.save(str(tmp_path / "policy"))
    loaded = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    assert all(th.equal(value, loaded.state_dict()[name]) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("net_arch", [[], [16], [16, 8]])
def test_actors_in_and_out_of_each_other(net_arch: list[int], layer_norm: bool) -> None:
    """Names of SAC's layers and back; without hidden layers too."""
    arguments: dict[str, Any] = {"actor_layer_norm": layer_norm, "policy_kwargs": {"net_arch": net_arch}}
    deterministic, gaussian = make_td3(**arguments).actor, make(**arguments).actor
    own = deterministic.state_dict()
    as_gaussian = conversion.actor_state(deterministic, gaussian)
    assert as_gaussian.keys() == {name for name in gaussian.state_dict() if not name.startswith("log_std")}
    gaussian.load_state_dict(as_gaussian, strict=False)
    back = conversion.actor_state(gaussian, deterministic)
    assert {name for name in back if not name.startswith("log_std")} == own.keys()
    assert all(th.equal(value, back[name]) for name, value in own.items())
    assert conversion.actor_state(deterministic, deterministic).keys() == own.keys()


def test_value_network() -> None:
    network = ValueNetwork(3, [4], layer_norm=True, orthogonal_gain=1.0)
    assert [type(layer) for layer in network.layers] == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear]
    features = th.randn(5, 3)
    assert network(features).shape == (5,)
    assert th.equal(network(features), network.layers(features)[:, 0])
    reduced = ValueNetwork(3, [4], precision="bf16")(features)
    assert reduced.dtype == th.float32


def test_the_class_names_its_policies() -> None:
    assert set(O2OTD3.policy_aliases) == {"MlpPolicy", "CnnPolicy", "MultiInputPolicy"}
