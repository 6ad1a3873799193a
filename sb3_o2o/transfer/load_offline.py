"""Weights in and out: stock Stable-Baselines3 models, saved models, datasets and foreign policies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv

from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.sources import check_there
from sb3_o2o.finetuning.callback import FineTuningCallback, exported_actor
from sb3_o2o.objectives.overlay import left_behind, over
from sb3_o2o.recipes.counts import recipe_count
from sb3_o2o.recipes.recipe_files import Recipe
from sb3_o2o.transfer.acting import has_predict
from sb3_o2o.transfer.architecture import (
    CRITIC_ARGUMENTS,
    NETWORK_ARGUMENTS,
    Kept,
    critics_differ,
    mixed_network_arguments,
    warn_about_networks,
)
from sb3_o2o.transfer.archive import saved_family, saved_model_path
from sb3_o2o.transfer.cloning import from_policy
from sb3_o2o.transfer.ensembles import are_agents, merged
from sb3_o2o.transfer.foreign import (
    VALUE_ARGUMENTS,
    open_saved,
    recover_environment,
    to_memory,
    unknown_family,
)
from sb3_o2o.transfer.model_file import attributes_as_json
from sb3_o2o.transfer.models import build, cut_ensemble, read_recipe, ready_to_finetune
from sb3_o2o.transfer.options import check_options
from sb3_o2o.transfer.renewal import forget_moments, hand_over, kept_networks, renew
from sb3_o2o.transfer.seeing import Seen, saved_model_sees
from sb3_o2o.transfer.spaces import saved_model_fits
from sb3_o2o.transfer.temperature import check_start, own_temperature, settle_temperature
from sb3_o2o.updates import pretraining
from sb3_o2o.updates.containers import own_containers

#: what belongs to the offline phase that a saved model has behind it
OFFLINE_ARGUMENTS = ("objective", "objective_kwargs", "pretrain_steps", "pretrain_kwargs", "learning_starts")
#: what is no part of a method: a recipe that does not name it leaves it alone
_RUN_ARGUMENTS = (
    *("policy", "env", "recipe", "seed", "device", "verbose", "tensorboard_log", "stats_window_size"),
    *("use_sde", "sde_sample_freq", "use_sde_at_warmup", "action_noise", "dataset", "dataset_kwargs"),
    *("compile", "precision", "on_nonfinite", "_init_setup_model"),
)


#: options of ``load_offline`` that say how networks are taken over, or trained here
_TRAINING = (
    *("pretrain_steps", "progress_bar", "load_actor", "load_critic", "load_optimizer", "start_ent_coef", "clone_std"),
    *("clone_loss", "report_episodes", "trust"),
)


def load_offline(algorithm: Any, source: Any, env: GymEnv | str | None, options: Mapping[str, Any]) -> Any:
    """
    See ``load_offline`` of the algorithms.

    :param algorithm: the class
    :param source: what to start from
    :param env: the online environment
    :param options: every other argument by its name, constructor arguments among them
    """
    given = dict(options)
    training = {name: given.pop(name) for name in _TRAINING}
    policy, recipe, device = (given.pop(name) for name in ("policy", "recipe", "device"))
    custom_objects, vec_normalize = given.pop("custom_objects"), given.pop("vec_normalize")
    for name in ("objective", "finetuning", "dataset"):
        if given[name] is None:
            del given[name]
    trust = training["trust"]
    if are_agents(source):
        source = merged(algorithm, source, custom_objects, trust)
    algorithm.constructor.check_names(f"argument of {algorithm.__name__}", given)
    given = algorithm.constructor.accepted(algorithm, given)
    of_constructor = {"policy": policy, "env": env, "recipe": recipe, "device": device}
    others = {"source": source, "custom_objects": custom_objects, "vec_normalize": vec_normalize}
    check_options(algorithm, of_constructor, {**training, **others})
    check_start(algorithm, training["start_ent_coef"], given.get("ent_coef"))
    given["device"] = device
    if env is None and isinstance(source, BaseAlgorithm):
        env = source.get_env()
    here: Any = None if env is None else algorithm._wrap_env(maybe_make_env(env, verbose=0), verbose=0)
    path: Any = saved_model_path(source)
    is_policy = path is not None or has_predict(source)
    is_policy = is_policy or (callable(source) and not isinstance(source, OfflineDataset))
    if given.get("pretrain_kwargs") and is_policy:
        raise ValueError("pretrain_kwargs say how to pre-train on a dataset, and this source is a policy.")
    family = "" if path is None else saved_family(path)
    if isinstance(source, algorithm.stock_class):
        path, family, trust = to_memory(source), algorithm.stock_class.__name__, True
    if family == "unknown":
        raise unknown_family(path)
    training["seen"] = Seen.by(source, path, here, vec_normalize, custom_objects, trust)
    fits, objects = True, custom_objects or {}
    if path is not None and here is not None:
        fits, objects = saved_model_fits(path, family, here, objects, trust)
    if family == algorithm.stock_class.__name__ and fits:
        alike = saved_model_sees(family, here, training, given.get("verbose", 0))
        if alike is not None or here is None:
            opening = {"custom_objects": objects, "trust": trust}
            return _from_saved(algorithm, path, alike, recipe, given, training, opening)
    if path is not None:
        source = open_saved(family, path, custom_objects, trust)
    if is_policy:
        return from_policy(algorithm, source, here, policy, recipe, given, training)
    return _from_dataset(algorithm, source, here, policy, recipe, given, training)


def _from_saved(
    algorithm: Any,
    path: Any,
    env: Any,
    recipe: str | Recipe | None,
    given: dict[str, Any],
    training: dict[str, Any],
    opening: dict[str, Any],
) -> Any:
    """A zip of ours or of the stock class: what was trained and is kept wins over the recipe."""
    device = given.pop("device")
    recipe, from_recipe = read_recipe(algorithm, recipe, env)
    saved, apart = attributes_as_json(path), from_recipe.get("pretrain_kwargs") or {}
    kept = kept_networks(training, from_recipe, given, saved.get("finished_phases") or ())
    model = None
    if not kept.both or saved.get("online_arguments") or not CRITIC_ARGUMENTS.isdisjoint(apart):
        model = algorithm.load(path, env=env, device=device, **opening, allow_nonfinite=True)
        if recipe is None:  # saved with the arguments of pre-training in place, and these beside them
            from_recipe, apart = model.online_arguments, model.pretrain_kwargs or {}
    # what a recipe leaves out is the constructor's default, not what an earlier recipe left in the zip
    defaults = {} if recipe is None else method_defaults(algorithm)
    if training["load_critic"] is None and kept.both and not CRITIC_ARGUMENTS.isdisjoint(apart):
        # pre-training has critics of its own, and those of fine-tuning may be others
        of_user = {name: given[name] for name in apart if name in given}
        anew = mixed_network_arguments(model, from_recipe, of_user, defaults, Kept(critic=False))
        kept = Kept(critic=not critics_differ(model, anew))
    trained = (*NETWORK_ARGUMENTS, *(VALUE_ARGUMENTS if kept.critic else ()))
    # what was learned travels with the model; the temperature is settled below
    left_out = {*trained, *OFFLINE_ARGUMENTS, *algorithm.weights.learned_arguments, "policy"}
    settings = {name: value for name, value in {**defaults, **from_recipe}.items() if name not in left_out}
    of_model = (*NETWORK_ARGUMENTS, *algorithm.weights.learned_arguments)
    settings = over(algorithm, settings, {name: value for name, value in given.items() if name not in of_model})
    if model is None:
        settings.update({} if recipe is None else {"recipe": recipe})
        settings["allow_nonfinite"] = True  # what is kept is looked at in the end
        model = algorithm.load(path, env=env, device=device, **opening, **settings)
        temperature = own_temperature(model)
    else:
        if recipe is not None:
            settings.update(recipe=recipe.reference, recipe_pretrain_steps=recipe.pretrain_steps)
        settings.update(left_behind(algorithm, vars(model), settings))
        settings.update(mixed_network_arguments(model, from_recipe, given, defaults, kept))
        temperature = own_temperature(model)
        _renew_saved(model, own_containers(settings), kept)
    counted = algorithm.counted_argument
    if recipe is not None or counted in given:
        model.recipe_count = recipe_count(recipe, counted, from_recipe, defaults.get(counted), given)
    otherwise, start = from_recipe.get("ent_coef"), training["start_ent_coef"]
    settle_temperature(model, temperature, start=start, given=given.get("ent_coef"), otherwise=otherwise)
    if kept.critic and hasattr(model.policy, "critic_target"):
        cut_ensemble(model, given.get("n_critics"), from_recipe.get("n_critics"), recipe)
    wanted = {name: from_recipe[name] for name in trained if name in from_recipe and name not in given}
    wanted.update({name: given[name] for name in of_model if name in given})
    warn_about_networks(model, wanted, None if recipe is None else recipe.reference)
    if kept.actor and _has_another_act(saved):
        # seed=None: the model has been seeded by now
        opened = algorithm.load(path, device=device, seed=None, **opening, allow_nonfinite=True)
        _begin_with_who_acts(model, opened)
    if not training["load_optimizer"]:
        forget_moments(model)
    return ready_to_finetune(model, given, kept)


def _has_another_act(saved: Mapping[str, Any]) -> bool:
    """Whether a callback of a saved model may have another policy act for users than the one that learns."""
    registry = FineTuningCallback.registry
    names = (each["class"]["name"].rpartition(":")[2] for each in saved.get("finetuning") or () if "class" in each)
    return any(registry[name].exports_another_actor() for name in names if name in registry)


def _begin_with_who_acts(model: Any, saved: Any) -> None:
    """A run from a model begins with the policy that its users know: its champion, not the one that learned."""
    exported = exported_actor(saved)
    if exported is None:
        return
    model.actor.load_state_dict(exported.state_dict())
    model.actor.optimizer.state.clear()
    model.copy_to_targets(critics=False)


def _renew_saved(model: Any, settings: dict[str, Any], kept: Kept) -> None:
    """Set a model that was just loaded up with other arguments, and make anew what is not kept."""
    model.online_arguments = {}
    if hasattr(model, "replay_buffer"):
        model.replay_buffer = None  # none of its own data yet, and the arguments say what it is like
    renew(model, settings, kept, model._setup_model)
    if not kept.both:
        model.phase_steps, model.finished_phases = {}, []  # what was made of one part went with it


def _from_dataset(
    algorithm: Any,
    source: Any,
    env: Any,
    policy: str | None,
    recipe: str | Recipe | None,
    given: dict[str, Any],
    training: dict[str, Any],
) -> Any:
    """Pre-train here."""
    if isinstance(source, (str, os.PathLike)):  # which may be meant as a saved model's, and is not there
        check_there(str(source))
    if env is None:
        env = recover_environment(source, training["trust"])
    recipe, _ = read_recipe(algorithm, recipe, env)
    seen: Seen = training["seen"]
    if seen.is_known:
        given_env = algorithm._wrap_env(env, verbose=0)
        env = seen.give_to(given_env, given.get("verbose", 0))
        seen.warn_of_wrapping(given_env, env)
    model = build(algorithm, env, policy, recipe, {"dataset": source, **given})
    steps = training["pretrain_steps"] or pretraining.default_steps(model)
    if not steps:
        raise ValueError(f"load_offline({source!r}) pre-trains on a dataset: say how long with pretrain_steps=….")
    model.pretrain(source, steps, progress_bar=training["progress_bar"])
    actor, critic = training["load_actor"], training["load_critic"]
    kept = None if actor and critic is None else Kept(actor, critic is not False)
    hand_over(model, kept, training["start_ent_coef"])
    if not training["load_optimizer"]:
        forget_moments(model)
    return ready_to_finetune(model, given, Kept(actor=actor))


def method_defaults(algorithm: Any) -> dict[str, Any]:
    """
    :param algorithm: the class
    :return: what a recipe resets where it leaves it out: the constructor's arguments that belong to a method
    """
    kept = (*_RUN_ARGUMENTS, *algorithm.weights.learned_arguments)
    return {name: value for name, value in algorithm.constructor.defaults.items() if name not in kept}
