"""The pictures of runs: learning curve and diagnostics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from sb3_o2o.diagnostics.reporting import report
from sb3_o2o.evaluation import ReferenceScore
from sb3_o2o.evaluation.plotting import plot_learning_curve, short_number

TITLE = "a_recipe_of_my_own_with_a_name, AntMaze_Large_Diverse_GR-v5, D4RL/antmaze/large-diverse-v1-with-more"
REFERENCE = ReferenceScore(0, 10, "")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs))
    )
    return figures


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been saved: pixels take a second each."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: figures.append(self))
    return figures


def write(folder: Path, phase: str, steps: list[int], results: Any = None, **diagnostics: Any) -> None:
    place = folder / phase
    (place / "diagnostics").mkdir(parents=True)
    if results is None:
        results = np.arange(len(steps) * 3, dtype=float).reshape(-1, 3)
    if len(results):
        np.savez(place / "evaluations.npz", timesteps=steps, results=results, ep_lengths=results)
    if diagnostics:
        np.savez(place / "diagnostics" / "some.npz", timesteps=steps, reference=[], **diagnostics)


def check_layout(figure: Figure) -> list[Axes]:
    """
    Whatever a run's numbers are: no axis is empty, every line and band is explained, nothing covers anything else.

    :return: the axes with data
    """
    figure.draw_without_rendering()
    legends = [*figure.legends, *(legend for axis in figure.axes if (legend := axis.get_legend()) is not None)]
    explained = {text.get_text() for legend in legends for text in legend.get_texts()}
    shown = [axis for axis in figure.axes if axis.get_visible() and axis.axison]
    assert shown
    for axis in shown:
        has_data = any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in axis.lines)
        assert has_data or axis.texts
        for each in [*axis.lines, *axis.collections]:
            assert each.get_label() in explained
        assert any(isinstance(each, PolyCollection) for each in axis.collections) == ("policy (mean)" in labels(axis))
    page = figure.bbox
    for legend in legends:
        box = legend.get_window_extent()
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
        assert not any(box.overlaps(axis.get_window_extent()) for axis in shown)
    for text in [*figure.texts, *(axis.title for axis in shown), *(axis.yaxis.label for axis in shown)]:
        box = text.get_window_extent()
        assert box.width == 0 or (page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1)
    return shown


def labels(axis: Axes) -> list[str]:
    return [str(line.get_label()) for line in axis.lines]


RISING = np.linspace(0, 1, 15).reshape(5, 3)
NOTHING = np.full((5, 3), np.nan)


@pytest.mark.parametrize(("title", "dataset", "reference"), [("x", 0.5, REFERENCE), (TITLE, None, None)])
@pytest.mark.parametrize(
    "phases",
    [
        {"offline": RISING, "online": RISING[::-1]},
        {"offline": RISING},
        {"online": -1e9 * RISING},
        {"offline": 1e-7 * RISING, "online": 1e-7 * RISING[:1]},
        {"online": 0 * RISING},
        {"offline": RISING, "online": NOTHING},
    ],
    ids=["both", "offline", "large", "small", "zero", "nan"],
)
def test_any_learning_curve_can_be_read(
    tmp_path: Path, unsaved: list[Figure], phases: dict, reference: Any, dataset: float | None, title: str | None
) -> None:
    for name, results in phases.items():
        write(tmp_path, name, [250_000 * step for step in range(len(results))], results)
    plot_learning_curve(tmp_path, title=title, reference=reference, dataset_return=dataset)
    shown = check_layout(unsaved[0])
    assert len(shown) == len(phases)
    low, high = shown[0].get_ylim()
    assert high - low > 1e-9 * max(abs(low), abs(high))


FIVE = np.arange(1.0, 6)
UNITS = {"offline": "gradient steps", "online": "environment steps"}
MEASURED = {
    "kendall_tau": FIVE,
    "q_difference": -FIVE,
    "q_estimated": FIVE,
    "q_true": 2 * FIVE,
    "q_offline": FIVE,
    "td_error_offline": FIVE,
}
ONLINE = {
    **MEASURED,
    "q_online": 1e-9 * FIVE,
    "td_error_online": 0 * FIVE,
    "policy_kl_offline": FIVE,
    "policy_kl_online": FIVE,
    "q_kl_offline": FIVE,
    "q_kl_online": FIVE,
    "regret": FIVE,
    "drop": FIVE,
    "steps_to_recover": np.inf * FIVE,
}


@pytest.mark.parametrize(
    ("offline", "online", "n_axes"),
    [
        (MEASURED, ONLINE, 6 + 9),
        (MEASURED, None, 6),
        (None, ONLINE, 9),
        ({}, {"regret": FIVE}, 3),
        ({"q_offline": FIVE}, {}, 3),
        (None, {"kendall_tau": np.nan * FIVE, "td_error_offline": 0 * FIVE, "q_true": FIVE}, 2),
    ],
)
@pytest.mark.parametrize(("has_curve", "title"), [(True, TITLE), (False, "x")])
def test_any_diagnostics_can_be_read(
    tmp_path: Path,
    unsaved: list[Figure],
    offline: dict | None,
    online: dict | None,
    n_axes: int,
    has_curve: bool,
    title: str,
) -> None:
    phases = {name: each for name, each in (("offline", offline), ("online", online)) if each is not None}
    for name, measured in phases.items():
        write(tmp_path, name, [0, 1, 2, 3, 4], RISING if has_curve else [], **measured)
    report(tmp_path, title=title)
    shown = check_layout(unsaved[0])
    assert len(shown) == n_axes - (0 if has_curve else len(phases))
    # each column says its phase on top and its unit below
    units = [axis.get_xlabel() for axis in shown if axis.get_xlabel()]
    names = [axis.get_title().split(":")[0] for axis in shown if axis.get_title()]
    drawn_phases = [name for name, measured in phases.items() if has_curve or measured]
    assert sorted(units) == sorted(
        {"offline": "gradient steps", "online": "environment steps"}[n] for n in drawn_phases
    )
    assert sorted(names) == sorted(drawn_phases)
    if online is ONLINE:
        assert any(axis.get_title().endswith("fell by 5, not recovered") for axis in shown)


def test_values_of_which_none_can_be_drawn(tmp_path: Path) -> None:
    write(tmp_path, "online", [0], [], kendall_tau=[np.nan])
    with pytest.raises(ValueError, match="none of their values is finite"):
        report(tmp_path)


def test_a_single_point_is_whole(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path, "online", [7], [[1.0, 2.0]])
    plot_learning_curve(tmp_path)
    (axis,) = drawn[0].axes
    assert axis.get_xlim() == (6, 8)
    assert axis.get_xticks().tolist() == [7]


def test_phases_stand_side_by_side(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path, "offline", [0, 5000, 10_000])
    write(tmp_path, "online", [0, 500])
    path = plot_learning_curve(tmp_path, title="x", reference=ReferenceScore(0, 10, ""), dataset_return=5.0)
    assert path == tmp_path / "learning_curve.png"
    offline, online = drawn[0].axes
    assert offline.get_xlabel() == "gradient steps"
    assert online.get_xlabel() == "environment steps"
    assert offline.get_ylabel() == "normalised score"
    # The mean over episodes, normalised: 1, 4, 7 of 10.
    assert offline.lines[0].get_ydata().tolist() == [10, 40, 70]
    assert offline.lines[0].get_xdata().tolist() == [0, 5000, 10_000]
    assert offline.lines[0].get_color() != online.lines[0].get_color()
    assert online.lines[1].get_ydata() == pytest.approx([50, 50])


@pytest.mark.parametrize(("phase", "steps"), [("offline", [0]), ("online", [0, 10, 20])])
def test_one_phase_alone(tmp_path: Path, drawn: list[Figure], phase: str, steps: list[int]) -> None:
    write(tmp_path, phase, steps)
    path = plot_learning_curve(tmp_path, path=tmp_path / "other.png")
    assert path.stat().st_size > 5_000
    (axis,) = drawn[0].axes
    assert axis.get_ylabel() == "return"
    assert len(axis.lines[0].get_xdata()) == len(steps)


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no evaluations"):
        plot_learning_curve(tmp_path)


def test_short_numbers() -> None:
    assert [short_number(value, 0) for value in (0, 500, 2500, 20_000, 1_500_000)] == [
        "0",
        "500",
        "2.5k",
        "20k",
        "1.5M",
    ]
