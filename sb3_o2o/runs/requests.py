"""From what a user names to what a run is asked for: whole paths, the recipe's entry, the environment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th

from sb3_o2o.algorithms import O2OPPO, O2OSAC, O2OTD3, algorithm_of
from sb3_o2o.data.formats.reading import READING_OPTIONS
from sb3_o2o.data.sources import check_there
from sb3_o2o.errors import warn
from sb3_o2o.recipes import Recipe, RecipeFile, open_recipe
from sb3_o2o.recipes.building import check_recipe
from sb3_o2o.runs.environments import (
    Environment,
    check_registered,
    environment_of,
    import_named,
    named_environment,
    with_recipe,
)
from sb3_o2o.runs.folder import RunConfig, RunFolder, run_of, saved_model


def absolute_file(name: str) -> str:
    """
    :param name: of something that may be a file
    :return: a file's whole path, so that a run can go on from another folder; other names as they are
    """
    return str(Path(name).resolve()) if Path(name).is_file() else name


def absolute_dataset(name: str) -> str:
    """
    :param name: of a dataset, which may also be a folder
    :return: likewise
    """
    return str(Path(name).resolve()) if name.strip() and Path(name).exists() else name


def own_recipe(source: str | None) -> str:
    """
    What is run where nobody names a recipe: this library's own.

    :param source: what fine-tuning starts from, a run or a saved model; None for a dataset alone, or nothing
    :return: name of the recipe
    """
    opened_by = None if source is None else algorithm_of(saved_model(source))
    return "o2o_sac" if opened_by is None else {O2OSAC: "o2o_sac", O2OTD3: "o2o", O2OPPO: "o2ppo"}[opened_by]


def check_device(device: str) -> None:
    """
    Refuse a GPU that is not there: Stable-Baselines3 would take the CPU and say nothing.

    :param device: torch's name of it, or ``auto``
    :raises ValueError: this PyTorch finds none
    """
    if device.split(":")[0] == "cuda" and not th.cuda.is_available():
        raise ValueError(f"--device {device}: this PyTorch finds no GPU. Use --device cpu, or install a CUDA build.")


@dataclass(frozen=True)
class Origin:
    """
    What fine-tuning starts from.

    :param model: whole path of a saved model; None for a new one
    :param folder: the run that it lies in, None if in none
    :param config: that run's
    """

    model: str | None = None
    folder: RunFolder | None = None
    config: RunConfig | None = None

    @classmethod
    def of(cls, source: str | None) -> "Origin":
        if source is None:
            return cls()
        model, folder = absolute_file(saved_model(source)), run_of(source)
        return cls(model, folder, None if folder is None else folder.read_config())

    @property
    def dataset(self) -> str | None:
        return None if self.config is None else self.config.dataset

    @property
    def environment(self) -> Environment | None:
        return None if self.config is None else self.config.environment

    @property
    def whole_run(self) -> RunFolder | None:
        """The run, if its evaluations lead to the model: not to a checkpoint from its middle."""
        last = None if self.folder is None else self.folder.model
        return self.folder if last is not None and str(last.resolve()) == self.model else None

    def how_to_read(self) -> dict[str, Any]:
        """Arguments that the run read its dataset with, without those about what was then done with it."""
        given = {} if self.config is None else self.config.dataset_kwargs
        return {name: given[name] for name in READING_OPTIONS if name in given}


def recipe_and_environment(
    recipe: str,
    env_id: str | None,
    dataset: str | None,
    dataset_kwargs: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    known: Environment | None = None,
) -> tuple[Recipe, Environment]:
    """
    The recipe's entry and the environment: what the user named, else the source run's, else the dataset's. A source
    run's is taken as it is, with a warning where the recipe would have made it otherwise.

    :param recipe: name or path
    :param env_id: Gymnasium id that the user named
    :param dataset: Minari id or path
    :param dataset_kwargs: gives the arguments of ``OfflineDataset.load`` for those that the recipe has
    :param known: the source run's environment
    :return: both, checked
    :raises FileNotFoundError: nothing names an environment, and there is no such dataset
    :raises ValueError: nothing names an environment, or the recipe does not fit its algorithm
    """
    opened = open_recipe(recipe)  # a wrong name is said before a dataset is searched
    reading = dataset_kwargs(_own_dataset_kwargs(opened, known.id if known is not None else env_id))
    if known is not None:
        entry = check_recipe(opened.entry(known.id))
        _warn_of_another_environment(entry, known)
        return entry, known
    if env_id is not None:
        import_named(env_id)  # which may register what the dataset names
    recorded = None if dataset is None else environment_of(dataset, reading)
    if env_id is not None:
        check_registered(env_id)
        environment = named_environment(env_id, recorded)
    elif recorded is not None:
        environment = recorded
    else:
        if dataset is not None:
            check_there(dataset)
        raise ValueError(f"{dataset or 'The saved model'} does not say which environment it is for: add --env.")
    entry = check_recipe(opened.entry(environment.id))
    return entry, with_recipe(environment, entry.env_kwargs, entry.env_wrapper)


def _warn_of_another_environment(recipe: Recipe, known: Environment) -> None:
    """A policy goes on where it was trained; who wants the recipe's environment names it."""
    kwargs = {name: known.kwargs.get(name) for name in recipe.env_kwargs}
    differing = []
    if kwargs != dict(recipe.env_kwargs):
        differing.append(f"env_kwargs {dict(recipe.env_kwargs)}, where the run has {dict(known.kwargs)}")
    if any(wrapper not in known.wrappers for wrapper in recipe.env_wrapper):
        differing.append(f"env_wrapper {list(recipe.env_wrapper)}, where the run has {list(known.wrappers)}")
    if differing:
        warn(
            f"Recipe {recipe.reference!r} asks for {', and for '.join(differing)}. The environment stays the run's: "
            f"add --env {known.id} for the recipe's.",
        )


def _own_dataset_kwargs(recipe: RecipeFile, env_id: str | None) -> Mapping[str, Any]:
    """What a recipe says about its dataset; the entry ``default`` does where the dataset has yet to name its own."""
    if env_id is None and "default" not in recipe.document:
        return {}
    return recipe.entry(env_id).arguments.get("dataset_kwargs") or {}
