"""What an installation holds. Nothing is built here: the configuration is compared with the tree."""

import configparser
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import sb3_o2o
from sb3_o2o.recipes import recipe_files as recipes
from sb3_o2o.version import __version__

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS = PYPROJECT["tool"]


def test_every_package_is_listed() -> None:
    on_disk = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "sb3_o2o").rglob("__init__.py")}
    assert on_disk | {"sb3_o2o.hyperparams"} == set(TOOLS["setuptools"]["packages"])


def test_data_files_are_covered() -> None:
    globs = TOOLS["setuptools"]["package-data"]
    for package, patterns in globs.items():
        folder = ROOT / TOOLS["setuptools"]["package-dir"].get(package, package.replace(".", "/"))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: {pattern}"
    others = [path for path in (ROOT / "sb3_o2o").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {path.name for path in others} <= {"py.typed", *(path.name for path in others if path.suffix == ".npz")}


def test_recipes_are_found_in_a_wheel_and_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipes.recipe_folder() == ROOT / "hyperparams"
    installed = tmp_path / "site-packages" / "sb3_o2o"
    shutil.copytree(ROOT / "hyperparams", installed / "hyperparams")
    monkeypatch.setattr(recipes, "__file__", str(installed / "recipes" / "recipe_files.py"))
    assert recipes.recipe_folder() == installed / "hyperparams"
    assert recipes.load_recipe("wsrl").reference == "wsrl"
    shutil.rmtree(installed / "hyperparams")
    with pytest.raises(FileNotFoundError, match="recipes are missing from this installation"):
        recipes.list_recipes()


def test_one_version() -> None:
    assert sb3_o2o.__version__ == __version__
    assert TOOLS["setuptools"]["dynamic"]["version"]["attr"] == "sb3_o2o.version.__version__"
    assert f"## Release {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_tool_is_configured_twice() -> None:
    classic = configparser.ConfigParser()
    classic.read(ROOT / "setup.cfg")
    in_setup_cfg = {section.removeprefix("tool:").split(":")[0].split("-")[0] for section in classic.sections()}
    assert in_setup_cfg == {"pytest", "mypy", "coverage"}
    assert not in_setup_cfg & set(TOOLS)


def test_the_console_script_exists() -> None:
    from sb3_o2o.cli import app

    assert PYPROJECT["project"]["scripts"] == {"sb3-o2o": "sb3_o2o.__main__:main"}
    assert callable(app)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_its_targets() -> None:
    output = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"], capture_output=True, text=True, check=True
    )
    for target in ("demo", "bench-peers", "test", "lint", "format", "clean"):
        assert f"make {target} " in output.stdout


def test_heavy_imports_wait() -> None:
    """The modules of the command line import neither torch nor Stable-Baselines3 by themselves."""
    for path in (ROOT / "sb3_o2o" / "cli").glob("*.py"):
        if path.name in ("run_progress.py", "experiment_display.py"):  # imported inside the commands
            continue
        top_level = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        for line in top_level:
            module = line.split()[1]
            assert not module.startswith(("torch", "stable_baselines3", "numpy", "gymnasium")), f"{path.name}: {line}"
            if module.startswith("sb3_o2o"):
                assert module.startswith(("sb3_o2o.cli", "sb3_o2o.version", "sb3_o2o.errors")), f"{path.name}: {line}"
