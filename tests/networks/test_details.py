"""Network options: normalisation after the activation, dropout and first weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from toy_tasks import assert_same, dataset, make, make_td3, state

from sb3_o2o.networks.layers import Details

BUILDERS = [make, make_td3]


def names(layers: Any) -> list[str]:
    return [type(layer).__name__ for layer in layers]


def actor_layers(model: Any) -> Any:
    return model.actor.mu if type(model).__name__ == "O2OTD3" else [*model.actor.latent_pi, model.actor.mu]


@pytest.mark.parametrize("build", BUILDERS)
def test_normalisation_after_the_activation(build: Any) -> None:
    plain = build(policy_kwargs={"net_arch": [8, 8]})
    kwargs = {"net_arch": [8, 8], "norm_after_activation": True}
    model = build(policy_kwargs=kwargs, critic_layer_norm=True)
    assert names(model.critic.ensemble.layers) == [
        *["EnsembleLinear", "ReLU", "EnsembleLayerNorm"] * 2,
        "EnsembleLinear",
    ]
    assert names(actor_layers(model))[:3] == ["Linear", "ReLU", "Linear"]
    assert th.equal(model.critic.ensemble.layers[0].weight, plain.critic.ensemble.layers[0].weight)  # no draw more
    with_norm = build(policy_kwargs=kwargs, actor_layer_norm=True)
    assert names(actor_layers(with_norm))[:6] == ["Linear", "ReLU", "LayerNorm"] * 2
    obs, actions = th.randn(5, 3), th.rand(5, 2)
    first, _, norm, second, _, norm2, last = model.critic.ensemble.layers
    hidden = th.cat([obs, actions], dim=1)
    for linear, each in ((first, norm), (second, norm2)):
        hidden = (hidden @ linear.weight[1] + linear.bias[1]).relu()
        hidden = th.nn.functional.layer_norm(hidden, (8,)) * each.weight[1] + each.bias[1]
    expected = (hidden @ last.weight[1] + last.bias[1])[:, 0]
    assert th.allclose(model.critic.q_values(obs, actions)[1], expected, atol=1e-5)


@pytest.mark.parametrize("build", BUILDERS)
def test_first_weights(build: Any) -> None:
    kwargs = {"hidden_bias": 0.1, "critic_head_init": 3e-3, "actor_head_init": 1e-3, "net_arch": [64, 64]}
    model = build(policy_kwargs=kwargs)
    *hidden, head = (layer for layer in model.critic.ensemble.layers if hasattr(layer, "weight"))
    assert all((layer.bias == 0.1).all() for layer in hidden)
    for values in (head.weight, head.bias):
        assert values.abs().max() <= 3e-3
    assert head.weight.abs().max() > 2e-3
    linears = [layer for layer in actor_layers(model) if isinstance(layer, th.nn.Linear)]
    assert all((layer.bias == 0.1).all() for layer in linears[:-1])
    assert 5e-4 < linears[-1].weight.abs().max() <= 1e-3
    if isinstance(getattr(model.actor, "log_std", None), th.nn.Linear):
        assert model.actor.log_std.weight.abs().max() <= 1e-3


@pytest.mark.parametrize("build", BUILDERS)
def test_dropout_is_for_updates_alone(build: Any, tmp_path: Path) -> None:
    kwargs = {"net_arch": [32], "critic_dropout": 0.5, "actor_dropout": 0.5}
    model = build(policy_kwargs=kwargs, critic_layer_norm=True)
    assert names(model.critic.ensemble.layers)[:4] == ["EnsembleLinear", "Dropout", "EnsembleLayerNorm", "ReLU"]
    obs, actions = th.randn(4, 3), th.rand(4, 2)
    model.policy.set_training_mode(True)
    assert not th.equal(model.critic.q_values(obs, actions), model.critic.q_values(obs, actions))
    assert not th.equal(model.actor.mode(obs), model.actor.mode(obs))
    assert th.equal(model.critic_target.q_values(obs, actions), model.critic_target.q_values(obs, actions))
    one, other = (model.predict(np.ones(3, np.float32), deterministic=True)[0] for _ in range(2))
    assert np.array_equal(one, other)
    model.pretrain(dataset(), 3)
    model.save(tmp_path / "model")
    assert_same(state(model), state(type(model).load(tmp_path / "model", device="cpu")))
    again = build(policy_kwargs=kwargs, critic_layer_norm=True).pretrain(dataset(), 3)
    assert not model.policy.is_stock
    assert differs_nowhere(
        state(build(policy_kwargs=kwargs, critic_layer_norm=True).pretrain(dataset(), 3)), state(again)
    )


def differs_nowhere(one: dict[str, th.Tensor], other: dict[str, th.Tensor]) -> bool:
    return all(th.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("options", "message"), [({"dropout": 1.0}, "Dropout"), ({"head_init": 0.0}, "output layer")])
def test_bad_numbers(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Details(**options)  # type: ignore[arg-type]
