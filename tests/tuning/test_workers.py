"""Several workers on one study: what each of them takes, and what it is told."""

import threading
from pathlib import Path

import optuna
import pytest

from sb3_o2o.tuning import open_storage


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
