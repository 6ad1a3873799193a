"""The learning curve."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sb3_o2o.evaluation import ReferenceScore
from sb3_o2o.evaluation.plotting import plot_learning_curve, short_number


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs))
    )
    return figures


def write(folder: Path, phase: str, steps: list[int]) -> None:
    (folder / phase).mkdir()
    results = np.arange(len(steps) * 3, dtype=float).reshape(-1, 3)
    np.savez(folder / phase / "evaluations.npz", timesteps=steps, results=results, ep_lengths=results)


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


def testshort_numbers() -> None:
    assert [short_number(value, 0) for value in (0, 500, 2500, 20_000)] == ["0", "500", "2.5k", "20k"]
