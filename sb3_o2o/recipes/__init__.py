"""
Recipes: named bundles of constructor arguments, one YAML file each. :mod:`~sb3_o2o.recipes.building` makes models of
them.
"""

from sb3_o2o.recipes.recipe_files import (
    EVALUATION_KEYS,
    RUN_KEYS,
    PlainLoader,
    Recipe,
    RecipeFile,
    environment_id,
    list_recipes,
    load_recipe,
    open_recipe,
    read_yaml,
    recipe_folder,
)

__all__ = [
    "EVALUATION_KEYS",
    "RUN_KEYS",
    "PlainLoader",
    "Recipe",
    "RecipeFile",
    "environment_id",
    "list_recipes",
    "load_recipe",
    "open_recipe",
    "read_yaml",
    "recipe_folder",
]
