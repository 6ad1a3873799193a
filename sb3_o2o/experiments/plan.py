"""From a grid to its runs: what each is asked for, and which share a pre-training."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sb3_o2o.checked import check_keyword_arguments
from sb3_o2o.data import OfflineDataset
from sb3_o2o.experiments.grid import Entry, Grid, Options, run_name
from sb3_o2o.finetuning import FineTuningCallback
from sb3_o2o.plain.entry_points import checked_environment_id
from sb3_o2o.recipes import Recipe
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig, plain
from sb3_o2o.runs.requests import recipe_and_environment
from sb3_o2o.runs.settings import arguments_over, merged, overrides_of
from sb3_o2o.transfer.architecture import hidden_layers

#: Folder of the pre-training runs, inside that of the experiment.
PRETRAINING = "pretraining"

#: Constructor arguments that pre-training does not use. All others must be equal where a pre-training is shared.
_ONLINE_ONLY = (
    *("online_objective", "online_objective_kwargs", "finetuning", "learning_starts", "buffer_size", "train_freq"),
    *("gradient_steps", "action_noise"),
)


@dataclass(frozen=True)
class PlannedRun:
    """
    One run of an experiment.

    :param name: of its folder, inside that of the experiment
    :param config: what it is asked for
    :param asked: all that decides its numbers, the recipe's constants included, in plain types
    :param dataset: what the grid calls its dataset
    :param recipe: what the grid calls its recipe; of a shared pre-training, all that start from it
    :param needs: name of the pre-training that it starts from
    :param arguments: its constructor's, by its recipe as it is now
    """

    name: str
    config: RunConfig
    asked: Mapping[str, Any]
    dataset: str
    recipe: str
    needs: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """``offline`` of a pre-training, ``online`` of the others."""
        return self.config.last_phase


@dataclass(frozen=True)
class Plan:
    """
    All runs of an experiment, seed by seed, so that one that was stopped has all recipes of the first seeds; of each
    seed the pre-trainings first.

    :param grid: what was asked for
    :param folder: of the experiment
    :param runs: in the order in which they start
    """

    grid: Grid
    folder: Path
    runs: Sequence[PlannedRun]

    def run(self, name: str) -> PlannedRun:
        """
        :param name: of a run
        :return: the run
        """
        return next(run for run in self.runs if run.name == name)

    def sharing(self, name: str) -> list[PlannedRun]:
        """
        :param name: of a pre-training
        :return: the runs that start from it
        """
        return [run for run in self.runs if run.needs == name]


def make_plan(grid: Grid, log_dir: Path) -> Plan:
    """
    Work out the runs of a grid. Writes nothing, and builds no model: :func:`~sb3_o2o.experiments.check.check` does.

    :param grid: what is asked for
    :param log_dir: folder of all experiments
    :return: the runs
    :raises ValueError: a recipe, an environment, an argument or an option that does not exist or may not be so, naming
        the entries of the grid
    """
    folder = (log_dir / grid.name).resolve()
    pretraining: dict[str, PlannedRun] = {}
    finetuning: list[PlannedRun] = []
    for dataset in grid.datasets:
        for recipe in grid.recipes:
            with naming(grid, dataset.name, recipe.name):
                make = _runs_of(grid, folder, dataset, recipe)
                for seed in grid.seeds:
                    before, run = make(seed)
                    if before is not None:
                        known = pretraining.get(before.name, before)
                        shared = before.recipe if known is before else f"{known.recipe}, {before.recipe}"
                        pretraining[before.name] = replace(known, recipe=shared)
                    finetuning.append(run)
    runs = [*pretraining.values(), *finetuning]
    return Plan(grid, folder, sorted(runs, key=lambda run: grid.seeds.index(run.config.seed)))  # sorted keeps the rest


@contextmanager
def naming(grid: Grid, dataset: str, recipe: str) -> Iterator[None]:
    """
    Errors say which of a grid's entries they are about.

    :param grid: the grid
    :param dataset: name of the entry
    :param recipe: likewise
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise ValueError(f"{grid.where}, dataset {dataset!r} with recipe {recipe!r}: {error}") from error


def _runs_of(
    grid: Grid, folder: Path, dataset: Entry, recipe: Entry
) -> Callable[[int], tuple[PlannedRun | None, PlannedRun]]:
    """What makes the runs of one dataset and one recipe: pre-training, where there is one, and fine-tuning."""
    options = grid.options.under(dataset.options).under(recipe.options)
    settings = [item for each in (grid, dataset, recipe) for item in each.settings.items()]
    about_data = [item for item in settings if item[0].split(".")[0] == "dataset_kwargs"]

    def dataset_kwargs(own: Mapping[str, Any]) -> dict[str, Any]:
        asked = {"dataset_kwargs": own}
        found: dict[str, Any] = {**asked, **merged(about_data, asked)}["dataset_kwargs"] or {}
        check_keyword_arguments("dataset argument", OfflineDataset.load, found, skip=("source",))
        return found

    if dataset.env is not None:
        checked_environment_id(dataset.env, grid.where)  # a file has named it
    entry, environment = recipe_and_environment(str(recipe.source), dataset.env, dataset.source, dataset_kwargs)
    overrides = overrides_of(settings, entry.arguments, entry.algorithm, said="set")
    if entry.pretrain_steps == 0 and recipe.options.pretrain_steps is None:
        options = replace(options, pretrain_steps=0)  # what holds for all does not make it pre-train
    config = _config(options, entry, environment, dataset.source, overrides)
    asked = _asked(config, entry)
    before = _pretraining_of(asked, entry) if config.pretrain_steps else None

    def make(seed: int) -> tuple[PlannedRun | None, PlannedRun]:
        name = run_name(dataset.name, recipe.name, seed)
        seeded = replace(config, seed=seed, pretrain_steps=0)
        own = arguments_over(entry, overrides)
        run = PlannedRun(name, seeded, {**asked, "seed": seed}, dataset.name, recipe.name, arguments=own)
        if before is None:
            return None, run
        objective = asked["arguments"].get("objective", "default")
        name = f"{PRETRAINING}/{dataset.name}-{objective}-{_digest(before)}-s{seed}"
        first = replace(config, command="pretrain", seed=seed, online_steps=0, n_envs=1, eval_freq=None)
        source = str(folder / name / "offline" / "model.zip")
        # pretrain_kwargs have had their time
        later = {key: value for key, value in overrides.items() if key != "pretrain_kwargs"}
        return (
            PlannedRun(name, first, {**before, "seed": seed}, dataset.name, recipe.name, arguments=own),
            replace(
                run,
                config=replace(seeded, source=source, overrides=later),
                needs=name,
                arguments=arguments_over(entry, later),
            ),
        )

    return make


def _config(
    options: Options, entry: Recipe, environment: Environment, dataset: str | None, overrides: Mapping[str, Any]
) -> RunConfig:
    """As the command line's ``finetune`` makes it, but for what differs between seeds."""
    steps, episodes = options.steps, options.eval_episodes or entry.n_eval_episodes
    given: dict[str, Any] = {
        "n_eval_episodes": episodes,
        "n_evaluations": options.evaluations,
        "n_checkpoints": options.checkpoints,
        "threads": options.threads,
        "device": options.device,
        "diagnostics": options.diagnostics,
    }
    config = RunConfig(
        command="finetune",
        environment=environment,
        recipe=entry.reference,
        dataset=dataset,
        overrides=overrides,
        pretrain_steps=entry.pretrain_steps if options.pretrain_steps is None else options.pretrain_steps,
        online_steps=entry.online_steps if steps is None else steps,
        n_envs=options.n_envs or entry.n_envs,
        eval_freq=entry.eval_freq if options.evaluations is None else None,
        **{name: value for name, value in given.items() if value is not None},
    )
    if config.online_steps < 1:
        raise ValueError("steps must be at least 1: each run of a grid fine-tunes.")
    return config


def _asked(config: RunConfig, entry: Recipe) -> dict[str, Any]:
    """What decides a run's numbers, without its seed."""
    asked = asdict(config)
    for name in ("command", "recipe", "source", "overrides", "threads", "seed"):
        del asked[name]
    arguments = arguments_over(entry, config.overrides)
    return plain({"algorithm": entry.algorithm, **asked, "arguments": arguments})


def _pretraining_of(asked: Mapping[str, Any], entry: Recipe) -> dict[str, Any]:
    """The part of it that decides the numbers of pre-training."""
    arguments = _arguments_of_pretraining(asked["arguments"])
    left_out = set(_ONLINE_ONLY)
    if _any_hears_offline_updates(arguments.get("finetuning")):
        left_out.remove("finetuning")
    same = ("algorithm", "environment", "dataset", "pretrain_steps", "device")
    return {
        **{name: asked[name] for name in same},
        "policy": entry.policy,
        "arguments": {name: value for name, value in arguments.items() if name not in left_out},
    }


def _arguments_of_pretraining(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """With ``pretrain_kwargs`` in the places of what they are the other value of."""
    found = dict(arguments)
    apart = dict(found.pop("pretrain_kwargs", None) or {})
    if "policy_kwargs" in apart:  # layers of the critics: the actor's stay
        networks = dict(found.get("policy_kwargs") or {})
        of_actor = hidden_layers(networks.get("net_arch"), "pi")
        apart["policy_kwargs"] = {**networks, "net_arch": {"pi": of_actor, **apart["policy_kwargs"]["net_arch"]}}
    return {**found, **apart}


def _any_hears_offline_updates(finetuning: Any) -> bool:
    names = [each if isinstance(each, str) else next(iter(each), "") for each in finetuning or ()]
    found = [FineTuningCallback.registry.get(name) for name in names]
    return any(each is None or each.hears_offline_updates for each in found)


def _digest(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:6]
