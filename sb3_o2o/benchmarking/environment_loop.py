"""What surrounds the updates: acting, storing, sampling, and the memory of a dataset."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import torch as th
from rich.table import Table
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from sb3_o2o.algorithms import O2OSAC
from sb3_o2o.benchmarking.peers.worker_protocol import EPISODE_LENGTH, timed
from sb3_o2o.benchmarking.step_profile import step_profile
from sb3_o2o.benchmarking.workers import Stopwatch, synchronise
from sb3_o2o.data import OfflineDataset, OfflineReplayBuffer
from sb3_o2o.progress import counted

#: updates per environment step, as in WSRL
UTD = 4
#: environments side by side that are measured
N_ENVS = (1, 4, 16)
#: WSRL's update
WSRL: dict[str, Any] = {"n_critics": 10, "critic_layer_norm": True, "critic_subset": 2, "policy_delay": UTD}


def measure(
    env_id: str,
    *,
    steps: int = 500,
    rounds: int = 5,
    transitions: int = 1_000_000,
    threads: int = 1,
    device: str = "cpu",
    compile_updates: bool = False,
    net_arch: tuple[int, ...] = (256, 256),
    batch_size: int = 256,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """
    :param env_id: Gymnasium id
    :param steps: environment steps of each round
    :param rounds: how often each part is measured; medians are reported
    :param transitions: size of the random dataset
    :param threads: of torch
    :param device: ``"cpu"`` or ``"cuda"``
    :param compile_updates: compile the updates
    :param net_arch: units per hidden layer
    :param batch_size: transitions per update
    :param say: is told what is going on
    :return: ``loop`` (a document for 1, 4 and 16 environments), ``sampling`` and ``memory``, in plain types
    """
    th.set_num_threads(threads)
    shared: dict[str, Any] = {
        "policy_kwargs": {"net_arch": list(net_arch)},
        "batch_size": batch_size,
        "device": device,
        "compile": compile_updates,
        "seed": 0,
    }
    loops = []
    for n_envs in N_ENVS:
        say(f"{env_id}, {counted(n_envs, 'environment')}")
        loops.append(environment_loop(env_id, n_envs, steps, rounds, shared))
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "dataset.hdf5", Path(folder) / "cache"
        say(f"writing a dataset of {transitions:,} transitions")
        write_dataset(path, env_id, transitions)
        memory = dataset_memory(path, cache)
        say("sampling")
        sampling = offline_sampling(OfflineDataset.load(path, cache=cache), env_id, rounds, shared)
    return {"loop": loops, "sampling": sampling, "memory": memory}


def environment_loop(env_id: str, n_envs: int, steps: int, rounds: int, shared: dict[str, Any]) -> dict[str, Any]:
    """
    :param env_id: Gymnasium id
    :param n_envs: environments side by side
    :param steps: environment steps of each round, at least
    :param rounds: how often each part is measured
    :param shared: arguments of the model
    :return: milliseconds per environment step: ``environment`` alone, ``predict`` alone, ``collect`` (acting, stepping
        and storing, all that ``learn`` does but the updates), ``stock`` (the same of stock SAC), ``updates``; what ours
        and stock's take beyond the environment, and the one over the other, the median over rounds; shares of the whole
        step; ``profiles_us`` of both loops, see :func:`~sb3_o2o.benchmarking.step_profile.step_profile`
    """
    model = O2OSAC(
        "MlpPolicy", make_vec_env(env_id, n_envs, seed=0), learning_starts=0, buffer_size=100_000, **WSRL, **shared
    )
    model.set_logger(Logger(None, []))
    stock = SAC(
        "MlpPolicy",
        make_vec_env(env_id, n_envs, seed=0),
        learning_starts=0,
        buffer_size=100_000,
        **{name: shared[name] for name in ("policy_kwargs", "batch_size", "device", "seed")},
    )
    stock.set_logger(Logger(None, []))
    model.gradient_steps = stock.gradient_steps = 0  # ``learn`` then runs its loop without updates
    calls = -(-steps // n_envs)
    bare = [gym.make(env_id) for _ in range(n_envs)]
    observations = np.stack([each.reset(seed=index)[0] for index, each in enumerate(bare)])
    blocks = max(calls // 20, 1)

    def predict() -> None:
        for _ in range(calls):
            model.predict(observations)

    def update() -> None:
        for _ in range(blocks):
            model.train(UTD * n_envs, model.batch_size)
        synchronise(model.device.type)

    parts: dict[str, tuple[Callable[[], Any], int]] = {
        "environment": (lambda: _step_alone(bare, calls), calls * n_envs),
        "predict": (predict, calls * n_envs),
        "collect": (lambda: model.learn(calls * n_envs), calls * n_envs),
        "stock": (lambda: stock.learn(calls * n_envs), calls * n_envs),
        "updates": (update, blocks * n_envs),
    }
    in_rounds = _rounds(parts, rounds)
    milliseconds = _medians(in_rounds)
    profiles = {name: step_profile(each, calls * n_envs) for name, each in (("collect", model), ("stock", stock))}
    for env in bare:
        env.close()
    for each in (model, stock):
        each.get_env().close()  # type: ignore[union-attr]
    beyond = {
        name: [loop - alone for loop, alone in zip(in_rounds[name], in_rounds["environment"], strict=True)]
        for name in ("collect", "stock")
    }
    overhead = statistics.median(beyond["collect"])
    whole = milliseconds["collect"] + milliseconds["updates"]
    return {
        "n_envs": n_envs,
        "utd": UTD,
        "ms": milliseconds,
        "rounds_ms": in_rounds,
        "overhead_ms": overhead,
        "stock_overhead_ms": statistics.median(beyond["stock"]),
        "to_stock": statistics.median(ours / theirs for ours, theirs in zip(*beyond.values(), strict=True)),
        "overhead_share": overhead / whole,
        "predict_share": milliseconds["predict"] / whole,
        "profiles_us": profiles,
    }


def _step_alone(environments: list[gym.Env], calls: int) -> None:
    actions = [each.action_space.sample() for each in environments]
    for _ in range(calls):
        for each, action in zip(environments, actions, strict=True):
            _, _, terminated, truncated, _ = each.step(action)
            if terminated or truncated:
                each.reset()


def _rounds(parts: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, list[float]]:
    """:return: milliseconds per unit of each part in each round; the parts are run in turn, one round warms up"""
    milliseconds: dict[str, list[float]] = {name: [] for name in parts}
    # ``collect`` fills the buffer that ``updates`` draws from, so the order within a round is that of the parts
    for _ in range(rounds + 1):
        for name, (action, units) in parts.items():
            milliseconds[name].append(1e3 * timed(action) / units)
    return {name: values[1:] for name, values in milliseconds.items()}


def _medians(rounds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in rounds.items()}


def write_dataset(path: Path, env_id: str, transitions: int) -> None:
    """
    :param path: ``.hdf5`` to write, in D4RL's layout
    :param env_id: environment whose dimensions the random transitions have; actions lie between -1 and 1
    :param transitions: how many
    """
    env = gym.make(env_id)
    observation_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]  # type: ignore[index]
    env.close()
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((transitions + 1, observation_dim), np.float32)
    timeouts = np.zeros(transitions, dtype=bool)
    timeouts[EPISODE_LENGTH - 1 :: EPISODE_LENGTH] = True
    with h5py.File(path, "w") as file:
        file["observations"], file["next_observations"] = observations[:-1], observations[1:]
        file["actions"] = generator.uniform(-0.99, 0.99, (transitions, action_dim)).astype(np.float32)
        file["rewards"] = generator.standard_normal(transitions, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(transitions, dtype=bool), timeouts


def dataset_memory(path: Path, cache: Path) -> dict[str, Any]:
    """
    :param path: a dataset in a file
    :param cache: folder for its converted form
    :return: see ``sb3_o2o.benchmarking.memory``
    """
    command = [sys.executable, "-m", "sb3_o2o.benchmarking.memory", str(path), str(cache)]
    subprocess.run([*command, "--convert"], check=True)
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return document


def offline_sampling(dataset: OfflineDataset, env_id: str, rounds: int, shared: dict[str, Any]) -> dict[str, Any]:
    """
    :param dataset: to sample
    :param env_id: Gymnasium id
    :param rounds: how often each part is measured
    :param shared: arguments of the models
    :return: milliseconds of a batch and of offline updates, sampling included, and its share of each
    """
    objectives: dict[str, dict[str, Any]] = {
        "SAC, 2 critics": {"objective": "sac"},
        "SAC, 10 critics": {"objective": "sac", **WSRL},
        "CQL, 2 critics": {"objective": "cql"},
    }
    # the bounds of the file, whatever the environment's are
    env = make_vec_env(env_id, wrapper_class=lambda env: gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1)))
    models = {name: O2OSAC("MlpPolicy", env, buffer_size=1, **given, **shared) for name, given in objectives.items()}
    updates, batches = 20, 100
    in_rounds: dict[str, list[float]] = {name: [] for name in ("batch", *models)}
    for _ in range(rounds + 1):
        for name, model in models.items():
            stopwatch = Stopwatch(updates, model.device.type)
            model.pretrain(dataset, updates + 1, callback=stopwatch, log_interval=updates + 2)
            in_rounds[name].append(1e3 * stopwatch.seconds / updates)
        buffer = next(iter(models.values())).open_offline_buffer(dataset)
        in_rounds["batch"].append(1e3 * timed(lambda: _draw(buffer, batches, shared["batch_size"])) / batches)  # noqa: B023
    milliseconds = _medians({name: values[1:] for name, values in in_rounds.items()})
    batch = milliseconds.pop("batch")
    return {
        "transitions": len(dataset),
        "batch_ms": batch,
        "update_ms": milliseconds,
        "rounds_ms": {name: values[1:] for name, values in in_rounds.items()},
        "share": {name: batch / update for name, update in milliseconds.items()},
    }


def _draw(buffer: OfflineReplayBuffer, batches: int, size: int) -> None:
    for _ in range(batches):
        buffer.sample(size)


def tables(measured: dict[str, Any]) -> list[Table]:
    """
    :param measured: by :func:`measure`
    :return: its parts, for people
    """
    loops = measured["loop"]
    return [
        _loop_table(loops),
        _profile_table(loops),
        _sampling_table(measured["sampling"]),
        _memory_table(measured["memory"]),
    ]


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _loop_table(loops: list[dict[str, Any]]) -> Table:
    table = _table(f"milliseconds per environment step, {UTD} updates each", "", *(f"{d['n_envs']} env" for d in loops))
    lines = {
        "the environment alone": lambda d: f"{d['ms']['environment']:.3f}",
        "predict": lambda d: f"{d['ms']['predict']:.3f}",
        "learn's loop: act, step, store": lambda d: f"{d['ms']['collect']:.3f}",
        "beyond the environment": lambda d: f"{d['overhead_ms']:.3f}",
        "the same of stock SAC": lambda d: f"{d['stock_overhead_ms']:.3f}",
        "ours / stock's": lambda d: f"{d['to_stock']:.2f}",
        "updates": lambda d: f"{d['ms']['updates']:.2f}",
        "overhead's share of the step": lambda d: f"{d['overhead_share']:.1%}",
    }
    for label, show in lines.items():
        table.add_row(label, *map(show, loops))
    return table


def _profile_table(loops: list[dict[str, Any]]) -> Table:
    columns = [f"{each['n_envs']} env" for each in loops]
    table = _table(
        "microseconds of the processor per environment step without updates, ours / stock SAC's", "", *columns
    )
    parts = sorted(loops[0]["profiles_us"]["collect"], key=lambda part: -loops[0]["profiles_us"]["collect"][part])
    for part in parts:
        shown = []
        for each in loops:
            ours, stock = (each["profiles_us"][name].get(part) for name in ("collect", "stock"))
            shown.append(f"{ours:.0f} / {'-' if stock is None else format(stock, '.0f')}")
        table.add_row(part, *shown)
    return table


def _sampling_table(sampling: dict[str, Any]) -> Table:
    table = _table(f"sampling {sampling['transitions']:,} transitions", "", "ms", "batch's share")
    table.add_row("a batch", f"{sampling['batch_ms']:.3f}", "")
    for name, milliseconds in sampling["update_ms"].items():
        table.add_row(f"update: {name}", f"{milliseconds:.2f}", f"{sampling['share'][name]:.1%}")
    return table


def _memory_table(memory: dict[str, Any]) -> Table:
    table = _table("memory of that dataset, MiB", "", "anonymous", "mapped", "peak")
    table.add_row(f"on disk: {memory['file_mib']:.0f} as HDF5, {memory['cache_mib']:.0f} converted")
    for stage in ("before", "opened", "sampled"):
        resident = memory[stage]
        if resident:
            table.add_row(stage, *(f"{resident[kind]:.0f}" for kind in ("anonymous", "mapped", "peak")))
    return table
