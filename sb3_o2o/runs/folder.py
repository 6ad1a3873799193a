"""Run folders: what a training run was asked for, and where everything it leaves lies.

::

    runs/wsrl-Hopper-v5_1/
      config.yml           everything the run was asked for, resolved
      command.txt          the command line that started it
      offline/             evaluations.npz (Stable-Baselines3's layout), model.zip, best_model.zip, checkpoints/,
                           diagnostics/ where they were asked for
      online/              the same for fine-tuning
      tensorboard/         offline_1, online_1
      learning_curve.png   gradient steps left of the switch, environment steps right of it
      diagnostics.png      Q-values, errors and drift on the same steps, where they were asked for
      resume/              until the run is complete: its newest resume bundles, all that is needed to go on
"""

import math
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from sb3_o2o.files import write_whole
from sb3_o2o.runs.environments import Environment
from sb3_o2o.version import __version__

PHASES = ("offline", "online")


@dataclass(frozen=True)
class RunConfig:
    """
    All that a run is asked for, in plain types.

    :param command: sub-command that started it: ``pretrain``, ``finetune`` or ``demo``
    :param environment: where it acts and is evaluated
    :param recipe: name of a recipe, or path of one
    :param dataset: Minari id or path of a file; None for training without one
    :param source: saved model to start from; None for a new one
    :param more_sources: saved models that become one ensemble with it
    :param overrides: constructor arguments that replace or join the recipe's
    :param pretrain_steps: gradient steps on the dataset
    :param online_steps: environment steps of fine-tuning
    :param n_envs: parallel environments
    :param seed: seed of everything
    :param device: torch device
    :param n_eval_episodes: episodes of each evaluation
    :param n_evaluations: evaluations in each phase, beside the one at its start
    :param eval_freq: environment steps between two evaluations of fine-tuning; None spreads ``n_evaluations`` over it
    :param n_checkpoints: checkpoints in each phase
    :param threads: CPU threads of PyTorch's operations; None to have them chosen, after which the number stands here
    :param diagnostics: look at Q-values, errors and drift as well (:mod:`sb3_o2o.diagnostics`)
    :param arguments: of a run that has begun, all constructor arguments in force, the recipe's among them
    """

    command: str
    environment: Environment
    recipe: str | None = None
    dataset: str | None = None
    source: str | None = None
    more_sources: list[str] = field(default_factory=list)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    pretrain_steps: int = 0
    online_steps: int = 0
    n_envs: int = 1
    seed: int = 0
    device: str = "auto"
    n_eval_episodes: int = 10
    n_evaluations: int = 20
    eval_freq: int | None = None
    n_checkpoints: int = 5
    diagnostics: bool = False
    threads: int | None = None
    arguments: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("pretrain_steps", 0), ("online_steps", 0), ("n_checkpoints", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        for name in ("n_envs", "n_eval_episodes", "n_evaluations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.eval_freq is not None and self.eval_freq < 1:
            raise ValueError(f"eval_freq must be at least 1, or None, got {self.eval_freq}.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, or None, got {self.threads}.")
        if self.pretrain_steps and self.dataset is None:
            raise ValueError("Pre-training needs a dataset.")

    def steps(self, phase: str) -> int:
        """
        Length of a phase.

        :param phase: ``offline`` (gradient steps) or ``online`` (environment steps)
        """
        return self.pretrain_steps if phase == "offline" else self.online_steps

    def calls_between_evaluations(self, phase: str) -> int:
        """
        Callbacks count calls: one for a gradient step, or for a step of all environments together.

        :param phase: ``offline`` or ``online``
        :return: calls from one evaluation to the next
        """
        if phase == "offline":
            return max(self.pretrain_steps // self.n_evaluations, 1)
        if self.eval_freq is not None:
            return max(self.eval_freq // self.n_envs, 1)
        return max(self.online_steps // self.n_envs // self.n_evaluations, 1)

    def evaluations(self, phase: str) -> int:
        """
        How many evaluations a phase makes beside the one at its start, with the one at its end.

        :param phase: ``offline`` or ``online``
        """
        at_once = 1 if phase == "offline" else self.n_envs
        return math.ceil(self.steps(phase) / (at_once * self.calls_between_evaluations(phase)))

    @property
    def last_phase(self) -> str:
        """``offline`` of a run that only pre-trains, else ``online``."""
        return "offline" if self.command == "pretrain" else "online"

    @property
    def dataset_kwargs(self) -> dict[str, Any]:
        """Arguments that the dataset is opened with: the user's, else the recipe's where the run has begun."""
        asked = self.overrides if "dataset_kwargs" in self.overrides else self.arguments or {}
        return dict(asked.get("dataset_kwargs") or {})

    def to_yaml(self, arguments: Mapping[str, Any] | None = None) -> str:
        """
        The text of ``config.yml``.

        :param arguments: all constructor arguments after the recipe was resolved, for the reader's sake
        """
        document: dict[str, Any] = {"sb3_o2o": __version__, **asdict(self)}
        if arguments is not None:
            document["arguments"] = dict(arguments)
        if document["arguments"] is None:
            del document["arguments"]
        return yaml.dump(plain(document), Dumper=_IndentedDumper, sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str, where: str = "config.yml") -> "RunConfig":
        """
        Read a ``config.yml`` again.

        :param text: what :meth:`to_yaml` wrote
        :param where: its path, for errors
        :raises ValueError: this is not the configuration of a run
        """
        try:
            document = yaml.safe_load(text)
            if not isinstance(document, dict):
                raise TypeError("it is empty" if document is None else "it has no names of settings")
            missing = [name for name in ("command", "environment") if name not in document]
            if missing:
                raise TypeError(f"it has no {' and no '.join(missing)}")
            known = {name.name: document[name.name] for name in fields(cls) if name.name in document}
            return cls(**{**known, "environment": Environment(**document["environment"])})
        except (yaml.YAMLError, TypeError) as error:
            raise ValueError(f"{where} is not the configuration of a run ({error}).") from error


@dataclass(frozen=True)
class RunFolder:
    """
    Where the parts of one run lie.

    :param path: the folder
    """

    path: Path

    @classmethod
    def create(cls, log_dir: Path, name: str) -> "RunFolder":
        """
        Make a new folder, numbered so that nothing is overwritten.

        :param log_dir: folder of all runs, made if need be
        :param name: what the folder is called, before its number
        :raises ValueError: nothing can be written there
        """
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            number = 1
            while True:
                try:
                    (log_dir / f"{name}_{number}").mkdir()
                    return cls(log_dir / f"{name}_{number}")
                except FileExistsError:
                    number += 1
        except OSError as error:
            reason = error.strerror or str(error)
            raise ValueError(f"Cannot write runs to {str(log_dir)!r} ({reason}). Choose another --log-dir.") from error

    @staticmethod
    def upcoming(log_dir: Path, name: str) -> Path:
        """
        The folder that :meth:`create` would make now. Nothing is made.

        :param log_dir: folder of all runs
        :param name: what the folder is called, before its number
        """
        return next(path for path in (log_dir / f"{name}_{number}" for number in count(1)) if not path.exists())

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """
        An existing run folder.

        :param path: the folder
        :raises ValueError: there is no run there
        """
        if not (path / "config.yml").is_file():
            raise ValueError(f"There is no run in {str(path)!r}: it has no config.yml.")
        return cls(path)

    @classmethod
    def around(cls, path: Path) -> "RunFolder | None":
        """
        The run that a file belongs to: ``best_model.zip``, a checkpoint, a resume bundle's model.

        :param path: of the file
        :return: None if none of the three folders above it is a run's
        """
        return next((cls(folder) for folder in path.resolve().parents[:3] if is_run(folder)), None)

    def phase(self, name: str) -> Path:
        """
        Folder of a phase, made if need be.

        :param name: ``offline`` or ``online``
        """
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def take_over_offline(self, source: Path, diagnostics: bool) -> None:
        """
        Copy what belongs into this run's pictures of the pre-training that it starts from.

        :param source: folder of the run that has made it, with its evaluations
        :param diagnostics: what its diagnostics have found as well, if anything
        """
        theirs, ours = source / "offline", self.phase("offline")
        shutil.copy(theirs / "evaluations.npz", ours)
        if diagnostics and (theirs / "diagnostics").is_dir():
            shutil.copytree(theirs / "diagnostics", ours / "diagnostics", dirs_exist_ok=True)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yml"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def resume_bundle(self) -> Path:
        """Folder of the run's resume bundles."""
        return self.path / "resume"

    @property
    def picture(self) -> Path:
        return self.path / "learning_curve.png"

    @property
    def model(self) -> Path | None:
        """The last finished phase's model, None before the first."""
        finished = [self.path / phase / "model.zip" for phase in PHASES]
        return next((path for path in reversed(finished) if path.is_file()), None)

    def is_complete(self, config: RunConfig) -> bool:
        """
        Whether each phase has left its model.

        :param config: the run's configuration
        """
        return all((self.path / each / "model.zip").is_file() for each in PHASES if config.steps(each) > 0)

    def forget_progress(self, config: RunConfig) -> None:
        """
        Delete what the run's phases have left, so that it can begin again.

        :param config: the run's configuration
        """
        for each in (*(self.path / phase for phase in PHASES if config.steps(phase) > 0), self.tensorboard):
            shutil.rmtree(each, ignore_errors=True)

    def read_config(self) -> RunConfig:
        """
        The run's configuration.

        :raises ValueError: it is damaged
        """
        try:
            text = self.config_file.read_text()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.config_file} is not the configuration of a run ({error}).") from error
        return RunConfig.from_yaml(text, str(self.config_file))

    def write_start(self, config: RunConfig, arguments: Mapping[str, Any], command: str | None = None) -> None:
        """
        Note what was asked for.

        :param config: the run's configuration
        :param arguments: all constructor arguments, after the recipe was resolved
        :param command: what was typed; default: what this process was started with
        """
        write_whole(self.config_file, config.to_yaml(arguments))
        write_whole(self.path / "command.txt", (command or shlex.join(["sb3-o2o", *sys.argv[1:]])) + "\n")


def is_run(folder: Path) -> bool:
    """Other projects have a ``config.yml`` too."""
    try:
        document = yaml.safe_load((folder / "config.yml").read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(document, dict) and {"sb3_o2o", "command", "environment"} <= document.keys()


def saved_model(source: str) -> str:
    """
    The saved model that a path stands for.

    :param source: a zip (its ending may be left out), or a run folder, whose last finished phase counts
    :return: path of the zip
    :raises ValueError: there is none
    """
    path = Path(source)
    if not str(source).strip():
        raise ValueError(f"{source!r} names neither a saved model nor a run folder.")
    if path.is_dir():
        model = RunFolder.open(path).model
        if model is None:
            raise ValueError(f"The run in {source!r} has not saved a model yet.")
        return str(model)
    for candidate in (path, path.with_name(path.name + ".zip")):
        if candidate.is_file():
            return str(candidate)
    raise ValueError(f"There is no saved model and no run folder at {source!r}.")


def run_of(source: str) -> RunFolder | None:
    """
    The run that a saved model is of.

    :param source: as for :func:`saved_model`
    :return: None for a model that lies in no run folder
    :raises ValueError: there is no model
    """
    path = Path(source)
    return RunFolder.open(path) if path.is_dir() else RunFolder.around(Path(saved_model(source)))


class _IndentedDumper(yaml.SafeDumper):
    """Short lists on one line, mappings on many: the way the recipes are written."""


_IndentedDumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or repr(value)


def plain(value: Any, named: Callable[[Any], str] = _name) -> Any:
    """
    :param value: whatever was asked for
    :param named: gives a name to what YAML has no type for
    :return: the same in types that YAML has
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item, named) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, named) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else named(value)
