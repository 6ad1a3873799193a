"""From folders to a report: pictures, tables and what is missing, and from there to files."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from sb3_o2o.checked import checked
from sb3_o2o.errors import unknown
from sb3_o2o.files import write_whole
from sb3_o2o.kinds import Count
from sb3_o2o.progress import counted
from sb3_o2o.reporting import report_pictures as pictures
from sb3_o2o.reporting.html import to_html
from sb3_o2o.reporting.intervals import Aggregates, aggregate, compare, line, score_matrices
from sb3_o2o.reporting.markdown import to_markdown
from sb3_o2o.reporting.page import Page
from sb3_o2o.reporting.pooling import differing
from sb3_o2o.reporting.report_pictures import Picture
from sb3_o2o.reporting.report_tables import comparison_table, cost_table, over_tasks_table, switch_table
from sb3_o2o.reporting.run_finding import Found, find_runs
from sb3_o2o.runs.records import RunRecord


@dataclass(frozen=True)
class Report:
    """
    The files of a report.

    :param html: one page that needs nothing else
    :param markdown: with links to the pictures
    :param pictures: SVG files
    :param remarks: what is missing, a sentence for each
    """

    html: Path
    markdown: Path
    pictures: Sequence[Path] = field(default_factory=list)
    remarks: Sequence[str] = field(default_factory=list)


@checked
def write_report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    title: str | None = None,
    env_id: str | None = None,
    after: Count | None = None,
    baseline: str | None = None,
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
) -> Report:
    """
    Report on all runs in some folders.

    :param paths: folders of runs, of experiments, of RL Zoo or of an ``EvalCallback``; or tables of experiments
    :param out: folder of the report, made if need be
    :param title: of the page; default: the folders' names
    :param env_id: Gymnasium id of the runs that do not say theirs
    :param after: environment steps after which scores are told as well, >= 1
    :param baseline: method that the others are compared with
    :param tasks: that are reported on; all by default. What not all methods ran on, aggregates leave out
    :param methods: likewise
    :return: its files
    :raises ValueError: a path does not exist or holds no run, or there is no such method or task; nothing is written
        then
    :raises OSError: the files cannot be written
    """
    folders, out = [Path(path) for path in paths], Path(out)
    title = title or ", ".join(path.resolve().name for path in folders)
    page = make_report(find_runs(folders, env_id).only(tasks, methods), title, after, baseline)
    written = []
    html, markdown = out / "report.html", out / "report.md"
    try:
        for picture in page.pictures:
            written.append(out / f"{picture.name}.svg")
            write_whole(written[-1], picture.svg)
        write_whole(html, to_html(page))
        write_whole(markdown, to_markdown(page))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"The report cannot be written to {str(out)!r} ({reason}). Choose another --out.") from error
    return Report(html, markdown, written, page.remarks)


@checked
def make_report(found: Found, title: str, after: Count | None = None, baseline: str | None = None) -> Page:
    """
    :param found: the runs
    :param title: of the page
    :param after: environment steps after which scores are told as well, >= 1; None for nowhere
    :param baseline: method that the others are compared with; None for none
    :return: what the page shows
    :raises ValueError: there is no such method; the nearest is named
    """
    records, remarks = found.records, [*found.remarks, *differing(found.records)]
    labels = list(dict.fromkeys(each.label for each in sorted(records, key=lambda each: each.label)))
    if baseline is not None and baseline not in labels:
        raise unknown("method", baseline, labels)
    tasks = sorted({each.task for each in records})
    groups = [(task, label) for task in tasks for label in labels]
    alike, names = _of_one_unit(records, remarks), _file_names(tasks)
    drawn = [picture for task in tasks if (picture := _curves(task, alike, labels, names[task])) is not None]
    aggregates = _aggregates(records, remarks)
    compared = None if aggregates is None or baseline not in aggregates.profiles else baseline
    over_tasks = [] if aggregates is None else _over_tasks(aggregates, labels, compared)
    tables = [switch_table(alike, groups, after)]
    cost = cost_table(records, groups)
    if cost is None:
        remarks.append("No run knows its wall time: that is noted by runs of experiments.")
    else:
        tables.append(cost)
    if aggregates is not None:
        tables.append(over_tasks_table(aggregates, labels, compared))
    in_aggregates = 0 if aggregates is None else len(aggregates.tasks) * len(aggregates.profiles) * aggregates.seeds
    if baseline is not None and in_aggregates < len(records):
        beside = compare(records, baseline)
        if beside:
            tables.append(comparison_table(beside, baseline))
    seeds = {(each.task, each.label): 0 for each in records}
    for each in records:
        seeds[each.task, each.label] += 1
    if set(seeds.values()) == {1}:
        remarks.insert(0, "Every method has one seed on every task: nothing here says how much is chance.")
    return Page(title, _subtitle(records, tasks, labels), drawn, over_tasks, tables, remarks, records)


def _subtitle(records: Sequence[RunRecord], tasks: Sequence[str], labels: Sequence[str]) -> str:
    versions = sorted({each.versions["sb3_o2o"] for each in records if "sb3_o2o" in each.versions})
    said = f"{counted(len(records), 'run')}: {counted(len(labels), 'method')} on {counted(len(tasks), 'task')}"
    return f"{said}; made with sb3_o2o {', '.join(versions)}" if versions else said


def _of_one_unit(records: Sequence[RunRecord], remarks: list[str]) -> list[RunRecord]:
    """Of each task: a return is not drawn beside scores, and is in no mean with them."""
    units: dict[str, set[str]] = {}
    for each in records:
        units.setdefault(each.task, set()).add(each.unit)
    mixed = sorted(task for task, of_task in units.items() if len(of_task) > 1)
    remarks += [
        f"{task}: some runs have normalised scores and others none; those without are neither drawn nor in the table "
        "of the switch."
        for task in mixed
    ]
    return [each for each in records if each.task not in mixed or each.unit == "score"]


def _curves(task: str, records: Sequence[RunRecord], labels: Sequence[str], name: str) -> Picture | None:
    of_task = [each for each in records if each.task == task]
    lines = {}
    for phase in ("offline", "online"):
        found = [line(label, [each for each in of_task if each.label == label], phase) for label in labels]
        lines[phase] = [each for each in found if each is not None]
    if not any(lines.values()):
        return None
    return pictures.curves(task, lines, labels, of_task[0].unit, name)


def _aggregates(records: Sequence[RunRecord], remarks: list[str]) -> Aggregates | None:
    tasks, matrices, said = score_matrices(records)
    remarks += said
    if not tasks:
        return None
    try:
        return aggregate(tasks, matrices)
    except ImportError as error:
        remarks.append(str(error))
        return None


def _over_tasks(found: Aggregates, labels: Sequence[str], baseline: str | None) -> list[Picture]:
    drawn = [pictures.aggregates(found, labels), pictures.profiles(found, labels)]
    improvements = pictures.improvements(found, labels, baseline)
    return drawn if improvements is None else [*drawn, improvements]


def _file_names(tasks: Sequence[str]) -> dict[str, str]:
    """Task -> name of its picture: two tasks that differ in what file names lack have two, on any disk."""
    names: dict[str, str] = {}
    for task in tasks:
        plain = name = f"curves-{re.sub(r'[^A-Za-z0-9._-]+', '-', task)}"
        numbers = count(2)
        while name.lower() in (each.lower() for each in names.values()):
            name = f"{plain}-{next(numbers)}"
        names[task] = name
    return names
