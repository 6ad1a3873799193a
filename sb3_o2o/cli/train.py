"""``sb3-o2o pretrain`` and ``sb3-o2o finetune``."""

from contextlib import nullcontext, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sb3_o2o.cli.console import console, next_command, stop
from sb3_o2o.cli.set_options import dataset_settings, parse_settings
from sb3_o2o.cli.shared_options import (
    DEFAULT_LOG_DIR,
    Checkpoints,
    Device,
    Diagnostics,
    Evaluations,
    LogDir,
    NEnvs,
    Resume,
    Seed,
    Settings,
    Threads,
)
from sb3_o2o.errors import NonFiniteError

if TYPE_CHECKING:
    from sb3_o2o.recipes import Recipe
    from sb3_o2o.runs.folder import RunConfig, RunFolder
    from sb3_o2o.runs.training import Prepared

#: Evaluations of each phase, and episodes of each, where neither the user nor the recipe says.
DEFAULT_EVALUATIONS, DEFAULT_EPISODES = 20, 10

DatasetArgument = Annotated[
    str | None,
    typer.Argument(
        help="Minari id, or path of an .hdf5, .h5, .npz, .csv, .parquet, a replay buffer .pkl or a LeRobot folder. "
        "How to read it: --set dataset_kwargs.NAME=VALUE (columns, observation_keys, reward, dones).",
        show_default=False,
    ),
]
Source = Annotated[
    str | None,
    typer.Argument(
        help="What to start from: a run folder of pretrain, a model file in one, or a saved model (ours or stock). "
        "Default: a new model, pre-trained first where the recipe says so.",
        show_default=False,
    ),
]
RecipeOption = Annotated[str, typer.Option(help="Recipe (see sb3-o2o recipes list), or path of your own .yml.")]
EnvOption = Annotated[
    str | None, typer.Option("--env", help="Gymnasium id, such as Hopper-v5. Default: the environment of the dataset.")
]
DatasetOption = Annotated[
    str | None,
    typer.Option(help="Dataset for recipes that keep using it, and for pre-training here. Default: the source run's."),
]
GradientSteps = Annotated[
    int | None, typer.Option("--gradient-steps", help="Updates on the dataset. Default: the recipe's.", min=1)
]
PretrainSteps = Annotated[
    int | None,
    typer.Option(
        "--pretrain-steps",
        help="Gradient steps on the dataset first. Default: none with a SOURCE, else the recipe's.",
        min=0,
    ),
]
EvalEpisodes = Annotated[
    int | None,
    typer.Option("--eval-episodes", help="Episodes of each evaluation. Default: the recipe's, else 10.", min=1),
]
FinetuningEvaluations = Annotated[
    int | None,
    typer.Option(
        "--evaluations",
        help="Evaluations during each phase. Default: as often online as the recipe says (eval_freq), else 20.",
        min=1,
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Environment steps of fine-tuning. Default: the recipe's.", min=1)
]


def pretrain(
    ctx: typer.Context,
    dataset: DatasetArgument = None,
    recipe: RecipeOption = "wsrl",
    env: EnvOption = None,
    gradient_steps: GradientSteps = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    eval_episodes: EvalEpisodes = None,
    evaluations: Evaluations = DEFAULT_EVALUATIONS,
    checkpoints: Checkpoints = 5,
    diagnostics: Diagnostics = False,
    log_dir: LogDir = DEFAULT_LOG_DIR,
    resume: Resume = None,
) -> None:
    """Train a policy on a dataset, without touching the environment (but for evaluation).

    `sb3-o2o pretrain mujoco/hopper/medium-v0 --recipe wsrl --gradient-steps 100000`

    Fine-tune with the same recipe: it pre-trains the networks that its online phase needs.
    """
    from sb3_o2o.runs.folder import RunConfig
    from sb3_o2o.runs.requests import absolute_dataset, absolute_file, recipe_and_environment

    if resume is not None:
        resume_run(resume, ctx)
        return
    if dataset is None:
        raise typer.BadParameter("give a dataset (or --resume DIR)", param_hint="DATASET")
    dataset, recipe = absolute_dataset(dataset), absolute_file(recipe)
    loaded, environment = recipe_and_environment(recipe, env, dataset, dataset_settings(settings))
    config = RunConfig(
        command="pretrain",
        environment=environment,
        recipe=recipe,
        dataset=dataset,
        overrides=parse_settings(settings, loaded, environment.id),
        pretrain_steps=loaded.pretrain_steps if gradient_steps is None else gradient_steps,
        seed=seed,
        device=device,
        threads=threads,
        n_eval_episodes=eval_episodes or loaded.n_eval_episodes or DEFAULT_EPISODES,
        n_evaluations=evaluations,
        n_checkpoints=checkpoints,
        diagnostics=diagnostics,
    )
    if config.pretrain_steps == 0:
        raise ValueError(f"Recipe {recipe!r} does not pre-train by itself: say how long with --gradient-steps.")
    folder = start_run(config, log_dir, loaded)
    # the same one: another recipe wants other networks than those that were trained
    next_command("Fine-tune it:", f"sb3-o2o finetune {quote(str(folder.path))} --recipe {quote(recipe)}")


def finetune(
    ctx: typer.Context,
    source: Source = None,
    recipe: RecipeOption = "wsrl",
    env: EnvOption = None,
    dataset: DatasetOption = None,
    steps: Steps = None,
    pretrain_steps: PretrainSteps = None,
    settings: Settings = None,
    n_envs: NEnvs = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    eval_episodes: EvalEpisodes = None,
    evaluations: FinetuningEvaluations = None,
    checkpoints: Checkpoints = 5,
    diagnostics: Diagnostics = False,
    log_dir: LogDir = DEFAULT_LOG_DIR,
    resume: Resume = None,
) -> None:
    """Make a pre-trained policy better in its environment.

    `sb3-o2o finetune runs/wsrl-Hopper-v5_1 --recipe wsrl --steps 100000`

    Other starts: a stock Stable-Baselines3 model (`sb3-o2o finetune sac_hopper.zip --env Hopper-v5`), or
    nothing but a dataset (`sb3-o2o finetune --dataset mujoco/hopper/medium-v0 --recipe rlpd`).
    """
    from sb3_o2o.runs.folder import RunConfig
    from sb3_o2o.runs.requests import Origin, absolute_dataset, absolute_file, recipe_and_environment

    if resume is not None:
        resume_run(resume, ctx)
        return
    if source is None and dataset is None and env is None:
        raise typer.BadParameter("give a SOURCE, a --dataset or an --env (or --resume DIR)", param_hint="SOURCE")
    origin = Origin.of(source)
    read_as = origin.how_to_read() if dataset is None else {}
    dataset = origin.dataset if dataset is None else dataset
    recipe, dataset = absolute_file(recipe), None if dataset is None else absolute_dataset(dataset)
    loaded, environment = recipe_and_environment(
        recipe, env, dataset, dataset_settings(settings, read_as), known=None if env else origin.environment
    )
    extra = {"dataset_kwargs": {**(loaded.arguments.get("dataset_kwargs") or {}), **read_as}} if read_as else None
    if pretrain_steps is None:
        pretrain_steps = loaded.pretrain_steps if source is None and dataset is not None else 0
    config = RunConfig(
        command="finetune",
        environment=environment,
        recipe=recipe,
        dataset=dataset,
        source=origin.model,
        overrides=parse_settings(settings, loaded, environment.id, extra),
        pretrain_steps=pretrain_steps,
        online_steps=loaded.online_steps if steps is None else steps,
        n_envs=loaded.n_envs if n_envs is None else n_envs,
        seed=seed,
        device=device,
        threads=threads,
        n_eval_episodes=eval_episodes or loaded.n_eval_episodes or DEFAULT_EPISODES,
        n_evaluations=evaluations or DEFAULT_EVALUATIONS,
        eval_freq=loaded.eval_freq if evaluations is None else None,
        n_checkpoints=checkpoints,
        diagnostics=diagnostics,
    )
    folder = start_run(config, log_dir, loaded, offline_from=origin.whole_run)
    next_command("See it act:", f"sb3-o2o evaluate {quote(str(folder.path))}")


def start_run(
    config: "RunConfig", log_dir: Path, recipe: "Recipe | None" = None, offline_from: "RunFolder | None" = None
) -> "RunFolder":
    """
    Check, then run; nothing is written unless all of it fits together.

    :param config: what is asked for
    :param log_dir: folder of all runs
    :param recipe: the one that is asked for
    :param offline_from: run whose offline evaluations belong in this run's picture
    :return: the finished run's folder
    """
    import shutil

    from sb3_o2o.runs.folder import RunFolder

    prepared = _prepare(config, "Opening dataset and environment …", recipe=recipe)
    name = Path(config.recipe).stem if config.recipe else "run"
    folder = RunFolder.create(log_dir, f"{name}-{config.environment.id.replace('/', '-')}")
    trained_before = prepared.model.n_pretrain_steps
    try:
        _begin(prepared, folder, offline_from)
        _run(prepared, folder)
    except (ValueError, OSError, KeyboardInterrupt) as error:
        # What a callback only finds out when training starts, such as a missing dataset: leave nothing behind.
        if (prepared.model.num_timesteps, prepared.model.n_pretrain_steps) == (0, trained_before):
            shutil.rmtree(folder.path)
            with suppress(OSError):
                log_dir.rmdir()
        elif isinstance(error, KeyboardInterrupt):
            stop(_what_is_left(folder))
        raise
    return folder


def _begin(prepared: Any, folder: "RunFolder", offline_from: "RunFolder | None") -> None:
    """Notes what was asked for, takes over the source's offline evaluations, and says where the run lies."""
    import shutil

    config = prepared.config
    folder.write_start(config, prepared.arguments())
    if offline_from is not None and (offline_from.path / "offline" / "evaluations.npz").is_file():
        shutil.copy(offline_from.path / "offline" / "evaluations.npz", folder.phase("offline"))
        if config.diagnostics and (offline_from.path / "offline" / "diagnostics").is_dir():
            shutil.copytree(offline_from.path / "offline" / "diagnostics", folder.phase("offline") / "diagnostics")
    console.print(f"Run folder: [bold]{folder.path}[/]", soft_wrap=True, highlight=False)
    if prepared.clone_report is not None:
        console.print(f"From the source: {prepared.clone_report}", markup=False, soft_wrap=True, highlight=False)
    note = prepared.model.note_on_counts() if config.online_steps else None
    for each in (prepared.model.temperature_note, note):
        if each is not None:
            console.print(each, markup=False, soft_wrap=True, highlight=False)


def resume_run(path: Path, ctx: typer.Context) -> "RunFolder":
    """
    Go on with an interrupted run.

    :param path: its folder
    :param ctx: of the sub-command that asks
    :return: the finished run's folder
    :raises ValueError: there is nothing to go on with, or an option asks for another run
    """
    from sb3_o2o.cli.resume_options import refuse_contradictions
    from sb3_o2o.runs.folder import RunFolder

    folder = RunFolder.open(path)
    config = folder.read_config()
    if config.command != ctx.info_name:
        command = f"sb3-o2o {config.command} --resume {quote(str(path))}"
        raise ValueError(f"{str(path)!r} is a run of `{config.command}`: {command}")
    if not folder.resume_bundle.is_dir():
        raise ValueError(f"The run in {str(path)!r} was not interrupted, so there is nothing to go on with.")
    refuse_contradictions(ctx, config, folder)
    try:
        _run(_prepare(config, "Opening what was saved …", folder.resume_bundle), folder)
    except KeyboardInterrupt:
        command = f"sb3-o2o {config.command} --resume {quote(str(path))}"
        stop(f"Stopped at once, nothing more was saved. Go on from where the run was before with: {command}")
    return folder


def _prepare(
    config: "RunConfig", doing: str, resume_from: Path | None = None, recipe: "Recipe | None" = None
) -> "Prepared":
    """
    A checked run, in a process that has the run's number of threads; says which, and why.

    :param config: what is asked for
    :param doing: what is shown meanwhile
    :param resume_from: resume bundle of an interrupted run
    :param recipe: the one that is asked for, where it has been read
    :return: the run; the number of threads is in its configuration
    """
    from dataclasses import replace

    from sb3_o2o.runs.threads import choose_threads, given_threads, use_threads
    from sb3_o2o.runs.training import prepare

    given = given_threads(config.threads, "as asked" if resume_from is None else "as before")
    use_threads(1 if given is None else given.count)  # a policy may be cloned before its successor is known
    # a source of another family may be cloned, which has a bar of its own
    with console.status(doing) if config.source is None or resume_from is not None else nullcontext():
        prepared = prepare(config, resume_from, recipe, progress_bar=True)
    threads = given or choose_threads(prepared.model)
    use_threads(threads.count)
    console.print(str(threads), markup=False, highlight=False, soft_wrap=True)
    prepared.config = replace(config, threads=threads.count)
    return prepared


def _how_to_go_on(command: str, folder: "RunFolder") -> str:
    """What a run that failed by itself still has."""
    if folder.resume_bundle.is_dir():
        return f" Go on from its last good state with: sb3-o2o {command} --resume {quote(str(folder.path))}"
    saved = _last_saved(folder)
    return "" if saved is None else f" Its last saved model: {saved}."


def _last_saved(folder: "RunFolder") -> Path | None:
    models = [*folder.path.glob("*/checkpoints/*.zip"), *folder.path.glob("*/model.zip")]
    return max(models, key=lambda path: path.stat().st_mtime, default=None)


def _what_is_left(folder: "RunFolder") -> str:
    """What a run has that was stopped at once, without a resume bundle of where it stood."""
    text = f"Stopped at once: this run's last state was not saved. Run folder: {folder.path}"
    saved = _last_saved(folder)
    return text if saved is None else f"{text}\nIts last saved model: {saved}"


def _run(prepared: Any, folder: "RunFolder") -> None:
    import shutil

    from sb3_o2o.cli.run_progress import RunProgress, summary_table
    from sb3_o2o.runs.training import Interrupted, train

    progress = RunProgress(console)
    try:
        picture = train(prepared, folder, progress)
    except Interrupted:
        progress.close()
        command = prepared.config.command
        next_command("Interrupted and saved. Go on with:", f"sb3-o2o {command} --resume {quote(str(folder.path))}")
        raise typer.Exit(130) from None
    except NonFiniteError as error:
        error.advice += _how_to_go_on(prepared.config.command, folder)
        raise
    finally:
        progress.close()
    if folder.resume_bundle.is_dir():
        shutil.rmtree(folder.resume_bundle)  # finished: there is nothing left to go on with
    console.print()
    console.print(summary_table(prepared, folder))
    console.print(f"\nPicture:     [bold]{picture}[/]", soft_wrap=True, highlight=False)
    console.print(f"TensorBoard: [bold]tensorboard --logdir {folder.tensorboard}[/]", soft_wrap=True, highlight=False)
