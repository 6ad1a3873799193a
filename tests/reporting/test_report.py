"""Reports: what is on the page is what the runs came to, one seed has no interval, and damage hides nothing."""

import importlib
import itertools
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fails, succeeds

from reporting.folders import evaluations, experiment, experiment_run, zoo_run
from sb3_o2o.experiments.grid_folder import Job
from sb3_o2o.experiments.results import EVALUATION_COLUMNS, add_to_tables, read_table
from sb3_o2o.reporting import make_report
from sb3_o2o.reporting.html import to_html
from sb3_o2o.reporting.intervals import (
    aggregate,
    bootstrap,
    compare,
    line,
    mean_estimate,
    probability_of_improvement,
    score_matrices,
    share_above,
)
from sb3_o2o.reporting.page import Page
from sb3_o2o.reporting.run_finding import find_runs
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig


def page_of(*paths: Path, env_id: str | None = None) -> Page:
    return make_report(find_runs(paths, env_id), "test")


def rows(page: Page, table: int = 0) -> dict[tuple[str, str], dict[str, str]]:
    """The text of each cell, by task and method."""
    found = page.tables[table]
    texts = [[cell.text for cell in row] for row in found.rows]
    return {(row[0], row[1]): dict(zip(found.columns, row, strict=True)) for row in texts}


class TestStatistics:
    def test_the_curve_is_the_mean_over_seeds(self, tmp_path: Path) -> None:
        for seed, returns in enumerate(([0, 100, 200], [20, 140, 180], [40, 60, 220])):
            experiment_run(tmp_path, "m", seed, returns)
        records = find_runs([tmp_path]).records
        found = line("m", records, "online")
        assert found is not None
        assert found.steps.tolist() == [0, 100, 200]
        assert found.mean == pytest.approx([10, 50, 100])  # half of the returns
        values = np.array([[0, 50, 100], [10, 70, 90], [20, 30, 110]])
        draws = np.random.default_rng(1).integers(0, 3, (20_000, 3))
        low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975], axis=0)
        assert found.low == pytest.approx(low, abs=1.5)
        assert found.high == pytest.approx(high, abs=1.5)

    def test_curves_of_other_lengths_share_what_both_have(self, tmp_path: Path) -> None:
        experiment_run(tmp_path, "m", 0, [0, 100, 200, 300])
        experiment_run(tmp_path, "m", 1, [0, 100])
        evaluations(tmp_path / "hopper-medium-m-s1" / "online", [0, 150], [0, 150])
        found = line("m", find_runs([tmp_path]).records, "online")
        assert found is not None
        assert found.steps.tolist() == [0, 100, 150]
        assert found.mean == pytest.approx([0, 50, 75])

    def test_one_seed_has_no_interval(self) -> None:
        assert bootstrap(np.array([[1.0, 2.0]])) is None
        assert mean_estimate([3.0]).low is None
        assert mean_estimate([3.0, 5.0]).low == 3.0

    def test_iqm_and_its_interval_are_numpys(self) -> None:
        rng = np.random.default_rng(0)
        scores = {"a": rng.normal(0.5, 0.2, (8, 3)), "b": rng.normal(0.7, 0.2, (8, 3))}
        found = aggregate(["x", "y", "z"], scores)
        for label, matrix in scores.items():
            estimate = found.metrics["IQM"][label]
            assert estimate.value == pytest.approx(middle_half(matrix[None])[0])
            # each task's seeds are drawn for themselves
            draws = rng.integers(0, 8, (20_000, 8, 3))
            sampled = np.take_along_axis(np.broadcast_to(matrix, draws.shape), draws, axis=1)
            low, high = np.quantile(middle_half(sampled), [0.025, 0.975])
            assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.01)
            assert found.metrics["mean"][label].value == pytest.approx(matrix.mean())
            assert found.metrics["median"][label].value == pytest.approx(np.median(matrix.mean(axis=0)))
            gap = found.metrics["optimality gap"][label].value
            assert gap == pytest.approx(1 - np.minimum(matrix, 1).mean())
        point, interval = found.profiles["a"]
        assert point == pytest.approx([(scores["a"] > each).mean() for each in found.thresholds])
        assert interval is not None
        assert (interval[0] <= point).all()
        assert (point <= interval[1]).all()

    def test_two_of_rliables_numbers_faster(self) -> None:
        library, metrics = importlib.import_module("rliable.library"), importlib.import_module("rliable.metrics")
        rng = np.random.default_rng(0)
        ours, theirs = rng.integers(0, 5, (6, 3)) / 4, rng.integers(0, 5, (5, 3)) / 4  # with ties
        expected = metrics.probability_of_improvement(ours, theirs)
        assert probability_of_improvement(ours, theirs) == pytest.approx([expected])
        thresholds = np.linspace(-0.1, 1.1, 7)
        assert share_above(ours, thresholds) == pytest.approx(library.score_distributions(ours, thresholds))

    def test_only_what_all_methods_ran_on_is_aggregated(self, tmp_path: Path) -> None:
        experiment(tmp_path, seeds=2)
        experiment_run(tmp_path, "good", 0, [1, 2], "alone")
        experiment_run(tmp_path, "good", 7, [60, 80, 100])
        tasks, matrices, remarks = score_matrices(find_runs([tmp_path]).records)
        assert tasks == ["hopper-expert", "hopper-medium"]
        assert matrices["good"] == pytest.approx(np.array([[0.6, 0.4], [0.606667, 0.406667]]), abs=1e-4)
        assert "leave out what not all methods ran on: alone" in remarks[0]
        assert "the first 2 seeds" in remarks[1]


class TestBeside:
    """Two methods on what both ran on."""

    def test_by_hand(self, tmp_path: Path) -> None:
        for task, method, scores in (
            *(("one", "a", (10, 30)), ("one", "b", (20, 30)), ("two", "a", (50,)), ("two", "b", (40,))),
            *(("three", "a", (1,)), ("three", "c", (2,)), ("four", "d", (3,))),
        ):
            for seed, score in enumerate(scores):
                experiment_run(tmp_path, method, seed, [2 * score], task)
        records = find_runs([tmp_path]).records
        (found,) = compare(records, "b")
        # on `one` of four pairs one win and one tie, and 20 - 25; on `two` a win, and 50 - 40
        assert (found.label, found.tasks, found.runs) == ("a", ["one", "two"], (3, 3))
        assert found.better.value == pytest.approx((1.5 / 4 + 1) / 2)
        assert found.difference.value == pytest.approx((-0.05 + 0.10) / 2)
        assert (found.better.low, found.difference.low) == (None, None)  # one seed on `two`
        assert [each.label for each in compare(records, "a")] == ["b", "c"]
        assert compare(records, "d") == []

    def test_its_interval_is_of_seeds_drawn_for_each_task(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(3)
        scores = {(task, method): rng.uniform(0, 100, 4) for task in ("one", "two") for method in ("a", "b")}
        for (task, method), values in scores.items():
            for seed, score in enumerate(values):
                experiment_run(tmp_path, method, seed, [2 * score], task)
        (found,) = compare(find_runs([tmp_path]).records, "b")
        drawn = {key: rng.choice(values, (20_000, 4)) for key, values in scores.items()}
        pairs = [(drawn[task, "a"], drawn[task, "b"]) for task in ("one", "two")]
        wins = np.mean([(ours[:, :, None] > other[:, None]).mean(axis=(1, 2)) for ours, other in pairs], axis=0)
        apart = np.mean([ours.mean(axis=1) - other.mean(axis=1) for ours, other in pairs], axis=0)
        assert (found.better.low, found.better.high) == pytest.approx(
            np.quantile(wins, [0.025, 0.975]), abs=1 / 32
        )  # its steps
        ends = np.quantile(apart, [0.025, 0.975]) / 100
        assert (found.difference.low, found.difference.high) == pytest.approx(ends, abs=0.02)

    def test_it_is_told_where_the_aggregates_leave_something_out(self, tmp_path: Path) -> None:
        experiment(tmp_path, seeds=2)
        assert "Beside weak" not in [
            each.title for each in make_report(find_runs([tmp_path]), "t", baseline="weak").tables
        ]
        experiment_run(tmp_path, "weak", 2, [0, 0, 0], "hopper-medium")  # a third seed
        page = make_report(find_runs([tmp_path]), "t", baseline="weak")
        assert [cell.text for cell in page.tables[-1].rows[0]][:3] == ["good", "2", "4, 5"]
        assert "Aggregates take the first 2 seeds of each: some have more, up to 3." in page.remarks
        shutil.rmtree(tmp_path / "hopper-medium-weak-s2")
        experiment_run(tmp_path, "other", 0, [0, 0, 0], "hopper-medium")
        table = make_report(find_runs([tmp_path]), "t", baseline="weak").tables[-1]
        assert table.title == "Beside weak"
        texts = [[cell.text for cell in row] for row in table.rows]
        assert texts[0][:4] == ["good", "2", "4, 4", "1.00 [1.00, 1.00]"]
        assert texts[1][:4] == ["other", "1", "1, 2", "0.00"]
        assert texts[0][4].startswith("19.9 [")  # of 16.58 and 23.25


def middle_half(samples: np.ndarray) -> np.ndarray:
    """Mean without the lowest and the highest quarter, shape (samples, seeds, tasks)."""
    flat = np.sort(samples.reshape(len(samples), -1), axis=1)
    cut = flat.shape[1] // 4
    return flat[:, cut : flat.shape[1] - cut].mean(axis=1)


class TestPage:
    def test_numbers(self, tmp_path: Path) -> None:
        page = page_of(experiment(tmp_path))
        table = rows(page)
        weak = table["hopper-medium", "weak"]
        assert weak["seeds"] == "3"
        assert weak["switch"] == "30.0 [30.0, 30.0]"
        assert weak["lowest"].startswith("10.5 [10.0, 11.0")
        assert weak["drop"].startswith("19.5")
        assert weak["steps to recover"] == "200"
        assert weak["last"].startswith("31.0")
        # trapezoids of 20.25 and 20.75 for the seed in the middle
        assert weak["regret"] == "0.79 [0.79, 0.80]"
        good = table["hopper-expert", "good"]
        assert (good["drop"], good["steps to recover"]) == ("0.0 [0.0, 0.0]", "0")
        assert rows(page, 1)["hopper-medium", "weak"]["fine-tuning"] == "0:01:41"
        assert page.subtitle == "12 runs: 2 methods on 2 tasks; made with sb3_o2o 1.2.3"
        assert page.remarks == []

    def test_after_some_steps(self, tmp_path: Path) -> None:
        """The first evaluation from there on, and nothing where a run had ended before."""
        experiment_run(tmp_path, "m", 0, [0, 100, 200])
        experiment_run(tmp_path, "m", 1, [40, 60, 220])
        experiment_run(tmp_path, "short", 0, [0])
        page = make_report(find_runs([tmp_path]), "test", after=50)
        found = rows(page)
        assert found["hopper-medium", "m"]["after 50"] == "40.0 [30.0, 50.0]"  # half of the returns at step 100
        assert found["hopper-medium", "short"]["after 50"] == ""
        columns = page.tables[0].columns
        assert columns.index("after 50") == columns.index("lowest") + 1
        assert found["hopper-medium", "m"]["lowest"] == rows(page_of(tmp_path))["hopper-medium", "m"]["lowest"]

    def test_a_mean_over_some_of_the_seeds_says_of_how_many(self, tmp_path: Path) -> None:
        """Those that came so far may be those that fared well."""
        experiment_run(tmp_path, "m", 0, [200] * 5)
        for seed in (1, 2):
            experiment_run(tmp_path, "m", seed, [0, 0])
        experiment_run(tmp_path, "all", 0, [200] * 5)
        succeeds("report", tmp_path, "--after", 300, "--out", tmp_path / "out")
        page = make_report(find_runs([tmp_path]), "test", after=300)
        found = rows(page)
        assert found["hopper-medium", "m"]["after 300"] == "100.0 (1 of 3)"
        assert found["hopper-medium", "all"]["after 300"] == "100.0"
        assert "| 100.0 (1 of 3) |" in (tmp_path / "out" / "report.md").read_text()
        assert "After 300: first evaluation from there on; the mean is over the seeds that got so far" in (
            page.tables[0].notes
        )

    def test_regrets_of_episodes_and_of_scores_are_not_averaged(self, tmp_path: Path) -> None:
        experiment_run(tmp_path, "m", 0, [0, 0], episodes=10, successes=4)
        experiment_run(tmp_path, "m", 1, [0, 0])
        experiment_run(tmp_path, "scores", 0, [0, 100])
        experiment_run(tmp_path, "scores", 1, [0, 100])
        found = rows(page_of(tmp_path))
        assert found["hopper-medium", "m"]["regret"] == "0.60 (1 of 2)"
        assert found["hopper-medium", "scores"]["regret"] == "0.75 [0.75, 0.75]"

    def test_over_all_tasks_beside_a_baseline(self, tmp_path: Path) -> None:
        experiment(tmp_path, seeds=2)
        page = make_report(find_runs([tmp_path]), "test", baseline="weak")
        table = page.tables[-1]
        found = {row[0].text: dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows}
        matrices = score_matrices(page.records)[1]
        assert [row[0].text for row in table.rows] == sorted(matrices, key=lambda each: -matrices[each].mean())
        for label, matrix in matrices.items():
            assert found[label]["mean"].split(" ")[0] == f"{matrix.mean():.2f}"
            wins = probability_of_improvement(matrix, matrices["weak"])[0]
            told = found[label]["P(better than weak)"]
            assert told == "" if label == "weak" else told.startswith(f"{wins:.2f}")
        assert "good &gt; weak" in page.over_tasks[-1].svg
        with pytest.raises(ValueError, match=r"Unknown method 'weka'.*Did you mean 'weak'"):
            make_report(find_runs([tmp_path]), "test", baseline="weka")

    def test_the_same_runs_give_the_same_page(self, tmp_path: Path) -> None:
        """Whatever was drawn before, and whoever draws afterwards has their own numbers."""
        rng = np.random.default_rng(0)
        for task, method, seed in itertools.product(("one", "two"), ("a", "b"), range(3)):
            experiment_run(tmp_path, method, seed, rng.uniform(0, 200, 3), task)
        pages, drawn = [], []
        for seed in (0, 1):
            np.random.seed(seed)
            pages.append(make_report(find_runs([tmp_path]), "test", baseline="a"))
            drawn.append(np.random.rand())
        assert [table.title for table in pages[0].tables][-1] == "Over all tasks"
        assert to_html(pages[0]) == to_html(pages[1])
        assert drawn == [np.random.RandomState(seed).rand() for seed in (0, 1)]

    def test_a_probability_seen_from_the_other_side(self) -> None:
        rng = np.random.default_rng(0)
        found = aggregate(["x", "y"], {"a": rng.normal(0.5, 0.2, (4, 2)), "b": rng.normal(0.6, 0.2, (4, 2))})
        there, back = found.improvement("a", "b"), found.improvement("b", "a")
        assert there.low is not None
        assert there.high is not None
        assert (back.value, back.low, back.high) == (1 - there.value, 1 - there.high, 1 - there.low)

    def test_what_did_not_come_back(self, tmp_path: Path) -> None:
        experiment_run(tmp_path, "m", 0, [60, 20, 30])
        assert rows(page_of(tmp_path))["hopper-medium", "m"]["steps to recover"] == "never"
        experiment_run(tmp_path, "m", 1, [60, 20, 70])
        assert rows(page_of(tmp_path))["hopper-medium", "m"]["steps to recover"] == "200 (1 of 2 never)"

    def test_successes_of_training_decide_regret(self, tmp_path: Path) -> None:
        experiment_run(tmp_path, "m", 0, [60, 20], episodes=8, successes=2)
        assert rows(page_of(tmp_path))["hopper-medium", "m"]["regret"] == "0.75"

    def test_one_seed_is_said_to_be_one(self, tmp_path: Path) -> None:
        page = page_of(experiment(tmp_path, seeds=1))
        assert "one seed on every task" in page.remarks[0]
        assert all("[" not in text for row in rows(page).values() for text in row.values())
        for picture in page.pictures:
            assert "seed" in picture.caption
            assert "interval of" not in picture.caption
            assert "FillBetweenPolyCollection" not in picture.svg
        assert any("FillBetweenPolyCollection" in each.svg for each in page_of(experiment(tmp_path / "b")).pictures)

    def test_the_page_needs_nothing_else(self, tmp_path: Path) -> None:
        text = to_html(page_of(experiment(tmp_path)))
        assert len(text) < 1_000_000
        assert not re.search(r'\bsrc=|<link|@import|url\(["\']?http|href="http', text)
        assert "prefers-color-scheme: dark" in text
        assert 'name="viewport"' in text
        parser = Checking()
        parser.feed(text)
        assert parser.open == []
        assert [name for name, count in parser.ids.items() if count > 1] == []
        assert parser.referred <= parser.ids.keys()
        assert text.count("<svg ") == 2 + 3
        assert "#3b4252" not in text  # text of pictures has the page's colour

    def test_hostile_names_are_text(self, tmp_path: Path) -> None:
        experiment_run(tmp_path, "m", 0, [1, 2], "a")
        (job,) = tmp_path.glob("*/job.json")
        hostile = '"><script>alert(1)</script>'
        job.write_text(json.dumps({**json.loads(job.read_text()), "dataset": hostile, "recipe": hostile}))
        text = to_html(make_report(find_runs([tmp_path]), hostile))
        assert "<script>alert" not in text

    @pytest.mark.parametrize("names", [("_sac",), ("_sac", "a$x_{$b", "td3")])
    def test_names_are_drawn_as_they_are(self, names: tuple[str, ...], tmp_path: Path) -> None:
        """An underscore at the start, and what looks like a formula, have meanings of matplotlib's own."""
        for name in names:
            evaluations(tmp_path / f"{name}_1", [100, 200], [1000, 2000])
        page = page_of(tmp_path, env_id="Hopper-v5")
        for picture in page.pictures:
            if picture.name != "improvements":
                assert [name for name in names if f">{name}<" in picture.svg] == list(names), picture.name
        assert (len(names) > 1) == any(picture.name == "improvements" for picture in page.pictures)


class Checking(HTMLParser):
    """Tags that close, and names that are there once."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.referred: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self._names(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._names(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _names(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids[str(value)] += 1
            elif name in ("href", "xlink:href") and str(value).startswith("#"):
                self.referred.add(str(value)[1:])
            self.referred.update(re.findall(r"url\(#([^)]*)\)", str(value)))


class TestFolders:
    def test_a_run_of_the_command_line(self, tmp_path: Path) -> None:
        path = tmp_path / "cql-Hopper-v5_1"
        evaluations(path / "online", [0, 100], [-20.272305, 3234.3])
        config = RunConfig("finetune", Environment("Hopper-v5"), recipe="cql", seed=4, online_steps=100)
        (path / "config.yml").write_text(config.to_yaml())
        (record,) = find_runs([tmp_path]).records
        assert (record.label, record.task, record.seed, record.finished) == ("cql", "Hopper-v5", 4, False)
        summary = record.summary()
        assert summary is not None
        assert (summary.switch, summary.last) == pytest.approx((0, 100))  # D4RL's references

    def test_pretraining_counts_once(self, tmp_path: Path) -> None:
        environment = Environment("Hopper-v5")
        before, after = tmp_path / "cql-Hopper-v5_1", tmp_path / "cql-Hopper-v5_2"
        for path in (before, after):
            evaluations(path / "offline", [0, 100], [1, 2])
        evaluations(after / "online", [0, 100], [2, 3])
        first = RunConfig("pretrain", environment, recipe="cql", dataset="a/b-v0", pretrain_steps=100)
        (before / "config.yml").write_text(first.to_yaml())
        found = find_runs([before]).records
        assert len(found) == 1
        source = str(before / "offline" / "model.zip")
        second = RunConfig("finetune", environment, recipe="cql", dataset="a/b-v0", source=source, online_steps=100)
        (after / "config.yml").write_text(second.to_yaml())
        assert [each.path for each in find_runs([tmp_path]).records] == [after]

    def test_stock_runs_are_lines_in_the_same_picture(self, tmp_path: Path) -> None:
        experiment(tmp_path / "ours", seeds=2)
        for seed in range(2):
            zoo_run(tmp_path / "logs", "Hopper-v5", seed, [20, 40, 60])
        page = page_of(tmp_path / "ours", tmp_path / "logs")
        assert ("hopper-medium", "sac (Stable-Baselines3)") in rows(page)
        assert ("hopper-expert", "sac (Stable-Baselines3)") in rows(page)
        assert all("sac (Stable-Baselines3)" in picture.svg for picture in page.curves)
        assert rows(page)["hopper-medium", "sac (Stable-Baselines3)"]["last"].startswith("30.0")  # the dataset's scale
        assert len(page.curves) == 2

    def test_an_eval_callbacks_folder(self, tmp_path: Path) -> None:
        evaluations(tmp_path / "mine_1", [100, 200], [0, 3234.3])
        (record,) = find_runs([tmp_path]).records
        assert (record.label, record.env_id, record.unit) == ("mine", "", "return")
        (record,) = find_runs([tmp_path], "Hopper-v5").records
        assert (record.task, record.unit) == ("Hopper-v5", "score")

    def test_a_table_alone(self, tmp_path: Path) -> None:
        experiment(tmp_path)
        add_to_tables(tmp_path, sorted(path.parent for path in tmp_path.glob("*/job.json")))
        table = tmp_path / "results.csv"
        assert len(read_table(table, EVALUATION_COLUMNS)) == 12 * 3
        whole, of_table = page_of(tmp_path), page_of(table)
        assert rows(whole) == rows(of_table)
        assert rows(whole, 1) == rows(of_table, 1)
        assert (whole.subtitle, whole.remarks) == (of_table.subtitle, of_table.remarks)
        table.write_text(table.read_text().replace("return_std", "spread"))
        with pytest.raises(ValueError, match="it lacks return_std, and has spread"):
            find_runs([table])

    def test_what_a_table_beside_it_knows(self, tmp_path: Path) -> None:
        """Pre-training and its time, training episodes that failed, that a run is not finished."""
        before = experiment_run(tmp_path, "cql", 0, [10, 20], seconds=50.0)
        config = RunConfig("pretrain", Environment("Hopper-v5"), recipe="cql", dataset="a/b-v0", pretrain_steps=50)
        (before / "config.yml").write_text(config.to_yaml())
        (before / "online" / "evaluations.npz").unlink()
        after = experiment_run(tmp_path, "wsrl", 0, [20, 40], episodes=8, successes=2, state="interrupted")
        job = Job.read(after)
        (after / "job.json").write_text(json.dumps({**asdict(job), "needs": before.name}))
        add_to_tables(tmp_path, [before, after])
        (record,) = find_runs([tmp_path / "results.csv"]).records
        page = page_of(tmp_path / "results.csv")
        assert record.offline is not None
        assert record.offline.scores(record.reference).tolist() == [[2.5], [5.0]]
        assert rows(page)["hopper-medium", "wsrl"]["regret"] == "0.75"
        assert rows(page, 1)["hopper-medium", "wsrl"]["pre-training"] == "0:00:50"
        assert "hopper-medium-wsrl-s0 is not finished: what it has is shown." in page.remarks
        runs = tmp_path / "runs.csv"
        runs.write_text(runs.read_text().replace("regret_of", "regret_for"))
        assert any(
            "it lacks regret_of, and has regret_for" in each for each in page_of(tmp_path / "results.csv").remarks
        )
        runs.unlink()
        page = page_of(tmp_path / "results.csv")
        assert any("No runs.csv lies beside" in each for each in page.remarks)
        assert "Cost in wall time" not in [each.title for each in page.tables]  # nothing knows a time

    def test_damage_is_said_and_the_rest_is_shown(self, tmp_path: Path) -> None:
        experiment(tmp_path, seeds=2)
        experiment_run(tmp_path, "good", 5, [1, 2], "running", state="running")
        damaged = experiment_run(tmp_path, "weak", 5, [1, 2])
        (damaged / "online" / "evaluations.npz").write_bytes(b"PK half")
        empty = experiment_run(tmp_path, "weak", 6, [1, 2])
        for path in empty.glob("*/evaluations.npz"):
            path.unlink()
        half = experiment_run(tmp_path, "weak", 7, [1, 2])
        (half / "config.yml").write_text("a: [")
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "config.yml").write_text("something: else\n")
        page = page_of(tmp_path)
        said = "\n".join(page.remarks)
        assert "hopper-medium-weak-s5 is left out" in said
        assert "hopper-medium-weak-s6 has no evaluations yet" in said
        assert "hopper-medium-weak-s7 is left out" in said
        assert "running-good-s5 is not finished" in said
        assert rows(page)["hopper-medium", "weak"]["seeds"] == "2"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"timesteps": [100, 200, 100, 200]}, r"an evaluation at step 100 behind one at step 200"),
            ({"timesteps": [[1], [2], [3], [4]]}, r"evaluations at \(4, 1\) steps"),
            ({"results": np.zeros((4, 0))}, "holds evaluations of no episodes"),
        ],
    )
    def test_one_odd_file_is_said_and_the_rest_is_shown(
        self, change: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        """As an ``EvalCallback`` leaves it that was used for two calls of ``learn``, for one."""
        evaluations(tmp_path / "sac_1", [100, 200], [1, 2])
        odd = tmp_path / "sac_2" / "evaluations.npz"
        evaluations(odd.parent, [100, 200, 300, 400], [1, 2, 3, 4])
        with np.load(odd) as saved:
            np.savez(odd, **{**saved, **{name: np.array(value) for name, value in change.items()}})
        succeeds("report", tmp_path, "--env", "Hopper-v5", "--out", tmp_path / "out")
        text = (tmp_path / "out" / "report.md").read_text()
        assert "| Hopper-v5 | sac | 1 |" in text
        assert re.search(f"sac_2 is left out: {odd} ?.*{message}", text)

    def test_odd_rows_of_a_table_are_said_and_the_rest_is_shown(self, tmp_path: Path) -> None:
        for seed in range(4):
            experiment_run(tmp_path, "m", seed, [10, 20, 30])
        add_to_tables(tmp_path, sorted(path.parent for path in tmp_path.glob("*/job.json")))
        table = tmp_path / "results.csv"
        whole = table.read_text()
        lines = whole.splitlines()
        lines[3] = lines[3].replace(",online,200,", ",online,100,")
        lines[6] = lines[6].replace(",online,200,", ",online,,")
        lines[9] = lines[9].replace(",15.0,", ",nan,")
        table.write_text("\n".join(lines) + "\n")
        page = page_of(table)
        assert rows(page)["hopper-medium", "m"]["seeds"] == "1"
        said = [each for each in page.remarks if "is left out" in each]
        assert [each.split(" ", 1)[0] for each in said] == [f"hopper-medium-m-s{seed}" for seed in range(3)]
        assert "results.csv, hopper-medium-m-s0 has an evaluation at step 100 behind one at step 100" in said[0]
        assert "results.csv has a row of hopper-medium-m-s1 without step" in said[1]
        assert "results.csv, hopper-medium-m-s2 has numbers that are not finite" in said[2]
        table.write_text(whole.replace(",online,200,", ",online,two,", 1))
        assert "results.csv, line 4: step is 'two', expected a whole number" in fails("report", table)

    def test_a_table_that_a_spreadsheet_saved(self, tmp_path: Path) -> None:
        """Sorted by the score, the best first, and with a mark of its encoding."""
        experiment_run(tmp_path, "m", 0, [10, 20, 30])
        add_to_tables(tmp_path, [path.parent for path in tmp_path.glob("*/job.json")])
        table = tmp_path / "results.csv"
        whole = find_runs([table]).records[0].online
        for path in (table, tmp_path / "runs.csv"):
            first, *lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join([first, *reversed(lines)]), encoding="utf-8-sig")
        (record,) = find_runs([table]).records
        assert whole is not None
        assert record.online is not None
        assert record.online.steps.tolist() == [0, 100, 200]
        assert record.online.returns.tolist() == whole.returns.tolist()
        assert record.seconds == 100.0

    @pytest.mark.parametrize("content", [b"\xff\xfe broken", b"%s\n" % (b"a" * 200_000)])
    def test_what_is_no_table_is_said_so(self, content: bytes, tmp_path: Path) -> None:
        experiment_run(tmp_path, "m", 0, [10, 20, 30])
        add_to_tables(tmp_path, [path.parent for path in tmp_path.glob("*/job.json")])
        (tmp_path / "runs.csv").write_bytes(content)
        found = find_runs([tmp_path / "results.csv"])
        assert len(found.records) == 1
        assert any("runs.csv is no table that can be read" in each for each in found.remarks)
        (tmp_path / "results.csv").write_bytes(content)
        with pytest.raises(ValueError, match=r"results\.csv is no table that can be read"):
            find_runs([tmp_path / "results.csv"])

    def test_a_seed_whose_fine_tuning_is_missing_is_said_so(self, tmp_path: Path) -> None:
        """It counted as a run of the page, and its method had a seed less in all tables, without a word."""
        for seed in range(2):
            experiment_run(tmp_path, "m", seed, [10, 20, 30])
        (tmp_path / "hopper-medium-m-s1" / "online" / "evaluations.npz").unlink()
        page = page_of(tmp_path)
        assert rows(page)["hopper-medium", "m"]["seeds"] == "1"
        assert any(
            "hopper-medium-m-s1 is finished, but online/evaluations.npz is missing" in said for said in page.remarks
        )

    def test_a_table_that_is_cut_off(self, tmp_path: Path) -> None:
        """What was left of a row passed for a row with empty cells: its run had returns instead of scores."""
        for seed in range(2):
            experiment_run(tmp_path, "m", seed, [10, 20, 30])
        runs = sorted(path.parent for path in tmp_path.glob("*/job.json"))
        add_to_tables(tmp_path, runs)
        table, beside = tmp_path / "results.csv", tmp_path / "runs.csv"
        whole, whole_beside = table.read_text(), beside.read_text()
        table.write_text(whole[: whole.rindex(",15.0,")])
        assert "results.csv, line 7 has 9 cells instead of 13: the file is cut off or damaged" in fails("report", table)
        with pytest.raises(ValueError, match=r"cut off or damaged\. Move it away: the same command then writes it"):
            add_to_tables(tmp_path, runs[1:])
        table.unlink()
        add_to_tables(tmp_path, runs)
        assert table.read_text() == whole
        beside.write_text(whole_beside[:-60])
        assert any("runs.csv, line 3 has" in each for each in find_runs([table]).remarks)
        table.write_text("")
        assert "results.csv is empty." in fails("report", table)

    def test_two_tasks_whose_names_differ_in_a_sign_have_two_pictures(self, tmp_path: Path) -> None:
        for index, task in enumerate(("a b", "a+b", "A b", "a-b-2")):
            job = experiment_run(tmp_path, "m", index, [10 * index, 20], f"task{index}") / "job.json"
            job.write_text(json.dumps({**json.loads(job.read_text()), "dataset": task}))
        found = page_of(tmp_path).curves
        assert [each.title for each in found] == ["A b", "a b", "a+b", "a-b-2"]
        assert [each.name for each in found] == ["curves-A-b", "curves-a-b-2", "curves-a-b-3", "curves-a-b-2-2"]

    def test_returns_are_in_no_mean_with_scores(self, tmp_path: Path) -> None:
        """As where a dataset is gone that told the references of one run, and not of the other."""
        experiment_run(tmp_path, "m", 0, [100, 120])
        experiment_run(tmp_path, "m", 1, [900, 1000], reference=None)
        experiment_run(tmp_path, "m", 2, [900, 1000], "other", reference=None)
        page = page_of(tmp_path)
        assert rows(page)["hopper-medium", "m"]["seeds"] == "1"
        assert rows(page)["hopper-medium", "m"]["last"] == "60.0"
        assert rows(page)["other", "m"]["last"] == "1000.0"
        assert any("hopper-medium: some runs have normalised scores and others none" in each for each in page.remarks)

    def test_without_any_evaluation_the_reasons_are_said(self, tmp_path: Path) -> None:
        for index in range(7):
            config = RunConfig("finetune", Environment("Hopper-v5"), recipe="wsrl", seed=index, online_steps=10)
            (tmp_path / f"wsrl_{index}").mkdir()
            (tmp_path / f"wsrl_{index}" / "config.yml").write_text(config.to_yaml())
        for options in ((), ("--methods", "wsrl")):
            said = fails("report", tmp_path, *options)
            assert "There is no run to report on. wsrl_0 has no evaluations yet. wsrl_1 has no" in said
            assert "wsrl_4 has no evaluations yet. And 2 more like these." in said
        shutil.rmtree(tmp_path / "wsrl_0")
        assert "And 1 more like these." in fails("report", tmp_path)
        shutil.rmtree(tmp_path / "wsrl_1")
        assert fails("report", tmp_path).rstrip().endswith("wsrl_6 has no evaluations yet.")

    def test_nothing_to_report(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "holds no runs" in fails("report", tmp_path / "empty")
        assert "There is nothing at" in fails("report", tmp_path / "nowhere")
        assert not (tmp_path / "empty" / "report").exists()

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        zoo_run(tmp_path / "logs", "Hopper-v5", 0, [20, 40, 60])
        (tmp_path / "taken").write_text("")
        said = fails("report", tmp_path / "logs", "--out", tmp_path / "taken")
        assert f"The report cannot be written to '{tmp_path / 'taken'}' (File exists)." in said
        assert "--out" in said


def test_the_command_writes_a_page_and_its_pictures(tmp_path: Path) -> None:
    top = experiment(tmp_path / "hopper", seeds=2)
    output = succeeds("report", top)
    assert f"Report: {top}/report/report.html" in output
    names = {path.name for path in (top / "report").iterdir()}
    assert names == {
        *("report.html", "report.md", "curves-hopper-medium.svg", "curves-hopper-expert.svg"),
        *("aggregates.svg", "profiles.svg", "improvements.svg"),
    }
    text = (top / "report" / "report.md").read_text()
    assert text.startswith("# hopper\n\n8 runs: 2 methods on 2 tasks")
    linked = set(re.findall(r"\(([\w-]+\.svg)\)", text))
    assert linked == {each for each in names if each.endswith(".svg")}
    assert "| hopper-medium | weak | 2 | 30.0 [30.0, 30.0] |" in text
    succeeds("report", top, "--out", tmp_path / "again", "--title", "Another")
    assert "<title>Another</title>" in (tmp_path / "again" / "report.html").read_text()
    assert (top / "report" / "profiles.svg").read_text() == (tmp_path / "again" / "profiles.svg").read_text()


def test_brackets_in_the_path_are_printed(tmp_path: Path) -> None:
    evaluations(tmp_path / "[old]" / "sac_1", [100, 200], [1, 2])
    assert f"Report: {tmp_path}/[old]/report/report.html" in succeeds("report", tmp_path / "[old]")


class TestAPart:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for task in ("one", "two"):
            for method in ("a", "b", "c"):
                if (task, method) != ("two", "c"):
                    experiment_run(tmp_path, method, 0, [0, 100], task)
        return tmp_path

    def test_only_what_was_asked_for_is_reported(self, folder: Path) -> None:
        found = find_runs([folder])
        everywhere = {("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")}
        assert rows(make_report(found, "test")).keys() == everywhere | {("one", "c")}
        assert rows(make_report(found.only(methods=["a", "b"]), "test")).keys() == everywhere
        assert rows(make_report(found.only(["two"]), "test")).keys() == {("two", "a"), ("two", "b")}
        succeeds("report", folder, "--tasks", "one", "--methods", "a, c", "--out", folder / "out")
        text = (folder / "out" / "report.md").read_text()
        assert "2 runs: 2 methods on 1 task" in text

    def test_what_is_not_there_is_named(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"Unknown task 'on'\. Did you mean 'one'"):
            find_runs([folder]).only(["on"])
        with pytest.raises(ValueError, match="None of c ran on any of two"):
            find_runs([folder]).only(["two"], ["c"])
        assert "Unknown method 'd'" in fails("report", folder, "--methods", "a,d")
        assert "--tasks takes names with commas" in fails("report", folder, "--tasks", "one,")
