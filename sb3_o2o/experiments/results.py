"""
The tables of an experiment: a row for each evaluation, and a row for each run.

Always as CSV, which needs nothing; as Parquet beside it where pyarrow is installed. They are made of the run folders
and can be made again from them at any time.
"""

import csv
import importlib.util
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sb3_o2o.evaluation import ReferenceScore
from sb3_o2o.experiments.grid_folder import FINISHED, Job, Status, experiment_of
from sb3_o2o.files import whole_file, write_whole
from sb3_o2o.runs.folder import PHASES, RunConfig, RunFolder
from sb3_o2o.runs.records import RunRecord, read_curve, settings_of

#: Seconds that a process waits for another that writes the tables.
PATIENCE = 60.0


@dataclass(frozen=True)
class Column:
    """
    :param name: of the column
    :param kind: of its values; empty cells are unknown
    :param meaning: for people, with its unit
    """

    name: str
    kind: type
    meaning: str


_WHICH = (
    Column("run", str, "folder of the run, inside that of the experiment"),
    Column("dataset", str, "what the grid calls it"),
    Column("env", str, "Gymnasium id"),
    Column("recipe", str, "what the grid calls it"),
    Column("seed", int, "of everything"),
)
#: whose versions are told
PACKAGES = ("sb3_o2o", "stable_baselines3", "torch", "gymnasium", "numpy", "python")
#: of ``results.csv``
EVALUATION_COLUMNS = (
    *_WHICH,
    Column("phase", str, "offline or online"),
    Column("step", int, "gradient steps offline, environment steps online"),
    Column("return", float, "mean undiscounted return of the episodes"),
    Column("return_std", float, "its standard deviation over the episodes"),
    Column("score", float, "mean normalised score; empty where no references are known"),
    Column("success", float, "part of the episodes that succeeded"),
    Column("episodes", int, "of the evaluation"),
    Column("seconds", float, "after the run's start"),
)
#: of ``runs.csv``
RUN_COLUMNS = (
    *_WHICH,
    Column("state", str, "finished, failed, interrupted, running or waiting"),
    Column("unit", str, "of what follows: score (normalised) or return"),
    Column("offline", float, "last evaluation of its pre-training"),
    Column("switch", float, "fine-tuning's evaluation at step 0"),
    Column("lowest_10k", float, "lowest evaluation in the first 10,000 environment steps"),
    Column("drop", float, "how far below the switch it fell"),
    Column("steps_to_recover", float, "0: it never fell; inf: it did not come back"),
    Column("last", float, "last evaluation"),
    Column("last_5", float, "mean of the last five evaluations"),
    Column("regret", float, "part of the training episodes that failed, or 1 - mean score / 100"),
    Column("regret_of", str, "which of the two: episodes or scores"),
    Column("seconds", float, "of the run, without its pre-training"),
    Column("pretraining", str, "folder of the pre-training that it started from"),
    Column("pretraining_seconds", float, "which may have been shared"),
    Column("error", str, "of a run that failed"),
    Column("commit", str, "of the repository in which the experiment was started"),
    Column("host", str, "machine"),
    Column("processor", str, "its processor"),
    Column("threads", int, "CPU threads"),
    *(Column(name, str, "version") for name in PACKAGES),
)
#: name of a table -> its columns
TABLES = {"results": EVALUATION_COLUMNS, "runs": RUN_COLUMNS}

Row = dict[str, Any]

_EXPECTED = {int: "a whole number", float: "a number", str: "text"}


def add_to_tables(experiment: Path, runs: Sequence[Path]) -> None:
    """
    Put what runs came to into the tables of their experiment, in the place of what stands there of them. Several
    processes may do so at the same time; whoever reads sees a whole table, the old one or the new one.

    :param experiment: its folder
    :param runs: folders of runs
    :raises ValueError: a table was written by another version; nothing is changed then
    :raises OSError: it cannot be written; what was there before is still there
    """
    names = {str(path.resolve().relative_to(experiment.resolve())) for path in runs}
    with FileLock(experiment / ".tables.lock", timeout=PATIENCE):
        tables = check_tables(experiment)
        new: dict[str, list[Row]] = {"results": [], "runs": []}
        for path in runs:
            job, status, config = _files_of(path)
            record = _record(path, job, status, config)
            which = _which(job, record)
            new["results"] += _evaluation_rows(which, record, config)
            new["runs"].append(_run_row(which, record, job, status, config))
        for table, columns in TABLES.items():
            kept = [row for row in tables[table] if row["run"] not in names]
            _write(experiment / f"{table}.csv", columns, sorted([*kept, *new[table]], key=_order))


def check_tables(experiment: Path) -> dict[str, list[Row]]:
    """
    :param experiment: its folder
    :return: the rows of its tables, by their names
    :raises ValueError: one of its tables was written by another version, is damaged, or is none
    """
    found = {}
    for table, columns in TABLES.items():
        path = experiment / f"{table}.csv"
        try:
            if path.is_file() and (fault := header_fault(path, columns)):
                raise ValueError(fault)
            found[table] = read_table(path, columns)
        except ValueError as error:
            said = f"{error} Move it away: the same command then writes it anew from the run folders."
            raise ValueError(said) from error
    return found


def header_fault(path: Path, columns: Sequence[Column]) -> str | None:
    """
    :param path: of a CSV
    :param columns: that it should have, in any order
    :return: a sentence that says which it lacks and which it has instead; None where all is well
    :raises ValueError: it cannot be read at all
    """
    _, found = next(_lines(path), (0, []))
    if not found:
        return f"{path} is empty."
    names = [column.name for column in columns]
    if sorted(found) == sorted(names):
        return None
    missing = ", ".join(name for name in names if name not in found) or "no column"
    others = ", ".join(name for name in found if name not in names) or "no others"
    return f"{path} was written by another version: it lacks {missing}, and has {others}."


def read_table(path: Path, columns: Sequence[Column]) -> list[Row]:
    """
    :param path: of a CSV; none is an empty table
    :param columns: that it has
    :return: its rows, empty cells as None
    :raises ValueError: a row has more or fewer cells than the table has columns, or a cell something else than its
        column, with its line; or it cannot be read at all
    """
    if not path.is_file():
        return []
    lines = _lines(path)
    _, names = next(lines, (0, []))
    rows: list[Row] = []
    for number, cells in lines:
        if not cells:
            continue
        where = f"{path}, line {number}"
        if len(cells) != len(names):  # half a row must not pass for one with empty cells
            raise ValueError(f"{where} has {len(cells)} cells instead of {len(names)}: the file is cut off or damaged.")
        row = dict(zip(names, cells, strict=True))
        rows.append({column.name: _value(row.get(column.name), column, where) for column in columns})
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbers of lines and their cells. Spreadsheets begin a file with a mark of its encoding."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            for cells in reader:
                yield reader.line_num, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no table that can be read: {error}.") from error


def _value(text: str | None, column: Column, where: str) -> Any:
    if text is None or text == "":
        return None
    try:
        return column.kind(text)
    except ValueError as error:
        raise ValueError(f"{where}: {column.name} is {text!r}, expected {_EXPECTED[column.kind]}.") from error


def _order(row: Row) -> tuple[Any, ...]:
    phase = row.get("phase", "")
    return str(row["dataset"]), str(row["recipe"]), row["seed"], row["run"], phase, row.get("step", 0)


def _write(path: Path, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    write_whole(path, text.getvalue())
    if importlib.util.find_spec("pyarrow") is not None:
        _write_parquet(path.with_suffix(".parquet"), columns, rows)


def _write_parquet(path: Path, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([pa.field(each.name, kinds[each.kind], metadata={"meaning": each.meaning}) for each in columns])
    with whole_file(path) as file:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), file)


# -- from folders to rows ------------------------------------------------------------------------------------------


def read_run(path: Path) -> RunRecord:
    """
    :param path: folder of a run of an experiment
    :return: what it came to so far
    :raises ValueError: something in it is damaged
    """
    return _record(path, *_files_of(path))


def _files_of(path: Path) -> tuple[Job, Status, RunConfig]:
    """What a run is asked for, and how far it is."""
    return Job.read(path), Status.read(path), RunFolder.open(path).read_config()


def _record(path: Path, job: Job, status: Status, config: RunConfig) -> RunRecord:
    before = None if job.needs is None else Status.read(experiment_of(path, job) / job.needs)
    times = {"offline": status.times if before is None else before.times, "online": status.times}
    curves = {phase: read_curve(path / phase, times[phase].get(phase)) for phase in PHASES}
    return RunRecord(
        path=path,
        label=job.recipe,
        task=job.dataset,
        env_id=config.environment.id,
        seed=config.seed,
        offline=curves["offline"],
        online=curves["online"],
        reference=None if status.reference is None else ReferenceScore(**status.reference),
        seconds=status.seconds,
        offline_seconds=None if before is None else before.seconds,
        episodes=status.episodes,
        successes=status.successes,
        finished=status.state == FINISHED,
        versions=status.versions,
        settings=settings_of(config),
    )


def _which(job: Job, record: RunRecord) -> Row:
    return {
        "run": job.name,
        "dataset": record.task,
        "env": record.env_id,
        "recipe": record.label,
        "seed": record.seed,
    }


def _evaluation_rows(which: Row, record: RunRecord, config: RunConfig) -> Iterator[Row]:
    """Of the run's own phase: what it took over from its pre-training stands there."""
    curve = record.curve(config.last_phase)
    if curve is None:
        return
    scores = None if record.reference is None else curve.scores(record.reference).mean(axis=1)
    for index, step in enumerate(curve.steps):
        seconds = None if curve.seconds is None else float(curve.seconds[index])
        yield {
            **which,
            "phase": config.last_phase,
            "step": int(step),
            "return": float(curve.returns[index].mean()),
            "return_std": float(curve.returns[index].std()),
            "score": None if scores is None else float(scores[index]),
            "success": None if curve.successes is None else float(curve.successes[index].mean()),
            "episodes": curve.returns.shape[1],
            "seconds": None if seconds != seconds else seconds,  # NaN
        }


def _run_row(which: Row, record: RunRecord, job: Job, status: Status, config: RunConfig) -> Row:
    row: Row = {
        **{column.name: None for column in RUN_COLUMNS},
        **which,
        **{name: record.versions.get(name) for name in PACKAGES},
        "state": status.state,
        "unit": record.unit,
        "seconds": record.seconds,
        "pretraining": job.needs,
        "pretraining_seconds": record.offline_seconds,
        "error": status.error or None,
        "commit": job.commit or None,
        "host": status.host or None,
        "processor": status.machine.get("processor"),
        "threads": config.threads,
    }
    if record.offline is not None:
        row["offline"] = float(record.offline.scores(record.reference)[-1].mean())
    summary = record.summary()
    if summary is not None:
        row.update(
            switch=summary.switch,
            lowest_10k=summary.lowest,
            drop=summary.drop,
            steps_to_recover=summary.recovered,
            last=summary.last,
            last_5=summary.last_mean,
            regret=summary.regret,
            regret_of=summary.regret_of or None,
        )
    return row
