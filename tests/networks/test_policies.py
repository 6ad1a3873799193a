"""Policies: the same start as stock ones, layer normalisation, standard deviations, images and dictionaries."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from torch import nn
from toy_tasks import Drift, dataset, make, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.networks import NormalizedExtractor, frozen_copy
from sb3_o2o.transfer import conversion

IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)


class Pictures(Drift):
    """:class:`Drift` seen as an image, or as a dictionary with one."""

    def __init__(self, dictionary: bool = False):
        super().__init__(dictionary)
        vectors = {"goal": spaces.Box(-10.0, 10.0, (1,), np.float32)}
        self.observation_space = spaces.Dict({**vectors, "picture": IMAGE}) if dictionary else IMAGE

    def _observe(self) -> Any:
        picture = np.full(IMAGE.shape, 10 * self.steps, np.uint8)
        return {"goal": np.full(1, 0.5, np.float32), "picture": picture} if self.dictionary else picture


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("n_critics", [2, 5])
def test_a_seed_gives_the_weights_of_stock_sac(dictionary: bool, n_critics: int) -> None:
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    kwargs = {"net_arch": [16, 16], "n_critics": n_critics}
    stock = SAC(policy, vec(dictionary=dictionary), policy_kwargs=kwargs, seed=7, buffer_size=10, device="cpu")
    ours = make(env=vec(dictionary=dictionary), dictionary=dictionary, policy_kwargs=kwargs, seed=7)
    assert ours.n_critics == n_critics
    expected = stock.policy.state_dict()
    found = conversion.policy_to_stock(ours.policy.state_dict(), ours.critic)
    assert expected.keys() == found.keys()
    assert all(th.equal(value, found[name]) for name, value in expected.items())


def test_actor_layer_norm_comes_before_the_activation() -> None:
    model = make(actor_layer_norm=True, policy_kwargs={"net_arch": [16, 16]})
    kinds = [type(layer) for layer in model.actor.latent_pi]
    assert kinds == [nn.Linear, nn.LayerNorm, nn.ReLU] * 2
    assert isinstance(model.actor.mu, nn.Linear)


def test_actions_of_a_shape_per_state() -> None:
    model = make()
    obs = th.randn(5, 3)
    one, many = th.randn(5, 2), th.randn(5, 4, 2)
    actions, log_prob = model.actor.rsample(obs, one)
    assert actions.shape == (5, 2)
    assert log_prob.shape == (5,)
    actions, log_prob = model.actor.rsample(obs, many)
    assert actions.shape == (5, 4, 2)
    assert log_prob.shape == (5, 4)
    for k in range(4):
        expected = model.actor.rsample(obs, many[:, k])
        assert th.allclose(actions[:, k], expected[0])
        assert th.allclose(log_prob[:, k], expected[1])


def test_log_probabilities_are_those_of_stock_sac() -> None:
    model = make()
    obs = th.randn(6, 3)
    th.manual_seed(1)
    expected = model.actor.action_log_prob(obs)
    th.manual_seed(1)
    actions, log_prob = model.actor.rsample(obs, th.randn(6, 2))
    assert th.allclose(actions, expected[0], atol=1e-6)
    # stock recovers the Gaussian action from the squashed one, which costs digits
    assert th.allclose(log_prob, expected[1], atol=1e-4)


def test_state_independent_standard_deviation() -> None:
    model = make(policy_kwargs={"net_arch": [16], "state_dependent_std": False})
    _, log_std, _ = model.actor.get_action_dist_params(th.randn(5, 3))
    assert log_std.shape == (5, 2)
    assert log_std.eq(0).all()  # std 1 at the start
    optimised = {id(parameter) for group in model.actor.optimizer.param_groups for parameter in group["params"]}
    assert id(model.actor.log_std) in optimised
    model.learn(12)
    _, log_std, _ = model.actor.get_action_dist_params(th.randn(5, 3))
    assert log_std.ne(0).all()
    assert th.equal(log_std[0], log_std[1])
    assert model.predict(np.zeros(3, np.float32))[0].shape == (2,)


def test_orthogonal_policies() -> None:
    kwargs = {"net_arch": [16, 16], "orthogonal_gain": 2.0, "last_hidden_gain": 0.01}
    model = make(policy_kwargs=kwargs, n_critics=3)
    first, *_, last_hidden, _, head = [*model.actor.latent_pi, model.actor.mu]
    assert th.allclose(first.weight.T @ first.weight, 4 * th.eye(3), atol=1e-5)
    assert th.allclose(last_hidden.weight @ last_hidden.weight.T, 1e-4 * th.eye(16), atol=1e-7)
    assert th.allclose(head.weight @ head.weight.T, 4 * th.eye(2), atol=1e-5)
    assert th.allclose(model.actor.log_std.weight @ model.actor.log_std.weight.T, 4 * th.eye(2), atol=1e-5)
    for weight in model.critic.ensemble.layers[0].weight:  # type: ignore[union-attr]
        assert th.allclose(weight @ weight.T, 4 * th.eye(5), atol=1e-5)
    for own, target in zip(model.critic.parameters(), model.critic_target.parameters(), strict=True):
        assert th.equal(own, target)


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_images(dictionary: bool, normalize: bool) -> None:
    kwargs: dict[str, Any] = {"net_arch": [16], "normalize_images": True}
    kwargs["features_extractor_kwargs"] = {"cnn_output_dim" if dictionary else "features_dim": 16}
    model = make(
        "MultiInputPolicy" if dictionary else "CnnPolicy",
        Pictures(dictionary),
        policy_kwargs=kwargs,
        normalize_observations=normalize,
        buffer_size=20,
        batch_size=2,
    )
    buffers = [name for name, _ in model.policy.named_buffers() if "mean" in name]
    assert all("picture" not in name for name in buffers)
    assert bool(buffers) == (normalize and dictionary)
    before = state(model)
    if buffers:
        with pytest.raises(ValueError, match="needs the statistics of a dataset"):
            model.learn(6)
        return
    model.learn(6)
    assert any(not th.equal(value, state(model)[name]) for name, value in before.items() if "cnn" in name)


@pytest.mark.parametrize("dictionary", [False, True])
def test_normaliser_changes_nothing_before_statistics(dictionary: bool) -> None:
    plain, normalised = (make(dictionary=dictionary, normalize_observations=on) for on in (False, True))
    obs = plain.env.reset()  # type: ignore[union-attr]
    assert np.array_equal(plain.predict(obs, deterministic=True)[0], normalised.predict(obs, deterministic=True)[0])


def test_normaliser_values() -> None:
    model = make(normalize_observations=True)
    data = dataset()
    model.pretrain(data, 1)
    obs = data.observations
    mean, std = obs.mean(axis=0), obs.std(axis=0)
    for module in (model.actor, model.critic, model.critic_target):
        extractor = module.features_extractor
        assert isinstance(extractor, NormalizedExtractor)
        expected = (obs - mean) / (std + 1e-3)
        assert np.allclose(extractor(th.from_numpy(obs)).numpy(), expected, atol=1e-5)


def test_normaliser_of_a_dictionary() -> None:
    model = make(dictionary=True, normalize_observations=True)
    data = dataset(dictionary=True)
    model.pretrain(data, 1)
    place = data.observations["place"]
    inputs = {"goal": th.full((60, 1), 0.75), "place": th.from_numpy(place)}
    found = model.actor.features_extractor(inputs).detach().numpy()
    # the goal is always 0.5: deviation 0, so (0.75 - 0.5) / 1e-3
    expected = np.concatenate(
        [np.full((60, 1), 250.0), (place - place.mean(axis=0)) / (place.std(axis=0) + 1e-3)], axis=1
    )
    assert np.allclose(found, expected, atol=1e-4)


def test_normaliser_travels_with_the_policy(tmp_path: Any) -> None:
    model = make(normalize_observations=True).pretrain(dataset(), 3)
    model.save(tmp_path / "model")
    loaded = O2OSAC.load(tmp_path / "model", device="cpu")
    obs = np.array([1.0, -2.0, 0.5], np.float32)
    assert np.array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    assert any(name.endswith("features_extractor.mean") for name in loaded.policy.state_dict())


def test_statistics_do_not_change_online() -> None:
    model = make(normalize_observations=True).pretrain(dataset(), 1)
    before = model.actor.features_extractor.mean.clone()  # type: ignore[union-attr]
    model.learn(10)
    assert th.equal(before, model.actor.features_extractor.mean)  # type: ignore[union-attr]


def test_policy_arguments_survive_saving(tmp_path: Any) -> None:
    kwargs = {"net_arch": [16], "state_dependent_std": False}
    model = make(policy_kwargs=kwargs, n_critics=4, critic_layer_norm=True, actor_layer_norm=True)
    model.policy.save(str(tmp_path / "policy"))
    loaded = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    assert all(th.equal(value, loaded.state_dict()[name]) for name, value in model.policy.state_dict().items())


@pytest.mark.parametrize("use_sde", [False, True])
@pytest.mark.parametrize("network", ["actor", "critic"])
def test_a_frozen_copy_stays_while_the_model_trains(network: str, use_sde: bool) -> None:
    model = make(use_sde=use_sde)
    model.pretrain(dataset(), 2)
    model.predict(np.zeros((1, *model.observation_space.shape), np.float32))  # a last sample, with a gradient's graph
    original = getattr(model, network)
    before = {name: value.clone() for name, value in original.state_dict().items()}
    copied = frozen_copy(original)
    assert getattr(copied, "optimizer", None) is None
    assert getattr(copied, "action_dist", None) is None
    assert not copied.training
    assert all(not value.requires_grad and value.grad is None for value in copied.parameters())
    assert original.optimizer is not None
    assert all(value.requires_grad for value in original.parameters())
    model.pretrain(dataset(), 2)
    assert all(th.equal(value, before[name]) for name, value in copied.state_dict().items())
    assert any(not th.equal(value, before[name]) for name, value in original.state_dict().items())


@pytest.mark.parametrize("n_actors", [1, 2])
def test_one_deviation_for_each_number_of_an_action_that_is_no_vector(n_actors: int) -> None:
    class Matrix(gym.Env[np.ndarray, np.ndarray]):
        observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        action_space = spaces.Box(-1.0, 1.0, (2, 2), np.float32)

    policy_kwargs = {"net_arch": [8], "state_dependent_std": False, "n_actors": n_actors}
    model = O2OSAC("MlpPolicy", Matrix(), policy_kwargs=policy_kwargs, device="cpu")
    assert model.actor.log_std.shape == (4,)
    assert model.predict(np.zeros((5, 3), np.float32))[0].shape == (5, 2, 2)
