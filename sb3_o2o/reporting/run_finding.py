"""Finds runs in folders: ours, those of grids, and those of RL Zoo or of any ``EvalCallback``."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from sb3_o2o.errors import unknown
from sb3_o2o.evaluation import ReferenceScore, reference_score
from sb3_o2o.experiments.grid_folder import Job
from sb3_o2o.experiments.results import read_run
from sb3_o2o.reporting.pooling import each_once
from sb3_o2o.reporting.table_reading import runs_of_table
from sb3_o2o.runs.folder import PHASES, RunConfig, RunFolder, is_run
from sb3_o2o.runs.records import RunRecord, read_curve, settings_of
from sb3_o2o.runs.references import recorded_reference

#: Remarks that are said where there is nothing else to say.
_SAID = 5


@dataclass
class Found:
    """
    What lies in some folders.

    :param records: runs with at least one evaluation
    :param remarks: what is missing or damaged, a sentence for each
    """

    records: list[RunRecord] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def only(self, tasks: Sequence[str] | None = None, methods: Sequence[str] | None = None) -> "Found":
        """
        :param tasks: whose runs are kept; None keeps all
        :param methods: likewise
        :return: what is left
        :raises ValueError: there is no such task or method; the nearest is named. Or there is no run at all that can be
            shown, and why
        """
        if not self.records:
            more = len(self.remarks) - _SAID
            why = [*self.remarks[:_SAID], *([f"And {more} more like these."] if more > 0 else [])]
            raise ValueError(" ".join(["There is no run to report on.", *why]))
        for kind, wanted, there in (
            ("task", tasks, {each.task for each in self.records}),
            ("method", methods, {each.label for each in self.records}),
        ):
            for name in wanted or ():
                if name not in there:
                    raise unknown(kind, name, there)
        kept = [
            each
            for each in self.records
            if (tasks is None or each.task in tasks) and (methods is None or each.label in methods)
        ]
        if not kept:
            raise ValueError(f"None of {', '.join(methods or ())} ran on any of {', '.join(tasks or ())}.")
        return Found(kept, self.remarks)


def find_runs(paths: Sequence[Path], env_id: str | None = None) -> Found:
    """
    :param paths: folders with runs in them at any depth, or tables ``results.csv`` of experiments
    :param env_id: Gymnasium id of the runs that do not say theirs
    :return: the runs; what cannot be read is remarked upon, and the rest is there
    :raises ValueError: one of the paths does not exist, or holds no run at all
    """
    found = Found()
    for path in paths:
        before = len(found.records), len(found.remarks)
        if path.is_file():
            records, remarks = runs_of_table(path)
            found.records += records
            found.remarks += remarks
        elif path.is_dir():
            for kind, folder in _run_folders(path):
                _add(kind, folder, path, env_id, found)
        else:
            raise ValueError(f"There is nothing at {str(path)!r} to report on.")
        if (len(found.records), len(found.remarks)) == before:
            raise ValueError(
                f"{str(path)!r} holds no runs: neither the config.yml of a run of ours nor an evaluations.npz of "
                "Stable-Baselines3's EvalCallback or RL Zoo."
            )
    once, said = each_once(found.records)
    found.records = _with_foreign_in_all_tasks(_without_sources(once))
    found.remarks = [*dict.fromkeys(found.remarks), *said]
    return found


def _run_folders(top: Path) -> Iterator[tuple[str, Path]]:
    """Runs, and not what lies inside of them."""
    for folder, below, files in os.walk(top):
        below.sort()
        path = Path(folder)
        if "job.json" in files:
            kind = "experiment"
        elif "config.yml" in files and is_run(path):
            kind = "ours"
        elif "evaluations.npz" in files:
            kind = "foreign"
        else:
            continue
        below.clear()
        yield kind, path


def _add(kind: str, folder: Path, top: Path, env_id: str | None, found: Found) -> None:
    name = str(folder.relative_to(top)) if folder != top else folder.name
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            record = _read(kind, folder, env_id)
    except (ValueError, OSError, KeyError, TypeError) as error:
        found.remarks.append(f"{name} is left out: {error}")
        return
    found.remarks += [f"{name}: {warning.message}" for warning in said]
    if record.offline is None and record.online is None:
        found.remarks.append(f"{name} has no evaluations yet.")
        return
    if not record.finished:
        found.remarks.append(f"{name} is not finished: what it has is shown.")
    elif record.online is None and record.settings.get("steps"):
        found.remarks.append(f"{name} is finished, but online/evaluations.npz is missing: it counts offline alone.")
    found.records.append(record)


def _read(kind: str, folder: Path, env_id: str | None) -> RunRecord:
    if kind == "experiment":
        return read_run(folder)
    return _ours(folder) if kind == "ours" else _foreign(folder, env_id)


def _ours(path: Path) -> RunRecord:
    config = RunFolder.open(path).read_config()
    curves = {phase: read_curve(path / phase) for phase in PHASES}
    return RunRecord(
        path=path,
        label=Path(config.recipe).stem if config.recipe else config.command,
        task=_task(config),
        env_id=config.environment.id,
        seed=config.seed,
        offline=curves["offline"],
        online=curves["online"],
        reference=recorded_reference(config.dataset, config.dataset_kwargs, config.environment.id),
        finished=RunFolder(path).is_complete(config),
        settings=settings_of(config),
    )


def _task(config: RunConfig) -> str:
    """As grids name their datasets."""
    if config.dataset is None:
        return config.environment.id
    path = Path(config.dataset)
    return path.stem if path.exists() else "-".join(path.parts[-2:])


def _foreign(path: Path, env_id: str | None) -> RunRecord:
    """A folder of RL Zoo, which says what it was made with, or of an ``EvalCallback``, which does not."""
    arguments = _zoo_arguments(path)
    env_id = arguments.get("env") or env_id or ""
    label = arguments.get("algo") or re.sub(r"_\d+$", "", path.name)
    seed = arguments.get("seed")
    return RunRecord(
        path=path,
        label=f"{label} (Stable-Baselines3)" if arguments else label,
        task=env_id or path.parent.name or "runs",
        env_id=env_id,
        seed=seed if isinstance(seed, int) and seed >= 0 else None,
        offline=None,
        online=read_curve(path),
        reference=reference_score(env_id or None),
    )


class _ZooLoader(yaml.SafeLoader):
    """Reads RL Zoo's ``args.yml``, an ordered dictionary of Python's, without making any object of Python's."""


def _pairs(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None


_ZooLoader.add_multi_constructor("tag:yaml.org,2002:python/", _pairs)


def _zoo_arguments(path: Path) -> dict[str, Any]:
    for file in sorted(path.glob("*/args.yml")):
        try:
            document = yaml.load(file.read_text(), Loader=_ZooLoader)
            pairs = document[0] if isinstance(document, list) and document else document
            return dict(pairs)
        except (yaml.YAMLError, TypeError, ValueError, OSError):
            continue
    return {}


def _without_sources(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Pre-trainings whose evaluations stand in the runs that start from them as well."""
    sources = set()
    for record in records:
        job = record.path / "job.json"
        if job.is_file() and Job.read(record.path).needs is None and record.online is None:
            sources.add(record.path.resolve())  # a grid's own
        if (record.path / "config.yml").is_file() and record.online is not None:
            source = RunFolder(record.path).read_config().source if is_run(record.path) else None
            if source is not None:
                sources |= set(Path(source).resolve().parents[:3])
    return [record for record in records if record.online is not None or record.path.resolve() not in sources]


def _with_foreign_in_all_tasks(records: Sequence[RunRecord]) -> list[RunRecord]:
    """A run without a dataset is a line in the picture of every dataset of its environment."""
    tasks: dict[str, set[str]] = {}
    for record in records:
        if record.task != record.env_id:
            tasks.setdefault(record.env_id, set()).add(record.task)
    spread: list[RunRecord] = []
    for record in records:
        others = sorted(tasks.get(record.env_id, ())) if record.task == record.env_id else ()
        spread += [replace(record, task=task, reference=_reference_in(records, task, record)) for task in others]
        if not others:
            spread.append(record)
    return spread


def _reference_in(records: Sequence[RunRecord], task: str, record: RunRecord) -> ReferenceScore | None:
    """That of the dataset, so that all lines of a picture have one unit."""
    return next((each.reference for each in records if each.task == task), record.reference)
