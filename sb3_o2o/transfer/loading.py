"""Saved models, opened."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr

from sb3_o2o.errors import NonFiniteError
from sb3_o2o.networks.normalizer import has_statistics
from sb3_o2o.objectives.overlay import left_behind, replaced_objectives
from sb3_o2o.plain.allowlist import UntrustedError, is_trusted, safe_global
from sb3_o2o.recipes.recipe_files import environment_id, load_recipe
from sb3_o2o.transfer.architecture import NETWORK_ARGUMENTS
from sb3_o2o.transfer.archive import saved_family, saved_model_path
from sb3_o2o.transfer.model_file import VARIABLES, attributes_as_json, for_stock_load, path_name
from sb3_o2o.transfer.options import check_load
from sb3_o2o.transfer.seeing import restore_normalizer
from sb3_o2o.transfer.temperature import change_ent_coef
from sb3_o2o.updates import pretraining
from sb3_o2o.updates.trained import refuse_not_finite

#: the modules that arguments name
_OBJECTIVES = {"objective": "offline_objective", "online_objective": "finetuning_objective"}


def load(
    algorithm: Any, load_stock: Callable[..., Any], path: Any, env: Any, device: th.device | str, kwargs: dict[str, Any]
) -> Any:
    """
    See ``load`` of the algorithms.

    :param algorithm: class of the model
    :param load_stock: Stable-Baselines3's ``load`` of it
    :param path: a zip, with or without the ending, or a file-like object
    :param env: the environment to go on in, or its id
    :param device: where the networks live
    :param kwargs: further arguments of ``load``, and constructor arguments to change
    :return: the model
    """
    of_load = ("custom_objects", "print_system_info", "force_reset", "allow_nonfinite", "trust")
    options = {name: kwargs[name] for name in of_load if name in kwargs}
    check_load(algorithm, {"path": path, "env": env, "device": device, **options})
    path, allow_nonfinite = saved_model_path(path) or path, kwargs.pop("allow_nonfinite", False)
    trust = kwargs.pop("trust", False)
    _check_family(algorithm, path)
    given = {name: value for name, value in kwargs.items() if name not in of_load}
    algorithm.constructor.check_names(f"argument of {algorithm.__name__}", given)
    if "pretrain_kwargs" in given:
        raise ValueError("pretrain_kwargs are applied when a model is built: give load the arguments themselves.")
    given = algorithm.constructor.accepted(algorithm, given)
    saved = attributes_as_json(path)
    algorithm.constructor.refuse_said_twice(algorithm, given, saved.get("policy_kwargs"))
    kwargs.update(given)
    if algorithm.counted_argument in given:
        kwargs["recipe_count"] = None
    env = maybe_make_env(env, verbose=0)
    if given.get("recipe") is not None:
        recipe = load_recipe(given["recipe"], environment_id(env))
        kwargs.update(recipe=recipe.reference, recipe_pretrain_steps=recipe.pretrain_steps)
    replaced = {name: value for name, value in kwargs.items() if name not in (*of_load, "policy_kwargs")}
    replaced.update(kwargs.pop("custom_objects", None) or {})
    # the weights of the file fit its own: what is asked for is set afterwards
    kwargs.pop("ent_coef", None)
    plain, attributes = _read(algorithm, path, saved, replaced, trust)
    if not is_trusted(trust):
        _check_names(path, {name: value for name, value in attributes.items() if name not in given})
    kwargs.update(left_behind(algorithm, saved, replaced))
    try:
        model = load_stock(plain, env=env, device=device, custom_objects=attributes, **kwargs)
    except (KeyError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        _explain(error, path, given)
        raise
    if model._get_torch_save_params()[1] and VARIABLES not in zipfile.ZipFile(plain).namelist():
        raise ValueError(f"{path_name(path)} is damaged: it has no {VARIABLES}, which holds the temperature.")
    pretraining.leave(model)  # a checkpoint from the middle of it
    if replaced.get("ent_coef") is not None and hasattr(model, "fix_ent_coef"):
        change_ent_coef(model, replaced["ent_coef"])
    for name in {*given, *replaced}:
        model.online_arguments.pop(name, None)  # holds in both phases from now on
    # of what to_sb3 made, stock attributes say nothing; of others, they know of statistics that change nothing
    model.has_statistics = bool(attributes.get("has_statistics")) or has_statistics(model.policy)
    restore_normalizer(model)
    if not allow_nonfinite:
        refuse_not_finite(
            model,
            f"{path_name(path)} was saved after training had failed",
            "Go on from an earlier checkpoint; load(path, allow_nonfinite=True) opens it as it is, and "
            "load_offline(path, load_critic=False), or load_actor=False, takes over a part that is finite.",
        )
    return model


def _explain(error: Exception, path: Any, given: dict[str, Any]) -> None:
    """
    :param error: of Stable-Baselines3's ``load`` or of torch, which know no name of a file
    :param path: of the model
    :param given: arguments that the caller changes
    :raises Exception: that says what is wrong, where that is known
    """
    stumbled = isinstance(error, KeyError) and isinstance(error.__context__, ValueError)
    if stumbled:  # SB3 takes any ValueError for a model of an older version
        error = error.__context__  # type: ignore[assignment]
    text = str(error) or type(error).__name__
    if isinstance(error, RuntimeError) and ("size mismatch" in text or "in state_dict" in text):
        asked = ", ".join(f"{name}={given[name]!r}" for name in given if name in NETWORK_ARGUMENTS)
        raise ValueError(
            f"The saved networks have other shapes than asked for{f' by {asked}' if asked else ''}: {error}"
        ) from error
    if isinstance(error, EOFError | pickle.UnpicklingError):  # torch's text advises to run the file's code
        raise ValueError(
            f"{path_name(path)} is damaged: its weights cannot be read, or are more than tensors."
        ) from error
    if "Names of parameters do not match" in text:
        raise ValueError(f"{path_name(path)} is damaged, or of another version: {text}.") from error
    if stumbled:
        raise error from None


def _read(
    algorithm: Any, path: Any, saved: dict[str, Any], replaced: dict[str, Any], trust: bool
) -> tuple[io.BytesIO, dict[str, Any]]:
    """For Stable-Baselines3: weights, without those of other objectives than are asked for, and attributes."""
    names = replaced_objectives(algorithm, saved, replaced)
    # what another objective has learned is not this one's, whatever its shape
    others = [_OBJECTIVES[name] for name in names]
    of_file = {name: value for name, value in replaced.items() if name != "ent_coef"}
    return for_stock_load(path, of_file, trust, others)


def _check_family(algorithm: Any, path: Any) -> None:
    family = saved_family(path)
    if family != algorithm.stock_class.__name__:
        what = "no model that can be recognised" if family == "unknown" else f"a {family} model"
        raise ValueError(
            f"{path_name(path)} holds {what}, not a "
            f"{algorithm.stock_class.__name__} model. {algorithm.__name__}.load_offline takes over policies of other "
            "families."
        )


def _check_names(path: Any, attributes: dict[str, Any]) -> None:
    """An objective of one's own is saved by its name, and imported by that."""
    for attribute in ("objective", "online_objective"):
        name = attributes.get(attribute)
        if isinstance(name, str) and "." in name:
            try:
                safe_global(*name.rpartition(".")[::2])
            except UntrustedError as error:
                raise error.within(f"{path_name(path)}, its {attribute!r},") from None


def set_parameters_of_file(model: Any, path: Any, exact_match: bool, device: th.device | str) -> None:
    """
    See ``set_parameters`` of the algorithms.

    :param model: whose parameters are set
    :param path: a zip of a model, ours or stock
    :param exact_match: every parameter must be there
    :param device: where the networks live
    :raises NonFiniteError: if it holds NaN or infinity; nothing has changed then
    """
    parameters = load_from_zip_file(path, load_data=False, device=device)[1]
    before, had_statistics = copy.deepcopy(model.get_parameters()), model.has_statistics
    model.set_parameters(parameters, exact_match=exact_match, device=device)
    try:
        refuse_not_finite(
            model,
            f"Not loaded from {path_name(path)}",
            "load(path, allow_nonfinite=True) opens it as it is.",
        )
    except NonFiniteError:
        model.set_parameters(before, exact_match=True, device=device)
        model.has_statistics = had_statistics
        raise


def match_objectives(model: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """
    An objective that is new to a saved model starts afresh; one that is gone is left behind.

    :param model: about to be given parameters
    :param parameters: by name
    :return: the parameters that it expects
    """
    expected = model._get_torch_save_params()[0]
    is_objective = [name for name in {*expected, *parameters} if name.split(".")[0].endswith("_objective")]
    matched = {name: value for name, value in parameters.items() if name not in is_objective or name in expected}
    for name in is_objective:
        if name in expected and name not in parameters:
            attribute = recursive_getattr(model, name)
            matched[name] = attribute.state_dict()
    return matched
