"""What a study leaves: the best trial as a recipe, all of them as a table."""

from __future__ import annotations

import copy
import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

from sb3_o2o.checked import checked
from sb3_o2o.files import write_whole
from sb3_o2o.runs.settings import arguments_over
from sb3_o2o.tuning.configuration import TuningConfig, TuningTask, plain_types
from sb3_o2o.tuning.searched import overrides_of_trial, values_of
from sb3_o2o.version import __version__


@checked
def write_best_recipe(study: optuna.Study, config: TuningConfig, path: str | os.PathLike[str]) -> Path:
    """
    Write the best trial as a recipe: what was tuned, and all else as it was in every trial. ``finetune --recipe`` takes
    it, and so does whatever else takes a recipe.

    :param study: with a trial that ended by itself
    :param config: that it was made with
    :param path: of the file, ending in ``.yml``
    :return: the same
    :raises ValueError: no trial ended by itself yet
    """
    trial, recipe = study.best_trial, config.recipe
    values = values_of(trial.params, config.space)
    tasks = {task.recipe.pattern: task for task in config.tasks} if config.also else {}
    tasks = {"default": config.tasks[0], **tasks}
    where = ", ".join(dict.fromkeys(task.environment.id for task in config.tasks))
    about = {
        "title": f"{recipe.title}, tuned",
        "algorithm": recipe.algorithm,
        "description": f"Recipe {recipe.reference!r} for {where} after a study of "
        f"{len(study.get_trials(deepcopy=False))} trials.",
        "sources": dict(recipe.sources),
        "notes": list(recipe.notes),
        "tuned": {
            "study": study.study_name,
            "trial": trial.number,
            "value": trial.value,
            "value_is": f"{config.metric} evaluation, mean over {'tasks and ' if config.also else ''}seeds "
            f"{list(config.seeds)}",
            "environment": where,
            "dataset": config.dataset if not config.also else [task.dataset for task in config.tasks],
            "sb3_o2o": __version__,
            "hyperparameters": values,
        },
    }
    document: dict[str, Any] = {"about": about}
    document |= {pattern: _entry(task, config, values) for pattern, task in tasks.items()}
    evaluation = {pattern: _evaluation(task, config) for pattern, task in tasks.items()}
    if any(evaluation.values()):
        document["evaluation"] = evaluation
    text = yaml.dump(
        copy.deepcopy(plain_types(document)), Dumper=_RecipeDumper, sort_keys=False, allow_unicode=True, width=110
    )
    head = f"# Made by `sb3-o2o tune`: trial {trial.number} of study {study.study_name!r}. Keys as in RL Zoo.\n"
    write_whole(path, head + text)
    return Path(path)


def _entry(task: TuningTask, config: TuningConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the file: the task's own with what was tuned."""
    recipe, sizes = task.recipe, config.sizes(task)
    run: dict[str, Any] = {
        "policy": recipe.policy,
        "n_timesteps": sizes.online_steps,
        "pretrain_steps": sizes.pretrain_steps,
        "n_envs": sizes.n_envs,
        "env_kwargs": dict(recipe.env_kwargs),
        "env_wrapper": list(recipe.env_wrapper),
    }
    arguments = arguments_over(recipe, overrides_of_trial(values, recipe, task.overrides))
    return {key: value for key, value in run.items() if value not in ({}, [])} | arguments


def _evaluation(task: TuningTask, config: TuningConfig) -> dict[str, int]:
    """What RL Zoo takes as options: where the algorithm depends on evaluations, those that every trial had."""
    recipe, run = task.recipe, config.counted_run(task)
    found: dict[str, int] = {}
    if recipe.eval_freq:
        every = run.n_envs * run.calls_between_evaluations("online")
        found["eval_freq"] = (run.eval_freq or every) if run.online_steps else recipe.eval_freq
    if recipe.n_eval_episodes:
        found["n_eval_episodes"] = run.n_eval_episodes
    return found


class _RecipeDumper(yaml.SafeDumper):
    """As the recipes are written: lists of numbers and arguments of a callback on one line, sentences on their own."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, not any(isinstance(each, str | dict) for each in sequence))

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        is_short = len(str(mapping)) < 60 and not any(isinstance(each, dict | str) for each in mapping.values())
        return super().represent_mapping(tag, mapping, is_short)


@checked
def trials_table(study: optuna.Study) -> str:
    """
    :param study: the study
    :return: CSV, one row a trial: number, state, value, reason, seconds, folder, the seeds' values, hyper-parameters
    """
    trials = study.get_trials(deepcopy=False)
    names = sorted({name for each in trials for name in each.params})
    places = sorted({place for each in trials for place in each.intermediate_values})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    about = ["reason", "seconds", "folder"]
    writer.writerow(["trial", "state", "value", *about, *(f"run_{place}" for place in places), *names])
    for each in trials:
        # Optuna gives a pruned trial what its last run was worth, which is no mean over its runs
        value = each.value if each.state is TrialState.COMPLETE else None
        of_trial = [each.number, each.state.name.lower(), value, *(each.user_attrs.get(name) for name in about)]
        writer.writerow([*of_trial, *map(each.intermediate_values.get, places), *map(each.params.get, names)])
    return file.getvalue()
