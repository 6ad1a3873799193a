"""From a recipe to the model that it describes."""

from __future__ import annotations

from typing import Any

from sb3_o2o.algorithms import OfflineToOnlineAlgorithm, algorithm_class
from sb3_o2o.checked import checked
from sb3_o2o.kinds import Environment
from sb3_o2o.recipes.recipe_files import Recipe, environment_id, load_recipe


@checked
def build_model(
    recipe: str | Recipe, env: Environment | None, policy: str | None = None, **overrides: Any
) -> OfflineToOnlineAlgorithm:
    """
    A new model from a recipe.

    :param recipe: a recipe, or its name (then its entry is chosen by the environment's id)
    :param env: environment, or its id
    :param policy: policy alias; default: the recipe's
    :param overrides: constructor arguments that replace or join the recipe's
    :return: the untrained model
    :raises ValueError: unknown recipe or argument
    """
    recipe = load_recipe(recipe, environment_id(env))
    algorithm = algorithm_class(recipe.algorithm)
    algorithm.constructor.check_names(f"argument of {recipe.algorithm}", overrides)
    return algorithm(policy or recipe.policy, env, recipe=recipe, **overrides)


@checked
def check_recipe(recipe: Recipe) -> Recipe:
    """
    See before anything is built that there is an algorithm which takes all that a recipe holds, every value included.

    :param recipe: a recipe
    :return: the same
    :raises ValueError: unknown algorithm or key (the nearest is named), or a value that its argument may not have
    """
    algorithm = algorithm_class(recipe.algorithm)
    algorithm.constructor.of_recipe(algorithm, recipe)
    return recipe
