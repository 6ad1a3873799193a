"""The rules of CONTRIBUTING.md that can be counted."""

import ast
from collections import Counter
from pathlib import Path

import sb3_o2o

PACKAGE = Path(sb3_o2o.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


#: RL Zoo's programs have RL Zoo's names.
PROGRAMS = {"zoo/train.py"}


def test_file_names_say_what_is_theirs_without_their_folder() -> None:
    counts = Counter(path.name for path in FILES if path.name != "__init__.py" and relative(path) not in PROGRAMS)
    assert len(counts) > 100
    assert [name for name, count in counts.items() if count > 1] == []


def test_files_can_be_read_in_one_go() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 500} == {}


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All lines but those of the docstring: what a public function takes is described in as many as that needs."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= (function.body[0].end_lineno or 0) - function.body[0].lineno + 1
    return lines


def test_functions_are_short() -> None:
    functions = [
        (f"{relative(path)}: {node.name}", lines_of_code(node))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 1000
    assert [each for each in functions if each[1] > 60] == []
