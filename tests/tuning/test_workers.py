"""Several workers on one study: what each of them takes, and what it is told."""

import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from command_line import SMALL, succeeds

from sb3_o2o.tuning import open_storage, suggest
from sb3_o2o.tuning.storages import signs_of_life
from sb3_o2o.tuning.trials import TrialRunner


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_a_trial_that_waits_is_taken_once(tmp_path: Path, name: str) -> None:
    """SQLite locks no rows: two workers made one trial, deleted each other's runs, and one ended with an error."""
    where, n_workers, n_trials = str(tmp_path / name), 4, 24
    study = optuna.create_study(storage=open_storage(where), study_name="study")
    for value in range(n_trials):
        study.enqueue_trial({"x": value})
    together, taken = threading.Barrier(n_workers), []

    def work() -> None:
        joined = optuna.load_study(study_name="study", storage=open_storage(where))
        together.wait()
        while (trial := joined._pop_waiting_trial_id()) is not None:
            taken.append(trial)

    workers = [threading.Thread(target=work) for _ in range(n_workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(taken) == n_trials
    assert len(set(taken)) == n_trials


def test_a_worker_without_a_trial_says_so(tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all trials are being made by others, there is no best one yet: it was an error, "Why: running"."""
    command = ["tune", "--recipe", "cql", "--dataset", tiny_dataset(), "--steps", "10", "--pretrain-steps", "2"]
    command += [*SMALL, "--seeds", "1", "--trials", "1", "--tune", "learning_rate"]
    said = []

    def busy(runner: TrialRunner, trial: optuna.Trial) -> float:
        with signs_of_life(trial):
            suggest(trial, runner.config.space)
            said.append(succeeds(*command))
        return 1.0

    monkeypatch.setattr(TrialRunner, "__call__", busy)
    assert "Best: trial 0 of 1" in succeeds(*command)
    assert "others make 1 trial, and none has come to its end yet" in said[0]
