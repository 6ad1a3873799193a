"""``sb3-o2o pretrain`` and ``sb3-o2o finetune``."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sb3_o2o.cli.console import bold, console, error_console, next_command, stop
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
    Trust,
    trusting_as_here,
)
from sb3_o2o.errors import NonFiniteError, warn

if TYPE_CHECKING:
    from sb3_o2o.recipes import Recipe
    from sb3_o2o.runs.environments import Environment
    from sb3_o2o.runs.folder import RunConfig, RunFolder
    from sb3_o2o.runs.requests import Origin
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
Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SOURCE]...",
        help="What to start from: a run folder of pretrain, a model file in one, or a saved model (ours or stock). "
        "Several become one ensemble, as in Off2On. Default: a new model, pre-trained first where the recipe says so.",
        show_default=False,
    ),
]
RecipeOption = Annotated[str, typer.Option(help="Recipe (see sb3-o2o recipes list), or path of your own .yml.")]
RecipeOfSource = Annotated[
    str | None,
    typer.Option(
        help="Recipe (see sb3-o2o recipes list), or path of your own .yml. Default: o2o_sac; after a SOURCE that is "
        "TD3 o2o, PPO o2ppo."
    ),
]
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
    recipe: RecipeOption = "o2o_sac",
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
    trust: Trust = False,
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
    loaded, environment = recipe_and_environment(
        recipe, env, dataset, lambda own: dataset_settings(settings, dict(own))
    )
    config = RunConfig(
        command="pretrain",
        environment=environment,
        recipe=recipe,
        dataset=dataset,
        overrides=parse_settings(settings, loaded.arguments, loaded.algorithm),
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
    next_command(
        "Fine-tune it:",
        trusting_as_here(f"sb3-o2o finetune {quote(str(folder.path))} --recipe {quote(recipe)}", environment.id),
    )


def finetune(
    ctx: typer.Context,
    source: Sources = None,
    recipe: RecipeOfSource = None,
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
    trust: Trust = False,
) -> None:
    """Make a pre-trained policy better in its environment.

    `sb3-o2o finetune runs/wsrl-Hopper-v5_1 --recipe wsrl --steps 100000`

    Other starts: a stock Stable-Baselines3 model (`sb3-o2o finetune sac_hopper.zip --env Hopper-v5`), or
    nothing but a dataset (`sb3-o2o finetune --dataset mujoco/hopper/medium-v0 --recipe rlpd`), or several agents that
    become one (`sb3-o2o finetune runs/cql-Hopper-v5_* --recipe off2on`).
    """
    from sb3_o2o.runs.folder import RunConfig, saved_model
    from sb3_o2o.runs.requests import Origin, absolute_file, own_recipe

    if resume is not None:
        resume_run(resume, ctx)
        return
    if not source and dataset is None and env is None:
        raise typer.BadParameter("give a SOURCE, a --dataset or an --env (or --resume DIR)", param_hint="SOURCE")
    first, others = (source[0], source[1:]) if source else (None, [])
    origin, recipe = Origin.of(first), absolute_file(recipe or own_recipe(first))
    dataset, loaded, environment, overrides = _asked(origin, recipe, env, dataset, settings)
    if pretrain_steps and dataset is None:
        raise ValueError(f"--pretrain-steps {pretrain_steps} are steps on a dataset: add --dataset.")
    if pretrain_steps is None:
        pretrain_steps = loaded.pretrain_steps if not source and dataset is not None else 0
    config = RunConfig(
        command="finetune",
        environment=environment,
        recipe=recipe,
        dataset=dataset,
        source=origin.model,
        more_sources=[absolute_file(saved_model(each)) for each in others],
        overrides=overrides,
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
    with _missing_dataset(config):
        # evaluations of one agent are none of the ensemble's, and a run that pre-trains makes its own
        folder = start_run(config, log_dir, loaded, None if others or pretrain_steps else origin.whole_run)
    next_command("See it act:", trusting_as_here(f"sb3-o2o evaluate {quote(str(folder.path))}", environment.id))


def _asked(
    origin: "Origin", recipe: str, env: str | None, dataset: str | None, settings: list[str] | None
) -> tuple[str | None, "Recipe", "Environment", dict[str, Any]]:
    """Dataset, recipe's entry, environment and constructor arguments: what the user named, else the source run's."""
    from sb3_o2o.runs.requests import absolute_dataset, recipe_and_environment

    read_as = origin.how_to_read() if dataset is None else {}
    dataset = origin.dataset if dataset is None else absolute_dataset(dataset)
    loaded, environment = recipe_and_environment(
        recipe,
        env,
        dataset,
        lambda own: dataset_settings(settings, {**own, **read_as}),
        known=None if env else origin.environment,
    )
    extra = {"dataset_kwargs": {**(loaded.arguments.get("dataset_kwargs") or {}), **read_as}} if read_as else None
    overrides = parse_settings(settings, loaded.arguments, loaded.algorithm, extra)
    return dataset, loaded, environment, overrides


@contextmanager
def _missing_dataset(config: "RunConfig") -> Iterator[None]:
    """What a recipe lacks is said with the option that gives it."""
    try:
        yield
    except ValueError as error:
        if config.dataset is None and "needs a dataset" in str(error):
            raise ValueError(f"Recipe {config.recipe!r} needs a dataset: add --dataset. ({error})") from error
        raise


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

    from sb3_o2o.files import locked
    from sb3_o2o.runs.folder import RunFolder
    from sb3_o2o.runs.requests import check_device

    check_device(config.device)
    prepared = _prepare(config, "Opening dataset and environment …", recipe=recipe)
    name = Path(config.recipe).stem if config.recipe else "run"
    folder = RunFolder.create(log_dir, f"{name}-{config.environment.id.replace('/', '-')}")
    before = 0, prepared.model.n_pretrain_steps
    try:
        with locked(folder.path):
            _begin(prepared, folder, offline_from)
            _run(prepared, folder)
    except (ValueError, OSError, KeyboardInterrupt) as error:
        # What a callback only finds out when training starts, such as a missing dataset: leave nothing behind.
        if not _has_begun(prepared, folder, before):
            shutil.rmtree(folder.path)
            with suppress(OSError):
                log_dir.rmdir()
        elif isinstance(error, KeyboardInterrupt):
            stop(_what_is_left(folder))
        raise
    return folder


def _begin(prepared: Any, folder: "RunFolder", offline_from: "RunFolder | None") -> None:
    """Notes what was asked for, takes over the source's offline evaluations, and says where the run lies."""
    config = prepared.config
    folder.write_start(config, prepared.arguments())
    if offline_from is not None and (offline_from.path / "offline" / "evaluations.npz").is_file():
        folder.take_over_offline(offline_from.path, config.diagnostics)
    console.print(f"Run folder: {bold(folder.path)}", soft_wrap=True, highlight=False)
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
    from sb3_o2o.files import locked, remove_leftovers
    from sb3_o2o.runs.folder import RunFolder
    from sb3_o2o.runs.training import avoid_repetition

    folder = RunFolder.open(path)
    config = folder.read_config()
    if config.command != ctx.info_name:
        command = _resuming(config, path)
        raise ValueError(f"{str(path)!r} is a run of `{config.command}`: {command}")
    refuse_contradictions(ctx, config, folder)
    with locked(folder.path):
        remove_leftovers(folder.path)
        bundle = _newest_bundle(folder, config)
        try:
            if bundle is None:
                prepared = _prepare(config, "Opening dataset and environment …")
                folder.forget_progress(config)
            else:
                prepared = _prepare(config, "Opening what was saved …", bundle)
            note = avoid_repetition(prepared, folder)
            if note is not None:
                console.print(note, soft_wrap=True)
            _run(prepared, folder)
        except KeyboardInterrupt:
            stop(f"Stopped at once, nothing more was saved. {_how_to_go_on(config, folder)}")
    return folder


def _newest_bundle(folder: "RunFolder", config: "RunConfig") -> Path | None:
    """
    From where a run goes on, which is said; None where it has to begin again.

    :raises ValueError: it is complete, or none of its bundles is whole
    """
    from sb3_o2o.resume import newest_bundle

    found = newest_bundle(folder.resume_bundle)
    if found is None:
        if folder.is_complete(config):
            name = str(folder.path)
            raise ValueError(
                f"The run in {name!r} was not interrupted: it is complete, there is nothing to go on with."
            )
        console.print("The run ended before its first resume bundle was written: it begins again.")
        return None
    path, manifest, faults = found
    for fault in faults:
        warn(f"{fault} The one before it is used.")
    console.print(f"Going on from {path.name}: {manifest}", markup=False, highlight=False, soft_wrap=True)
    return path


def _resuming(config: "RunConfig", path: Path) -> str:
    """The command that goes on with a run."""
    return trusting_as_here(f"sb3-o2o {config.command} --resume {quote(str(path))}", config.environment.id)


def _how_to_go_on(config: "RunConfig", folder: "RunFolder") -> str:
    """A sentence with the command that goes on with a run, and from where that would be."""
    from sb3_o2o.resume import newest_bundle

    command = _resuming(config, folder.path)
    try:
        found = newest_bundle(folder.resume_bundle)
    except ValueError as error:
        return f"It cannot go on: {error}"
    if found is None:
        return f"It has no resume bundle yet. Begin it again with: {command}"
    return f"Its last resume bundle: {found[1]}. Go on from where the run was before with: {command}"


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


def _last_saved(folder: "RunFolder") -> Path | None:
    models = [*folder.path.glob("*/checkpoints/*.zip"), *folder.path.glob("*/model.zip")]
    return max(models, key=lambda path: path.stat().st_mtime, default=None)


def _what_is_left(folder: "RunFolder") -> str:
    """What a run has that was stopped at once, without a resume bundle of where it stood."""
    text = f"Stopped at once: this run's last state was not saved. Run folder: {folder.path}"
    text += f"\n{_how_to_go_on(folder.read_config(), folder)}"
    saved = _last_saved(folder)
    return text if saved is None else f"{text}\nIts last saved model: {saved}"


def _steps(model: Any) -> tuple[int, int]:
    """Environment steps and gradient steps of pre-training."""
    return model.num_timesteps, model.n_pretrain_steps


def _has_begun(prepared: "Prepared", folder: "RunFolder", before: tuple[int, int]) -> bool:
    """Whether there is something to lose: phases that come before the first step of either kind write bundles too."""
    return _steps(prepared.model) != before or folder.resume_bundle.exists()


def _run(prepared: "Prepared", folder: "RunFolder") -> None:
    from sb3_o2o.cli.run_progress import RunProgress, summary_table
    from sb3_o2o.runs.training import Interrupted, train

    progress, before = RunProgress(console), _steps(prepared.model)
    try:
        picture = train(prepared, folder, progress)
    except Interrupted as interrupted:
        progress.close()
        next_command("Interrupted and saved. Go on with:", _resuming(prepared.config, folder.path))
        raise typer.Exit(128 + (interrupted.signal or 2)) from None
    except NonFiniteError as error:
        error.advice += f" {_how_to_go_on(prepared.config, folder)}"
        raise
    except Exception:
        progress.close()
        if _has_begun(prepared, folder, before):
            text = f"The run stopped with an error. {_how_to_go_on(prepared.config, folder)}"
            error_console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise
    finally:
        progress.close()
    console.print()
    console.print(summary_table(prepared, folder))
    console.print(f"\nPicture:     {bold(picture)}", soft_wrap=True, highlight=False)
    console.print(f"TensorBoard: {bold(f'tensorboard --logdir {folder.tensorboard}')}", soft_wrap=True, highlight=False)
