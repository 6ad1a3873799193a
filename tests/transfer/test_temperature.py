"""The temperature that SAC goes on with: the source's own, or one that is stated, and said."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import Logger
from toy_tasks import FAST, assert_same, dataset, make, make_ppo, make_td3, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.finetuning import ActorCriticAlignment, PolicyReevaluation, ValueAlignment

START: dict[str, Any] = {"buffer_size": 200, "batch_size": 8, "seed": 3, "device": "cpu"}


def temperature(model: Any) -> float:
    return float(model.current_ent_coef().item())


def moments(model: Any) -> dict[int, Any]:
    return model.ent_coef_optimizer.state_dict()["state"]


def saved(path: Path, **kwargs: Any) -> Path:
    make(**kwargs).pretrain(dataset(), 4).save(path / "model")
    return path / "model"


#: what pre-training leaves behind no temperature for SAC; cloning by likelihood tunes a multiplier of its own
UNTUNED: dict[str, dict[str, Any]] = {
    "iql": {"objective": "iql"},
    "bc, likelihood": {"objective": "bc"},
    "bc, mse": {"objective": "bc", "objective_kwargs": {"loss": "mse"}},
}


@pytest.mark.parametrize("how", ["learn", "load_offline", "fresh critics", "a dataset"])
@pytest.mark.parametrize("name", UNTUNED)
def test_what_nobody_tuned_starts_where_it_is_stated(
    name: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {**UNTUNED[name], "verbose": 1}
    if how == "learn":
        model = make(**arguments).pretrain(dataset(), 4)
        model.learn(2)  # no update yet
    elif how == "a dataset":
        model = O2OSAC.load_offline(dataset(), vec(), pretrain_steps=4, **{**START, **arguments})
    else:
        fresh = {} if how == "load_offline" else {"load_critic": False, "n_critics": 3}
        model = O2OSAC.load_offline(saved(tmp_path, **arguments), vec(), device="cpu", **fresh)
    assert temperature(model) == pytest.approx(0.2)
    assert moments(model) == {}
    who = f"objective {arguments['objective']!r}" if how in ("learn", "a dataset") else "the source"
    note = f"The temperature starts at 0.2, for {who} has tuned none, and no start_ent_coef says another."
    assert model.temperature_note == note
    assert capsys.readouterr().out.count(note) == 1
    model.learn(8)
    assert moments(model)  # and is tuned
    assert note not in capsys.readouterr().out


@pytest.mark.parametrize("source", ["TD3", "TQC that learned nothing", "a callable", "PPO"])
def test_sources_without_a_temperature(source: str) -> None:
    theirs: Any = {
        "TD3": lambda: TD3("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST),
        "TQC that learned nothing": lambda: TQC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST),
        "a callable": lambda: lambda observations: dataset().actions[: len(observations)],
        "PPO": make_ppo,
    }[source]()

    def taken(**kwargs: Any) -> O2OSAC:
        return O2OSAC.load_offline(theirs, vec(), dataset=dataset(), pretrain_steps=2, **START, **kwargs)

    assert temperature(taken()) == pytest.approx(0.2)
    assert temperature(taken(ent_coef="auto_0.3")) == pytest.approx(0.3)
    assert temperature(taken(start_ent_coef=0.07)) == pytest.approx(0.07)
    fixed = taken(ent_coef=0.4)
    assert (temperature(fixed), fixed.log_ent_coef, fixed.temperature_note) == (pytest.approx(0.4), None, None)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(("kwargs", "expected"), [({"ent_coef": "auto_0.6"}, None), ({"ent_coef": 0.37}, 0.37)])
def test_the_temperature_of_another_family_comes_along(kwargs: Any, expected: float | None, copied: bool) -> None:
    """Tuned or fixed, whether its policy is copied or cloned."""
    theirs = TQC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16 if copied else 8]}, **FAST, **kwargs).learn(12)
    arguments = {"policy_kwargs": {"net_arch": [16]}, "dataset": dataset(), "pretrain_steps": 2, **START}
    model = O2OSAC.load_offline(theirs, vec(), **arguments)
    assert (model.clone_report.copied == ("actor",)) is copied  # type: ignore[union-attr]
    value = theirs.log_ent_coef.exp().item() if expected is None else expected  # type: ignore[union-attr]
    assert temperature(model) == pytest.approx(value)
    assert model.log_ent_coef is not None
    assert model.temperature_note == f"The temperature starts at {value:g}, where the source had it."


def test_what_was_tuned_goes_on_with_its_moments(tmp_path: Path) -> None:
    path = saved(tmp_path, objective="cql", objective_kwargs={"n_actions": 2}, ent_coef="auto_0.5")
    theirs = O2OSAC.load(path, device="cpu")
    ours = O2OSAC.load_offline(path, vec(), device="cpu")
    assert temperature(ours) == temperature(theirs) != 0.5
    assert moments(ours)[0]["exp_avg"] == moments(theirs)[0]["exp_avg"]
    assert ours.temperature_note is None
    with pytest.warns(UserWarning, match="'auto_0.1' wanted"):
        other = O2OSAC.load_offline(path, vec(), device="cpu", ent_coef="auto_0.1")
    assert temperature(other) == temperature(theirs)
    restarted = O2OSAC.load_offline(path, vec(), device="cpu", start_ent_coef=0.1)
    assert (temperature(restarted), moments(restarted)) == (pytest.approx(0.1), {})
    assert restarted.temperature_note == "The temperature starts at 0.1, as start_ent_coef says."


def test_a_stock_model_that_has_not_learned(tmp_path: Path) -> None:
    theirs = SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [16]}, **FAST)
    assert temperature(O2OSAC.load_offline(theirs, vec(), device="cpu")) == pytest.approx(0.2)
    theirs.learn(12)
    assert temperature(O2OSAC.load_offline(theirs, vec(), device="cpu")) == theirs.log_ent_coef.exp().item()  # type: ignore[union-attr]


def test_iql_that_fine_tuned_as_iql_has_still_tuned_none(tmp_path: Path) -> None:
    make(objective="iql", online_objective="iql").pretrain(dataset(), 3).learn(8).save(tmp_path / "model")
    same = O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu")
    assert (temperature(same), same.temperature_note) == (1.0, None)  # nobody asks for it
    sac = O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu", online_objective="sac")
    assert temperature(sac) == pytest.approx(0.2)


@pytest.mark.parametrize(("recipe", "expected"), [("wsrl", 1.0), ("o2sac", 0.2), ("o2sac_expert", 0.5), ("so2", None)])
def test_recipes_state_a_start(recipe: str, expected: float | None, tmp_path: Path) -> None:
    path = saved(tmp_path, objective="iql", n_critics=10)
    with pytest.warns(UserWarning, match="trained wins"):
        model = O2OSAC.load_offline(path, vec(), recipe=recipe, dataset=dataset(), device="cpu")
    if expected is None:
        assert (model.log_ent_coef, temperature(model)) == (None, pytest.approx(0.2))
        return
    assert temperature(model) == pytest.approx(expected)
    assert model.temperature_note == (
        f"The temperature starts at {expected:g}, as ent_coef='auto_{expected}' says, for the source has tuned none."
    )
    with pytest.warns(UserWarning, match="trained wins"):
        model = O2OSAC.load_offline(
            path, vec(), recipe=recipe, dataset=dataset(), device="cpu", start_ent_coef=0.05, ent_coef="auto_0.3"
        )
    assert temperature(model) == pytest.approx(0.05)


def test_a_fixed_temperature_is_tuned_where_that_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, ent_coef=0.37)
    assert O2OSAC.load_offline(path, vec(), device="cpu").log_ent_coef is None
    for kwargs, expected in (({"ent_coef": "auto"}, 0.37), ({"ent_coef": "auto_0.1"}, 0.1)):
        model = O2OSAC.load_offline(path, vec(), device="cpu", **kwargs)
        assert model.log_ent_coef is not None
        assert temperature(model) == pytest.approx(expected)
        model.learn(8).save(tmp_path / "again")
        assert moments(model)
        assert temperature(O2OSAC.load(tmp_path / "again", device="cpu")) == temperature(model)


def test_a_second_hand_over_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, objective="iql")
    O2OSAC.load_offline(path, vec(), device="cpu", start_ent_coef=0.05).save(tmp_path / "again")
    again = O2OSAC.load_offline(tmp_path / "again", vec(), device="cpu")
    assert temperature(again) == pytest.approx(0.05)
    assert temperature(again.learn(2)) == pytest.approx(0.05, rel=0.01)
    model = make(objective="iql").pretrain(dataset(), 2).learn(2)
    with th.no_grad():
        model.log_ent_coef.fill_(0.0)  # type: ignore[union-attr]
    assert temperature(model.learn(2, reset_num_timesteps=False)) == 1.0


def test_a_phase_that_presets_it_has_the_last_word() -> None:
    model = make(objective="iql", dataset=dataset(), finetuning=[PolicyReevaluation(2, ent_coef=0.7)])
    assert temperature(model.pretrain(None, 2).learn(2)) == pytest.approx(0.7)


def test_it_is_logged() -> None:
    seen: dict[str, Any] = {}

    class Recording(Logger):
        def dump(self, step: int = 0) -> None:
            seen.update(copy.copy(self.name_to_value))
            super().dump(step)

    model = make(objective="iql").pretrain(dataset(), 2)
    model.set_logger(Recording(None, []))
    model.learn(60, log_interval=1)
    assert seen["finetune/start_ent_coef"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("algorithm", "arguments", "message"),
    [
        (O2OTD3, {"start_ent_coef": 0.1}, "is a temperature, which O2OTD3 does not have"),
        (O2OPPO, {"start_ent_coef": 0.1}, "is a temperature, which O2OPPO does not have"),
        (O2OSAC, {"start_ent_coef": 0.0}, "start_ent_coef must be a finite number above 0 or None, not 0.0"),
        (O2OSAC, {"start_ent_coef": 0.1, "ent_coef": 0.2}, "ent_coef=0.2 fixes the temperature"),
    ],
)
def test_rejections(algorithm: Any, arguments: dict[str, Any], message: str) -> None:
    source = {O2OSAC: make, O2OTD3: make_td3, O2OPPO: make_ppo}[algorithm]()
    with pytest.raises(ValueError, match=message):
        algorithm.load_offline(source, vec(), **arguments)


def test_a_fixed_source_does_not_start() -> None:
    with pytest.raises(ValueError, match=r"ent_coef=0\.37 fixes the temperature"):
        O2OSAC.load_offline(make(ent_coef=0.37), vec(), start_ent_coef=0.1)


@pytest.mark.parametrize(
    ("before", "ent_coef", "expected"),
    [
        (0.37, 0.01, 0.01),
        (0.37, "0.01", 0.01),
        (0.37, "auto", 0.37),
        (0.37, "auto_0.5", 0.5),
        (0.0, "auto", 1.0),
        ("auto_0.6", 0.01, 0.01),
        ("auto_0.6", "auto_0.5", 0.5),
        ("auto_0.6", "auto", 0.6),
        ("auto_0.6", "auto_0.6", 0.6),
    ],
)
@pytest.mark.parametrize("how", ["argument", "custom object"])
def test_load_changes_it(before: Any, ent_coef: Any, expected: float, how: str, tmp_path: Path) -> None:
    original = make(ent_coef=before).learn(20)
    original.save(tmp_path / "model")
    asked: dict[str, Any] = {"ent_coef": ent_coef}
    given = asked if how == "argument" else {"custom_objects": asked}
    model = O2OSAC.load(tmp_path / "model", vec(), device="cpu", **given)
    assert_same(model.policy.state_dict(), original.policy.state_dict())
    is_tuned = "auto" in str(ent_coef)
    assert (model.log_ent_coef is not None) == is_tuned
    assert temperature(model) == pytest.approx(expected, rel=0.05 if before == "auto_0.6" and is_tuned else 1e-5)
    goes_on = before == "auto_0.6" and is_tuned and ent_coef != "auto_0.5"
    if goes_on:
        assert temperature(model) == temperature(original) != pytest.approx(0.6, rel=1e-3)
    if is_tuned:
        assert bool(moments(model)) == goes_on
    start = temperature(model)
    model.learn(12)
    assert (temperature(model) != start) == is_tuned
    model.save(tmp_path / "again")
    again = O2OSAC.load(tmp_path / "again", device="cpu")
    assert temperature(again) == temperature(model)
    assert str(again.ent_coef) == str(ent_coef)


@pytest.mark.parametrize(("ent_coef", "expected"), [("auto", 0.7), ("auto_0.5", 0.5), (0.2, 0.2)])
def test_load_changes_one_that_was_fixed_for_pretraining(ent_coef: Any, expected: float, tmp_path: Path) -> None:
    make(pretrain_kwargs={"ent_coef": 0.7}).pretrain(dataset(), 4).save(tmp_path / "model")
    model = O2OSAC.load(tmp_path / "model", vec(), device="cpu", ent_coef=ent_coef)
    assert temperature(model) == pytest.approx(expected)
    assert temperature(model.learn(2)) == pytest.approx(expected)  # no update yet, but pre-training's arguments are out
    assert (model.ent_coef, model.log_ent_coef is None) == (ent_coef, ent_coef == 0.2)
    model.learn(12)


def test_a_number_may_be_written_for_load_offline(tmp_path: Path) -> None:
    path = saved(tmp_path)
    model = O2OSAC.load_offline(path, vec(), device="cpu", ent_coef="0.2")
    assert (temperature(model), model.log_ent_coef) == (pytest.approx(0.2), None)
    with pytest.raises(ValueError, match="fixes the temperature"):
        O2OSAC.load_offline(path, vec(), device="cpu", ent_coef="0.2", start_ent_coef=0.1)


@pytest.mark.parametrize("callback", [PolicyReevaluation, ValueAlignment, ActorCriticAlignment])
def test_it_wins_over_what_callbacks_set_later(callback: Any, tmp_path: Path) -> None:
    """It was said to start where ``start_ent_coef`` has it, and did not."""
    steps = {} if callback is ActorCriticAlignment else {"gradient_steps": 2}
    start: dict[str, Any] = {"device": "cpu", "dataset": dataset()}
    path = saved(tmp_path)
    model = O2OSAC.load_offline(path, vec(), finetuning=[callback(ent_coef=0.2, **steps)], start_ent_coef=0.7, **start)
    assert model.learn(2).current_ent_coef().item() == pytest.approx(0.7, rel=0.01)
    model = O2OSAC.load_offline(path, vec(), finetuning=[callback(ent_coef=0.2, **steps)], **start)
    assert model.temperature_note == f"The temperature starts at 0.2, as {callback.__name__} says."
    assert model.learn(2).current_ent_coef().item() == pytest.approx(0.2, rel=0.01)


def test_phases_that_are_over_start_nothing(tmp_path: Path) -> None:
    model = make(finetuning=[PolicyReevaluation(2, ent_coef=0.2)], dataset=dataset()).learn(6)
    model.save(tmp_path / "model")
    taken = O2OSAC.load_offline(tmp_path / "model", vec(), device="cpu", dataset=dataset(), start_ent_coef=0.7)
    assert taken.finished_phases == ["reevaluation"]
    assert temperature(taken) == pytest.approx(0.7)
