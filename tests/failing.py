"""What goes wrong in tests of NaN and infinity."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from toy_tasks import Drift

from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.objectives import Batch, SACObjective, Step
from sb3_o2o.objectives.bc import BCObjective

NAN, INF = float("nan"), float("inf")
BATCH = ["actions", "discounts", "dones", "next_observations", "observations", "rewards"]


def poison_loss(model: Any, name: str, at: int = 3, value: float = NAN) -> None:
    """The loss of an optimiser is not finite the ``at``-th time that it is formed."""
    original, count = model.loop.gradients, 0

    def form(step: Step, parameters: Any) -> Any:
        nonlocal count
        losses, metrics, gradients = original(step, parameters)
        if name in losses:
            count += 1
            if count == at:
                losses = {**losses, name: th.full((), value)}
        return losses, metrics, gradients

    form.compile, form.compile_seconds = original.compile, 0.0
    model.loop.gradients = form


class Faulty(Drift):
    """What one step of an environment gives is not finite."""

    def __init__(self, what: str, value: float = NAN, at: int = 9, once: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.what, self.value, self.at, self.once, self.count = what, value, at, once, 0

    def _spoilt(self, observation: Any, what: str) -> Any:
        due = self.count == self.at if self.once else self.count >= self.at
        if self.what == what and due:
            place = observation["place"] if self.dictionary else observation
            place[1] = self.value
        return observation

    def reset(self, **kwargs: Any) -> Any:
        observation, infos = super().reset(**kwargs)
        return self._spoilt(observation, "first"), infos

    def step(self, action: np.ndarray) -> Any:
        self.count += 1
        observation, reward, terminated, truncated, infos = super().step(action)
        if terminated or truncated:
            observation = self._spoilt(observation, "last")
        due = self.count == self.at if self.once else self.count >= self.at
        if self.what == "reward" and due:
            reward = self.value
        return self._spoilt(observation, "observation"), reward, terminated, truncated, infos


def faulty(what: str, value: float = NAN, n_envs: int = 1, which: int = 0, **kwargs: Any) -> DummyVecEnv:
    """Environments of which one is faulty."""

    def build(index: int) -> Callable[[], gym.Env]:
        return lambda: Monitor(Faulty(what if index == which else "nothing", value, **kwargs))

    return DummyVecEnv([build(index) for index in range(n_envs)])


class NaNObjective(SACObjective):
    """A user's own: its critic's loss holds a division of zero by zero from the third update on."""

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        zero = th.zeros(()) if self.model._n_updates >= 3 else th.ones(())
        for step in super().steps(batch, actor_batch):
            is_critics = step.function == self.critic_losses
            yield Step(self.spoilt, (step.function, zero, *step.arguments)) if is_critics else step

    def spoilt(self, function: Any, zero: th.Tensor, *arguments: Any) -> Any:
        losses, metrics = function(*arguments)
        return {name: loss * (zero / zero) for name, loss in losses.items()}, metrics


class NaNCloning(BCObjective):
    """Another, of one graph."""

    def steps(self, batch: Batch, actor_batch: Batch | None) -> Iterator[Step]:
        zero = th.full((), float(self.model._n_updates < 3))
        yield Step(self.spoilt, (batch, zero))

    def spoilt(self, batch: Batch, zero: th.Tensor) -> Any:
        losses, metrics = self.distance_loss(batch)
        return {name: loss * (zero / zero) for name, loss in losses.items()}, metrics


class NaNExtractor(FlattenExtractor):
    """A user's own features, not finite after some calls."""

    def __init__(self, space: Any, after: int = 30):
        super().__init__(space)
        self.left = after

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.left -= 1
        return super().forward(observations) * (NAN if self.left < 0 else 1.0)


class InfiniteActions(FineTuningCallback):
    """Decides actions that are none."""

    def act(self, observations: Any) -> np.ndarray:
        return np.full((1, 2), INF, np.float32)


def poison_ratio(model: Any) -> Any:
    """The network of balanced replay, which steps by itself."""
    model.learn(12)
    with th.no_grad():
        next(iter(model.finetuning[0].ratio.network.parameters())).fill_(NAN)
    return model


def poison_buffer(model: Any) -> Any:
    """A user has filled the replay buffer with what was never checked."""
    model.learn(8)
    model.replay_buffer.rewards[:] = INF
    return model
