"""From what a user names to what a run is asked for: whole paths, the recipe's entry, the environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_o2o.recipes import Recipe, open_recipe
from sb3_o2o.recipes.building import check_recipe
from sb3_o2o.runs.environments import Environment, check_registered, environment_of, with_recipe


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
    return str(Path(name).resolve()) if Path(name).exists() else name


def recipe_and_environment(
    recipe: str,
    env_id: str | None,
    dataset: str | None,
    dataset_kwargs: Mapping[str, Any] | None = None,
    known: Environment | None = None,
) -> tuple[Recipe, Environment]:
    """
    The recipe's entry and the environment: what the user named, else the source run's, else the dataset's.

    :param recipe: name or path
    :param env_id: Gymnasium id that the user named
    :param dataset: Minari id or path
    :param dataset_kwargs: arguments of ``OfflineDataset.load``
    :param known: the source run's environment
    :return: both, checked
    :raises ValueError: nothing names an environment, or the recipe does not fit its algorithm
    """
    opened = open_recipe(recipe)  # a wrong name is said before a dataset is searched
    if known is not None:
        return check_recipe(opened.entry(known.id)), known
    recorded = None if dataset is None else environment_of(dataset, dataset_kwargs)
    if env_id is not None:
        check_registered(env_id)
        environment = recorded if recorded is not None and recorded.id == env_id else Environment(env_id)
    elif recorded is not None:
        environment = recorded
    else:
        raise ValueError(f"{dataset or 'The saved model'} does not say which environment it is for: add --env.")
    entry = check_recipe(opened.entry(environment.id))
    return entry, with_recipe(environment, entry.env_kwargs, entry.env_wrapper)
