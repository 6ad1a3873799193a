"""A return-conditioned transformer becomes a SAC agent: trained on a dataset, cloned along its episodes, fine-tuned.

python examples/decision_transformer.py
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import typer
from torch import nn

from sb3_o2o import O2OSAC, OfflineDataset
from sb3_o2o.data.returns import returns_to_go
from sb3_o2o.demo_data import DEMO_DATASET
from sb3_o2o.evaluation import evaluate
from sb3_o2o.finetuning import Warmup


class Transformer(nn.Module):
    """The last steps of an episode in, the next action out. A step is one token: wanted return, observation, action."""

    def __init__(self, obs_dim: int, act_dim: int, context: int, width: int = 64, layers: int = 2):
        super().__init__()
        self.embed = nn.Linear(1 + obs_dim + act_dim, width)
        self.place = nn.Parameter(th.zeros(context, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, act_dim)

    def forward(self, tokens: th.Tensor, is_empty: th.Tensor) -> th.Tensor:
        hidden = self.body(self.embed(tokens) + self.place, src_key_padding_mask=is_empty)
        return self.head(hidden[:, -1]).tanh()


class Trained:
    """
    The transformer with Stable-Baselines3's ``predict``, which also takes the reward of the step before: what is left
    of the return that it aims at is what it aims at next. This is all that ``load_offline`` needs to know of it.
    """

    def __init__(self, network: Transformer, dataset: OfflineDataset, context: int, target: float):
        self.network, self.context, self.target = network, context, target
        vectors = np.asarray(dataset.observations)
        self.mean, self.std = vectors.mean(axis=0), vectors.std(axis=0) + 1e-3
        self.largest = max(abs(dataset.episode_returns).max(), 1.0)
        low, high = dataset.action_space.low, dataset.action_space.high
        self.middle, self.half = (low + high) / 2, (high - low) / 2

    def tokens(self, wanted: Any, observations: Any, actions_before: Any) -> np.ndarray:
        scaled = (observations - self.mean) / self.std, (actions_before - self.middle) / self.half
        return np.concatenate([np.asarray(wanted)[..., None] / self.largest, *scaled], axis=-1).astype(np.float32)

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        *,
        reward: np.ndarray,
    ) -> tuple[np.ndarray, Any]:
        """Tokens of the steps so far, what is still wanted, and the last action are what it remembers."""
        n, act_dim = len(observation), len(self.middle)
        if state is None:
            empty = np.zeros((n, self.context, 1 + observation.shape[1] + act_dim), np.float32)
            state = empty, np.zeros(n), np.zeros((n, act_dim)), np.zeros(n)
        tokens, steps, action, wanted = (each.copy() for each in state)
        wanted = np.where(episode_start, self.target, wanted - reward)
        steps = np.where(episode_start, 0, steps) + 1
        action[episode_start] = self.middle
        tokens = np.concatenate([tokens[:, 1:], self.tokens(wanted, observation, action)[:, None]], axis=1)
        is_empty = np.arange(self.context) < self.context - steps[:, None]
        with th.no_grad():
            unit = self.network(th.as_tensor(tokens), th.as_tensor(is_empty)).numpy()
        action = self.middle + self.half * unit
        return action, (tokens, steps, action, wanted)


def train(dataset: OfflineDataset, context: int, gradient_steps: int, batch_size: int = 64) -> Trained:
    """Predict each action of the dataset from the steps before it and what its episode still came to."""
    target = float(np.quantile(dataset.episode_returns, 0.95))  # a good episode of the dataset
    network = Transformer(np.asarray(dataset.observations).shape[1], dataset.actions.shape[1], context)
    policy = Trained(network, dataset, context, target)
    before = np.roll(dataset.actions, 1, axis=0)
    before[dataset.episode_starts] = policy.middle
    wanted = returns_to_go(dataset.rewards, dataset.episode_starts, 1.0)
    tokens = th.as_tensor(policy.tokens(wanted, dataset.observations, before))
    actions = th.as_tensor((dataset.actions - policy.middle) / policy.half)
    starts = dataset.episode_starts[dataset.episode_of(np.arange(len(dataset)))]
    optimizer, rng = th.optim.Adam(network.parameters(), lr=1e-3), np.random.default_rng(0)
    for _ in range(gradient_steps):
        last = rng.integers(len(dataset), size=batch_size)
        window = last[:, None] - np.arange(context - 1, -1, -1)
        is_empty = window < starts[last][:, None]
        loss = (network(tokens[np.maximum(window, 0)], th.as_tensor(is_empty)) - actions[last]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"Transformer: squared error of an action {loss.item():.4f}, aims at a return of {target:.0f}")
    network.eval()
    return policy


def main(
    dataset: str = str(DEMO_DATASET),
    env_id: str = "InvertedDoublePendulum-v5",
    context: int = 8,
    train_steps: int = 3_000,
    clone_steps: int = 5_000,
    steps: int = 10_000,
    wait: int = 2_000,
    eval_episodes: int = 10,
    folder: Path = Path("runs/decision_transformer"),
) -> None:
    th.manual_seed(0)
    data, env = OfflineDataset.load(dataset), gym.make(env_id)
    model = O2OSAC.load_offline(
        train(data, context, train_steps),
        env,
        dataset=data,
        pretrain_steps=clone_steps,
        report_episodes=eval_episodes,
        finetuning=[Warmup(wait, freeze_policy_steps=wait)],  # the critics are fresh: they learn before the policy does
        critic_layer_norm=True,
        seed=0,
    )
    print(f"Clone: {model.clone_report}")
    print(f"Before fine-tuning: {evaluate(model, env_id, eval_episodes, seed=0)}")
    model.learn(steps)
    print(f"After {steps:,} steps: {evaluate(model, env_id, eval_episodes, seed=0)}")
    model.save(folder / "model")
    print(f"Saved: {folder / 'model.zip'}")


if __name__ == "__main__":
    typer.run(main)
