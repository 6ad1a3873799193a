"""Facts in, a recipe out: every rule with facts made up for it, and the test of the regimes by hand."""

from typing import Any

import pytest

from sb3_o2o.advice import DatasetFacts, PolicyFacts, choose, regime
from sb3_o2o.advice.rules import _WITH_POLICY
from sb3_o2o.recipes import list_recipes


def data(**changes: Any) -> DatasetFacts:
    facts: dict[str, Any] = {
        "name": "made/up-v0",
        "env_id": "Hopper-v5",
        "transitions": 1000,
        "episodes": 100,
        "unit": "score",
        "mean": 40.0,
        "deviation": 20.0,
        "best": 50.0,
        "scale": 100.0,
        "sparse": False,
        "coverage": 0.7,
    }
    return DatasetFacts(**{**facts, **changes})


def policy(**changes: Any) -> PolicyFacts:
    facts: dict[str, Any] = {
        "name": "model.zip",
        "family": "SAC",
        "mean": 40.0,
        "deviation": 0.0,
        "episodes": 10,
        "kendall_tau": 0.6,
    }
    return PolicyFacts(**{**facts, **changes})


MAZE, SPARSE = "PointMaze_UMaze-v3", {"sparse": True, "unit": "success"}


@pytest.mark.parametrize(
    ("facts", "recipe"),
    [
        ({}, "wsrl"),
        ({"best": 9.9, "mean": 1.0}, "rlpd"),
        ({"best": 9.9, "mean": 1.0, "coverage": None}, "rlpd"),
        ({"best": 9.9, "mean": 1.0, "coverage": 0.49}, "sac_fast"),
        ({"best": 9.9, "mean": 1.0, **SPARSE}, "rlpd"),
        ({"best": 9.9, "mean": 1.0, "unit": "return"}, "wsrl"),  # nobody knows what 9.9 is worth
        ({"mean": 80.0}, "o2td3_expert"),
        ({"mean": 79.9}, "wsrl"),
        ({"mean": 80.0, "unit": "return"}, "wsrl"),
        ({"mean": 80.0, "env_id": "AdroitHandPen-v1"}, "o2td3"),
        ({"mean": 80.0, **SPARSE, "env_id": MAZE}, "wsrl"),  # whose entry pre-trains with Cal-QL
        ({**SPARSE, "env_id": "Robot-v0"}, "calql"),
    ],
)
def test_a_dataset_alone(facts: dict[str, Any], recipe: str) -> None:
    choice = choose(data(**facts))
    assert (choice.recipe, choice.regime) == (recipe, None)


@pytest.mark.parametrize(
    ("mean", "expected"),
    # standard error 20 / sqrt(100) = 2: beyond 5 + 1.645 * 2 = 8.29 points
    [(48.3, "superior"), (48.2, "comparable"), (40.0, "comparable"), (31.8, "comparable"), (31.7, "inferior")],
)
def test_regimes(mean: float, expected: str) -> None:
    assert regime(data(), policy(mean=mean)) == expected


def test_a_noisy_policy_and_another_scale_need_a_larger_difference() -> None:
    noisy = {"deviation": 10.0, "episodes": 4}  # error sqrt(4 + 25) = 5.385: beyond 13.86
    assert regime(data(), policy(mean=53.8, **noisy)) == "comparable"
    assert regime(data(), policy(mean=53.9, **noisy)) == "superior"
    assert regime(data(unit="return", scale=1000.0), policy(mean=93.2)) == "comparable"  # beyond 53.29
    assert regime(data(unit="return", scale=1000.0), policy(mean=93.3)) == "superior"


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ({}, "wsrl"),
        ({"kendall_tau": 0.3}, "wsrl"),
        ({"kendall_tau": 0.29}, "o2sac"),
        ({"kendall_tau": None}, "o2sac"),
        ({"family": "TD3"}, "o2td3"),
        ({"family": "PPO", "kendall_tau": None}, "o2ppo"),
        ({"family": "TQC", "kendall_tau": None}, "o2sac"),
        ({"family": "callable", "kendall_tau": None}, "o2sac"),
        ({"family": "TD3", "mean": 80.0}, "o2td3_expert"),
        ({"family": "PPO", "mean": 80.0, "kendall_tau": None}, "o2ppo_expert"),
    ],
)
def test_a_policy_that_is_better_is_protected(given: dict[str, Any], recipe: str) -> None:
    choice = choose(data(), policy(**{"mean": 60.0, **given}))
    assert (choice.recipe, choice.regime) == (recipe, "superior")


@pytest.mark.parametrize(
    ("facts", "given", "recipe"),
    [
        ({}, {}, "o2sac"),
        ({}, {"family": "TD3"}, "o2td3"),
        ({}, {"family": "PPO", "kendall_tau": None}, "o2ppo"),
        (SPARSE, {}, "calql"),
        (SPARSE, {"kendall_tau": 0.1}, "o2sac"),
        (SPARSE, {"family": "TD3"}, "o2td3"),
        ({"mean": 80.0, "best": 90.0}, {"mean": 82.0}, "o2sac_expert"),
    ],
)
def test_of_two_that_are_alike_both_are_kept(facts: dict[str, Any], given: dict[str, Any], recipe: str) -> None:
    choice = choose(data(**facts), policy(**given))
    assert (choice.recipe, choice.regime) == (recipe, "comparable")


@pytest.mark.parametrize("family", ["SAC", "TD3", "PPO"])
def test_a_dataset_that_is_better_is_protected(family: str) -> None:
    choice = choose(data(), policy(mean=10.0, family=family))
    assert (choice.recipe, choice.regime) == ("rlpd", "inferior")


def texts(choice: Any) -> str:
    return " ".join(reason.text for reason in choice.reasons)


def test_what_is_noted_beside() -> None:
    assert "far above the mean (61.0 and 40.0)" in texts(choose(data(best=61.0)))
    assert "far above" not in texts(choose(data(best=60.0)))
    assert "nearly the same (coverage 0.20)" in texts(choose(data(coverage=0.2)))
    assert "No reference returns" in texts(choose(data(unit="return")))
    assert "below the best tenth" in texts(choose(data(), policy(mean=44.9)))
    assert "below the best tenth" not in texts(choose(data(), policy(mean=45.0)))
    assert "0.10: it does not rank actions, and" in texts(choose(data(), policy(kendall_tau=0.1)))
    assert "0.60: it ranks actions." in texts(choose(data(), policy()))
    assert "Kendall" not in texts(choose(data(), policy(kendall_tau=None)))


def test_every_rule_has_a_source_and_every_recipe_exists() -> None:
    datasets = [
        data(unit=unit, sparse=sparse, mean=mean, best=mean + 8, env_id=env_id, coverage=coverage)
        for unit in ("score", "success", "return")
        for sparse in (False, True)
        for mean in (1.0, 40.0, 95.0)
        for env_id in ("Hopper-v5", "Robot-v0")
        for coverage in (None, 0.1)
    ]
    policies = [None] + [
        policy(family=family, mean=mean, kendall_tau=tau)
        for family in ("SAC", "TD3", "PPO", "callable")
        for mean in (0.0, 40.0, 99.0)
        for tau in (None, 0.9)
    ]
    choices = [choose(one, other) for one in datasets for other in policies]
    assert {choice.recipe for choice in choices} <= set(list_recipes())
    assert {choice.regime for choice in choices} == {None, *_WITH_POLICY}
    for choice in choices:
        assert choice.reasons
        for reason in choice.reasons:
            assert reason.source == "ours" or "arXiv:" in reason.source
