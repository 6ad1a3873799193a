"""Tables of the suite's stored runs, for the pages of methods and of evidence; `method_tables.py` writes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from generate import table

from sb3_o2o.experiments.grid import read_grid
from sb3_o2o.experiments.results import EVALUATION_COLUMNS, RUN_COLUMNS, Row, read_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "o2o-small"
GRID = read_grid(ROOT / "benchmarks" / "suite" / "o2o-small.yml")
#: as the grid has them
DATASETS = [each.name for each in GRID.datasets]
RECIPES = [each.name for each in GRID.recipes]

Rows = list[Row]


def finished() -> tuple[Rows, Rows]:
    """:return: fine-tunings that have been made, and the pre-trainings that they started from"""
    made = [row for row in read_table(RESULTS / "runs.csv", RUN_COLUMNS) if row["state"] == "finished"]
    fine_tunings = [row for row in made if row["switch"] is not None]
    sources = {row["pretraining"] for row in fine_tunings}
    return fine_tunings, [row for row in made if row["run"] in sources]


def short(dataset: str) -> str:
    """
    :param dataset: ``hopper-medium-replay-v0``
    :return: ``hopper/medium-replay``
    """
    return dataset.removesuffix("-v0").replace("-", "/", 1)


def scores(rows: Rows, column: str) -> str:
    """
    :param rows: of fine-tunings
    :param column: a score
    :return: its mean over them
    """
    return f"{mean(row[column] for row in rows):.1f}"


def processors(rows: Rows) -> str:
    """
    :param rows: of runs
    :return: what they were made on
    """
    names = {row["processor"].replace("(R)", "").removesuffix(" Processor") for row in rows}
    return " or ".join(sorted(names))


def suite(*methods: str) -> Iterator[str]:
    """
    :param methods: names in the suite's grid
    :return: what its runs came to, by dataset: means over the seeds that have been made
    """
    every = [row for row in finished()[0] if row["recipe"] in methods]
    lines = []
    for method in methods:
        for dataset in sorted({row["dataset"] for row in every if row["recipe"] == method}):
            mine = [row for row in every if (row["recipe"], row["dataset"]) == (method, dataset)]
            columns = [scores(mine, name) for name in ("switch", "lowest_10k", "last_5")]
            lines.append((f"`{method}`", dataset.removesuffix("-v0"), len(mine), *columns))
    if not lines:
        yield "[The suite](../evidence.md): not run yet."
        return
    yield "[The suite](../evidence.md): 30,000 updates and then 25,000 environment steps, two hidden layers of 128,"
    yield "`sb3-o2o run benchmarks/suite/o2o-small.yml`. Scores at the switch, the lowest within 10,000 steps, and the"
    yield "mean of the last five evaluations, each of 10 episodes; means over seeds, which begin with 0; one thread"
    yield f"each of two cores ({processors(every)}):"
    yield ""
    yield from table(("", "dataset", "seeds", "at the switch", "lowest", "last five"), lines)


def overview() -> Iterator[str]:
    """:return: every recipe on every dataset: the score at the switch, and what it ends at"""
    fine_tunings, pretrainings = finished()
    hours = sum(row["seconds"] for row in fine_tunings + pretrainings) / 3600
    asked = len(DATASETS) * len(RECIPES) * len(GRID.seeds)
    yield f"Made so far are **{len(fine_tunings)} of {asked} fine-tunings** and the {len(pretrainings)} pre-trainings"
    yield f"that they start from, in {hours:.1f} hours by their own clocks on two cores"
    yield f"({processors(fine_tunings + pretrainings)}) beside other work, so"
    yield "that wall times compare poorly. The score at the switch, and the mean of the last five evaluations; means of"
    yield "the seeds, in brackets how many where there are more than one; nothing where it is **not run yet**:"
    yield ""
    cells = defaultdict(list)
    for row in fine_tunings:
        cells[row["recipe"], row["dataset"]].append(row)
    lines = [(f"`{recipe}`", *(_cell(cells[recipe, dataset]) for dataset in DATASETS)) for recipe in RECIPES]
    yield from table(("", *(f"`{short(dataset)}`" for dataset in DATASETS)), lines)


def _cell(rows: Rows) -> str:
    if not rows:
        return ""
    several = f" ({len(rows)})" if len(rows) > 1 else ""
    return f"{scores(rows, 'switch')} → {scores(rows, 'last_5')}{several}"


def kept(*datasets: str) -> Iterator[str]:
    """
    :param datasets: names in the suite's grid
    :return: for each recipe that was run on all of them with seed 0 what it ends at, and its best evaluation
    """
    finals = {(row["recipe"], row["dataset"]): row["last_5"] for row in finished()[0] if row["seed"] == 0}
    best: dict[tuple[str, str], float] = {}
    for row in read_table(RESULTS / "results.csv", EVALUATION_COLUMNS):
        place = row["recipe"], row["dataset"]
        if row["phase"] == "online" and row["seed"] == 0 and place in finals:
            best[place] = max(row["score"], best.get(place, row["score"]))
    lines = []
    for recipe in RECIPES:
        if all((recipe, dataset) in finals for dataset in datasets):
            pairs = [(finals[recipe, dataset], best[recipe, dataset]) for dataset in datasets]
            pairs.append((mean(pair[0] for pair in pairs), mean(pair[1] for pair in pairs)))
            lines.append((-pairs[-1][0], (f"`{recipe}`", *(f"{last:.1f}, {top:.1f}" for last, top in pairs))))
    header = ("last five, best", *(f"`{short(dataset)}`" for dataset in datasets), "mean")
    yield from table(header, [cells for _, cells in sorted(lines)])


def plateau() -> Iterator[str]:
    """:return: the mean score of each sixth of every pre-training"""
    length = GRID.options.pretrain_steps
    part = length // 6
    fine_tunings, pretrainings = finished()
    users = defaultdict(set)
    for row in fine_tunings:
        users[row["pretraining"]].add(row["recipe"])
    points = defaultdict(list)
    for row in read_table(RESULTS / "results.csv", EVALUATION_COLUMNS):
        if row["phase"] == "offline" and row["step"] > 0:
            points[row["run"]].append((row["step"], row["score"]))
    lines = []
    for row in pretrainings:
        recipes = [name for name in RECIPES if name in users[row["run"]]]
        sixths = [
            f"{mean(score for step, score in points[row['run']] if end - part < step <= end):.0f}"
            for end in range(part, length + 1, part)
        ]
        place = (DATASETS.index(row["dataset"]), RECIPES.index(recipes[0]), row["seed"])
        shown = ", ".join(f"`{name}`" for name in recipes)
        lines.append((place, (f"`{short(row['dataset'])}`", shown, row["seed"], *sixths)))
    header = ("", "before", "seed", *(f"{end:,}" for end in range(part, length + 1, part)))
    yield from table(header, [cells for _, cells in sorted(lines)])
