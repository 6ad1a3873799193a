"""Whose seed the random streams of a process follow, where models are opened in it."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch as th
from command_line import succeeds
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC, TD3
from toy_tasks import FAST, FAST_PPO, Drift, dataset, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3, ResidualActions
from sb3_o2o.finetuning import ChampionChallenger
from sb3_o2o.runs.saved_policies import load_policy


def draws() -> tuple[float, float, float]:
    return th.rand(1).item(), float(np.random.rand()), random.random()


def seed_all(seed: int) -> None:
    th.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.mark.parametrize("build", [make, make_td3])
@pytest.mark.parametrize("in_file", [False, True])
def test_load_offline_of_a_champion_follows_the_seed_that_it_was_given(
    build: Any, in_file: bool, tmp_path: Path
) -> None:
    model = build(env=vec(1), seed=7, finetuning=[ChampionChallenger(confidence=10**6)], learning_starts=2).learn(20)
    model.save(tmp_path / "champion")

    def taken(seed: int) -> tuple[Any, tuple[float, ...]]:
        seed_all(0)
        found = type(model).load_offline(tmp_path / "champion" if in_file else model, vec(1), seed=seed, device="cpu")
        drawn = draws()
        return found.learn(12), drawn

    (one, of_one), (same, of_same), (other, of_other) = (taken(seed) for seed in (1, 1, 2))
    assert of_one == of_same
    assert not {*of_one} & {*of_other}
    assert not differs(state(one), state(same))
    assert differs(state(one), state(other))
    assert np.array_equal(one.replay_buffer.actions, same.replay_buffer.actions)
    assert not np.array_equal(one.replay_buffer.actions[:12], other.replay_buffer.actions[:12])


#: models that were trained with the seed 3
MODELS: dict[str, Any] = {
    "ours": make,
    "our PPO": make_ppo,
    "SAC": lambda: SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST),
    "gSDE": lambda: SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, use_sde=True, **FAST),
    "TD3": lambda: TD3("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST),
    "PPO": lambda: PPO("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST_PPO),
    "TQC": lambda: TQC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST),
}


@pytest.mark.parametrize("opening", ["residual", "policy"])
@pytest.mark.parametrize("name", MODELS)
def test_opening_a_policy_leaves_the_random_streams_alone(name: str, opening: str, tmp_path: Path) -> None:
    MODELS[name]().learn(10).save(tmp_path / "base")
    path = str(tmp_path / "base.zip")
    seed_all(1)
    expected = draws()
    seed_all(1)
    found: Any = ResidualActions(Drift(), path) if opening == "residual" else load_policy(path)[0]
    assert draws() == expected
    if opening == "policy":
        assert found.seed is None


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("target", [O2OSAC, O2OTD3, O2OPPO])
@pytest.mark.parametrize("name", MODELS)
def test_load_offline_follows_the_seed_that_it_was_given(name: str, target: Any, in_file: bool, tmp_path: Path) -> None:
    theirs = MODELS[name]().learn(10)
    theirs.save(tmp_path / "theirs")
    source = tmp_path / "theirs.zip" if in_file else theirs
    options: dict[str, Any] = {"device": "cpu", "dataset": dataset(), "pretrain_steps": 2}

    def drawn(seed: int) -> tuple[float, ...]:
        seed_all(0)
        target.load_offline(source, vec(), seed=seed, **options)
        return draws()

    one, other = drawn(1), drawn(2)
    assert drawn(1) == one
    assert not {*one} & {*other}


def test_a_second_residual_environment_does_not_change_a_run(tmp_path: Path) -> None:
    """The one for evaluation is made after the model."""
    make().learn(10).save(tmp_path / "base")

    def trained(seed: int, second: bool) -> Any:
        model = make(env=ResidualActions(Drift(), tmp_path / "base.zip"), seed=seed)
        if second:
            ResidualActions(Drift(), tmp_path / "base.zip")
        return model.learn(12)

    assert not differs(state(trained(1, True)), state(trained(1, False)))


@pytest.mark.parametrize("command", ["evaluate", "select"])
def test_sampled_actions_of_a_command_follow_its_seed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (3, None):
        make(env=tiny.BOX, seed=seed).save(f"model_{seed}")
    models = ["model_None"] if command == "evaluate" else ["model_3", "model_None"]

    def said(seed: int) -> str:
        random_stream = th.random.get_rng_state()
        try:
            th.seed()
            return succeeds(command, *models, "--env", tiny.BOX, "--stochastic", "--episodes", 4, "--seed", seed)
        finally:
            th.random.set_rng_state(random_stream)

    assert said(1) == said(1) != said(2)
