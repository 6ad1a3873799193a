"""Where a study lies, who may share it, and what becomes of trials whose worker has died."""

from __future__ import annotations

import inspect
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from sb3_o2o.checked import checked
from sb3_o2o.tuning.configuration import CONTENTS, EVAL_FREQ, TuningConfig, agreed

#: Seconds between two signs of life of a worker, and after which one that gives none counts as dead.
BEAT, GRACE = 30, 120
#: Seconds that a worker waits for another that makes the tables of a database.
PATIENCE = 30.0
#: How often a trial is tried again whose worker died.
MAX_RETRIES = 3
#: Attributes of studies and trials.
SETTINGS, WORKER, LAST_BEAT = "sb3_o2o", "worker", "alive"


@checked
def open_storage(where: str) -> BaseStorage:
    """
    :param where: a file ending in ``.db`` (SQLite) or ``.log`` (Optuna's journal), the URL of a database
        (``sqlite:///…``, ``postgresql://…``, ``mysql://…``), or ``grpc://HOST:PORT`` of Optuna's storage proxy
    :return: the storage
    :raises ValueError: another spelling, or a storage that does not answer
    """
    if where.endswith(".log"):
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(where))
    if where.startswith("grpc://"):
        return _proxy(where)
    if "://" not in where:
        if not where.endswith(".db"):
            raise ValueError(
                f"--storage {where!r}: give a file that ends in .db or .log, the URL of a database, or "
                "grpc://HOST:PORT."
            )
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        where = f"sqlite:///{where}"
    options: dict[str, Any] = {"heartbeat_interval": BEAT, "grace_period": GRACE}
    if where.startswith("sqlite"):
        options["engine_kwargs"] = {"connect_args": {"timeout": 60}}  # another worker may be writing
    # Optuna 5 has another name for this argument
    renamed = "heartbeat_stale_trial_callback" in inspect.signature(RDBStorage).parameters
    options["heartbeat_stale_trial_callback" if renamed else "failed_trial_callback"] = give_back
    try:
        return _database(where, options)
    except Exception as error:  # SQLAlchemy's, the driver's, Optuna's: all mean the same to the user
        raise ValueError(f"The storage {where!r} cannot be opened: {_first_line(error)}.") from error


def _database(where: str, options: Mapping[str, Any]) -> BaseStorage:
    """Workers that start together all find no tables and all make them: who was later finds them the next time."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                storage = RDBStorage(where, **options)
            break
        except Exception as error:
            is_late = type(error).__name__ == "IntegrityError" or "already exists" in str(error)
            if not is_late or time.monotonic() > until:
                raise
            time.sleep(0.1)
    if storage.engine.dialect.name == "sqlite":
        _begin_with_the_lock(storage.engine)
    return storage


def _begin_with_the_lock(engine: Any) -> None:
    """
    Optuna locks the row of a trial before a worker takes it, or fails it. SQLite has no such locks: two workers that
    look at the same time both find a trial that waits, and both make it. So each transaction has the file to itself.
    """
    engine.dispose()  # those that are open have not heard of it

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # or the driver would begin by itself, and only where something is written

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _proxy(where: str) -> BaseStorage:
    host, _, port = where.removeprefix("grpc://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--storage {where!r}: a proxy is written as grpc://HOST:PORT.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
            storage.wait_server_ready(timeout=10)
    except ImportError as error:
        raise ValueError(f"--storage {where!r} needs gRPC: pip install grpcio protobuf.") from error
    except Exception as error:
        raise ValueError(f"No storage proxy answers at {where!r}: {_first_line(error)}.") from error
    return storage


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@checked
def open_study(
    storage: BaseStorage, name: str, config: TuningConfig, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """
    Make a study, or join the one of this name if it is asked for the same.

    :param storage: see :func:`open_storage`
    :param name: of the study
    :param config: what is asked for
    :param sampler: chooses what is tried
    :param pruner: ends trials between two runs
    :return: the study
    :raises ValueError: there is one of this name with another search space or direction, or other runs
    """
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        sampler=sampler,
        pruner=pruner,
        directions=_directions(storage, name) or [StudyDirection.MAXIMIZE],
        load_if_exists=True,
    )
    if study.directions != [StudyDirection.MAXIMIZE]:
        directions = ", ".join(each.name.lower() for each in study.directions)
        raise ValueError(
            f"Study {name!r} has another direction ({directions}); tuning maximises: take another --study."
        )
    asked = config.plain()
    known = study.user_attrs.get(SETTINGS)
    if known is None:
        if study.get_trials(deepcopy=False):
            raise ValueError(f"Study {name!r} was not made by sb3-o2o tune: take another --study.")
        study.set_user_attr(SETTINGS, asked)
        return study
    is_older = CONTENTS not in known or EVAL_FREQ not in known
    known = _with_what_it_lacks(known, asked)
    keys = sorted({**asked, **known}, key=lambda key: key == CONTENTS)  # last: names say more
    differing = [key for key in keys if known.get(key) != asked.get(key)]
    if differing:
        raise ValueError(
            f"Study {name!r} was made for something else: {_difference(differing[0], known, asked)}. "
            "Give what it was made with, or take another --study."
        )
    if is_older:
        study.set_user_attr(SETTINGS, known)
    return study


def _with_what_it_lacks(known: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """:return: the settings of a study as one that is made today has them"""
    known = {CONTENTS: asked[CONTENTS], **known}  # from here on those of today hold
    if EVAL_FREQ not in known:  # whatever number was asked for, online the recipe's interval held
        held = [each[EVAL_FREQ] if known["online_steps"] else None for each in known[CONTENTS].values()]
        number = known["n_evaluations"]
        known |= {EVAL_FREQ: agreed(held), "n_evaluations": agreed([None if each else number for each in held])}
    return known


def _directions(storage: BaseStorage, name: str) -> list[StudyDirection] | None:
    """Those of the study if there is one: Optuna does not compare them by itself."""
    for study in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if study.study_name == name:
            return list(study.directions)
    return None


def _difference(key: str, known: dict[str, Any], asked: dict[str, Any]) -> str:
    if key == CONTENTS:
        (task, *inside), there, here = _first_difference(known[key], asked[key])
        return f"{'.'.join(inside)} of its recipe or environment ({task}) is {there!r} there and {here!r} here"
    if key != "search_space":
        why = " (--evaluations replaces the recipe's)" if key == EVAL_FREQ else ""
        return f"{key} is {known.get(key)!r} there and {asked.get(key)!r} here{why}"
    before, now = known.get(key) or {}, asked[key]
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            there, here = (each.get(name, "not tuned") for each in (before, now))
            return f"its search space of {name} is {there} there and {here} here"
    return "its search space differs"


def _first_difference(there: Any, here: Any) -> tuple[list[str], Any, Any]:
    """:return: where two documents differ first, and what stands there in each; None where nothing does"""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in {**there, **here}:
            if there.get(name) != here.get(name):
                inside, *values = _first_difference(there.get(name), here.get(name))
                return [name, *inside], *values
    return [], there, here


# -- workers that died ---------------------------------------------------------------------------------------------


@contextmanager
def signs_of_life(trial: optuna.Trial) -> Iterator[None]:
    """
    Note who works on a trial, and now and then that the worker is alive. (Optuna does the second by itself where the
    storage is a database; a journal and the proxy leave it to us.)

    :param trial: that runs meanwhile
    """
    trial.set_user_attr(WORKER, [socket.gethostname(), os.getpid()])
    if isinstance(getattr(trial.storage, "_backend", trial.storage), RDBStorage):
        yield
        return
    done = threading.Event()

    def beat() -> None:
        while True:
            trial.storage.set_trial_user_attr(trial._trial_id, LAST_BEAT, time.time())
            if done.wait(BEAT):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def take_over(study: optuna.Study) -> list[int]:
    """
    Trials whose worker has died are failed, and wait for whoever comes next: those of a process of this machine that is
    gone at once, others when they have given no sign of life for :data:`GRACE` seconds.

    :param study: the study
    :return: their numbers
    """
    if isinstance(getattr(study._storage, "_backend", study._storage), RDBStorage):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                continue  # another worker was faster
            give_back(study, trial)
            found.append(trial.number)
    return found


def give_back(study: optuna.Study, trial: FrozenTrial, was_stopped: bool = False) -> None:
    """
    Let somebody else try what a trial tried. Who worked on it is forgotten, as ``RetryFailedTrialCallback`` would not.

    :param study: the study
    :param trial: that has failed for no fault of its own
    :param was_stopped: by Ctrl-C, however often: it is counted that a worker has died, which may be the trial's fault
    """
    history = [*trial.system_attrs.get("retry_history", ()), *([] if was_stopped else [trial.number])]
    if len(history) > MAX_RETRIES:
        return
    first = trial.system_attrs.get("failed_trial", trial.number)
    again = optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs={"failed_trial": first, "retry_history": history},
    )
    study.add_trial(again)


def _is_dead(trial: FrozenTrial) -> bool:
    host, process = trial.user_attrs.get(WORKER, (None, None))
    if host == socket.gethostname():
        return not _runs(process)
    beat = trial.user_attrs.get(LAST_BEAT)
    return beat is not None and time.time() - beat > GRACE


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
