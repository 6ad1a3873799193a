"""With all features off, O2OSAC follows stock SAC: same seed, same parameters after the same number of updates."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import FAST, vec

from sb3_o2o import O2OSAC
from sb3_o2o.networks import conversion

#: |x - y| <= TOLERANCE (1 + |x|) after 24 updates in float32; products are summed in another order
TOLERANCE = 1e-5

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


def train(algorithm: type[SAC], case: dict[str, Any]) -> tuple[SAC, np.ndarray]:
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


@pytest.mark.parametrize("name", CASES)
def test_follows_stock_sac(name: str) -> None:
    stock, expected_actions = train(SAC, CASES[name])
    ours, actions = train(O2OSAC, CASES[name])
    assert isinstance(ours, O2OSAC)
    assert ours._n_updates == stock._n_updates > 0
    assert np.abs(actions - expected_actions).max() <= 2e-4  # on a scale of 2: rounding grows along an episode
    expected = stock.policy.state_dict()
    found = conversion.policy_to_stock(ours.policy.state_dict(), ours.critic)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert close(value, found[key]) <= TOLERANCE, key
    if stock.log_ent_coef is not None:
        assert ours.log_ent_coef is not None
        assert close(stock.log_ent_coef, ours.log_ent_coef) <= TOLERANCE


def test_the_comparison_would_notice() -> None:
    stock, _ = train(SAC, {})
    other, _ = train(O2OSAC, {"actor_critics": "mean"})
    found = conversion.policy_to_stock(other.policy.state_dict(), other.critic)  # type: ignore[attr-defined]
    assert max(close(value, found[key]) for key, value in stock.policy.state_dict().items()) > 10 * TOLERANCE


def test_logs_what_stock_sac_logs() -> None:
    logged = []
    for algorithm in (SAC, O2OSAC):
        names: set[str] = set()
        model = algorithm("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST)
        logger = Logger(None, [Remember(names)])
        model.set_logger(logger)
        model.learn(40, log_interval=1)
        logged.append(names)
    assert "train/critic_loss" in logged[0]
    assert logged[0] <= logged[1], logged[0] - logged[1]
