"""Options beside ``--resume``: those that say what the run says are welcome, the others are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sb3_o2o.cli.set_options import parse_settings, shown

if TYPE_CHECKING:
    from sb3_o2o.runs.folder import RunConfig, RunFolder

#: Options that are called otherwise in :class:`RunConfig`.
_FIELDS = {
    "gradient_steps": "pretrain_steps",
    "steps": "online_steps",
    "eval_episodes": "n_eval_episodes",
    "evaluations": "n_evaluations",
    "checkpoints": "n_checkpoints",
}


def refuse_contradictions(ctx: typer.Context, config: "RunConfig", folder: "RunFolder") -> None:
    """
    Refuse options that ask for another run than the one that goes on.

    :param ctx: the command's, which knows what was typed
    :param config: the run's configuration
    :param folder: the run's folder
    :raises ValueError: naming each such option, the run's value and the given one
    """
    found: list[str] = []
    for option, name, value in _given(ctx):
        if name == "settings":
            found += _settings_that_differ(value, config, folder)
        elif name not in ("resume", "trust"):
            run_value, given = _values(name, value, config, folder)
            if given != run_value:
                found.append(_sentence(option, run_value, given))
    if found:
        raise ValueError(
            f"The run in {str(folder.path)!r} goes on as it began: {'; '.join(found)}. "
            "Leave that out, or start a new run."
        )


def _given(ctx: typer.Context) -> list[tuple[str, str, Any]]:
    """What was typed: how a user calls it, the parameter's name and its value."""
    return [
        (parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.opts[0].upper(), name, ctx.params[name])
        for parameter in ctx.command.params
        if (name := parameter.name) and getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]


def _values(name: str, given: Any, config: "RunConfig", folder: "RunFolder") -> tuple[Any, Any]:
    """The run's value of an option and the given one, both in the same spelling."""
    from stable_baselines3.common.utils import get_device

    from sb3_o2o.runs.folder import saved_model
    from sb3_o2o.runs.requests import absolute_dataset

    if name == "env":
        return config.environment.id, given
    if name == "log_dir":
        same = given.resolve() == folder.path.resolve().parent
        return str(folder.path.parent), str(folder.path.parent if same else given)
    if name == "source":
        here = " ".join([config.source or "none", *config.more_sources])
        return here, " ".join(str(Path(saved_model(each)).resolve()) for each in given)
    if name == "recipe":  # a file may be gone by now
        return config.recipe, str(Path(given).resolve()) if given.endswith((".yml", ".yaml")) else given
    if name == "dataset":
        return config.dataset, absolute_dataset(given)
    if name == "device":
        same = get_device(given) == get_device(config.device)
        return config.device, config.device if same else given
    if name == "evaluations" and config.eval_freq is not None:
        return f"one every {config.eval_freq:,} steps", given
    if name in ("warmup", "n_critics", "n_actions"):  # the demo's, which stand for constructor arguments
        return _demo_values(config)[name], given
    return getattr(config, _FIELDS.get(name, name)), given


def _demo_values(config: "RunConfig") -> dict[str, Any]:
    overrides = config.overrides
    return {
        "warmup": overrides["finetuning"][0]["Warmup"]["steps"],
        "n_critics": overrides["n_critics"],
        "n_actions": overrides["objective_kwargs"]["n_actions"],
    }


def _settings_that_differ(settings: list[str], config: "RunConfig", folder: "RunFolder") -> list[str]:
    """Those of ``--set`` under which the constructor's arguments would be others."""
    from sb3_o2o.algorithms import algorithm_class

    algorithm, arguments = _known(config, folder)
    before = {**algorithm_class(algorithm).constructor.defaults, **arguments}
    found = []
    for setting in settings:
        after = {**before, **parse_settings([setting], arguments, algorithm)}
        name = setting.partition("=")[0]
        root = name.split(".")[0]
        if after[root] != before[root]:
            found.append(_sentence(f"--set {name}", _inside(before[root], name), _inside(after[root], name)))
    return found


def _known(config: "RunConfig", folder: "RunFolder") -> tuple[str, dict[str, Any]]:
    """
    Algorithm and constructor arguments: those that the run has, whatever became of its recipe's file; without a bundle
    it begins again, by the recipe as it is now.
    """
    from sb3_o2o.recipes import load_recipe
    from sb3_o2o.resume import newest_bundle
    from sb3_o2o.runs.settings import arguments_over

    bundle = newest_bundle(folder.resume_bundle)
    if bundle is not None and config.arguments is not None:
        return bundle[1].algorithm, {**config.arguments, **config.overrides}
    if config.recipe is None:
        return "O2OSAC", dict(config.overrides)
    entry = load_recipe(config.recipe, config.environment.id)
    return entry.algorithm, arguments_over(entry, config.overrides)


def _inside(value: Any, name: str) -> Any:
    """What a dotted name leads to."""
    for part in name.split(".")[1:]:
        if isinstance(value, list | tuple):
            value = {key: item[key] for item in value if isinstance(item, Mapping) for key in item}
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _sentence(option: str, run_value: Any, given: Any) -> str:
    return f"{option} is {shown(run_value)} there, not {shown(given)}"
