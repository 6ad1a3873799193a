"""Whose seed the random streams of a process follow, where models are opened in it."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from toy_tasks import differs, make, make_td3, state, vec

from sb3_o2o.finetuning import ChampionChallenger


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
