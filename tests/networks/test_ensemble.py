"""Batched ensembles against stock critics in a plain loop."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor, create_mlp
from torch import nn

from sb3_o2o.networks import EnsembleCritic, EnsembleLayerNorm, EnsembleLinear, ensemble
from sb3_o2o.networks.ensemble import initialize

OBS = spaces.Box(-1.0, 1.0, (4,), np.float32)
ACT = spaces.Box(-1.0, 1.0, (2,), np.float32)
#: products summed in another order
TOLERANCE = 1e-5


def pair(
    layer_norm: bool, n: int = 3, net_arch: tuple[int, ...] = (16, 16)
) -> tuple[EnsembleCritic, list[nn.Sequential]]:
    """A batched critic and the same networks as separate modules."""
    arguments: dict[str, Any] = {
        "observation_space": OBS,
        "action_space": ACT,
        "net_arch": list(net_arch),
        "features_extractor": FlattenExtractor(OBS),
        "features_dim": 4,
        "n_critics": n,
    }
    th.manual_seed(0)
    batched = EnsembleCritic(**arguments, layer_norm=layer_norm)
    th.manual_seed(0)
    if not layer_norm:
        stock = ContinuousCritic(**arguments)
        networks: list[Any] = list(stock.q_networks)
    else:
        post = [nn.LayerNorm]
        networks = [nn.Sequential(*create_mlp(6, 1, list(net_arch), post_linear_modules=post)) for _ in range(n)]  # type: ignore[arg-type]
    with th.no_grad():  # gains other than 1 and shifts other than 0
        for network in networks:
            for index, layer in enumerate(network):
                if isinstance(layer, nn.LayerNorm):
                    layer.weight.add_(0.1 * th.randn(layer.weight.shape))
                    layer.bias.add_(0.1 * th.randn(layer.bias.shape))
                    member = networks.index(network)
                    norm: Any = batched.ensemble.layers[index]
                    norm.weight[member, 0], norm.bias[member, 0] = layer.weight, layer.bias
    return batched, networks


@pytest.fixture(params=["one product for all", "one product each"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which a CPU evaluates an ensemble, whatever the number of rows."""
    each = request.param == "one product each"
    monkeypatch.setattr(ensemble, "_ROWS_FOR_ONE_PRODUCT_EACH", 0 if each else 10**9)
    return request.param


@pytest.mark.parametrize("layer_norm", [False, True])
def test_values_and_gradients_are_those_of_a_loop(path: str, layer_norm: bool) -> None:
    batched, networks = pair(layer_norm)
    obs, actions = th.randn(7, 4), (th.rand(7, 2) * 2 - 1).requires_grad_()
    weights = th.randn(3, 7)
    values = batched.q_values(obs, actions)
    (values * weights).sum().backward()
    found, actions.grad = actions.grad, None
    looped = th.stack([network(th.cat([obs, actions], dim=1))[:, 0] for network in networks])
    (looped * weights).sum().backward()
    assert values.shape == (3, 7)
    assert th.allclose(values, looped, atol=TOLERANCE)
    assert found is not None
    assert th.allclose(found, actions.grad, atol=TOLERANCE)
    for index, layer in enumerate(batched.ensemble.layers):
        if not isinstance(layer, EnsembleLinear | EnsembleLayerNorm):
            continue
        for member, network in enumerate(networks):
            expected, weight = network[index], layer.weight.grad[member]  # type: ignore[index]
            weight = weight.T if isinstance(layer, EnsembleLinear) else weight[0]
            assert th.allclose(weight, expected.weight.grad, atol=TOLERANCE)
            assert th.allclose(layer.bias.grad[member, 0], expected.bias.grad, atol=TOLERANCE)  # type: ignore[index]


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_subset_is_evaluated_without_the_rest(path: str, layer_norm: bool) -> None:
    batched, networks = pair(layer_norm)
    obs, actions = th.randn(5, 4), th.rand(5, 2) * 2 - 1
    members = th.tensor([2, 0, 2])
    values = batched.q_values(obs, actions, members)
    looped = th.stack([networks[index](th.cat([obs, actions], dim=1))[:, 0] for index in (2, 0, 2)])
    assert th.allclose(values, looped, atol=TOLERANCE)
    values.sum().backward()
    first: Any = batched.ensemble.layers[0]
    assert first.weight.grad[1].abs().sum() == 0
    assert first.weight.grad[[0, 2]].abs().sum(dim=(1, 2)).gt(0).all()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_several_actions_per_state(path: str, layer_norm: bool) -> None:
    batched, _ = pair(layer_norm)
    obs, actions = th.randn(5, 4), th.rand(5, 3, 2) * 2 - 1
    values = batched.q_values(obs, actions)
    assert values.shape == (3, 5, 3)
    for k in range(3):
        assert th.allclose(values[:, :, k], batched.q_values(obs, actions[:, k]), atol=TOLERANCE)
    some = batched.q_values(obs, actions, th.tensor([1]))
    assert th.allclose(some, values[1:2], atol=TOLERANCE)


def test_both_ways_of_a_cpu_agree() -> None:
    batched, _ = pair(layer_norm=False)
    few = ensemble._ROWS_FOR_ONE_PRODUCT_EACH - 1
    obs, actions = th.randn(few + 1, 4), th.rand(few + 1, 2) * 2 - 1
    assert th.allclose(
        batched.q_values(obs, actions)[:, :few], batched.q_values(obs[:few], actions[:few]), atol=TOLERANCE
    )


def test_forward_and_q1_forward_speak_as_stock_critics_do() -> None:
    batched, networks = pair(layer_norm=False)
    obs, actions = th.randn(5, 4), th.rand(5, 2) * 2 - 1
    inputs = th.cat([obs, actions], dim=1)
    values = batched(obs, actions)
    assert isinstance(values, tuple)
    assert [value.shape for value in values] == [(5, 1)] * 3
    for value, network in zip(values, networks, strict=True):
        assert th.allclose(value, network(inputs), atol=TOLERANCE)
    assert th.allclose(batched.q1_forward(obs, actions), networks[0](inputs), atol=TOLERANCE)


@pytest.mark.parametrize("n", [1, 10])
def test_any_number_of_critics(path: str, n: int) -> None:
    batched, networks = pair(layer_norm=True, n=n, net_arch=(16,))
    obs, actions = th.randn(5, 4), th.rand(5, 2) * 2 - 1
    looped = th.stack([network(th.cat([obs, actions], dim=1))[:, 0] for network in networks])
    assert th.allclose(batched.q_values(obs, actions), looped, atol=TOLERANCE)


def test_no_hidden_layer() -> None:
    batched, networks = pair(layer_norm=False, net_arch=())
    obs, actions = th.randn(5, 4), th.rand(5, 2) * 2 - 1
    looped = th.stack([network(th.cat([obs, actions], dim=1))[:, 0] for network in networks])
    assert th.allclose(batched.q_values(obs, actions), looped, atol=TOLERANCE)


def test_layer_norm_comes_before_the_activation() -> None:
    batched, _ = pair(layer_norm=True)
    kinds = [type(layer) for layer in batched.ensemble.layers]
    assert kinds == [
        EnsembleLinear,
        EnsembleLayerNorm,
        nn.ReLU,
        EnsembleLinear,
        EnsembleLayerNorm,
        nn.ReLU,
        EnsembleLinear,
    ]


def test_members_start_apart() -> None:
    batched, _ = pair(layer_norm=False)
    first: Any = batched.ensemble.layers[0]
    assert not th.equal(first.weight[0], first.weight[1])


def test_bf16_keeps_float32_weights_and_values() -> None:
    batched, _ = pair(layer_norm=True)
    obs, actions = th.randn(5, 4), th.rand(5, 2) * 2 - 1
    exact = batched.q_values(obs, actions)
    batched.precision = "bf16"
    rough = batched.q_values(obs, actions)
    assert rough.dtype == th.float32
    assert not th.equal(rough, exact)
    assert th.allclose(rough, exact, atol=0.05)
    rough.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == th.float32 for parameter in batched.parameters())


def test_orthogonal_initialisation() -> None:
    layers: list[nn.Module] = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)]
    initialize(layers, orthogonal_gain=2.0, last_hidden_gain=0.01)
    first, last_hidden, output = (layer for layer in layers if isinstance(layer, nn.Linear))
    # rows (or columns) are orthogonal, of length gain
    assert th.allclose(first.weight.T @ first.weight, 4.0 * th.eye(6), atol=1e-5)
    assert th.allclose(last_hidden.weight @ last_hidden.weight.T, 1e-4 * th.eye(8), atol=1e-8)
    assert th.allclose(output.weight @ output.weight.T, th.tensor([[4.0]]), atol=1e-5)
    assert all(layer.bias.eq(0).all() for layer in (first, last_hidden, output))


def test_no_gain_keeps_the_weights() -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()
    initialize([layer], None, 0.01)
    assert th.equal(before, layer.weight)
