"""
Contestants that run in the package's own environment: ours, stock Stable-Baselines3, and the bare products.

    python -m sb3_o2o.benchmarking.workers ours|stable_baselines3|products
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

import sb3_o2o
from sb3_o2o.benchmarking.floor import ProductTimer
from sb3_o2o.benchmarking.peers.worker_protocol import (
    Contestant,
    Unavailable,
    chunks,
    environment,
    fill_replay_buffer,
    flat_data,
    serve,
    timed,
)
from sb3_o2o.benchmarking.products import megaflop
from sb3_o2o.benchmarking.work import Work


def as_work(document: dict[str, Any]) -> Work:
    """
    :param document: a row as it travels, with lists for tuples
    :return: the row
    """
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in document.items()}
    return Work(**fields)


def synchronise(device: str) -> None:
    """
    Wait for the device, so that a clock that is read next has seen all of its work.

    :param device: ``"cpu"`` or ``"cuda"``
    """
    if device == "cuda":
        th.cuda.synchronize()


# -- ours --------------------------------------------------------------------------------------------------------------


def ours_for(work: Work) -> Any:
    """
    :param work: a row
    :return: the class that has its objective; None if there is none yet
    """
    classes = (getattr(sb3_o2o, name, None) for name in work.algorithms)
    return next((each for each in classes if each is not None and work.objective in each.available_objectives), None)


def ours(document: dict[str, Any], options: dict[str, Any]) -> Contestant:
    """
    :param document: a row
    :param options: ``compile``, ``precision``, ``device``
    :return: this package as a contestant
    """
    work = as_work(document)
    algorithm = ours_for(work)
    if algorithm is None:
        raise Unavailable("not built yet")
    model = algorithm(
        "MlpPolicy",
        environment(document),
        batch_size=work.batch_size,
        # pre-training samples the dataset; its online buffer stays empty
        buffer_size=1 if work.offline else work.n_transitions,
        policy_kwargs={"net_arch": list(work.hidden)},
        seed=0,
        device=options["device"],
        **_own_arguments(work),
        compile=options["compile"],
        precision=options["precision"],
    )
    model.set_logger(Logger(None, []))
    if work.offline:
        return _pretraining(model, document, options["device"])
    fill_replay_buffer(model.replay_buffer, document)
    return _training(model, work, options["device"])


def _own_arguments(work: Work) -> dict[str, Any]:
    """What the row says beside the objective; what it leaves alone is left to the algorithm's defaults."""
    arguments: dict[str, Any] = {
        "objective": work.objective,
        "n_critics": work.n_critics,
        "policy_delay": work.policy_delay,
    }
    if work.critic_layer_norm:
        arguments["critic_layer_norm"] = True
    if work.critic_subset is not None:
        arguments["critic_subset"] = work.critic_subset
    if work.objective in ("cql", "calql"):
        arguments["objective_kwargs"] = {"n_actions": work.n_actions}
    return arguments


def _training(model: Any, work: Work, device: str) -> Contestant:
    """Online: as many updates per call of ``train`` as ``learn`` makes per environment step."""

    def run(updates: int) -> tuple[int, float]:
        calls = list(chunks(updates, work.policy_delay))

        def train() -> None:
            for steps in calls:
                model.train(steps, work.batch_size)
            synchronise(device)

        return sum(calls), timed(train)

    def sample(batches: int) -> None:
        for steps in chunks(batches, work.policy_delay):
            model.replay_buffer.sample(work.batch_size * steps)

    return Contestant(run, sample)


class Stopwatch(BaseCallback):
    """
    Times a pre-training from the end of its first update to the end of its last, so that setting up is not counted.

    :param updates: to time, after the first
    :param device: to wait for
    """

    def __init__(self, updates: int, device: str):
        super().__init__()
        self.updates, self.device = updates, device
        self.seconds = 0.0

    def _on_step(self) -> bool:
        if self.n_calls == 1:
            synchronise(self.device)
            self.started = time.perf_counter()
        elif self.n_calls == self.updates + 1:
            synchronise(self.device)
            self.seconds = time.perf_counter() - self.started
        return True


def _pretraining(model: Any, document: dict[str, Any], device: str) -> Contestant:
    from sb3_o2o.data import OfflineDataset

    data = flat_data(document)
    terminations = np.zeros(len(data["rewards"]), dtype=bool)
    dataset = OfflineDataset.from_arrays(**data, terminations=terminations)

    def run(updates: int) -> tuple[int, float]:
        stopwatch = Stopwatch(updates, device)
        model.pretrain(dataset, updates + 1, callback=stopwatch, log_interval=updates + 2)
        return updates, stopwatch.seconds

    def sample(batches: int) -> None:
        for _ in range(batches):
            model.offline_buffer.sample(model.batch_size)

    return Contestant(run, sample)


# -- stock Stable-Baselines3 -------------------------------------------------------------------------------------------


class NormalisedReLU(nn.Sequential):
    """
    Layer normalisation and ReLU in the place of an activation, which is how stock critics get one.

    :param width: units of the layer
    """

    def __init__(self, width: int):
        super().__init__(nn.LayerNorm(width), nn.ReLU())


class LayerNormSACPolicy(SACPolicy):
    """Stock ``SACPolicy`` with layer normalisation before each activation of its critics."""

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """
        :param features_extractor: the extractor to use; a new one by default
        :return: the critic
        """
        kwargs: dict[str, Any] = self.critic_kwargs
        width = kwargs["net_arch"][0]
        kwargs["activation_fn"] = lambda: NormalisedReLU(width)
        return super().make_critic(features_extractor)


def stock(document: dict[str, Any], options: dict[str, Any]) -> Contestant:
    """
    :param document: a row
    :param options: ``device``
    :return: stock Stable-Baselines3 as a contestant: SAC, or TD3 as the yardstick of its relatives
    """
    work = as_work(document)
    policy_kwargs: dict[str, Any] = {"net_arch": list(work.hidden), "n_critics": work.n_critics}
    arguments: dict[str, Any] = {
        "env": environment(document),
        "batch_size": work.batch_size,
        "buffer_size": work.n_transitions,
        "policy_kwargs": policy_kwargs,
        "seed": 0,
        "device": options["device"],
    }
    differs: dict[str, Any] = {}
    if work.objective == "sac":
        model: Any = SAC(LayerNormSACPolicy if work.critic_layer_norm else "MlpPolicy", **arguments)
        note = ""
        if work.policy_delay > 1 or work.critic_subset is not None:
            differs = {"policy_delay": 1, "critic_subset": None}
            note = "updates the actor every time and evaluates all target critics: stock SAC has no such options"
    elif work.objective in ("td3_bc", "iql"):
        model = TD3("MlpPolicy", policy_delay=2, **arguments)
        differs = {"objective": "td3", "policy_delay": 2}
        note = "TD3 online with the same networks, the nearest that Stable-Baselines3 has"
    else:
        raise Unavailable("Stable-Baselines3 has online algorithms only.")
    model.set_logger(Logger(None, []))
    fill_replay_buffer(model.replay_buffer, document)
    contestant = _training(model, work if work.objective == "sac" else replace(work, policy_delay=1), options["device"])
    contestant.differs, contestant.note = differs, note
    return contestant


# -- the products alone ------------------------------------------------------------------------------------------------


def floor(document: dict[str, Any], options: dict[str, Any]) -> Contestant:
    """
    :param document: a row
    :param options: ``precision``, ``device``
    :return: its matrix products, and nothing else, as a contestant
    """
    work = as_work(document)
    timer = ProductTimer(work, options["precision"], options["device"])

    def run(updates: int) -> tuple[int, float]:
        def multiply() -> None:
            timer.run(updates)
            synchronise(options["device"])

        return updates, timed(multiply)

    rate = timer.best_rate()
    extra = {"best_gflops": rate, "ms_at_best_rate": megaflop(work) / rate if rate else None}
    return Contestant(run, extra=extra)


WORKERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Contestant]] = {
    "ours": ours,
    "stable_baselines3": stock,
    "products": floor,
}


def main(name: str) -> None:
    """
    :param name: of a worker
    """
    versions = {"torch": th.__version__, "stable_baselines3": stable_baselines3.__version__}
    serve(WORKERS[name], {"sb3_o2o": sb3_o2o.__version__, **versions, "gymnasium": version("gymnasium")})


if __name__ == "__main__":
    main(sys.argv[1])
