"""Models that transfers build, and make ready."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.preprocessing import is_image_space

from sb3_o2o.errors import warn
from sb3_o2o.recipes.recipe_files import Recipe, environment_id, load_recipe
from sb3_o2o.transfer.architecture import Kept
from sb3_o2o.transfer.renewal import keep_critics
from sb3_o2o.updates.phases import PRETRAINING
from sb3_o2o.updates.trained import refuse_not_finite


def build(algorithm: Any, env: Any, policy: str | None, recipe: Recipe | None, given: dict[str, Any]) -> Any:
    env = maybe_make_env(env, verbose=0)
    return algorithm(policy or policy_for(env.observation_space), env, recipe=recipe, **given)  # type: ignore[call-arg]


def policy_for(observation_space: spaces.Space[Any]) -> str:
    """
    The policy alias for an observation space, as Stable-Baselines3 names them.

    :param observation_space: the environment's
    :return: ``MultiInputPolicy`` for dictionaries, ``CnnPolicy`` for images, ``MlpPolicy`` for vectors
    """
    if isinstance(observation_space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(observation_space) else "MlpPolicy"


def policy_like(source: Any, algorithm: Any) -> str | None:
    """
    :param source: a policy of any kind
    :param algorithm: the class of the model that takes it over
    :return: the alias of the source's policy, where the model has one of the same name; else None
    """
    aliases = dict(getattr(source, "policy_aliases", {}))
    # the one for vectors comes first, and the others derive from it
    found = (name for name in reversed(aliases) if isinstance(source.policy, aliases[name]))
    return next((name for name in found if name in algorithm.policy_aliases), None)


def read_recipe(algorithm: Any, recipe: str | Recipe | None, env: Any) -> tuple[Recipe | None, dict[str, Any]]:
    """:return: the recipe for an environment, and its arguments for this class"""
    if recipe is None:
        return None, {}
    recipe = load_recipe(recipe, environment_id(env))
    return recipe, algorithm.constructor.of_recipe(algorithm, recipe)


def cut_ensemble(model: Any, given: int | None, wanted: int | None, recipe: Recipe | None) -> None:
    """What the user asks for has to be there; a recipe takes what there is, and says what it leaves."""
    trained = model.n_critics
    if given is not None and given != trained:
        keep_critics(model, given)
    elif given is None and wanted is not None and wanted < trained:
        keep_critics(model, wanted)
        assert recipe is not None  # who else would want them
        warn(
            f"Recipe {recipe.reference!r} has {wanted} critics: the first {wanted} of the {trained} trained ones "
            f"go on. n_critics={trained} keeps all.",
        )


def ready_to_finetune(model: Any, given: dict[str, Any], kept: Kept) -> Any:
    """A pre-trained policy acts by itself from the first step, whatever ``learning_starts`` the source had."""
    if model.pretrain_kwargs:
        model.pretrain_kwargs = None  # they have had their time
    if kept.actor:
        model.policy_was_given = True
        model.act_from_the_first_step()
    if "learning_starts" in given:
        model.learning_starts = given["learning_starts"]
    model.num_timesteps = model._total_timesteps = 0
    model.begin_new_run()
    if model.phase != PRETRAINING:
        model.phase = None
    refuse_not_finite(
        model,
        "What load_offline takes over is not finite",
        "Start from an earlier checkpoint, or leave out the part that failed: load_critic=False, or load_actor=False.",
    )
    return model
