"""``advise``: from a dataset and a policy to a recipe, its reasons and the commands."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import yaml

from sb3_o2o.advice.facts import DatasetFacts, PolicyFacts
from sb3_o2o.advice.rules import Choice, Reason, Regime, choose
from sb3_o2o.advice.surveying import Survey
from sb3_o2o.checked import check_keyword_arguments, checked
from sb3_o2o.data import OfflineDataset
from sb3_o2o.data.sources import Dataset
from sb3_o2o.evaluation.evaluate import PREDICTS
from sb3_o2o.kinds import NOTHING, PATH, Count, Seed
from sb3_o2o.recipes import load_recipe
from sb3_o2o.runs.environments import (
    Environment,
    check_registered,
    environment_of,
    import_named,
    named_environment,
    with_recipe,
)
from sb3_o2o.runs.folder import RunFolder
from sb3_o2o.runs.saved_policies import load_policy

AnyPolicy = Annotated[Any, PATH | PREDICTS | NOTHING]
#: what stands in a command for what was given as an object
_DATASET, _POLICY = "DATASET", "POLICY.zip"


@dataclass(frozen=True)
class Advice:
    """
    Where to start.

    :param recipe: name
    :param regime: ``"superior"``, ``"comparable"`` or ``"inferior"``: the policy beside the dataset; None without one
    :param reasons: the rules that applied, with their sources
    :param commands: of the shell, which run as they are where dataset and policy were named
    :param dataset: what was measured of the dataset
    :param policy: what was measured of the policy; None without one
    """

    recipe: str
    regime: Regime | None
    reasons: tuple[Reason, ...]
    commands: tuple[str, ...]
    dataset: DatasetFacts
    policy: PolicyFacts | None = None


@checked
def advise(
    dataset: Dataset,
    policy: AnyPolicy = None,
    env: str | None = None,
    *,
    n_episodes: Count = 10,
    dataset_kwargs: Mapping[str, Any] | None = None,
    log_dir: str | os.PathLike[str] = "runs",
    seed: Seed = 0,
    trust: bool = False,
) -> Advice:
    """
    Which recipe to start with, and why: by the returns of dataset and policy, rewards, coverage, and how well the
    policy's critic ranks. Each rule names its source (:mod:`sb3_o2o.advice.rules`). The policy plays some episodes;
    nothing is trained.

    :param dataset: what ``OfflineDataset.load`` accepts
    :param policy: what is to be fine-tuned: a saved model or run folder, or anything with Stable-Baselines3's
        ``predict``; None to ask how to pre-train
    :param env: Gymnasium id; default: the run's, else the dataset's
    :param n_episodes: that the policy plays
    :param dataset_kwargs: arguments of ``OfflineDataset.load``
    :param log_dir: folder of the runs that the commands speak of
    :param seed: of episodes and samples
    :param trust: whether the policy's file may run code
    :return: the advice
    :raises ValueError: dataset and policy do not fit each other, or nothing says which environment they are for
    """
    reading = dict(dataset_kwargs or {})
    check_keyword_arguments("dataset argument", OfflineDataset.load, reading, skip=("source",))
    opened, config = policy, None
    if isinstance(policy, str | os.PathLike):
        opened, config = load_policy(str(policy), trust)
    recorded = OfflineDataset.load(dataset, **reading)
    environment = _environment(dataset, recorded, env, reading, None if config is None else config.environment)
    name = str(dataset) if isinstance(dataset, str | Path) else _DATASET
    survey = Survey(recorded, name, environment, seed)
    facts, policy_facts = survey.of_dataset(), None
    if opened is not None:
        policy_name = str(policy) if isinstance(policy, str | os.PathLike) else _POLICY
        policy_facts = survey.of_policy(opened, policy_name, n_episodes)
    choice = choose(facts, policy_facts)
    given = _Given(name, reading, env, Path(log_dir))
    commands = given.with_policy(choice, policy_facts) if policy_facts else given.without_policy(choice, environment.id)
    return Advice(choice.recipe, choice.regime, choice.reasons, commands, facts, policy_facts)


def _environment(
    dataset: Any, recorded: OfflineDataset, env: str | None, reading: Mapping[str, Any], of_run: Environment | None
) -> Environment:
    """What was named, else the run's, else the dataset's with what the recipes say of its kind."""
    if env is not None:
        import_named(env)
    if of_run is not None and (env is None or of_run.is_called(env)):
        return of_run
    named = isinstance(dataset, str | Path)
    found = environment_of(str(dataset), reading) if named else None
    if env is not None:
        found = named_environment(env, found)
    elif found is None and recorded.env_id is not None:
        found = Environment(recorded.env_id)
    if found is None:
        raise ValueError(f"{recorded.source} does not say which environment it is for: add env (--env).")
    check_registered(found.id)
    entry = load_recipe("wsrl", found.id)  # all recipes make an environment of one kind alike
    return with_recipe(found, entry.env_kwargs, entry.env_wrapper)


@dataclass(frozen=True)
class _Given:
    """What the user has named, for the commands."""

    dataset: str
    reading: Mapping[str, Any]
    env: str | None
    log_dir: Path

    def with_policy(self, choice: Choice, policy: PolicyFacts) -> tuple[str, ...]:
        source = "" if choice.regime == "inferior" else f" {quote(policy.name)}"
        return (f"sb3-o2o finetune{source} --dataset {self._dataset} --recipe {choice.recipe}{self._options()}",)

    def without_policy(self, choice: Choice, env_id: str) -> tuple[str, ...]:
        recipe, options = choice.recipe, self._options()
        if load_recipe(recipe, env_id).pretrain_steps == 0:
            return (f"sb3-o2o finetune --dataset {self._dataset} --recipe {recipe}{options}",)
        run = quote(str(RunFolder.upcoming(self.log_dir, f"{recipe}-{env_id.replace('/', '-')}")))
        return (
            f"sb3-o2o pretrain {self._dataset} --recipe {recipe}{options}",
            f"sb3-o2o advise {self._dataset} {run}{options}",
            f"sb3-o2o finetune {run} --recipe {recipe}{self._log_dir()}",
        )

    @property
    def _dataset(self) -> str:
        return quote(self.dataset)

    def _options(self) -> str:
        env = "" if self.env is None else f" --env {quote(self.env)}"
        reading = (
            f" --set {quote(f'dataset_kwargs.{name}={_as_yaml(value)}')}" for name, value in self.reading.items()
        )
        return env + "".join(reading) + self._log_dir()

    def _log_dir(self) -> str:
        return "" if self.log_dir == Path("runs") else f" --log-dir {quote(str(self.log_dir))}"


def _as_yaml(value: Any) -> str:
    """One line, in flow style."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
