"""Arguments that no objective of a model follows are named; those that one follows, and recipes, are silent."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import SAC
from toy_tasks import FAST, make, make_ppo, make_td3, vec

from sb3_o2o import O2OSAC

CQL = {"objective_kwargs": {"n_actions": 2}}
#: builder, objective of both phases, argument, and how the advice begins
OVERRIDDEN: list[tuple[Any, str, dict[str, Any], str]] = [
    (make, "iql", {"critic_subset": 1}, "It is None there"),
    (make, "iql", {"actor_critics": "mean"}, "Leave it out"),
    (make, "iql", {"entropy_backup": True}, "It is False there"),
    (make, "cql", {"entropy_backup": True}, "Give it in objective_kwargs={'entropy_backup': True}"),
    (make, "calql", {"entropy_backup": True}, "Give it in objective_kwargs={'entropy_backup': True}"),
    (make, "sac_n", {"critic_subset": 2}, "It is None there"),
    (make, "edac", {"actor_critics": "mean"}, "It is 'min' there"),
    (make, "bc", {"critic_subset": 1}, "Leave it out"),
    (make, "bc", {"policy_delay": 3}, "It is 1 there"),
    (make_td3, "iql", {"policy_delay": 2}, "It is 1 there"),
    (make_td3, "iql", {"actor_batch": "block"}, "It is 'minibatch' there"),
    (make_td3, "iql", {"target_policy_noise": 0.3}, "Leave it out"),
    (make_td3, "iql", {"actor_critics": "min"}, "Leave it out"),
    (make_td3, "bc", {"critic_subset": 2}, "Leave it out"),
]


def build(maker: Any, objective: str, **kwargs: Any) -> Any:
    return maker(objective=objective, online_objective=objective, n_critics=3, **kwargs)


@pytest.mark.parametrize(("maker", "objective", "argument", "advice"), OVERRIDDEN)
def test_what_no_objective_follows(maker: Any, objective: str, argument: dict[str, Any], advice: str) -> None:
    ((name, value),) = argument.items()
    text = f"{name}={value!r} has no effect with objective '{objective}' and online_objective '{objective}'. {advice}"
    with pytest.warns(UserWarning, match="has no effect") as found:
        build(maker, objective, **argument)
    assert [str(each.message)[: len(text)] for each in found] == [text]


@pytest.mark.parametrize(
    ("maker", "kwargs"),
    [
        (make, {"objective": "iql", "online_objective": "iql"}),
        (make, {"objective": "iql", "online_objective": "iql", "entropy_backup": False, "actor_critics": "min"}),
        (make, {"objective": "iql", "critic_subset": 2, "actor_critics": "mean", "entropy_backup": True}),
        (make, {"objective": "iql", "online_objective": "iql", "policy_delay": 2}),
        (make, {"objective": "sac_n", "critic_subset": 2, "actor_critics": "mean"}),
        (make, {"objective": "cql", "online_objective": "cql", "critic_subset": 2, "entropy_backup": False}),
        (make, {"objective": "cql", "entropy_backup": True}),
        (
            make,
            {
                "objective": "cql",
                "online_objective": "cql",
                "entropy_backup": True,
                "objective_kwargs": {"entropy_backup": True},
            },
        ),
        (make, {"objective": "edac", "online_objective": "edac", "actor_critics": "min", "critic_subset": None}),
        (make_td3, {"objective": "iql", "policy_delay": 3, "critic_subset": 2, "target_policy_noise": 0.1}),
        (make_td3, {"objective": "td3_bc", "critic_subset": 2, "actor_critics": "min"}),
        (make_ppo, {"objective": "iql"}),
    ],
)
def test_what_an_objective_follows(maker: Any, kwargs: dict[str, Any]) -> None:
    more = {} if maker is make_ppo else {"n_critics": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maker(**more, **kwargs)


def test_both_objectives_are_named() -> None:
    with pytest.warns(UserWarning, match="has no effect with objective 'iql' and online_objective 'sac_n'. It is None"):
        make(objective="iql", online_objective="sac_n", critic_subset=1)


def test_a_loaded_model_says_it_as_well(tmp_path: Any) -> None:
    with pytest.warns(UserWarning, match="critic_subset=1 has no effect"):
        model = build(make, "iql", critic_subset=1)
    model.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # taken back
        type(model).load(tmp_path / "model", critic_subset=None)
    with pytest.warns(UserWarning, match="critic_subset=1 has no effect"):
        type(model).load(tmp_path / "model")


# -- said twice ----------------------------------------------------------------------------------------------------


def test_an_argument_of_the_policy_that_is_another_in_policy_kwargs(tmp_path: Path) -> None:
    """That one would win, without a word."""
    for making, name, value, other in (
        (make, "n_critics", 5, 2),
        (make_td3, "critic_layer_norm", True, False),
        (make_ppo, "normalize_observations", True, False),
    ):
        with pytest.raises(ValueError, match=rf"{name}={value} and policy_kwargs=\{{'{name}': {other}\}} are one argu"):
            making(**{name: value, "policy_kwargs": {name: other}})
        making(**{name: value, "policy_kwargs": {name: value}})
    make(policy_kwargs={"n_critics": 3}).save(tmp_path / "three")
    SAC("MlpPolicy", vec(), policy_kwargs={"n_critics": 3}, **FAST).save(tmp_path / "stock")
    for saved in ("three", "stock"):
        with pytest.raises(ValueError, match=r"n_critics=2 and policy_kwargs=\{'n_critics': 3\} are one argument"):
            O2OSAC.load(tmp_path / saved, vec(), n_critics=2)
        assert O2OSAC.load(tmp_path / saved, vec(), n_critics=3).n_critics == 3
        assert O2OSAC.load_offline(tmp_path / saved, vec(), n_critics=2).n_critics == 2  # which cuts the ensemble
    assert make(recipe="wsrl", policy_kwargs={"n_critics": 3}).n_critics == 3  # a user's is over the recipe's
