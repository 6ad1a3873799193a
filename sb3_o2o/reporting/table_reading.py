"""Runs out of an experiment's tables, which may be all that is left of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_o2o.evaluation import ReferenceScore
from sb3_o2o.experiments.grid_folder import FINISHED
from sb3_o2o.experiments.results import EVALUATION_COLUMNS, PACKAGES, RUN_COLUMNS, Row, header_fault, read_table
from sb3_o2o.runs.records import Curve, RunRecord, check_order

#: Columns that no evaluation is without.
_NEEDED = ("run", "dataset", "recipe", "step")


def runs_of_table(path: Path) -> tuple[list[RunRecord], list[str]]:
    """
    What ``runs.csv`` knows of a run is taken from there, where it lies beside: its pre-training, times, versions.

    :param path: a ``results.csv``
    :return: its fine-tunings, and what is missing, a sentence for each
    :raises ValueError: it is no table of this version
    """
    if fault := header_fault(path, EVALUATION_COLUMNS):
        raise ValueError(fault)
    rows: dict[str, list[Row]] = {}
    for row in read_table(path, EVALUATION_COLUMNS):
        rows.setdefault(row["run"], []).append(row)
    known, remarks = _runs_beside(path)
    records = []
    for name, of_run in rows.items():
        if of_run[0]["phase"] == "online":
            try:
                record = _record(path, of_run, known.get(name, {}), rows)
            except ValueError as error:
                remarks.append(f"{name} is left out: {error}")
                continue
            records.append(record)
            if not record.finished:
                remarks.append(f"{name} is not finished: what it has is shown.")
    return records, remarks


def _runs_beside(path: Path) -> tuple[dict[str, Row], list[str]]:
    beside = path.with_name("runs.csv")
    if not beside.is_file():
        return {}, [f"No runs.csv lies beside {path}: what pre-trainings came to and took is not told."]
    try:
        if fault := header_fault(beside, RUN_COLUMNS):
            return {}, [f"What pre-trainings came to and took is not told: {fault}"]
        return {row["run"]: row for row in read_table(beside, RUN_COLUMNS)}, []
    except ValueError as error:
        return {}, [f"What pre-trainings came to and took is not told: {error}"]


def _record(path: Path, rows: Sequence[Row], known: Row, all_rows: dict[str, list[Row]]) -> RunRecord:
    before = all_rows.get(known.get("pretraining") or "", [])
    scored = all(row["score"] is not None for row in [*rows, *before])
    for row in (*rows, *before):
        empty = [name for name in (*_NEEDED, "score" if scored else "return") if row[name] is None]
        if empty:
            raise ValueError(f"{path} has a row of {row['run']} without {', '.join(empty)}.")
    # whoever looks at a table may sort it by another column
    rows, before = (sorted(each, key=lambda row: row["step"]) for each in (rows, before))
    first, online = rows[0], _curve(rows, scored, f"{path}, {rows[0]['run']}")
    seconds = known.get("seconds")
    if seconds is None and online.seconds is not None and np.isfinite(online.seconds[-1]):
        seconds = float(online.seconds[-1])
    return RunRecord(
        path=path.parent / first["run"],
        label=first["recipe"],
        task=first["dataset"],
        env_id=first["env"],
        seed=first["seed"],
        offline=_curve(before, scored, f"{path}, {before[0]['run']}") if before else None,
        online=online,
        reference=ReferenceScore(0.0, 100.0, f"scores of {path.name}") if scored else None,
        seconds=seconds,
        offline_seconds=known.get("pretraining_seconds"),
        regret=known.get("regret") if known.get("regret_of") == "episodes" else None,
        finished=known.get("state", FINISHED) == FINISHED,
        versions={name: known[name] for name in PACKAGES if known.get(name)},
    )


def _curve(rows: Sequence[Row], scored: bool, where: str) -> Curve:
    """Means stand for the episodes, of which a table knows no more."""
    steps = np.array([row["step"] for row in rows])
    check_order(steps, where)
    values = np.array([[row["score" if scored else "return"]] for row in rows])
    if not np.isfinite(values).all():
        raise ValueError(f"{where} has numbers that are not finite.")
    seconds = np.array([np.nan if row["seconds"] is None else row["seconds"] for row in rows])
    return Curve(steps, values, None, seconds)
