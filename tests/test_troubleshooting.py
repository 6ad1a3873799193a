"""Errors that have a section on the page of troubleshooting lead to it, and the section is there."""

import ast
import re
import sys
from pathlib import Path
from typing import get_args

import pytest
import tiny
from reader import ROOT

import sb3_o2o
from sb3_o2o import O2OSAC, UntrustedError
from sb3_o2o.data.formats.tables import pyarrow
from sb3_o2o.errors import NonFiniteError, Symptom, look_up
from sb3_o2o.finetuning import DatasetReplay, SymmetricReplay

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
HEADINGS = re.findall(r"^## (.*)$", PAGE, re.M)
PACKAGE = Path(sb3_o2o.__file__).resolve().parent


def asked() -> set[str]:
    """What the package's own errors name."""
    texts = (path.read_text() for path in PACKAGE.rglob("*.py"))
    calls = (node for text in texts if "look_up(" in text for node in ast.walk(ast.parse(text)))
    names = [node for node in calls if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "look_up"]
    return {ast.literal_eval(each.args[0]) for each in names}


def test_every_section_that_is_named_is_there_and_no_name_is_forgotten() -> None:
    assert asked() == set(get_args(Symptom))
    assert sorted(set(get_args(Symptom)) - set(HEADINGS)) == []


def check_leads(error: BaseException, heading: str) -> None:
    assert str(error).endswith(f". See docs/troubleshooting.md, {heading!r}.")


def test_what_is_not_finite() -> None:
    check_leads(NonFiniteError("The loss is nan.", "Lower the learning rate."), "NaN")
    check_leads(NonFiniteError("The loss is nan.", arrays={"loss": [float("nan")]}), "NaN")


def test_what_needs_trust() -> None:
    check_leads(UntrustedError("os.system", "model.zip").within("bundle"), "It cannot be loaded")


def test_callbacks_that_decide_the_same() -> None:
    both = [SymmetricReplay(0.5), DatasetReplay()]
    with pytest.raises(ValueError, match="would both decide") as caught:
        O2OSAC("MlpPolicy", tiny.BOX, finetuning=both)
    check_leads(caught.value, "Two callbacks decide the same")


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"A file needs pyarrow: pip install 'sb3_o2o\[parquet\]'\.") as caught:
        pyarrow("A file")
    check_leads(caught.value, "A package is missing")
    assert look_up("NaN") == " See docs/troubleshooting.md, 'NaN'."
