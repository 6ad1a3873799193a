"""The table, the JSON and the bar chart of a speed measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from sb3_o2o.benchmarking.products import megaflop
from sb3_o2o.benchmarking.race import Measurement, RowResult
from sb3_o2o.files import whole_file, write_whole

#: version of the JSON's layout
FORMAT = 1
#: of a core; a contestant that gets less was waiting for its turn
_BUSY = 0.9
_COLOURS = {"ours": "#ef5675", "stock": "#5b6770", "peer": "#7a5195", "floor": "#bfc7cd"}


def time_table(results: Sequence[RowResult]) -> Table:
    """
    :param results: rows with the same contestants
    :return: milliseconds per update, medians; letters point to :func:`notes`
    """
    table = Table(box=None, pad_edge=False, title="milliseconds per update, median", title_justify="left")
    table.add_column("work", overflow="fold", max_width=30)
    for measurement in results[0].measurements:
        table.add_column(measurement.label, justify="right")
    marks = _marks(results)
    for result in results:
        table.add_row(result.work.title, *(_cell(each, marks) for each in result.measurements))
    return table


def _cell(measurement: Measurement, marks: Mapping[str, str]) -> str:
    if measurement.median is None:
        reason = _reason(measurement)
        if measurement.group == "ours" and not measurement.failed:
            return reason
        return ("failed" if measurement.failed else "-") + (f" {marks[reason]}" if reason in marks else "")
    mark = f" {marks[measurement.note]}" if measurement.note else ""
    return f"{measurement.median:.2f}{mark}"


def ratio_table(results: Sequence[RowResult]) -> Table | None:
    """
    :param results: rows with the same contestants
    :return: each of our times over each of the others', median of the ratios within a round; None where nothing of
        ours was measured
    """
    others = [each for each in results[0].measurements if each.group != "ours"]
    peers = [each.key for each in others if each.key.startswith("sbx")]
    table = Table(box=None, pad_edge=False, title="\nour time / theirs", title_justify="left")
    table.add_column("work", overflow="fold", max_width=30)
    table.add_column("us")
    columns = [(each.label, [each.key]) for each in others if each.key not in peers]
    if peers:
        columns.insert(1, ("best SBX", peers))
    if any(each.key == "ours_bf16" for each in results[0].measurements):
        columns.append(("us, fp32", ["ours", "ours_compiled"]))
    for label, _ in columns:
        table.add_column(label, justify="right")
    for result in results:
        for mine in result.measurements:
            if mine.group == "ours" and mine.median is not None:
                table.add_row(
                    result.work.title if mine.key == "ours" else "",
                    mine.label.removeprefix("us, "),
                    *(_shown(best_ratio(result, mine.key, keys)) for _, keys in columns),
                )
    return table if table.row_count else None


def best_ratio(result: RowResult, key: str, others: Sequence[str]) -> float | None:
    """
    :param result: a row
    :param key: of a contestant
    :param others: of contestants of which the fastest counts
    :return: ratio to the fastest; None where none was measured
    """
    ratios = [ratio for other in others if (ratio := result.ratio(key, other)) is not None]
    return max(ratios, default=None)


def _shown(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _reason(measurement: Measurement) -> str:
    text = measurement.missing
    return text.strip().splitlines()[-1] if text.strip() else ""


def _marks(results: Sequence[RowResult]) -> dict[str, str]:
    """Letters for what differs from a row and for what is missing, in the order of their first use."""
    texts: dict[str, None] = {}
    for result in results:
        for each in result.measurements:
            if each.median is None and (each.group != "ours" or each.failed):
                texts.setdefault(_reason(each))
            elif each.note:
                texts.setdefault(each.note)
    return {text: f"({chr(ord('a') + index)})" for index, text in enumerate(filter(None, texts))}


def notes(results: Sequence[RowResult]) -> list[str]:
    """
    :param results: rows with the same contestants
    :return: lines below the table: what differs, the floor, the spread, time to compile
    """
    lines = []
    for text, mark in _marks(results).items():
        lines.append(f"{mark} {text}" + _more_products(results, text))
    for result in results:
        lines.append(f"{result.work.name}: {megaflop(result.work):.0f} MFLOP in products" + _floor_note(result))
    spreads = [
        (each.quartiles[1] - each.quartiles[0]) / each.median
        for result in results
        for each in result.measurements
        if each.median and each.quartiles
    ]
    if spreads:
        lines.append(f"spread over the rounds (interquartile range / median): up to {max(spreads):.0%}")
    compiling = [
        f"{result.work.name} {each.label} {each.compile_seconds:.0f} s"
        for result in results
        for each in result.measurements
        if each.compile_seconds is not None
    ]
    if compiling:
        lines.append("to compile, not in the table: " + "; ".join(compiling))
    busy = [float(np.median(each.cores)) for result in results for each in result.measurements if each.cores]
    if busy and min(busy) < _BUSY:
        lines.append(f"Something else ran: a contestant got only {min(busy):.2f} of a core. Repeat on an idle machine.")
    return lines


def _more_products(results: Sequence[RowResult], note: str) -> str:
    """How much other work a note stands for, row by row."""
    shares = {
        result.work.name: each.megaflop / megaflop(result.work)
        for result in results
        for each in result.measurements
        if each.note == note and each.megaflop is not None
    }
    shown = ", ".join(f"{share:.2f} ({name})" for name, share in shares.items())
    return f"; {shown} times the row's products" if shown else ""


def _floor_note(result: RowResult) -> str:
    for each in result.measurements:
        if each.key == "floor" and each.median is not None and each.extra.get("best_gflops"):
            rate, least = each.extra["best_gflops"], each.extra["ms_at_best_rate"]
            achieved = megaflop(result.work) / each.median
            return f", made at {achieved:.0f} GFLOP/s; at this machine's best, {rate:.0f} GFLOP/s, {least:.2f} ms"
    return ""


def to_document(results: Sequence[RowResult], about: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param results: rows
    :param about: command, machine, versions and settings
    :return: everything, in plain types
    """
    rows = []
    for result in results:
        entries = [
            {
                **asdict(each),
                "median_ms": each.median,
                "quartiles_ms": each.quartiles,
                "compile_seconds": each.compile_seconds,
            }
            for each in result.measurements
        ]
        ours = [each.key for each in result.measurements if each.group == "ours"]
        ratios = {
            mine: {
                each.key: ratio
                for each in result.measurements
                if each.key != mine and (ratio := result.ratio(mine, each.key)) is not None
            }
            for mine in ours
        }
        rows.append(
            {"work": asdict(result.work), "megaflop": megaflop(result.work), "measurements": entries, "ratios": ratios}
        )
    return {"format": FORMAT, **about, "rows": rows}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """
    :param path: file to write
    :param document: its content
    """
    write_whole(path, json.dumps(document, indent=2) + "\n")


def draw(path: Path, results: Sequence[RowResult], subtitle: str) -> None:
    """
    A bar for each contestant in each row, with the quartiles over the rounds.

    :param path: picture to write
    :param results: rows
    :param subtitle: the machine
    """
    shown = [result for result in results if any(each.ms for each in result.measurements)]
    figure = Figure(figsize=(9.0, 0.6 + 0.28 * sum(len(r.measurements) + 2 for r in shown)), layout="constrained")
    heights = [max(sum(bool(each.ms) for each in result.measurements), 1) for result in shown]
    axes = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, result in zip(axes, shown, strict=True):
        measured = [each for each in result.measurements if each.ms]
        medians = [each.median or 0.0 for each in measured]
        spread = [each.quartiles or (0.0, 0.0) for each in measured]
        errors = [
            [m - low for m, (low, _) in zip(medians, spread, strict=True)],
            [high - m for m, (_, high) in zip(medians, spread, strict=True)],
        ]
        bars = axis.barh(
            [each.label for each in measured],
            medians,
            xerr=errors,
            ecolor="#333333",
            color=[_COLOURS[each.group] for each in measured],
        )
        axis.bar_label(bars, fmt="%.2f", padding=4, fontsize="small")
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(result.work.title, fontsize="small", loc="left")
        axis.tick_params(labelsize="small")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("milliseconds per update")
    figure.suptitle(subtitle, fontsize="small")
    with whole_file(path) as file:
        figure.savefig(file, format=path.suffix[1:] or "png", dpi=150)
