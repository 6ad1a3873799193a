"""Recipes: named bundles of constructor arguments, one YAML file each, one entry for each kind of environment.

A recipe is data. Its file has RL Zoo's keys (``n_timesteps``, ``policy``, ``env_wrapper`` and the constructor's own
arguments), an ``about`` block, a ``default`` entry and entries for patterns of environment ids. Where evaluations are
part of the algorithm, an ``evaluation`` block says how often they come, for each entry. Adding an environment, or a
recipe of one's own (any path that ends in ``.yml``), takes no code.

A file is read once, where the user named it; from there on the :class:`Recipe` travels. Nothing here knows an
algorithm: the constructor that is given a recipe checks that it takes its keys.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml

from sb3_o2o.checked import checked
from sb3_o2o.errors import unknown
from sb3_o2o.kinds import ENVIRONMENT_OR_ID, NOTHING

#: Keys of an entry that speak to whoever runs the algorithm; all others are constructor arguments.
RUN_KEYS = ("policy", "n_timesteps", "n_envs", "pretrain_steps", "env_kwargs", "env_wrapper")
#: Keys of an entry of the block ``evaluation``, which stands outside the entries proper: RL Zoo hands all keys of those
#: that it does not know to the constructor.
EVALUATION_KEYS = ("eval_freq", "n_eval_episodes")
_RESERVED = ("about", "default", "evaluation")
#: parameters of a constructor that no recipe may hold
_NOT_IN_RECIPES = {"self", "env", "recipe", "_init_setup_model"}


class PlainLoader(yaml.SafeLoader):
    """YAML's plain types, with ``1e-4`` read as the number it is (YAML 1.1 wants a dot in it)."""


class _QuickLoader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """The same by C code where PyYAML has it, in a sixth of the time."""


for _loader in (PlainLoader, _QuickLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


@checked
def read_yaml(text: str) -> Any:
    """
    What a file of plain YAML holds, as :class:`PlainLoader` reads it.

    :param text: of the file
    :return: YAML's plain types
    :raises yaml.YAMLError: it is not YAML; the place is shown
    """
    try:
        return yaml.load(text, Loader=_QuickLoader)
    except yaml.YAMLError:  # the error of the C code does not show the line
        return yaml.load(text, Loader=PlainLoader)


@dataclass(frozen=True)
class Recipe:
    """
    One recipe, resolved for one environment.

    :param name: name of the file, without ``.yml``
    :param path: the file
    :param pattern: the entry that was chosen: a pattern of environment ids, or ``default``
    :param algorithm: name of the class that ``arguments`` are for
    :param title: one line
    :param description: a few sentences
    :param sources: what the constants' comments refer to: label -> reference
    :param notes: where this library knowingly differs from the source
    :param policy: policy alias, such as ``MlpPolicy``
    :param arguments: keyword arguments of the constructor, plain types
    :param pretrain_steps: gradient steps on the dataset before fine-tuning
    :param online_steps: environment steps of fine-tuning
    :param n_envs: parallel environments
    :param env_kwargs: keyword arguments for the environment
    :param env_wrapper: wrappers as RL Zoo spells them: dotted names, or one-entry dictionaries with keyword arguments
    :param eval_freq: environment steps between two evaluations of fine-tuning, where the algorithm depends on them
    :param n_eval_episodes: episodes of each evaluation, likewise
    :param text: of the file
    """

    name: str
    path: Path
    pattern: str
    algorithm: str
    title: str
    description: str
    sources: Mapping[str, str]
    notes: Sequence[str]
    policy: str
    arguments: Mapping[str, Any]
    pretrain_steps: int
    online_steps: int
    n_envs: int = 1
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    env_wrapper: Sequence[str | Mapping[str, Any]] = ()
    eval_freq: int | None = None
    n_eval_episodes: int | None = None
    text: str = field(default="", repr=False)

    @cached_property
    def comments(self) -> Mapping[str, str]:
        """What the file says beside each constant: dotted key -> text."""
        return _comments(self.text, self.pattern)

    @property
    def reference(self) -> str:
        """What :func:`load_recipe` finds this recipe by."""
        return self.name if self.path.parent == recipe_folder() else str(self.path)

    @checked
    def arguments_for(self, algorithm: str, accepted: Iterable[str]) -> dict[str, Any]:
        """
        The constructor arguments, for the class that will take them.

        :param algorithm: its name
        :param accepted: names of its constructor's parameters
        :return: keyword arguments, plain types, a fresh copy
        :raises ValueError: for another algorithm's recipe, or a key that the constructor does not take, naming the
            nearest
        """
        if self.algorithm != algorithm:
            raise ValueError(f"Recipe {self.reference!r} is for {self.algorithm}, not for {algorithm}.")
        known = {*RUN_KEYS, *accepted} - _NOT_IN_RECIPES
        for key in self.arguments:
            if key not in known:
                raise unknown(f"key of entry {self.pattern!r} in {self.path}:", key, known)
        return copy.deepcopy(dict(self.arguments))

    def flat_constants(self) -> dict[str, Any]:
        """All constants of the entry by dotted key, in the file's order: what ``sb3-o2o recipes show`` prints."""
        run_values: dict[str, Any] = {
            "policy": self.policy,
            "n_timesteps": self.online_steps,
            "pretrain_steps": self.pretrain_steps,
            "n_envs": self.n_envs if self.n_envs != 1 else None,
            "env_kwargs": dict(self.env_kwargs) or None,
            "env_wrapper": list(self.env_wrapper) or None,
            "eval_freq": self.eval_freq,
            "n_eval_episodes": self.n_eval_episodes,
        }
        constants = {key: value for key, value in run_values.items() if value is not None}
        return _flatten({**constants, **self.arguments})


def recipe_folder() -> Path:
    """
    The folder of the recipes that come with this library.

    :return: inside the package when it is installed from a wheel, beside it in a source checkout
    :raises FileNotFoundError: the installation lacks them
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "hyperparams", package.parent / "hyperparams"):
        if (folder / "wsrl.yml").is_file():
            return folder
    raise FileNotFoundError(f"The recipes are missing from this installation (looked beside {package}). Install again.")


def list_recipes() -> list[str]:
    """Names of the recipes that come with this library, sorted."""
    return sorted(path.stem for path in recipe_folder().glob("*.yml"))


@dataclass(frozen=True)
class RecipeFile:
    """
    A recipe's file, of which no entry is chosen yet. Make one with :func:`open_recipe`.

    :param path: the file
    :param text: what it holds
    :param document: the same, parsed
    """

    path: Path
    text: str
    document: Mapping[str, Any]

    @checked
    def entry(self, env_id: str | None = None) -> Recipe:
        """
        Choose the entry for an environment: the longest pattern that matches, else ``default``.

        :param env_id: Gymnasium id with its version, such as ``Hopper-v5``, with its module (``module:id``) or without;
            None for the default entry
        :return: the recipe
        :raises ValueError: if there is no such entry, or a key stands in the wrong place or holds something else
        """
        path, document = self.path, self.document
        about = document.get("about") or {}
        pattern = _choose(document, env_id, path)
        arguments = copy.deepcopy(document[pattern])
        run = {key: arguments.pop(key) for key in RUN_KEYS if key in arguments}
        _check_places(arguments, pattern, path)
        evaluation = _evaluation(document, pattern, path)
        wrappers = run.get("env_wrapper") or []
        return Recipe(
            name=path.stem,
            path=path,
            pattern=pattern,
            algorithm=about.get("algorithm", "O2OSAC"),
            title=about.get("title", path.stem),
            description=about.get("description", ""),
            sources=about.get("sources") or {},
            notes=about.get("notes") or [],
            policy=run.get("policy", "MlpPolicy"),
            arguments=arguments,
            pretrain_steps=_count(run, "pretrain_steps", 0, path),
            online_steps=_count(run, "n_timesteps", 0, path),
            n_envs=_count(run, "n_envs", 1, path),
            env_kwargs=run.get("env_kwargs") or {},
            env_wrapper=[wrappers] if isinstance(wrappers, str | dict) else wrappers,
            text=self.text,
            **{key: _count(evaluation, key, 1, path, least=1) for key in evaluation},
        )


@checked
def open_recipe(name: str) -> RecipeFile:
    """
    Read a recipe's file.

    :param name: one of :func:`list_recipes`, or the path of a file of your own, ending in ``.yml``
    :return: the file
    :raises ValueError: unknown name (the nearest is named), or a file that is not a recipe
    """
    path = _recipe_path(name)
    try:
        text = path.read_text()
        document = read_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a recipe: it is not YAML ({error}).") from error
    if not isinstance(document, dict) or not any(isinstance(value, dict) for value in document.values()):
        raise ValueError(f"{path} is not a recipe: it needs an entry `default`, or one for each environment.")
    return RecipeFile(path, text, document)


@checked
def load_recipe(recipe: str | Recipe, env_id: str | None = None) -> Recipe:
    """
    Read a recipe and choose its entry for an environment, see :meth:`RecipeFile.entry`.

    :param recipe: one of :func:`list_recipes`, or the path of a file of your own, ending in ``.yml``; a recipe that has
        been read is given back as it is
    :param env_id: Gymnasium id with its version, such as ``Hopper-v5``; None for the default entry
    :return: the recipe
    :raises ValueError: unknown name (the nearest is named), or a file that is not a recipe
    """
    return recipe if isinstance(recipe, Recipe) else open_recipe(recipe).entry(env_id)


@checked
def environment_id(env: Annotated[Any, ENVIRONMENT_OR_ID | NOTHING]) -> str | None:
    """
    The Gymnasium id of an environment.

    :param env: an id, a Gymnasium environment, or a vectorised one of Stable-Baselines3
    :return: the id, or None where the environment was not made by ``gymnasium.make``
    """
    if env is None or isinstance(env, str):
        return env
    spec = getattr(env, "spec", None)
    if spec is None and hasattr(env, "get_attr"):
        spec = env.get_attr("spec")[0]
    return None if spec is None else spec.id


# ------------------------------------------------------------------------------------------------------- reading


def _recipe_path(name: str) -> Path:
    if name.endswith((".yml", ".yaml")):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"There is no recipe file {name!r}.")
        return path
    path = recipe_folder() / f"{name}.yml"
    if name not in list_recipes():
        raise unknown("recipe", name, list_recipes())
    return path


def _choose(document: Mapping[str, Any], env_id: str | None, path: Path) -> str:
    """The entry for an environment, named with its module or without. The longest pattern is the most specific one."""
    names = {env_id, env_id.rpartition(":")[2]} if env_id else ()
    patterns = [key for key in document if key not in _RESERVED and any(fnmatchcase(name, key) for name in names)]
    chosen = max(patterns, key=len, default="default")
    if chosen not in document:
        raise ValueError(
            f"{path} has no entry for {env_id!r} and no `default`; it has: {', '.join(_entries(document))}."
        )
    if not isinstance(document[chosen], dict):
        raise ValueError(f"Entry {chosen!r} of {path} must hold arguments, got {document[chosen]!r}.")
    return chosen


def _entries(document: Mapping[str, Any]) -> list[str]:
    return [key for key in document if key == "default" or key not in _RESERVED]


def _check_places(arguments: dict[str, Any], pattern: str, path: Path) -> None:
    """:raises ValueError: if an entry holds what belongs into the block ``evaluation``"""
    for key in EVALUATION_KEYS:
        if key in arguments:
            raise ValueError(
                f"{key} of entry {pattern!r} in {path} belongs outside: evaluation: {{{pattern!r}: {{{key}: …}}}}."
            )


def _evaluation(document: Mapping[str, Any], pattern: str, path: Path) -> dict[str, Any]:
    """What the block ``evaluation`` says for an entry, else for ``default``."""
    block = document.get("evaluation") or {}
    if not isinstance(block, dict) or not all(isinstance(constants, dict) for constants in block.values()):
        raise ValueError(f"evaluation in {path} must be written as {{entry: {{eval_freq: steps}}}}, got {block!r}.")
    for entry, constants in block.items():
        if entry not in _entries(document):
            raise unknown(f"entry of evaluation in {path}:", entry, _entries(document))
        for key in constants:
            if key not in EVALUATION_KEYS:
                raise unknown(f"key of evaluation in {path}:", key, EVALUATION_KEYS)
    chosen: dict[str, Any] = block[pattern] if pattern in block else block.get("default") or {}
    return chosen


def _count(run: dict[str, Any], key: str, default: int, path: Path, least: int = 0) -> int:
    value = run.get(key, default)
    # RL Zoo's files write 1e6, a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or value < least or not float(value).is_integer():
        raise ValueError(f"{key} in {path} must be a whole number, at least {least}, got {value!r}.")
    return int(value)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested constants by dotted key; a list of callbacks or wrappers reads like a dictionary of them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Sequence) and any(isinstance(item, Mapping) for item in value):
            value = {name: options for item in value for name, options in _named(item).items()}
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _named(item: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return item if isinstance(item, Mapping) else {item: {}}


def _comments(text: str, pattern: str) -> dict[str, str]:
    """The comment at the end of each constant's line, by dotted key; entries merged by ``<<`` bring theirs along."""
    lines = text.splitlines()
    root = yaml.compose(text, Loader=_QuickLoader)
    found: dict[str, str] = {}

    def comment(line: int) -> str:
        # A token-wise scan would be exact; no value of a recipe holds " #", which a test checks.
        return lines[line].partition(" #")[2].strip()

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                walk(item, prefix)
            return
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            if key.value == "<<":
                walk(value, prefix)
                continue
            path = f"{prefix}{key.value}"
            # What an entry says itself replaces what it merged, nested constants included.
            for name in [name for name in found if name == path or name.startswith(f"{path}.")]:
                del found[name]
            text_beside = comment(key.start_mark.line)
            if text_beside:
                found[path] = text_beside
            walk(value, f"{path}.")

    blocks = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    if pattern in blocks:
        walk(blocks[pattern], "")
    if isinstance(blocks.get("evaluation"), yaml.MappingNode):
        constants = {key.value: value for key, value in blocks["evaluation"].value}
        walk(constants.get(pattern, constants.get("default")), "")
    return found
