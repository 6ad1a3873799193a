"""What the switch cost: measured after the run's own evaluations, and drawn in the learning curve's unit."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
from matplotlib.figure import Figure
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from toy_tasks import FAST, Drift, dataset, make

from sb3_o2o import O2OSAC
from sb3_o2o.diagnostics import SwitchDiagnostics, read_diagnostics, report
from sb3_o2o.evaluation import NormalizedEvalCallback, ReferenceScore

MISPLACED = r"must be one of this run's callbacks, before SwitchDiagnostics"


def evaluating(**kwargs: Any) -> NormalizedEvalCallback:
    return NormalizedEvalCallback(Monitor(Drift()), n_eval_episodes=1, eval_freq=4, **kwargs)


def test_drop_and_recovery() -> None:
    """Scores -10, -40, -20 and 0: down by thirty percent of the scale, back after eighteen steps."""
    evaluation = evaluating(reference=ReferenceScore(-100.0, 0.0, "by hand"))
    seen = SwitchDiagnostics(evaluation)
    evaluation.evaluations_timesteps = [0, 6, 12, 18]
    evaluation.evaluations_results = [[-5.0, -15.0], [-40.0], [-20.0], [0.0]]  # type: ignore[assignment]
    found = seen.measure()
    assert found["drop"] == pytest.approx(30.0)
    assert found["steps_to_recover"] == 18
    assert math.isnan(found["regret"])


def test_regret_counts_the_training_episodes() -> None:
    """An action of one pushes to the goal; success at any step counts."""
    evaluation = NormalizedEvalCallback(Monitor(gym.make(tiny.GOAL)), n_eval_episodes=1, eval_freq=20)
    seen = SwitchDiagnostics(evaluation)
    model = O2OSAC("MultiInputPolicy", gym.make(tiny.GOAL), **{**FAST, "learning_starts": 30})
    model.learn(20, callback=[evaluation, seen])
    assert len(seen.successes) == 2
    assert seen.values["regret"][-1] == 1 - np.mean(seen.successes)


def test_stocks_evaluations(tmp_path: Path) -> None:
    """They go on from call to call: those of earlier ones do not count."""
    evaluation = EvalCallback(Monitor(Drift()), n_eval_episodes=1, eval_freq=4, log_path=str(tmp_path), verbose=0)
    seen = SwitchDiagnostics(evaluation, offline_score=1000.0)
    model = make(objective="cql", objective_kwargs={"n_actions": 2})
    model.pretrain(dataset(), 8, callback=[evaluation, seen])
    assert seen.timesteps == []
    for _ in range(2):
        model.learn(8, callback=[evaluation, seen])
        assert seen.timesteps == [4, 8]
        lowest = min(np.mean(returns) for returns in evaluation.evaluations_results[-2:])
        assert seen.values["drop"][-1] == pytest.approx(1000.0 - lowest)


def test_an_evaluation_that_keeps_nothing() -> None:
    with pytest.raises(ValueError, match="needs the score at the switch"):
        SwitchDiagnostics(EvalCallback(Monitor(Drift())))
    with pytest.raises(ValueError, match="EvalCallback keeps none without a log_path"):
        SwitchDiagnostics(EvalCallback(Monitor(Drift())), offline_score=3.0)


def test_the_evaluation_has_to_come_first() -> None:
    evaluation = evaluating()
    seen = SwitchDiagnostics(evaluation)
    model = make()
    for callbacks in ([seen], [seen, evaluation]):
        with pytest.raises(ValueError, match=MISPLACED):
            model.learn(8, callback=callbacks)
        assert evaluation.evaluations_timesteps == []
    model.learn(4, callback=[evaluation, seen])
    with pytest.raises(ValueError, match=MISPLACED):  # it was in an earlier call only
        model.learn(4, callback=seen)
    assert model.num_timesteps == 4  # refused before anything was reset


def test_it_is_said_before_pretraining() -> None:
    evaluation = evaluating()
    model = make(dataset=dataset(), objective="cql", objective_kwargs={"n_actions": 2}, pretrain_steps=3)
    with pytest.raises(ValueError, match=MISPLACED):
        model.learn(4, callback=[SwitchDiagnostics(evaluation), evaluation])
    assert model.n_pretrain_steps == 0
    seen = SwitchDiagnostics(evaluation)
    model.learn(4, callback=[evaluation, seen])  # in order it is no obstacle
    assert model.n_pretrain_steps == 3
    assert seen.timesteps == evaluation.evaluations_timesteps
    assert seen.timesteps[0] == 0


# -- the picture ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured_by", "drawn_by", "label", "text"),
    [
        ((-10.0, 0.0), None, "normalised score", "fell by 30, "),
        ((-10.0, 0.0), ReferenceScore(-20.0, 0.0, "another"), "normalised score", "fell by 15, "),
        ((), ReferenceScore(-20.0, 0.0, "another"), "normalised score", "fell by 150, "),
        ((), None, "return", "fell by 30, "),
    ],
)
@pytest.mark.parametrize("phase", ["online", ""])
def test_the_drop_is_in_the_unit_of_the_curve(
    measured_by: Any, drawn_by: Any, label: str, text: str, phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: pictures.append(figure))
    (tmp_path / phase / "diagnostics").mkdir(parents=True)
    np.savez(tmp_path / phase / "evaluations.npz", timesteps=[0, 4], results=[[-2.0], [-5.0]])
    found = {"drop": [0.0, 30.0], "steps_to_recover": [0.0, math.inf], "regret": [math.nan, math.nan]}
    np.savez(tmp_path / phase / "diagnostics" / "switch.npz", timesteps=[0, 4], reference=measured_by, **found)
    assert set(read_diagnostics(tmp_path / phase)) == set(found)
    path = report(tmp_path, tmp_path / "new" / "folder" / "picture.png", reference=drawn_by)
    assert path.parent.is_dir()
    axis = pictures[0].axes[0]
    assert axis.get_ylabel() == label
    assert axis.get_title() == f"online: fine-tuning\n{text}not recovered"


def test_the_references_are_written(tmp_path: Path) -> None:
    """Those of the evaluation; nothing for raw returns."""
    for reference, expected in ((ReferenceScore(-10.0, 2.0, "by hand"), [-10.0, 2.0]), (None, [])):
        evaluation = evaluating(reference=reference)
        make().learn(4, callback=[evaluation, SwitchDiagnostics(evaluation, log_path=tmp_path)])
        with np.load(tmp_path / "diagnostics" / "switch.npz") as saved:
            assert saved["reference"].tolist() == expected
