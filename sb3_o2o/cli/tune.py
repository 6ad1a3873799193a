"""``sb3-o2o tune``."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sb3_o2o.cli.console import bold, console, next_command, stop
from sb3_o2o.cli.set_options import dataset_settings, parse_settings
from sb3_o2o.cli.shared_options import Device, NEnvs, Settings, Threads, Trust, trusting_as_here
from sb3_o2o.cli.train import EnvOption, PretrainSteps, RecipeOption

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sb3_o2o.tuning import TuningConfig, TuningTask

#: Where studies go unless said otherwise.
DEFAULT_TUNING_DIR = Path("tuning")

Tuned = Annotated[
    list[str] | None,
    typer.Option(
        "--tune",
        metavar="NAME[=SPACE]",
        help="What to tune, once for each: a name or a pattern of what the recipe's parts declare "
        "('finetuning.*', learning_rate), or a name with a space of your own, a list of options or a range: "
        "n_critics='[2, 5, 10]', gamma='{low: 0.95, high: 0.999}' (with log: true). Default: all that is declared. "
        "`--dry-run` shows it.",
    ),
]
Datasets = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        help="Dataset to pre-train on, and for recipes that keep using it. Several, once for each: a trial is the mean "
        "of the normalised scores on all of them, each in its own environment.",
    ),
]
Trials = Annotated[int, typer.Option("--trials", help="Trials of the study, those of all workers together.", min=1)]
Seeds = Annotated[int, typer.Option("--seeds", help="Seeds of each trial: 0, 1, …", min=1)]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", help="Environment steps of fine-tuning; 0 tunes pre-training. Default: the recipe's.", min=0
    ),
]
Evaluations = Annotated[
    int | None,
    typer.Option(
        "--evaluations",
        help="Of each run, which may be pruned at each. Default: as often online as the recipe says (eval_freq), "
        "else 10.",
        min=1,
    ),
]
Study = Annotated[str | None, typer.Option("--study", help="Name of the study. Default: recipe and environment.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Where the study lies, for workers on several machines: a file ending in .db (SQLite) or .log (Optuna's "
        "journal), the URL of a database, or grpc://HOST:PORT. Default: study.db in the study's folder.",
    ),
]
Metric = Annotated[
    str,
    typer.Option(
        help="What a run is worth: its `last` evaluation, the mean of the `last5`, or the `mean` of all (high where "
        "learning is fast). A trial is the mean over its runs."
    ),
]
Sampler = Annotated[
    str, typer.Option(help="What chooses: tpe, random, gp, cmaes, qmc, or hub:samplers/NAME of OptunaHub.")
]
Pruner = Annotated[
    str | None,
    typer.Option(
        help="What ends a trial between two runs: median, halving, wilcoxon (5 runs or more), none. Default: median; "
        "with several datasets wilcoxon where there are runs enough, else none."
    ),
]


def tune(
    recipe: RecipeOption = "wsrl",
    dataset: Datasets = None,
    env: EnvOption = None,
    tune: Tuned = None,
    trials: Trials = 50,
    seeds: Seeds = 3,
    steps: Steps = None,
    pretrain_steps: PretrainSteps = None,
    settings: Settings = None,
    n_envs: NEnvs = None,
    metric: Metric = "last",
    eval_episodes: Annotated[int | None, typer.Option("--eval-episodes", help="Of each evaluation.", min=1)] = None,
    evaluations: Evaluations = None,
    sampler: Sampler = "tpe",
    startup_trials: Annotated[int, typer.Option(help="Before the sampler learns from others.", min=1)] = 10,
    pruner: Pruner = None,
    prune_runs: Annotated[bool, typer.Option(help="End runs inside a seed as well.")] = True,
    study: Study = None,
    storage: Storage = None,
    seed: Annotated[int, typer.Option(help="Of the sampler.", min=0)] = 0,
    device: Device = "auto",
    threads: Threads = None,
    log_dir: Annotated[Path, typer.Option("--log-dir", help="Folder of all studies.")] = DEFAULT_TUNING_DIR,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be tuned, and stop.")] = False,
    trust: Trust = False,
) -> None:
    """Find better constants for a recipe.

    `sb3-o2o tune --recipe wsrl --dataset mujoco/hopper/medium-v0 --tune 'finetuning.*' --trials 50 --seeds 3`

    The same command again, here or on another machine, works on the same study. Trials that differ only in
    fine-tuning share the pre-trained models. The best becomes `best.yml`, a recipe.
    """
    sizes = _Sizes(steps, pretrain_steps, n_envs, seeds, eval_episodes, evaluations)
    config = _config(recipe, dataset, env, tune, settings, sizes, metric, device)
    _show_space(config)
    if dry_run:
        return
    name = study or "-".join([config.recipe.name, *_environments(config)]).replace("/", "-")
    _run(
        config,
        log_dir / name,
        trials,
        name=name,
        storage=storage,
        sampler=sampler,
        pruner=pruner,
        prune_runs=prune_runs,
        seed=seed,
        n_startup_trials=startup_trials,
        threads=threads,
    )


class _Sizes(NamedTuple):
    """What is counted of a study; None for the recipe's own."""

    steps: int | None
    pretrain_steps: int | None
    n_envs: int | None
    seeds: int
    eval_episodes: int | None
    evaluations: int | None


def _config(
    recipe: str,
    datasets: list[str] | None,
    env: str | None,
    tuned: list[str] | None,
    settings: list[str] | None,
    sizes: _Sizes,
    metric: str,
    device: str,
) -> "TuningConfig":
    from sb3_o2o.tuning import TuningConfig, declared_space, select_space

    if not datasets and env is None:
        raise typer.BadParameter("give a --dataset or an --env", param_hint="--dataset")
    tasks = [_task(recipe, each, env, settings, sizes) for each in (datasets if datasets else (None,))]
    spaces = [
        select_space(declared_space(task.recipe, task.overrides), _chosen(tuned), task.recipe, task.overrides)
        for task in tasks
    ]
    space = {name: search for name, search in spaces[0].items() if all(search == each.get(name) for each in spaces)}
    if not space:
        raise ValueError("Nothing can be tuned on all of these datasets: the recipe's entries declare other things.")
    first, *also = tasks
    return TuningConfig(
        recipe=first.recipe,
        environment=first.environment,
        space=space,
        dataset=first.dataset,
        overrides=first.overrides,
        pretrain_steps=sizes.pretrain_steps,
        online_steps=sizes.steps,
        n_envs=sizes.n_envs,
        seeds=tuple(range(sizes.seeds)),
        metric=metric,
        n_eval_episodes=sizes.eval_episodes,
        n_evaluations=sizes.evaluations,
        device=device,
        also=also,
    )


def _task(recipe: str, dataset: str | None, env: str | None, settings: list[str] | None, sizes: _Sizes) -> "TuningTask":
    from dataclasses import replace

    from sb3_o2o.runs.requests import absolute_dataset, absolute_file, recipe_and_environment
    from sb3_o2o.tuning import TuningTask

    dataset = None if dataset is None else absolute_dataset(dataset)
    loaded, environment = recipe_and_environment(
        absolute_file(recipe), env, dataset, lambda own: dataset_settings(settings, dict(own))
    )
    overrides = parse_settings(settings, loaded.arguments, loaded.algorithm)
    pretrain_steps = sizes.pretrain_steps
    if pretrain_steps is None:
        pretrain_steps = loaded.pretrain_steps if dataset is not None else 0
    loaded = replace(loaded, pretrain_steps=pretrain_steps)  # what is not pre-trained has nothing to tune
    return TuningTask(loaded, environment, dataset, overrides)


def _environments(config: "TuningConfig") -> list[str]:
    return list(dict.fromkeys(task.environment.id for task in config.tasks))


def _chosen(tuned: list[str] | None) -> list[tuple[str, Any]]:
    import yaml

    from sb3_o2o.recipes import read_yaml

    found: list[tuple[str, Any]] = []
    for text in tuned or ():
        name, equals, own = text.partition("=")
        try:
            found.append((name, read_yaml(own) if equals else None))
        except yaml.YAMLError as error:
            raise ValueError(f"The search space of --tune {name} is not YAML: {own!r}.") from error
        if equals and found[-1][1] is None:
            raise ValueError(f"--tune {name}= has no search space: leave the = out, or write one behind it.")
    return found


def _show_space(config: "TuningConfig") -> None:
    from rich.table import Table

    from sb3_o2o.progress import counted
    from sb3_o2o.tuning.searched import of_pretraining
    from sb3_o2o.tuning.studies import agreed_values

    own, sizes = agreed_values(config), {task.name: config.sizes(task) for task in config.tasks}
    offline = {
        name
        for task in config.tasks
        if sizes[task.name].pretrain_steps
        for name in of_pretraining(config.space, task.recipe)
    }
    table = Table(box=None, pad_edge=False)
    for column in ("tuned", "in", "recipe", "phase"):
        table.add_column(column)
    for name, search in config.space.items():
        table.add_row(name, str(search), str(own.get(name, "")), "both" if name in offline else "fine-tuning")
    console.print(table)
    shared_steps = {f"{each.pretrain_steps:,}" for each in sizes.values() if each.pretrain_steps and each.online_steps}
    if shared_steps:
        shared = "All trials share" if not offline else "Trials that agree in what matters to both phases share"
        steps = f"{shared_steps.pop()} " if len(shared_steps) == 1 else ""  # each dataset's stand below
        console.print(f"{shared} the {steps}gradient steps of pre-training of each seed.\n")
    if config.also:
        console.print(
            f"{counted(len(config.runs), 'run')} a trial: {counted(len(config.tasks), 'dataset')}, "
            f"{counted(len(config.seeds), 'seed')} each."
        )
        for name, each in sizes.items():
            steps = f"{each.pretrain_steps:,} gradient steps, {each.online_steps:,} environment steps"
            console.print(f"  {name}: {steps}", markup=False, highlight=False, soft_wrap=True)
        console.print()


def _run(config: "TuningConfig", folder: Path, trials: int, **options: Any) -> None:
    from sb3_o2o.runs.threads import given_threads
    from sb3_o2o.runs.training import Interrupted
    from sb3_o2o.tuning import tune as work

    given = given_threads(options["threads"])
    options["threads"] = None if given is None else given.count
    try:
        study = work(config, folder, trials, on_trial=_print_trial, **options)
    except Interrupted:
        stop("Interrupted: the trial waits for whoever comes next. Go on with the same command.")
    _finish(study, config, folder)


def _finish(study: "optuna.Study", config: "TuningConfig", folder: Path) -> None:
    from optuna.trial import TrialState

    from sb3_o2o.files import write_whole
    from sb3_o2o.progress import counted
    from sb3_o2o.tuning import draw_study, trials_table, write_best_recipe

    trials = study.get_trials(deepcopy=False)
    if not any(each.state is TrialState.COMPLETE for each in trials):
        n_running = sum(each.state is TrialState.RUNNING for each in trials)
        if n_running:
            console.print(
                f"Nothing is left for this worker: others make {counted(n_running, 'trial')}, and none has come to its "
                "end yet. The last of them writes the recipe."
            )
            return
        reasons = {each.user_attrs.get("reason", each.state.name.lower()) for each in trials}
        raise ValueError(f"No trial came to its end, so there is no best one. Why: {'; '.join(sorted(reasons))}")
    best = study.best_trial
    path = write_best_recipe(study, config, folder / "best.yml")
    write_whole(folder / "trials.csv", trials_table(study))
    console.print(
        f"\nBest: trial {best.number} of {len(trials)}, {best.value:.4g}. Recipe: {bold(path)}", highlight=False
    )
    for picture in draw_study(study, folder):
        console.print(f"Picture: {bold(picture)}", soft_wrap=True, highlight=False)
    for task in config.tasks:
        source = "" if task.dataset is None else f" --dataset {quote(task.dataset)}"
        run = f"sb3-o2o finetune{source} --env {quote(task.environment.id)} --recipe {quote(str(path))} --seed 100"
        next_command("Run it:" if not config.also else f"Run it on {task.name}:", trusting_as_here(run))


def _print_trial(study: "optuna.Study", trial: "FrozenTrial") -> None:
    from optuna.trial import TrialState

    seconds = trial.user_attrs.get("seconds", 0.0)
    if trial.state is TrialState.COMPLETE:
        best = study.best_trial
        said = f"{trial.value:.4g} (best {best.value:.4g} of trial {best.number})"
    else:
        said = f"{trial.state.name.lower()}: {trial.user_attrs.get('reason', '')}"
    values = ", ".join(f"{name}={_short(value)}" for name, value in trial.params.items())
    console.print(
        f"Trial {trial.number}: {said}, {seconds:.0f} s, {values}", markup=False, highlight=False, soft_wrap=True
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
