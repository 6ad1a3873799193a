"""A training run from its configuration to its folder: pre-training, fine-tuning, interruption and resumption."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_o2o.algorithms import ALGORITHMS, O2OSAC, OfflineToOnlineAlgorithm, algorithm_class, algorithm_of
from sb3_o2o.algorithms.pretrain_kwargs import arguments_of_finetuning
from sb3_o2o.data import OfflineDataset
from sb3_o2o.diagnostics import (
    DataDiagnostics,
    DiagnosticsCallback,
    DriftDiagnostics,
    QValueDiagnostics,
    SwitchDiagnostics,
    report,
)
from sb3_o2o.diagnostics.diagnostic import FOLDER as DIAGNOSTICS_FOLDER
from sb3_o2o.errors import NonFiniteError, warn
from sb3_o2o.evaluation import Evaluation, NormalizedEvalCallback, ReferenceScore, read_evaluations
from sb3_o2o.evaluation.plotting import plot_learning_curve
from sb3_o2o.evaluation.rollouts import n_side_by_side
from sb3_o2o.files import remove_folder
from sb3_o2o.recipes import Recipe, load_recipe
from sb3_o2o.resume import ResumeBundle, draw_other_numbers, newest_bundle, stop_on_signals
from sb3_o2o.runs.folder import PHASES, RunConfig, RunFolder, saved_model
from sb3_o2o.runs.references import reference_for
from sb3_o2o.runs.settings import arguments_over
from sb3_o2o.transfer.architecture import NETWORK_ARGUMENTS
from sb3_o2o.transfer.cloning import CloneReport
from sb3_o2o.transfer.models import policy_for
from sb3_o2o.updates.finite import FILE as NONFINITE_FILE
from sb3_o2o.updates.finite import MOST_ROLLBACKS, keep

#: Added to a run's seed for its evaluation episodes, so that they are not the training's.
EVALUATION_SEED_OFFSET = 10_000
#: seconds since the last resume bundle from which on an evaluation brings the next one
EVALUATION_SECONDS = 60.0


class Interrupted(Exception):
    """
    Training was asked to stop, and did between two updates; a resume bundle was written.

    :param signal: that asked for it; None where a callback did
    """

    def __init__(self, signal: int | None = None):
        super().__init__(signal)
        self.signal = signal


class RunListener(BaseCallback):
    """
    A callback that also hears about phases and evaluations; the base class does nothing with either.

    It must not draw random numbers from the global streams.
    """

    def __init__(self) -> None:
        super().__init__()
        self._evaluation: NormalizedEvalCallback | None = None
        self._seen: Evaluation | None = None

    def begin_phase(self, phase: str, done: int, total: int, evaluation: NormalizedEvalCallback) -> None:
        """
        A phase begins or goes on.

        :param phase: ``offline`` or ``online``
        :param done: its steps so far
        :param total: its length, in gradient steps offline and environment steps online
        :param evaluation: the phase's evaluations
        """
        self._evaluation, self._seen = evaluation, None

    def evaluated(self, step: int, result: Evaluation) -> None:
        """
        The policy was evaluated.

        :param step: of the phase
        :param result: the evaluation
        """

    def _look(self) -> None:
        latest = None if self._evaluation is None else self._evaluation.last_evaluation
        if latest is not None and latest is not self._seen:
            self._seen = latest
            self.evaluated(self.num_timesteps, latest)

    def _on_training_start(self) -> None:
        self._look()

    def _on_step(self) -> bool:
        self._look()
        return True

    def _on_training_end(self) -> None:
        self._look()


@dataclass
class Prepared:
    """
    A run whose every part was checked, before anything is written.

    :param config: what was asked for
    :param recipe: the one that was asked for, as it was read; None without one, and where an interrupted run goes on
    :param model: the model to train
    :param dataset: the dataset, with the environment's rewards, whatever the model's are; None for a run without one
    :param eval_env: environments of the evaluation, apart from the training's
    :param reference: references of the normalised score, None where unknown
    :param clone_report: how far the policy is from its source, where that is of another family; None elsewhere, and
        where an interrupted run goes on
    """

    config: RunConfig
    recipe: Recipe | None
    model: OfflineToOnlineAlgorithm
    dataset: OfflineDataset | None
    eval_env: VecEnv
    reference: ReferenceScore | None
    clone_report: CloneReport | None = None

    @property
    def dataset_returns(self) -> np.ndarray | None:
        """Undiscounted return of each of the dataset's episodes, shape (episodes,)."""
        return None if self.dataset is None else np.asarray(self.dataset.episode_returns)

    def close(self) -> None:
        """Close the environments of training and of evaluation."""
        for env in (self.model.get_env(), self.eval_env):
            if env is not None:
                env.close()

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments in force: the recipe's, the user's, and for the networks what was trained."""
        asked = arguments_over(self.recipe, self.config.overrides)
        model, of_model = self.model, (*NETWORK_ARGUMENTS, "pretrain_kwargs")
        with arguments_of_finetuning(model):
            return {name: getattr(model, name) if name in of_model else asked[name] for name in asked}


def prepare(
    config: RunConfig, resume_from: Path | None = None, recipe: Recipe | None = None, progress_bar: bool = False
) -> Prepared:
    """
    Make and check everything that a run needs. Writes nothing.

    :param config: what is asked for
    :param resume_from: resume bundle of an interrupted run, or the folder of its bundles; None for a new one
    :param recipe: the configuration's, where it has been read; otherwise a new run reads it here
    :param progress_bar: show how far the cloning of a source of another family is
    :raises ValueError: some of it does not exist or does not fit together
    """
    env = config.environment.make_vectorised(config.n_envs, config.seed)
    if not isinstance(env.action_space, spaces.Box):
        raise ValueError(
            f"{config.environment.id} has the action space {env.action_space}: only continuous actions (Box) are known."
        )
    # a run that goes on has all that the recipe said, whose file may have been edited since
    goes_on = resume_from is not None and config.arguments is not None
    if recipe is None and config.recipe is not None and not goes_on:
        recipe = load_recipe(config.recipe, config.environment.id)
    dataset = None
    if config.dataset is not None:
        kwargs = _dataset_kwargs(config, recipe)
        # Files without spaces of their own have the environment's: its bounds scale their actions
        spaces_ = {"observation_space": env.observation_space, "action_space": env.action_space}
        dataset = OfflineDataset.load(config.dataset, **{**spaces_, **kwargs}).with_raw_rewards()
        dataset.check_compatible(env.observation_space, env.action_space)
    try:
        model = _model(config, recipe, env, resume_from, progress_bar)
    except AssertionError as error:
        if not str(error):
            raise
        raise ValueError(str(error)) from error  # how Stable-Baselines3 refuses arguments
    if resume_from is None and config.online_steps > 0:
        for each in model.finetuning:
            each.check_length(config.online_steps)
    if config.diagnostics:
        _warn_of_left_out(model)
    return Prepared(
        config=config,
        recipe=recipe,
        model=model,
        dataset=dataset,
        eval_env=config.environment.make_vectorised(
            n_side_by_side(config.n_eval_episodes), config.seed + EVALUATION_SEED_OFFSET
        ),
        reference=reference_for(dataset, None if dataset is None else dataset.source, config.environment.id),
        clone_report=_clone_report(config, model) if resume_from is None else None,
    )


def _dataset_kwargs(config: RunConfig, recipe: Recipe | None) -> dict[str, Any]:
    if recipe is None or "dataset_kwargs" in config.overrides:
        return config.dataset_kwargs
    return dict(recipe.arguments.get("dataset_kwargs") or {})


def _model(
    config: RunConfig, recipe: Recipe | None, env: VecEnv, resume_from: Path | None, progress_bar: bool
) -> OfflineToOnlineAlgorithm:
    if resume_from is not None:
        return _resumed(resume_from, env, config.device)
    # A copy: Stable-Baselines3 writes into the dictionaries that it is given.
    arguments: dict[str, Any] = {"seed": config.seed, **copy.deepcopy(dict(config.overrides))}
    if config.dataset is not None:
        arguments["dataset"] = config.dataset
    algorithm: Any = O2OSAC if recipe is None else algorithm_class(recipe.algorithm)
    if config.source is not None:
        source = saved_model(config.source)
        # Episodes are played where the source is of another family: it and its copy are compared.
        model: OfflineToOnlineAlgorithm = algorithm.load_offline(
            [source, *map(saved_model, config.more_sources)] if config.more_sources else source,
            env,
            recipe=recipe,
            device=config.device,
            report_episodes=config.n_eval_episodes,
            progress_bar=progress_bar,
            **arguments,
        )
        if config.pretrain_steps:
            model.n_pretrain_steps = 0  # this run makes all of its own, however many the source has behind it
        return model
    policy = policy_for(env.observation_space)
    return algorithm(policy, env, recipe=recipe, device=config.device, **arguments)


def _resumed(resume_from: Path, env: VecEnv, device: str) -> OfflineToOnlineAlgorithm:
    """The model of a bundle, or of the newest whole one, of whichever algorithm."""
    found = newest_bundle(resume_from)
    if found is None:
        raise ValueError(f"There is no resume bundle in {str(resume_from)!r}.")
    path, manifest, _ = found
    if manifest.algorithm not in ALGORITHMS:
        raise ValueError(f"{path} is of {manifest.algorithm}, which is none of {', '.join(ALGORITHMS)}.")
    return ALGORITHMS[manifest.algorithm].load_resume(path, env=env, device=device)


def _clone_report(config: RunConfig, model: OfflineToOnlineAlgorithm) -> CloneReport | None:
    """A model of the same family may still carry the report of an earlier run, which is not this one's."""
    if config.source is None or algorithm_of(saved_model(config.source)) is type(model):
        return None
    return model.clone_report


def train(
    prepared: Prepared,
    folder: RunFolder,
    listener: RunListener | None = None,
    bundles: ResumeBundle | None = None,
    picture: bool = True,
) -> Path:
    """
    Run what is left of a run's phases. Going on after an interruption is the same call on the resumed model. While it
    goes on resume bundles are written; when it is complete they are removed.

    :param prepared: the checked run
    :param folder: where it writes
    :param listener: hears about steps, phases and evaluations
    :param bundles: writes the resume bundles; by default into the run's folder, every two minutes, at evaluations that
        come a minute after the last one, and for less than a fiftieth of the time
    :param picture: draw the learning curve at the end
    :return: its path
    :raises Interrupted: SIGINT (Ctrl-C), SIGTERM or SIGHUP came; a resume bundle was written
    :raises NonFiniteError: something was NaN or infinite; ``nonfinite.npz`` lies in the folder
    """
    bundles = bundles or ResumeBundle(folder.resume_bundle, evaluation_seconds=EVALUATION_SECONDS)
    _run_phases(prepared, folder, listener or RunListener(), bundles)
    path = draw(prepared, folder) if picture else folder.picture
    remove_folder(folder.resume_bundle)  # there is nothing left to go on with
    return path


def _run_phases(prepared: Prepared, folder: RunFolder, listener: RunListener, bundles: ResumeBundle) -> None:
    model = prepared.model
    model.tensorboard_log = str(folder.tensorboard)
    with stop_on_signals(model) as stopped, _keeping(folder):
        for phase in PHASES:
            if not _run_phase(phase, prepared, folder, listener, bundles):
                _draw_what_there_is(prepared, folder)
                raise Interrupted(stopped.by)


def _draw_what_there_is(prepared: Prepared, folder: RunFolder) -> None:
    """A picture that cannot be drawn is no reason to hide how an interrupted run goes on."""
    try:
        draw(prepared, folder)
    except Exception as error:
        warn(f"The picture of this run could not be drawn: {error}")


def _run_phase(phase: str, prepared: Prepared, folder: RunFolder, listener: RunListener, bundles: ResumeBundle) -> bool:
    """:return: whether the phase is complete; a stop asked for at its very end takes effect in the next one"""
    config, model = prepared.config, prepared.model

    def steps_done() -> int:
        return int(model.n_pretrain_steps if phase == "offline" else model.num_timesteps)

    done, total = steps_done(), config.steps(phase)
    if done < total:
        _go_on(phase, prepared, folder, listener, bundles, done)
    complete = steps_done() >= total
    # a run that was killed at the end of a phase may have the bundle of that end, and no model
    is_new = done < total or not (folder.path / phase / "model.zip").is_file()
    if complete and total > 0 and is_new and not (phase == "offline" and model.num_timesteps > 0):
        model.save(folder.phase(phase) / "model")
    return complete


def _go_on(
    phase: str, prepared: Prepared, folder: RunFolder, listener: RunListener, bundles: ResumeBundle, done: int
) -> None:
    """A phase, from the steps that are done to its end or until it is stopped."""
    config, model, total = prepared.config, prepared.model, prepared.config.steps(phase)
    # Callbacks count calls: one for a gradient step, or for a step of all environments together.
    n_calls = total if phase == "offline" else total // config.n_envs
    evaluation = _evaluation(phase, prepared, folder)
    callbacks: list[BaseCallback] = [evaluation, listener]
    if config.n_checkpoints > 0:
        every, path = max(n_calls // config.n_checkpoints, 1), folder.phase(phase).resolve() / "checkpoints"
        callbacks.append(CheckpointCallback(every, str(path), name_prefix="model"))
    if config.diagnostics:
        callbacks += _diagnostics(prepared, folder.phase(phase).resolve(), evaluation)
    callbacks.append(bundles)
    listener.n_calls = 0  # of this phase: another process may have made the one before
    listener.begin_phase(phase, done, total, evaluation)
    if phase == "offline":
        # The model has the dataset already, and after an interruption the buffer on it, random stream included.
        model.pretrain(None, total - done, callback=callbacks, reset_gradient_steps=done == 0)
    else:
        # Stopped before its first step, a run has its environments' first observations already.
        is_new = done == 0 and model._last_obs is None
        model.learn(total - done, callback=callbacks, tb_log_name="online", reset_num_timesteps=is_new)


def _evaluation(phase: str, prepared: Prepared, folder: RunFolder) -> NormalizedEvalCallback:
    config = prepared.config
    path = str(folder.phase(phase).resolve())  # going on may happen from another folder
    return NormalizedEvalCallback(
        prepared.eval_env,
        reference=prepared.reference,
        seed=config.seed + EVALUATION_SEED_OFFSET,
        n_eval_episodes=config.n_eval_episodes,
        eval_freq=config.calls_between_evaluations(phase),
        log_path=path,
        best_model_save_path=path,
        verbose=0,
    )


def _misfits(model: OfflineToOnlineAlgorithm) -> dict[type[DiagnosticsCallback], str]:
    """Diagnostics that the model has nothing for, and why."""
    found: dict[type[DiagnosticsCallback], str] = {}
    for kind in (QValueDiagnostics, DataDiagnostics, DriftDiagnostics):
        try:
            kind.check(model)
        except ValueError as error:
            found[kind] = str(error)
    return found


def _warn_of_left_out(model: OfflineToOnlineAlgorithm) -> None:
    misfits = _misfits(model)
    if misfits:
        names, reason = ", ".join(kind.__name__ for kind in misfits), next(iter(misfits.values()))
        warn(f"These diagnostics are left out: {names}. {reason}")


def _diagnostics(prepared: Prepared, folder: Path, evaluation: NormalizedEvalCallback) -> list[BaseCallback]:
    """All that can be measured: what compares with a dataset needs one, and some models lack what others look at."""
    config = prepared.config
    seed = config.seed + EVALUATION_SEED_OFFSET
    found: list[DiagnosticsCallback] = [
        QValueDiagnostics(config.environment.make, log_path=folder, seed=seed),
        SwitchDiagnostics(evaluation, log_path=folder),
    ]
    if prepared.dataset is not None:
        found += [DataDiagnostics(log_path=folder), DriftDiagnostics(log_path=folder)]
    misfits = _misfits(prepared.model)
    return [each for each in found if type(each) not in misfits]


def avoid_repetition(prepared: Prepared, folder: RunFolder) -> str | None:
    """
    A run that ended because something was not finite would end so again: it goes on with another random stream.

    :param prepared: the run, about to go on
    :param folder: its folder; ``nonfinite.npz`` is set aside there
    :return: what to tell; None where nothing was not finite
    """
    kept = folder.path / NONFINITE_FILE
    if not kept.is_file():
        return None
    number = len(list(folder.path.glob(f"{kept.stem}_*{kept.suffix}"))) + 1
    kept.rename(kept.with_stem(f"{kept.stem}_{number}"))
    # the first ones are those of a run that goes back to its bundles by itself
    draw_other_numbers(prepared.model, MOST_ROLLBACKS + number)
    return "Something was not finite when this run ended: it goes on with another random stream."


@contextmanager
def _keeping(folder: RunFolder) -> Iterator[None]:
    """What was not finite lies in the run folder itself."""
    try:
        yield
    except NonFiniteError as error:
        keep(error, folder.path)
        raise


def draw(prepared: Prepared, folder: RunFolder) -> Path:
    """
    The picture of all that a run has evaluated so far.

    :param prepared: the run
    :param folder: its folder
    :return: path of the PNG
    """
    config = prepared.config
    returns = prepared.dataset_returns
    if all(read_evaluations(folder.path / phase) is None for phase in PHASES):
        return folder.picture
    names = [
        config.recipe or type(prepared.model).__name__,
        config.environment.id,
        config.dataset and Path(config.dataset).name,
    ]
    title = ", ".join(name for name in names if name)
    if any((folder.path / phase / DIAGNOSTICS_FOLDER).is_dir() for phase in PHASES):
        report(folder.path, reference=prepared.reference, title=title)
    return plot_learning_curve(
        folder.path,
        title=title,
        reference=prepared.reference,
        dataset_return=None if returns is None else float(returns.mean()),
        path=folder.picture,
    )
