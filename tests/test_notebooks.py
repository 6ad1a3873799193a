"""The notebooks of the documentation run from top to bottom, at small sizes, and stay small themselves."""

import re
from pathlib import Path
from typing import Any

import pytest
from reader import ROOT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
#: what the cell of sizes may set, and to what it is set here
SMALL = {
    "TRANSITIONS": 200,
    "GRADIENT_STEPS": 4,
    "STEPS": 40,
    "WARMUP": 10,
    "EVAL_FREQ": 20,
    "EPISODES": 1,
}


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def shrunk(notebook: Any) -> Any:
    (cell,) = [each for each in notebook.cells if "parameters" in each.metadata.get("tags", ())]
    cell.source = "\n".join(
        f"{name} = {SMALL[name]}" for name in re.findall(r"^(\w+) = [\d_]+\b.*$", cell.source, re.M)
    )
    assert cell.source
    return notebook


def test_there_are_three() -> None:
    assert NOTEBOOKS == ["diagnose", "own_method", "start"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures are shown in the notebook
    notebook = shrunk(read(name))
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        iopub_timeout=120,  # a busy machine is late with what a cell shows
        raise_on_iopub_timeout=True,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    said = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    assert "Warning" not in said
    assert name == "own_method" or any("image/png" in out.get("data", {}) for cell in cells for out in cell.outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_valid_and_small(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 300_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_somewhere(name: str) -> None:
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert links
    assert [link for link in links if not (FOLDER / link).is_file()] == []
