"""What a grid asks for: datasets times recipes times seeds, read from YAML or given as a dictionary.

::

    datasets:
      - mujoco/hopper/medium-v0
      - {dataset: logs/robot.npz, name: robot, env: "my_package:Robot-v0"}
    recipes:
      - wsrl
      - recipe: wsrl
        name: wsrl-cold
        set: {finetuning.Warmup.steps: 100}
    seeds: [0, 1, 2]
    steps: 50000
    pretrain_steps: 100000
    set: {n_critics: 4}

What stands outside holds for all, what a dataset says wins over that, and what a recipe says over both. The names are
those of the command line's options.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from sb3_o2o.errors import unknown
from sb3_o2o.kinds import FLAG, NOTHING, TEXT, number, whole
from sb3_o2o.recipes import read_yaml
from sb3_o2o.runs.requests import absolute_dataset, absolute_file

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Names that stand for something else in the folder of an experiment.
_TAKEN = ("pretraining", "report")

#: What may stand at the grid, at a dataset and at a recipe.
_OPTIONS = {
    "pretrain_steps": whole(0) | NOTHING,
    **{name: whole(1) | NOTHING for name in ("steps", "n_envs", "eval_episodes", "evaluations", "threads")},
    "checkpoints": whole(0) | NOTHING,
    "device": TEXT | NOTHING,
    "diagnostics": FLAG | NOTHING,
}
#: What may stand at the grid alone.
_OF_GRID = {"bundle_seconds": number(0) | NOTHING}


@dataclass(frozen=True)
class Options:
    """
    What may stand at the grid, at a dataset and at a recipe. None leaves it to the next one, and at last to the recipe.

    :param pretrain_steps: gradient steps on the dataset
    :param steps: environment steps of fine-tuning
    :param n_envs: environments side by side
    :param eval_episodes: episodes of each evaluation
    :param evaluations: evaluations in each phase
    :param checkpoints: checkpoints in each phase
    :param threads: CPU threads of each run
    :param device: torch device
    :param diagnostics: look at Q-values, errors and drift as well
    :param bundle_seconds: between two resume bundles of each run, of the whole grid alone; default: two minutes, and
        for less than a fiftieth of the time
    """

    pretrain_steps: int | None = None
    steps: int | None = None
    n_envs: int | None = None
    eval_episodes: int | None = None
    evaluations: int | None = None
    checkpoints: int | None = None
    threads: int | None = None
    device: str | None = None
    diagnostics: bool | None = None
    bundle_seconds: float | None = None

    def under(self, closer: "Options") -> "Options":
        """
        :param closer: what wins where it says something
        :return: both together
        """
        return Options(**{**vars(self), **{name: value for name, value in vars(closer).items() if value is not None}})


@dataclass(frozen=True)
class Entry:
    """
    A dataset or a recipe of a grid.

    :param name: what it is called in folders, tables and pictures
    :param source: Minari id or path of a dataset, name or path of a recipe; None for an environment without a dataset
    :param env: Gymnasium id, of datasets that do not say it
    :param settings: dotted names of constructor arguments, and their values
    :param options: what else it says
    """

    name: str
    source: str | None
    env: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Grid:
    """
    All that a grid asks for. Make one with :func:`read_grid`.

    :param name: of the experiment, and of its folder
    :param where: its file, for errors
    :param datasets: on which all recipes run
    :param recipes: that run on all datasets
    :param seeds: of each
    :param settings: constructor arguments of all
    :param options: what else holds for all
    :param text: as it was written
    """

    name: str
    where: str
    datasets: Sequence[Entry]
    recipes: Sequence[Entry]
    seeds: Sequence[int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    text: str = field(default="", repr=False)


def read_grid(source: str | Path | Mapping[str, Any], name: str | None = None) -> Grid:
    """
    Read a grid. Paths in a file are relative to that file, or else to the present folder.

    :param source: path of a YAML file, or the same as a dictionary
    :param name: of the experiment; default: the grid's ``name``, else the file's
    :return: the grid
    :raises ValueError: it is none, says something unknown (the nearest is named), or two of its entries or of its runs
        have one name
    """
    if isinstance(source, Mapping):
        document, where, folder = dict(source), "The grid", Path()
        text = yaml.safe_dump(document, sort_keys=False)
    else:
        path = Path(source)
        where, folder = str(path), path.parent
        document, text = _read_file(path)
    document.setdefault("name", None if isinstance(source, Mapping) else Path(source).stem)
    name = name or document.pop("name")
    document.pop("name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}: an experiment needs a name of letters, digits, '.', '_' and '-', not {name!r}.")
    datasets = [_dataset(item, folder, where) for item in _list(document.pop("datasets", None), "datasets", where)]
    recipes = [_recipe(item, folder, where) for item in _list(document.pop("recipes", None), "recipes", where)]
    for kind, entries in (("datasets", datasets), ("recipes", recipes)):
        _check_names(kind, entries, where)
    seeds = _seeds(document.pop("seeds", 1), where)
    _check_run_names(datasets, recipes, seeds[0], where)
    settings = _settings(document.pop("set", None), where)
    options = _options(document, where, ("name", "datasets", "recipes", "seeds", "set"))
    return Grid(name, where, datasets, recipes, seeds, settings, options, text)


def part_of(
    grid: Grid,
    datasets: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Grid:
    """
    A part of a grid, whose runs have the same folders as in the whole.

    :param grid: the whole
    :param datasets: its entries, by their names, or by the dataset that they are of (as the grid says it); None for all
    :param recipes: likewise
    :param seeds: of its seeds; None for all
    :return: the part, in the order of the grid
    :raises ValueError: something is not in the grid; the nearest name is said
    """
    for seed in seeds or ():
        if seed not in grid.seeds:
            raise unknown(f"seed of {grid.where}:", str(seed), [str(each) for each in grid.seeds])
    return replace(
        grid,
        datasets=_asked("dataset", datasets, grid.datasets, grid.where),
        recipes=_asked("recipe", recipes, grid.recipes, grid.where),
        seeds=[each for each in grid.seeds if seeds is None or each in seeds],
    )


def _asked(kind: str, asked: Sequence[str] | None, entries: Sequence[Entry], where: str) -> Sequence[Entry]:
    """Those of the names asked for; a name that no entry has stands for all entries of that source."""
    if asked is None:
        return entries
    names = [entry.name for entry in entries]
    chosen: set[str] = set()
    for name in asked:
        found = {name} if name in names else {entry.name for entry in entries if entry.source == name}
        if not found:
            raise unknown(f"{kind} of {where}:", name, names)
        chosen |= found
    return [entry for entry in entries if entry.name in chosen]


def _read_file(path: Path) -> tuple[dict[str, Any], str]:
    if not path.is_file():
        raise ValueError(f"There is no grid at {str(path)!r}.")
    try:
        text = path.read_text()
        document = read_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a grid: it is not YAML ({error}).") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not a grid: it needs datasets, recipes and seeds.")
    return document, text


def _list(value: Any, key: str, where: str) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"{where}: {key} must be a list of at least one, got {value!r}.")
    return list(value)


def _dataset(item: Any, folder: Path, where: str) -> Entry:
    item = {"dataset": item} if isinstance(item, str) else item
    where = f"{where}, datasets"
    given = _mapping(item, where)
    source, env = given.pop("dataset", None), given.pop("env", None)
    for key, value in (("dataset", source), ("env", env)):
        (TEXT | NOTHING).check(f"{where}: {key}", value)
    if source is None and env is None:
        raise ValueError(f"{where}: each is a Minari id, a path, or a mapping with `dataset` or `env`, not {item!r}.")
    name = given.pop("name", None) or _short_name(source or env, folder)
    source = None if source is None else absolute_dataset(_beside(source, folder))
    return _entry(name, source, env, given, where, ("dataset", "env"))


def _recipe(item: Any, folder: Path, where: str) -> Entry:
    item = {"recipe": item} if isinstance(item, str) else item
    where = f"{where}, recipes"
    given = _mapping(item, where)
    source = given.pop("recipe", None)
    if not isinstance(source, str):
        raise ValueError(f"{where}: each is a recipe's name, a path, or a mapping with `recipe`, not {item!r}.")
    name = given.pop("name", None) or Path(source).stem
    if source.endswith((".yml", ".yaml")):
        source = absolute_file(_beside(source, folder))
    return _entry(name, source, None, given, where, ("recipe",))


def _entry(
    name: Any, source: str | None, env: str | None, given: dict[str, Any], where: str, own: tuple[str, ...]
) -> Entry:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
        raise ValueError(f"{where}: a name has letters, digits, '.', '_' and '-', and is not {name!r}: give a `name`.")
    where = f"{where}, {name}"
    settings = _settings(given.pop("set", None), where)
    return Entry(name, source, env, settings, _options(given, where, (*own, "name", "set")))


def _mapping(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise ValueError(f"{where}: each is a text or a mapping, not {item!r}.")
    return dict(item)


def _beside(name: str, folder: Path) -> str:
    """Relative to the grid's file where there is such a thing."""
    return str(folder / name) if (folder / name).exists() else name


def _short_name(source: str, folder: Path) -> str:
    """
    ``hopper-medium-v0`` of ``mujoco/hopper/medium-v0``, ``robot`` of ``logs/robot.npz``. Files are looked for where
    they are then read from: the runs of a grid have the same folders, wherever it is read.
    """
    path = Path(source.rpartition(":")[2])
    if Path(source).suffix and Path(_beside(source, folder)).exists():
        return path.stem
    return "-".join(path.parts[-2:]) if len(path.parts) > 1 and not path.is_absolute() else path.name


def _check_names(kind: str, entries: Sequence[Entry], where: str) -> None:
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: {names.count(name)} {kind} are called {name!r}: give each a `name` of its own.")


def run_name(dataset: str, recipe: str, seed: int) -> str:
    """
    :param dataset: name of a grid's entry
    :param recipe: likewise
    :param seed: of the run
    :return: name of the run, and of its folder
    """
    return f"{dataset}-{recipe}-s{seed}"


def _check_run_names(datasets: Sequence[Entry], recipes: Sequence[Entry], seed: int, where: str) -> None:
    """Two runs of one name would write into one folder: ``a-b`` with ``c`` and ``a`` with ``b-c``."""
    known: dict[str, str] = {}
    for dataset in datasets:
        for recipe in recipes:
            name, pair = run_name(dataset.name, recipe.name, seed), f"{dataset.name!r} with {recipe.name!r}"
            if name in known:
                raise ValueError(
                    f"{where}: dataset and recipe {known[name]}, and {pair}, would both have runs called {name!r}: "
                    "give one of them another `name`."
                )
            known[name] = pair


def _seeds(value: Any, where: str) -> list[int]:
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else value
    is_whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not is_whole or not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"{where}: seeds must be how many (at least 1), or a list of different whole numbers, got {value!r}."
        )
    return seeds


def _settings(value: Any, where: str) -> dict[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and all(key.split(".")) for key in value):
        raise ValueError(f"{where}: set must be {{argument: value}}, with dots for nested ones, got {value!r}.")
    return dict(value)


def _options(given: Mapping[str, Any], where: str, others: Sequence[str]) -> Options:
    kinds = {**_OPTIONS, **(_OF_GRID if "seeds" in others else {})}
    for name, value in given.items():
        if name not in kinds:
            raise unknown(f"key in {where}:", name, [*kinds, *others])
        kinds[name].check(f"{where}: {name}", value)
    return Options(**given)
