"""What users read names nothing that is private: neither errors and warnings, nor any other sentence of the package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_tasks import make, vec

import sb3_o2o
from sb3_o2o import O2OSAC
from sb3_o2o.errors import unknown

PACKAGE = Path(sb3_o2o.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: a private name by itself or behind a dot; not a part of a file's name, nor Python's own names with two underlines
PRIVATE = re.compile(r"(?<![\w/-])_(?!_)\w+|\.\s?_(?!_)\w+")
#: private names of other packages that a message must spell
OTHERS = {"_codecs.encode"}
SPEAKING = ("Error", "Exception", "Warning", "warn", "unknown", "BadParameter")


def messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The texts in calls that make errors or warnings, wherever these are made, and all other sentences."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node).endswith(SPEAKING):
            yield from texts(node)
        elif isinstance(node, ast.Constant) and " " in str(node.value) and id(node) not in documentation:
            yield node.lineno, str(node.value)


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.lineno, each.value


@pytest.mark.parametrize(
    ("code", "is_private"),
    [
        ('raise ValueError("Call _setup_model first.")', True),
        ('raise ValueError(f"{name}: see self._last_obs")', True),
        ('warnings.warn("model._n_updates is 0")', True),
        ('def reason():\n    return "it has no _n_updates yet"', True),
        ('"""Uses _n_updates."""', False),
        ('raise ValueError("Call set_env(env) first, in runs/model_1.")', False),
        ('raise ValueError("__init__ takes no arguments.")', False),
        ('raise ValueError(f"{self._name} is wrong.")', False),  # the value is told, not the name
    ],
)
def test_the_search_itself(code: str, is_private: bool) -> None:
    found = [match for _, text in messages(ast.parse(code)) for match in PRIVATE.findall(text)]
    assert bool(found) is is_private


def test_no_message_names_what_is_private() -> None:
    found, n_messages = [], 0
    for path in FILES:
        for line, text in messages(ast.parse(path.read_text())):
            n_messages += 1
            if PRIVATE.search(text) and text not in OTHERS:
                found.append(f"{path.relative_to(PACKAGE)}:{line}: {text}")
    assert n_messages > 500
    assert found == []


def test_private_names_are_no_suggestion() -> None:
    assert str(unknown("argument", "hidden", ["_hidden", "shown"])) == "Unknown argument 'hidden'. Available: shown."
    with pytest.raises(TypeError, match="init_setup_model") as caught:
        O2OSAC("MlpPolicy", "Pendulum-v1", init_setup_model=False)
    assert not PRIVATE.search(str(caught.value))


def test_warnings_are_of_the_users_line(tmp_path: Path) -> None:
    """However many functions of ours, of Stable-Baselines3's and decorators lie between."""
    make(policy_kwargs={"net_arch": [8]}).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="What was trained wins") as caught:
        O2OSAC.load_offline(tmp_path / "model", vec(), recipe="wsrl", device="cpu")
    assert {each.filename for each in caught} == {__file__}


def test_no_level_is_counted_by_hand() -> None:
    calls = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    }
    assert calls == {"errors.py"}
