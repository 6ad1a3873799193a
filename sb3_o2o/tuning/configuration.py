"""What a study is asked for: all that has to be the same for every worker that shares it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np

from sb3_o2o.checked import check_fields, checked
from sb3_o2o.errors import unknown
from sb3_o2o.kinds import DEVICE, Count, CountFromZero, Seed
from sb3_o2o.recipes import Recipe
from sb3_o2o.runs.environments import Environment
from sb3_o2o.runs.folder import RunConfig, plain
from sb3_o2o.search_space import SearchSpace, write_search

#: what a seed's evaluations, means over episodes in the order of steps, are worth
METRICS = {
    "last": lambda scores: scores[-1],
    "last5": lambda scores: scores[-5:].mean(),
    "mean": lambda scores: scores.mean(),
}
#: evaluations of a run where neither the user nor the recipe says how many
EVALUATIONS = 10
#: what a study keeps of its recipe's and environments' contents; older ones have only their names
CONTENTS = "contents"
#: environment steps between two evaluations; older studies have only the recipe's, which nothing replaced
EVAL_FREQ = "eval_freq"


@dataclass(frozen=True)
class TuningTask:
    """
    What the runs of a study learn: one dataset, with its environment and the recipe's entry for that.

    :param recipe: the recipe's entry whose constants are tuned
    :param environment: where it acts and is evaluated
    :param dataset: Minari id or path of a file; None for training without one
    :param overrides: constructor arguments that hold in every trial instead of the recipe's
    """

    recipe: Recipe
    environment: Environment
    dataset: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The dataset's, or the environment's: names folders."""
        return re.sub(r"[^\w.-]+", "-", self.dataset or self.environment.id).strip("-")

    def contents(self) -> dict[str, Any]:
        """What recipe and environment hold, in plain types: their names say it only until a file is edited."""
        recipe = self.recipe
        held = {"algorithm": recipe.algorithm, "arguments": recipe.arguments, EVAL_FREQ: recipe.eval_freq}
        found: dict[str, Any] = plain_types({**held, "environment": asdict(self.environment)})
        return found


class Sizes(NamedTuple):
    """What is counted of a task's runs, see :class:`TuningConfig`."""

    pretrain_steps: int
    online_steps: int
    n_envs: int
    n_eval_episodes: int


class TuningRun(NamedTuple):
    """One run of a trial: its task and seed, its folder in the trial's, and what its evaluations are kept under."""

    task: TuningTask
    seed: int
    folder: str
    key: str


@dataclass(frozen=True)
class TuningConfig:
    """
    A study: the runs that each trial is made of. Steps, environments and episodes may be None: each task then has those
    of its own recipe's entry.

    :param recipe: the recipe's entry whose constants are tuned
    :param environment: where it acts and is evaluated
    :param space: what is tuned, see :func:`~sb3_o2o.tuning.searched.select_space`
    :param dataset: Minari id or path of a file; None for training without one
    :param overrides: constructor arguments that hold in every trial instead of the recipe's
    :param pretrain_steps: gradient steps on the dataset; 0 for none
    :param online_steps: environment steps of fine-tuning; 0 tunes the pre-training alone
    :param n_envs: parallel environments
    :param seeds: of the runs of each trial
    :param metric: what a trial is worth, one of :data:`METRICS`, averaged over its seeds: the last evaluation, the mean
        of the last five, or the mean of all (high where learning is fast)
    :param n_eval_episodes: episodes of each evaluation
    :param n_evaluations: evaluations of a run; it can be pruned at each. None for as often online as the recipe says
        (``eval_freq``), else 10
    :param device: torch device
    :param also: further tasks, with entries of the same recipe. Each trial then runs every task with every seed, and is
        worth the mean of their normalised scores
    :raises ValueError: for an argument that is not what it may be, nothing to train, or the same task twice
    """

    recipe: Recipe
    environment: Environment
    space: SearchSpace
    dataset: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    pretrain_steps: CountFromZero | None = 0
    online_steps: CountFromZero | None = 0
    n_envs: Count | None = 1
    seeds: Sequence[Seed] = (0, 1, 2)
    metric: str = "last"
    n_eval_episodes: Count | None = 10
    n_evaluations: Count | None = None
    device: Annotated[str, DEVICE] = "auto"
    also: Sequence[TuningTask] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.metric not in METRICS:
            raise unknown("metric", self.metric, METRICS)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"A study needs different seeds, at least one, got {list(self.seeds)}.")
        for task in self.tasks:
            if self.sizes(task)[:2] == (0, 0):
                where = f" on {task.name}" if self.also else ""
                raise ValueError(f"There is nothing to train{where}: give steps of pre-training or of fine-tuning.")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"A study needs different datasets, got {', '.join(sorted(names))}.")
        if len({task.recipe.reference for task in self.tasks}) > 1:
            raise ValueError("All tasks of a study take the same recipe: it is what is tuned.")
        for task in self.tasks:
            self.run(self.seeds[0], {}, task=task)  # what a run refuses is refused before there is a study

    @property
    def tasks(self) -> tuple[TuningTask, ...]:
        """All that a trial learns."""
        return (TuningTask(self.recipe, self.environment, self.dataset, self.overrides), *self.also)

    @property
    def runs(self) -> list[TuningRun]:
        """The runs of each trial in their order: all tasks with the first seed, then with the next."""
        tasks = self.tasks
        names = [f"{task.name}/" if self.also else "" for task in tasks]
        return [
            TuningRun(task, seed, f"{name}seed_{seed}", f"{name}{seed}")
            for seed in self.seeds
            for task, name in zip(tasks, names, strict=True)
        ]

    @checked
    def sizes(self, task: TuningTask) -> Sizes:
        """
        :param task: one of :attr:`tasks`
        :return: the study's own numbers, and those of the task's entry where the study has none
        """
        recipe = task.recipe
        own = Sizes(
            recipe.pretrain_steps if task.dataset is not None else 0,
            recipe.online_steps,
            recipe.n_envs,
            recipe.n_eval_episodes or RunConfig.n_eval_episodes,
        )
        given = (self.pretrain_steps, self.online_steps, self.n_envs, self.n_eval_episodes)
        return Sizes(*(of_entry if number is None else number for number, of_entry in zip(given, own, strict=True)))

    @checked
    def run(
        self, seed: Seed, overrides: Mapping[str, Any], source: str | None = None, task: TuningTask | None = None
    ) -> RunConfig:
        """
        What a run of a trial is asked for.

        :param seed: its seed
        :param overrides: its constructor arguments
        :param source: pre-trained model that it starts from; None pre-trains, and only that where there is no phase
            online
        :param task: one of :attr:`tasks`; None for the first
        """
        task = task or self.tasks[0]
        sizes = self.sizes(task)
        tunes_online = source is not None or sizes.pretrain_steps == 0
        return RunConfig(
            command="tune",
            environment=task.environment,
            recipe=task.recipe.reference,
            dataset=task.dataset,
            source=source,
            overrides=overrides,
            pretrain_steps=0 if tunes_online else sizes.pretrain_steps,
            online_steps=sizes.online_steps if tunes_online else 0,
            n_envs=sizes.n_envs,
            seed=seed,
            device=self.device,
            n_eval_episodes=sizes.n_eval_episodes,
            n_evaluations=(self.n_evaluations or EVALUATIONS) if tunes_online or not sizes.online_steps else 1,
            eval_freq=task.recipe.eval_freq if tunes_online and self.n_evaluations is None else None,
            n_checkpoints=0,
        )

    @checked
    def counted_run(self, task: TuningTask) -> RunConfig:
        """
        :param task: one of :attr:`tasks`
        :return: the run of it whose evaluations count, with the first seed and without what a trial chooses
        """
        sizes = self.sizes(task)
        source = "pretrained" if sizes.pretrain_steps and sizes.online_steps else None
        return self.run(self.seeds[0], {}, source, task)

    def plain(self) -> dict[str, Any]:
        """All of it in plain types: what a study keeps, and every worker must agree with."""
        counted = [self.counted_run(task) for task in self.tasks]
        sizes = Sizes(*map(agreed, zip(*map(self.sizes, self.tasks), strict=True)))
        also = [
            {
                "entry": task.recipe.pattern,
                "environment": task.environment.id,
                "dataset": task.dataset,
                "overrides": plain_types(task.overrides),
            }
            for task in self.also
        ]
        return {
            "recipe": self.recipe.reference,
            "entry": self.recipe.pattern,
            "environment": self.environment.id,
            "dataset": self.dataset,
            "search_space": write_search(self.space),
            "overrides": plain_types(self.overrides),
            "pretrain_steps": sizes.pretrain_steps,
            "online_steps": sizes.online_steps,
            "n_envs": sizes.n_envs,
            "seeds": list(self.seeds),
            "metric": self.metric,
            "n_eval_episodes": sizes.n_eval_episodes,
            EVAL_FREQ: agreed([run.eval_freq for run in counted]),
            "n_evaluations": agreed([None if run.eval_freq else run.n_evaluations for run in counted]),
            **({"also": also} if also else {}),
            CONTENTS: {task.name: task.contents() for task in self.tasks},
        }

    @checked
    def value(self, scores: Sequence[float]) -> float:
        """
        :param scores: means of a run's evaluations, in the order of its steps
        :return: what the run is worth
        """
        return float(METRICS[self.metric](np.asarray(scores, dtype=np.float64)))


def agreed(values: Sequence[Any]) -> Any:
    """
    :param values: of each task
    :return: the one that all have, else all of them
    """
    return values[0] if all(value == values[0] for value in values) else list(values)


def plain_types(value: Any) -> Any:
    """
    :param value: an argument
    :return: the same in types that YAML has; what it has none for is named as every worker names it
    """
    return plain(value, lambda other: re.sub(r" at 0x[0-9a-f]+", "", repr(other)))  # where it lies is the process's
