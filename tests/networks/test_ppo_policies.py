"""PPO's policies: the actor on the scale of [-1, 1], a squashed mean, groups of parameters."""

from typing import Any

import numpy as np
import pytest
import torch as th
from toy_tasks import dataset, make_ppo

from sb3_o2o.networks import NormalizedExtractor

OBS = th.as_tensor(dataset().observations[:5])


def policy(**kwargs: Any) -> Any:
    model = make_ppo(policy_kwargs={"net_arch": [16], **kwargs})
    with th.no_grad():
        model.policy.action_net.weight.mul_(1000.0)
        model.policy.log_std.copy_(th.tensor([0.3, -0.7]))
    return model.policy


@pytest.mark.parametrize("squash_mean", [False, True])
def test_the_actor_is_the_policy_on_another_scale(squash_mean: bool) -> None:
    own = policy(squash_mean=squash_mean)
    distribution = own.get_distribution(OBS)
    # actions in [-2, 2] and [-1, 3]: centres 0 and 1, half ranges 2 and 2
    center, half = th.tensor([0.0, 1.0]), th.tensor([2.0, 2.0])
    mode = own.actor.mode(OBS)
    assert th.allclose(center + half * mode, distribution.mode(), atol=1e-5)
    assert (mode.abs() <= 1).all() == squash_mean
    scaled = th.tensor([[0.5, -0.25]]).expand(5, 2)
    # a density on a scale of half the length is twice as large, in each dimension
    expected = distribution.log_prob(center + half * scaled) + 2 * np.log(2.0)
    assert th.allclose(own.actor.log_prob(OBS, scaled), expected, atol=1e-5)
    clipped = own.actor.log_prob(OBS, scaled, clip=0.25)
    assert th.allclose(clipped, own.actor.log_prob(OBS, th.tensor([[0.25, -0.25]]).expand(5, 2)))


def test_samples() -> None:
    own, noise = policy(), th.randn(5, 3, 2)
    actions, log_prob = own.actor.rsample(OBS, noise)
    assert actions.shape == (5, 3, 2)
    for index in range(3):
        single, density = own.actor.rsample(OBS, noise[:, index])
        assert th.allclose(single, actions[:, index])
        assert th.allclose(density, log_prob[:, index])
        assert th.allclose(density, own.actor.log_prob(OBS, single), atol=1e-5)


def test_standard_deviations_are_on_the_scale_of_the_actor() -> None:
    own = policy()
    own.actor.set_std(0.1)
    assert own.log_std.exp().tolist() == pytest.approx([0.2, 0.2])
    own.actor.limit_std(0.5)
    assert own.log_std.exp().tolist() == pytest.approx([0.2, 0.2])
    own.actor.limit_std(0.05)
    assert own.log_std.exp().tolist() == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="must be positive, not 0"):
        own.actor.set_std(0)


def test_deterministic_actions_of_a_squashed_mean_are_unscaled() -> None:
    model = make_ppo(policy_kwargs={"net_arch": [16], "squash_mean": True})
    actions, _ = model.predict(OBS.numpy(), deterministic=True)
    assert actions == pytest.approx(np.array([0, 1]) + 2 * model.actor.mode(OBS).detach().numpy(), abs=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_parameters_are_parted(share: bool) -> None:
    own = policy(share_features_extractor=share)
    groups = own.actor_parameters(), own.value_parameters()
    assert sum(len(group) for group in groups) == len(list(own.parameters()))
    assert any(each is own.log_std for each in groups[0])
    assert any(each is own.value_net.weight for each in groups[1])
    values = own.values(OBS)
    assert th.allclose(values, own.predict_values(OBS).flatten())
    assert all(gradient is None for gradient in th.autograd.grad(values.sum(), groups[0], allow_unused=True))


def test_activations() -> None:
    kwargs = {"net_arch": [8, 8], "activation_fn": "relu", "value_activation_fn": "tanh"}
    own = make_ppo(policy_kwargs=kwargs).policy
    assert [type(layer) for layer in own.mlp_extractor.policy_net[1::2]] == [th.nn.ReLU] * 2
    assert [type(layer) for layer in own.mlp_extractor.value_net[1::2]] == [th.nn.Tanh] * 2
    assert not own.is_stock
    assert policy().is_stock


@pytest.mark.parametrize("dictionary", [False, True])
def test_statistics_travel_with_the_policy(dictionary: bool) -> None:
    data = dataset(dictionary=dictionary)
    model = make_ppo(dictionary=dictionary, normalize_observations=True).pretrain(data, 1)
    extractor = model.policy.features_extractor
    assert isinstance(extractor, NormalizedExtractor)
    mean = data.observation_stats()[0]
    found = extractor.mean_place if dictionary else extractor.mean
    assert th.allclose(found, th.as_tensor(mean["place"] if isinstance(mean, dict) else mean))
    with pytest.raises(ValueError, match="needs the statistics of a dataset"):
        make_ppo(normalize_observations=True).learn(8)
