"""SBX (Stable-Baselines3 in JAX) as a contestant. Run by path with the interpreter of an environment that has it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import jax
from sbx import SAC
from stable_baselines3.common.logger import Logger
from worker_protocol import Contestant, Unavailable, chunks, environment, fill_replay_buffer, serve, timed


def build(work: dict[str, Any], options: dict[str, Any]) -> Contestant:
    """
    :param work: a row
    :param options: ``fused``: updates per call of ``train``, which compiles them into one loop; 0 for as many as
        ``learn`` makes per environment step
    :return: the contestant
    """
    if work["objective"] != "sac":
        raise Unavailable("SBX has online algorithms only.")
    if options["device"] == "cuda" and jax.default_backend() != "gpu":
        raise Unavailable(f"this JAX has no GPU (backend: {jax.default_backend()}).")
    model = SAC(
        "MlpPolicy",
        environment(work),
        batch_size=work["batch_size"],
        buffer_size=work["n_transitions"],
        policy_delay=work["policy_delay"],
        policy_kwargs={
            "net_arch": list(work["hidden"]),
            "n_critics": work["n_critics"],
            "layer_norm": work["critic_layer_norm"],
        },
        seed=0,
    )
    model.set_logger(Logger(None, []))
    buffer = model.replay_buffer
    fill_replay_buffer(buffer, work)
    size = options["fused"] or work["policy_delay"]

    def run(updates: int) -> tuple[int, float]:
        calls = list(chunks(updates, size))

        def train() -> None:
            for steps in calls:
                model.train(steps, work["batch_size"])
            jax.block_until_ready((model.policy.qf_state.params, model.policy.actor_state.params))

        seconds = timed(train)
        return sum(calls), seconds

    def sample(batches: int) -> None:
        for steps in chunks(batches, size):
            buffer.sample(work["batch_size"] * steps)

    contestant = Contestant(run, sample)
    if work["critic_subset"] is not None:
        contestant.differs = {"critic_subset": None}
        contestant.note = "evaluates all target critics: SBX draws none"
    return contestant


if __name__ == "__main__":
    serve(build, {name: version(name) for name in ("sbx-rl", "jax", "stable-baselines3")})
