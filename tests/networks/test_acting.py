"""The short way from an observation to an action gives what Stable-Baselines3's own way gives, after any change."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_o2o import O2OSAC, O2OTD3
from sb3_o2o.networks.sac_policies import O2OActor, O2OSACPolicy


class Room(gym.Env):
    """Observations and actions of any box."""

    def __init__(self, observations: spaces.Space, actions: spaces.Box):
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), 0.0, False, False, {}


UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))
SMALL = {"net_arch": [8, 8]}


def make(algorithm: Any = O2OSAC, observations: spaces.Space = UNBOUNDED, actions: spaces.Box = ACTIONS, **kwargs: Any):
    policy = kwargs.pop("policy", "MlpPolicy")
    kwargs["policy_kwargs"] = {**SMALL, **kwargs.pop("policy_kwargs", {})}
    return algorithm(policy, Room(observations, actions), device="cpu", buffer_size=100, seed=0, **kwargs)


def both_ways(model: Any, observation: Any, deterministic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Actions by ``predict`` and by Stable-Baselines3's, from one state of the random streams, which must end equal."""
    th.manual_seed(7)
    ours, _ = model.predict(observation, deterministic=deterministic)
    after = th.rand(3)
    th.manual_seed(7)
    stock, _ = BasePolicy.predict(model.policy, observation, deterministic=deterministic)
    assert th.equal(after, th.rand(3)), "another random stream"
    assert ours.dtype == stock.dtype
    assert ours.shape == stock.shape
    return ours, stock


def count_short_ways(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """:return: a list that fills with whether each ``predict`` took the short way"""
    taken: list[bool] = []
    actor, short = model.actor, model.actor.act_at_once

    def watched(*args: Any) -> Any:
        actions = short(*args)
        taken.append(actions is not None)
        return actions

    monkeypatch.setattr(actor, "act_at_once", watched, raising=False)
    return taken


SHORT: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer norm": {"actor_layer_norm": True},
    "normalised": {"normalize_observations": True},
    "one vector of deviations": {"policy_kwargs": {"state_dependent_std": False}},
    "tanh": {"policy_kwargs": {"activation_fn": th.nn.Tanh}},
    "no hidden layer": {"policy_kwargs": {"net_arch": []}},
    "matrix of actions": {"actions": spaces.Box(-3.0, 1.0, (2, 3))},
    "float64": {"observations": spaces.Box(-1.0, 1.0, (3,), np.float64)},
}


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("rows", [None, 1, 5, 40])
@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
def test_short_way_is_the_same(
    algorithm: Any, name: str, rows: int | None, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if algorithm is O2OTD3 and name == "one vector of deviations":
        pytest.skip("TD3 has no deviations")
    model = make(algorithm, **SHORT[name])
    if name == "normalised":
        extractor = model.actor.features_extractor
        extractor.set_statistics(np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 4.0]))
    taken = count_short_ways(model, monkeypatch)
    observation = np.random.default_rng(0).normal(size=(3,) if rows is None else (rows, 3))
    ours, stock = both_ways(model, observation.astype(model.observation_space.dtype), deterministic)
    assert taken == [True]
    np.testing.assert_array_equal(ours, stock)


class OwnActor(O2OActor):
    """Acts by its own rule."""

    def forward(self, obs: Any, deterministic: bool = False) -> th.Tensor:
        return super().forward(obs, True) * 0.5


class OwnPolicy(O2OSACPolicy):
    """Chooses by its own rule."""

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return th.full((len(observation), 2), 0.25)


class WithOwnActor(O2OSACPolicy):
    """Has an actor of its own."""

    def make_actor(self, features_extractor: Any = None) -> OwnActor:
        return OwnActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)


class Doubling(FlattenExtractor):
    """Features of its own."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return 2 * super().forward(observations)


IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
VECTORS = spaces.Dict({"a": UNBOUNDED, "b": spaces.Box(-1.0, 1.0, (2,))})
LONG: dict[str, dict[str, Any]] = {
    "gSDE": {"use_sde": True},
    "images": {"observations": IMAGES, "policy": "CnnPolicy"},
    "dictionary": {"observations": VECTORS, "policy": "MultiInputPolicy"},
    "matrix of observations": {"observations": spaces.Box(-1.0, 1.0, (3, 2))},
    "own policy": {"policy": OwnPolicy},
    "own actor": {"policy": WithOwnActor},
    "own extractor": {"policy_kwargs": {"features_extractor_class": Doubling}},
}


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
def test_bfloat16_acts_in_float32(algorithm: Any, deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products are the update's: one row's would only be less exact, and slower."""
    reduced, exact = make(algorithm, precision="bf16"), make(algorithm)
    taken = count_short_ways(reduced, monkeypatch)
    observation = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    ours, stock = both_ways(reduced, observation, deterministic)
    assert taken == [True]
    th.manual_seed(7)
    np.testing.assert_array_equal(ours, exact.predict(observation, deterministic=deterministic)[0])
    assert not np.array_equal(ours, stock)  # the layers themselves do round
    np.testing.assert_allclose(ours, stock, atol=0.05)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("name", LONG)
def test_what_needs_more_goes_the_usual_way(name: str, deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(**LONG[name])
    taken = count_short_ways(model, monkeypatch)
    ours, stock = both_ways(model, model.observation_space.sample(), deterministic)
    assert True not in taken
    np.testing.assert_array_equal(ours, stock)


def _step(model: Any) -> None:
    for parameter in model.actor.parameters():
        parameter.grad = th.ones_like(parameter)
    model.actor.optimizer.step()


def _other(model: Any) -> dict[str, Any]:
    return make(type(model)).policy.state_dict() | {
        name: value + 0.1 for name, value in model.policy.state_dict().items() if name.startswith("actor.")
    }


def _exchange_layer(model: Any) -> None:
    layers = model.actor.latent_pi if isinstance(model, O2OSAC) else model.actor.mu
    layers[0] = th.nn.Linear(3, 8)


def _exchange_data(model: Any) -> None:
    for parameter in model.actor.parameters():
        parameter.data = parameter.data * 2 + 0.1


def _dropout(model: Any) -> None:
    layers = model.actor.latent_pi if isinstance(model, O2OSAC) else model.actor.mu
    layers.insert(1, th.nn.Dropout(0.5))
    model.policy.set_training_mode(True)


def _hook(model: Any) -> None:
    layers = model.actor.latent_pi if isinstance(model, O2OSAC) else model.actor.mu
    layers[0].register_forward_hook(lambda module, inputs, outputs: outputs * 3)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "an optimiser's step": _step,
    "load_state_dict": lambda model: model.policy.load_state_dict(_other(model)),
    "set_parameters": lambda model: model.set_parameters({"policy": _other(model)}, exact_match=False),
    "other memory": _exchange_data,
    "another layer": _exchange_layer,
    "dropout": _dropout,
    "a hook": _hook,
    "another actor": lambda model: setattr(model.policy, "actor", make(type(model)).policy.make_actor()),
    "an update": lambda model: model.learn(12),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
def test_follows_every_change_at_once(algorithm: Any, name: str) -> None:
    model = make(algorithm, learning_starts=4, batch_size=4)
    observation = np.array([0.3, -0.2, 0.9], np.float32)
    before, _ = model.predict(observation, deterministic=True)
    CHANGES[name](model)
    ours, stock = both_ways(model, observation, True)
    np.testing.assert_array_equal(ours, stock)
    assert name == "dropout" or not np.array_equal(ours, before), "the change changed nothing"


def test_a_wrong_shape_is_refused_as_ever() -> None:
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        make().predict(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="tuple"):
        make().predict((np.zeros(3, np.float32), {}))


def test_the_observation_is_left_alone() -> None:
    observation = np.array([[1.0, 2.0, 3.0]], np.float32)
    observation.flags.writeable = False
    make(normalize_observations=True).predict(observation)
    np.testing.assert_array_equal(observation, [[1.0, 2.0, 3.0]])


class Frozen(th.nn.Linear):
    """Stays in evaluation."""

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


@pytest.mark.parametrize("algorithm", [O2OSAC, O2OTD3])
def test_training_mode_is_what_stable_baselines3_sets(algorithm: Any) -> None:
    model, stock = (make(algorithm, actor_layer_norm=True) for _ in range(2))
    for each in (model, stock):
        (each.actor.latent_pi if algorithm is O2OSAC else each.actor.mu).insert(1, Frozen(8, 8))
    stock_class = algorithm.stock_class("MlpPolicy", Room(UNBOUNDED, ACTIONS)).policy_class
    for mode in (True, False, True):
        model.policy.set_training_mode(mode)
        stock_class.set_training_mode(stock.policy, mode)
        ours, theirs = ({name: each.training for name, each in m.policy.named_modules()} for m in (model, stock))
        assert ours == theirs
        assert mode in ours.values()


def test_observations_stay_as_they_were_where_layers_work_in_place() -> None:
    """Without hidden layers, the first ReLU would be on what was given."""
    model = make(policy_kwargs={"net_arch": []})
    model.actor.latent_pi = th.nn.Sequential(th.nn.ReLU())
    observation = np.array([[-1.0, 2.0, -3.0]], np.float32)
    ours, stock = both_ways(model, observation, True)
    np.testing.assert_array_equal(ours, stock)
    assert observation.tolist() == [[-1.0, 2.0, -3.0]]


def test_a_hook_on_a_head_is_heard() -> None:
    model, seen = make(), []
    model.actor.mu.register_forward_hook(lambda layer, inputs, output: seen.append(output.tolist()) or output + 1)
    observation = np.zeros((2, 3), np.float32)
    ours, stock = both_ways(model, observation, True)
    np.testing.assert_array_equal(ours, stock)
    assert len(seen) == 2
    assert seen[0] == seen[1]
