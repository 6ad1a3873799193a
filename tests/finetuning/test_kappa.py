"""How much the second critics count: schedules, and the rule that measures."""

from typing import Any

import numpy as np
import pytest
from toy_tasks import dataset, make, make_td3

from sb3_o2o.finetuning import DualCritic, LinearSchedule, OnlinePretraining
from sb3_o2o.finetuning.kappa import PUBLISHED, accuracy_weight, observed_returns

COLLECT, META = 10, 6

# -- kappa ---------------------------------------------------------------------------------------------------------


def test_a_linear_schedule_by_hand() -> None:
    schedule = LinearSchedule(0.3, 0.9, 150_000)
    assert schedule(25_000, 25_000) == 0.3
    assert schedule(87_500, 25_000) == pytest.approx(0.6)
    assert schedule(150_000, 25_000) == schedule(300_000, 25_000) == 0.9
    assert LinearSchedule(0.1, 0.5, 10, start_step=6)(8, 0) == pytest.approx(0.3)
    assert LinearSchedule(0.1, 0.5, 10)(12, 12) == 0.5  # a collection that outlasts the schedule
    at_once = DualCritic({"start": 0.1, "end": 0.5, "end_step": 10, "start_step": 10}).schedule
    assert isinstance(at_once, LinearSchedule)
    assert [at_once(step, 4) for step in (0, 9, 10, 11)] == [0.1, 0.1, 0.5, 0.5]


def test_kappa_rises_with_environment_steps() -> None:
    dual = DualCritic({"start": 0.2, "end": 0.6, "end_step": 20})
    model = make_td3(learning_starts=0, finetuning=[OnlinePretraining(COLLECT, META), dual], dataset=dataset())
    model.learn(16)
    assert dual.value == pytest.approx(0.2 + 0.4 * (16 - 11) / (20 - 11))
    assert dual.weight is not None
    assert dual.weight.item() == pytest.approx(dual.value)
    model.learn(10)  # counted on, where SB3 counts anew
    assert dual.value == 0.6


def test_published_schedules_by_name() -> None:
    assert DualCritic("random").schedule == 1.0
    assert DualCritic("medium").schedule == PUBLISHED["medium"] == LinearSchedule(0.3, 0.9, 150_000)


def test_returns_of_recent_steps_by_hand() -> None:
    """One environment: an end, a truncation, and an episode that goes on; gamma 0.5."""
    rewards = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])[:, None]
    terminals = np.array([0, 1, 0, 0, 0, 0], bool)[:, None]
    ends = np.array([0, 1, 0, 1, 0, 0], bool)[:, None]
    tails = np.full((6, 1), 8.0)
    returns, observed = observed_returns(rewards, terminals, ends, tails, 0.5)
    assert returns[:, 0].tolist() == [1 + 0.5 * 2, 2.0, 3 + 0.5 * 8, 8.0, 5 + 0.5 * 8, 8.0]
    assert observed[:, 0].tolist() == [True, True, True, False, True, False]


def test_the_more_accurate_pair_weighs_more() -> None:
    errors = np.logspace(-6, 6, 13)
    for mine in errors:
        weights = [accuracy_weight(mine, other) for other in errors]
        assert all(0 <= weight <= 1 for weight in weights)
        assert weights == sorted(weights, reverse=True)  # the worse the second, the less it weighs
        assert all(
            (weight > 0.5) == (mine > other) for weight, other in zip(weights, errors, strict=True) if mine != other
        )
    assert accuracy_weight(0.0, 0.0) == accuracy_weight(2.0, 2.0) == 0.5
    assert (accuracy_weight(1.0, 0.0), accuracy_weight(0.0, 1.0)) == (1.0, 0.0)
    assert accuracy_weight(3.0, 5.0) == pytest.approx(accuracy_weight(300.0, 500.0))  # no unit


def test_auto_measures_the_pairs_on_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are the returns but for a constant weigh all; noise lowers the weight, whichever pair has it."""
    dual = DualCritic("auto", auto_window=40, auto_interval=1000)
    model: Any = make(learning_starts=0, finetuning=[dual], gamma=0.9).learn(40)
    rewards, terminals, ends = (np.stack([row[column] for row in dual.recent]) for column in (2, 3, 4))
    assert rewards.shape == (40, 1)
    assert np.allclose(rewards, model.replay_buffer.rewards[:40])
    assert ends.any()
    exact = np.zeros((40, 1))
    for _ in range(60):  # a fixed point: the tail is the exact value itself
        exact, _ = observed_returns(rewards, terminals, ends, exact, 0.9)
    noise = np.random.default_rng(0).normal(size=(40, 1)) * ~ends

    def kappa(first: np.ndarray, second: np.ndarray) -> float:
        monkeypatch.setattr(dual, "_pair_values", lambda: (first, second))
        dual._measure()
        return dual.value

    flat = exact * 0
    assert kappa(flat, exact) > 0.5 > kappa(exact, flat)
    assert kappa(flat, exact) == pytest.approx(1 - kappa(exact, flat))
    levels = [kappa(exact + noise, exact + level * noise) for level in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert levels == sorted(levels, reverse=True)
    assert levels[2] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kappa": 1.2}, r"DualCritic\(kappa\) must lie in \[0, 1\], not 1.2"),
        ({"kappa": -0.1}, "0 is the first critics alone"),
        ({"kappa": float("nan")}, r"must lie in \[0, 1\]"),
        ({"kappa": True}, r"must lie in \[0, 1\]"),
        ({"kappa": {"start": 0.9, "end": 0.1, "end_step": 10}}, "decreases, from 0.9 to 0.1.*Swap start and end"),
        ({"kappa": {"start": 0.1, "end": 1.5, "end_step": 10}}, r"LinearSchedule\(end\) must lie in"),
        ({"kappa": {"start": 0.1, "end": 0.5}}, "needs start, end and end_step"),
        ({"kappa": {"begin": 0.1, "end": 0.5, "end_step": 3}}, "Unknown argument of DualCritic"),
        ({"kappa": {"start": 0.1, "end": 0.5, "end_step": 3, "start_step": 5}}, "0 <= start_step <= end_step"),
        ({"kappa": "medum"}, "Did you mean 'medium'"),
        ({"second": "old"}, "'fresh' or 'copy'"),
        ({"auto_window": 1}, "auto_window of DualCritic must be a whole number of at least 2, not 1"),
    ],
)
def test_bad_kappas(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualCritic(**arguments)
