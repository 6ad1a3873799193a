"""d3rlpy as a contestant. Run by path with the interpreter of an environment that has it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import d3rlpy
import numpy as np
import torch
from worker_protocol import Contestant, Unavailable, random_data, serve, timed


def configuration(work: dict[str, Any]) -> Any:
    """
    :param work: a row
    :return: d3rlpy's configuration for it
    """
    plain = d3rlpy.models.VectorEncoderFactory(hidden_units=list(work["hidden"]))
    normalised = d3rlpy.models.VectorEncoderFactory(
        hidden_units=list(work["hidden"]), use_layer_norm=work["critic_layer_norm"]
    )
    shared: dict[str, Any] = {
        "batch_size": work["batch_size"],
        "n_critics": work["n_critics"],
        "actor_encoder_factory": plain,
        "critic_encoder_factory": normalised,
    }
    algos, objective = d3rlpy.algos, work["objective"]
    if objective == "sac":
        return algos.SACConfig(**shared)
    if objective == "td3_bc":
        return algos.TD3PlusBCConfig(update_actor_interval=work["policy_delay"], **shared)
    if objective == "iql":
        return algos.IQLConfig(value_encoder_factory=plain, **shared)
    if objective in ("cql", "calql"):
        # no Lagrange multiplier, as in the row: updating it would evaluate the conservative term once more
        conservative = algos.CQLConfig if objective == "cql" else algos.CalQLConfig
        return conservative(n_action_samples=work["n_actions"], alpha_learning_rate=0.0, **shared)
    raise Unavailable(f"d3rlpy's worker knows no objective {objective!r}.")


def dataset(work: dict[str, Any]) -> Any:
    """
    :param work: a row
    :return: the shared random data in d3rlpy's own replay buffer
    """
    data = random_data(work)
    episodes = [
        d3rlpy.dataset.Episode(observations[:-1], actions, rewards[:, None], False)
        for observations, actions, rewards in zip(*data.values(), strict=True)
    ]
    return d3rlpy.dataset.create_infinite_replay_buffer(episodes)


def build(work: dict[str, Any], options: dict[str, Any]) -> Contestant:
    """
    :param work: a row
    :param options: ``device``
    :return: the contestant
    """
    on_gpu = options["device"] == "cuda"
    # its own compiler is for GPUs only
    config = configuration(work)
    config.compile_graph = on_gpu
    algo = config.create(device="cuda:0" if on_gpu else "cpu:0")
    np.random.seed(0)
    buffer = dataset(work)
    algo.build_with_dataset(buffer)

    def updates_of(count: int) -> None:
        for _ in range(count):
            algo.update(buffer.sample_transition_batch(work["batch_size"]))
        if on_gpu:
            torch.cuda.synchronize()

    def sample(batches: int) -> None:
        for _ in range(batches):
            buffer.sample_transition_batch(work["batch_size"])

    contestant = Contestant(lambda updates: (updates, timed(lambda: updates_of(updates))), sample)
    if work["objective"] == "sac" and (work["policy_delay"] > 1 or work["critic_subset"] is not None):
        contestant.differs = {"policy_delay": 1, "critic_subset": None}
        contestant.note = "updates the actor every time and evaluates all target critics: d3rlpy has no such options"
    return contestant


if __name__ == "__main__":
    serve(build, {name: version(name) for name in ("d3rlpy", "torch")})
