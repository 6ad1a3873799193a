"""With all features off, ours follow stock SAC, TD3 and PPO: same seed, same parameters after as many updates."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import FAST, FAST_PPO, assert_same, state, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.transfer import conversion

#: |x - y| <= TOLERANCE (1 + |x|) after 24 updates in float32; products are summed in another order
TOLERANCE = 1e-5


class Learned(BaseFeaturesExtractor):
    """A features extractor with parameters."""

    def __init__(self, space: Any):
        super().__init__(space, 4)
        self.linear = th.nn.Linear(3, 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(observations)


CASES: dict[str, dict[str, Any]] = {
    "box": {},
    "dict": {"dictionary": True},
    "two environments": {"n_envs": 2},
    "four gradient steps": {"gradient_steps": 4},
    "as many gradient steps as steps": {"train_freq": 3, "gradient_steps": -1},
    "whole episodes": {"train_freq": (1, "episode")},
    "fixed temperature": {"ent_coef": 0.2},
    "initial temperature": {"ent_coef": "auto_0.1"},
    "target entropy": {"target_entropy": -0.7},
    "five critics": {"policy_kwargs": {"net_arch": [16], "n_critics": 5}},
    "shared extractor": {"policy_kwargs": {"net_arch": [16], "share_features_extractor": True}},
    "shared extractor of dictionaries": {
        "dictionary": True,
        "policy_kwargs": {"net_arch": [16], "share_features_extractor": True},
    },
    "state-dependent exploration": {"use_sde": True, "sde_sample_freq": 2},
    "state-dependent exploration at warm-up": {"use_sde": True, "use_sde_at_warmup": True, "gradient_steps": 2},
    "three-step returns": {"n_steps": 3},
    "action noise": {"action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))},
    "correlated noise, two environments": {
        "action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.2 * np.ones(2)),
        "n_envs": 2,
    },
    "slow targets": {"target_update_interval": 2, "gradient_steps": 3, "tau": 0.3},
    "a schedule": {"learning_rate": lambda remaining: 1e-2 * remaining},
    "memory-efficient buffer": {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
    "VecNormalize": {"normalize": True},
    "sgd": {"policy_kwargs": {"net_arch": [16], "optimizer_class": th.optim.SGD}},
    "weight decay": {"policy_kwargs": {"net_arch": [16], "optimizer_kwargs": {"weight_decay": 0.1}}},
}

TD3_CASES: dict[str, dict[str, Any]] = {
    "box": {},
    "dict": {"dictionary": True},
    "two environments, three gradient steps": {"n_envs": 2, "gradient_steps": 3},
    "whole episodes": {"train_freq": (1, "episode"), "gradient_steps": -1},
    "no delay": {"policy_delay": 1, "tau": 0.3},
    "a long delay": {"policy_delay": 3, "gradient_steps": 2},
    "other smoothing": {"target_policy_noise": 0.5, "target_noise_clip": 0.1},
    "one critic, as DDPG": {"policy_kwargs": {"net_arch": [16], "n_critics": 1}, "target_noise_clip": 0.0},
    "four critics": {"policy_kwargs": {"net_arch": [16], "n_critics": 4}},
    "shared extractor": {"policy_kwargs": {"net_arch": [16], "share_features_extractor": True}},
    "shared extractor that learns": {
        "tau": 0.2,
        "policy_kwargs": {"net_arch": [16], "share_features_extractor": True, "features_extractor_class": Learned},
    },
    "three-step returns": {"n_steps": 3},
    "action noise": {"action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))},
    "a schedule": {"learning_rate": lambda remaining: 1e-2 * remaining},
    "VecNormalize": {"normalize": True},
    "weight decay": {"policy_kwargs": {"net_arch": [16], "optimizer_kwargs": {"weight_decay": 0.1}}},
}
PPO_CASES: dict[str, dict[str, Any]] = {
    "box": {},
    "dict": {"dictionary": True},
    "three environments": {"n_envs": 3},
    "a truncated minibatch": {"batch_size": 5},
    "entropy and clipped values": {"ent_coef": 0.01, "clip_range_vf": 0.1},
    "advantages as they are": {"normalize_advantage": False},
    "an early end": {"target_kl": 1e-3, "learning_rate": 1e-2},
    "schedules": {"learning_rate": lambda remaining: 1e-2 * remaining, "clip_range": lambda remaining: 0.3 * remaining},
    "VecNormalize": {"normalize": True},
    "extractors apart": {
        "policy_kwargs": {"net_arch": [16], "share_features_extractor": False, "features_extractor_class": Learned}
    },
    "sgd": {"policy_kwargs": {"net_arch": {"pi": [16], "vf": [8, 8]}, "optimizer_class": th.optim.SGD}},
}


class Remember(KVWriter):
    """Collects the keys that are logged."""

    def __init__(self, names: set[str]):
        self.names = names

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.names.update(key_values)

    def close(self) -> None:
        pass


class Actions(BaseCallback):
    """Remembers what was done."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.taken.append(self.locals["actions"].copy())
        return True


def train(algorithm: type[OffPolicyAlgorithm], case: dict[str, Any]) -> tuple[Any, np.ndarray]:
    arguments = {**FAST, "policy_kwargs": {"net_arch": [16]}, **case}
    dictionary, n_envs = arguments.pop("dictionary", False), arguments.pop("n_envs", 1)
    env: Any = vec(n_envs, dictionary=dictionary)
    if arguments.pop("normalize", False):
        env = VecNormalize(env)
    model = algorithm("MultiInputPolicy" if dictionary else "MlpPolicy", env, **arguments)
    actions = Actions()
    model.learn(24 * n_envs, callback=actions)
    return model, np.stack(actions.taken)


def close(one: th.Tensor, other: th.Tensor) -> float:
    return float(((one - other).abs() / (1 + one.abs())).detach().max()) if one.numel() else 0.0


def follows(stock_class: type[OffPolicyAlgorithm], our_class: type[OffPolicyAlgorithm], case: dict[str, Any]) -> None:
    stock, expected_actions = train(stock_class, case)
    ours, actions = train(our_class, case)
    assert isinstance(ours, our_class)
    assert ours._n_updates == stock._n_updates > 0
    assert np.abs(actions - expected_actions).max() <= 2e-4  # on a scale of 2: rounding grows along an episode
    expected = stock.policy.state_dict()
    found = conversion.policy_to_stock(ours.policy.state_dict(), ours.critic)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert close(value, found[key]) <= TOLERANCE, key
    if getattr(stock, "log_ent_coef", None) is not None:
        assert close(stock.log_ent_coef, ours.log_ent_coef) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_follows_stock_sac(name: str) -> None:
    follows(SAC, O2OSAC, CASES[name])


@pytest.mark.parametrize("name", TD3_CASES)
def test_follows_stock_td3(name: str) -> None:
    follows(TD3, O2OTD3, TD3_CASES[name])


def train_ppo(algorithm: type[PPO], case: dict[str, Any]) -> PPO:
    arguments = {**FAST_PPO, "policy_kwargs": {"net_arch": [16]}, **case}
    dictionary, n_envs = arguments.pop("dictionary", False), arguments.pop("n_envs", 1)
    env = vec(n_envs, dictionary=dictionary)
    wrapped: Any = VecNormalize(env) if arguments.pop("normalize", False) else env
    model = algorithm("MultiInputPolicy" if dictionary else "MlpPolicy", wrapped, **arguments)
    return model.learn(3 * 8 * wrapped.num_envs)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("name", PPO_CASES)
def test_follows_stock_ppo_bit_for_bit(name: str) -> None:
    stock, ours = train_ppo(PPO, PPO_CASES[name]), train_ppo(O2OPPO, PPO_CASES[name])
    assert ours._n_updates == stock._n_updates > 0
    expected, found = state(stock), state(ours)
    assert expected.keys() <= found.keys()
    assert_same(expected, {key: found[key] for key in expected})  # beside what the offline objective owns


def test_the_comparison_with_ppo_would_notice() -> None:
    stock, other = train_ppo(PPO, {}), train_ppo(O2OPPO, {"value_learning_rate": 3e-4})
    assert any(not th.equal(value, other.policy.state_dict()[key]) for key, value in stock.policy.state_dict().items())


@pytest.mark.parametrize(("stock_class", "our_class"), [(SAC, O2OSAC), (TD3, O2OTD3)])
def test_the_comparison_would_notice(stock_class: Any, our_class: Any) -> None:
    stock, _ = train(stock_class, {})
    other, _ = train(our_class, {"actor_critics": "mean"})
    found = conversion.policy_to_stock(other.policy.state_dict(), other.critic)
    assert max(close(value, found[key]) for key, value in stock.policy.state_dict().items()) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("stock_class", "our_class", "arguments", "key"),
    [
        (SAC, O2OSAC, FAST, "train/critic_loss"),
        (TD3, O2OTD3, FAST, "train/critic_loss"),
        (PPO, O2OPPO, FAST_PPO, "train/value_loss"),
    ],
)
def test_logs_what_stock_logs(stock_class: Any, our_class: Any, arguments: dict[str, Any], key: str) -> None:
    logged = []
    for algorithm in (stock_class, our_class):
        names: set[str] = set()
        model = algorithm("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **arguments)
        logger = Logger(None, [Remember(names)])
        model.set_logger(logger)
        model.learn(40, log_interval=1)
        logged.append(names)
    assert key in logged[0]
    assert logged[0] <= logged[1], logged[0] - logged[1]
