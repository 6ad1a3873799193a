"""``sb3-o2o evaluate``, and how the command line opens a saved policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from sb3_o2o.cli.console import console
from sb3_o2o.cli.shared_options import ActingThreads, Seed, acting_threads

if TYPE_CHECKING:
    from sb3_o2o.evaluation import Evaluation
    from sb3_o2o.runs.environments import Environment


def evaluate(
    model: Annotated[str, typer.Argument(help="A run folder of ours, or a saved model (any of Stable-Baselines3's).")],
    env: Annotated[
        str | None, typer.Option("--env", help="Gymnasium id. Default: the run's; a lone model needs one.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Whole episodes.", min=1)] = 10,
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--stochastic", help="Act by the policy's mode, or by sampling.")
    ] = True,
    seed: Seed = 0,
    threads: ActingThreads = None,
) -> None:
    """Score a policy: raw return and, where references are known, normalised score (0 random, 100 expert).

    `sb3-o2o evaluate runs/wsrl-Hopper-v5_1 --episodes 20`
    """
    from sb3_o2o.evaluation import evaluate as evaluate_policy
    from sb3_o2o.runs.environments import Environment

    acting_threads(threads)
    policy, recorded = load_policy(model)
    environment = recorded if env is None else Environment(env)
    if environment is None:
        raise ValueError(f"{model} does not say which environment it is for: add --env.")
    vec_env = environment.make_vectorised(1, seed)
    _check_spaces(policy, vec_env, environment.id)
    with console.status(f"Running {episodes} episodes of {environment.id} …"):
        result = evaluate_policy(policy, vec_env, episodes, deterministic=deterministic, seed=seed)
    vec_env.close()
    console.print(_table(result, environment.id))
    console.print(result.note, highlight=False)


def load_policy(path: str) -> tuple[Any, "Environment | None"]:
    """
    Open a saved policy of any algorithm of ours, of Stable-Baselines3 or of sb3-contrib.

    :param path: zip, or run folder
    :return: the model, and the environment of its run where that is known
    :raises ValueError: there is none, or its algorithm is not known
    """
    from sb3_o2o import algorithms  # noqa: F401  # those of ours enter themselves in the table of families
    from sb3_o2o.runs.folder import RunFolder, saved_model
    from sb3_o2o.transfer.archive import saved_family
    from sb3_o2o.transfer.foreign import open_saved

    zip_path = saved_model(path)
    environment = RunFolder.open(Path(path)).read_config().environment if Path(path).is_dir() else None
    model = open_saved(saved_family(zip_path), zip_path)
    if model is None:
        raise ValueError(f"{path} holds a model of an algorithm that is not known here: load it in Python.")
    return model, environment


def _check_spaces(policy: Any, env: Any, env_id: str) -> None:
    for name in ("observation_space", "action_space"):
        trained, here = getattr(policy, name), getattr(env, name)
        if trained.shape != here.shape or type(trained) is not type(here):
            raise ValueError(f"The policy was trained with {name} {trained}, but {env_id} has {here}.")


def _table(result: "Evaluation", env_id: str) -> Table:
    table = Table(title=f"{env_id}, {len(result.returns)} episodes", title_justify="left")
    table.add_column("")
    table.add_column("mean", justify="right")
    table.add_column("deviation", justify="right")
    table.add_row("return", f"{result.returns.mean():.2f}", f"{result.returns.std():.2f}")
    table.add_row("length", f"{result.lengths.mean():.1f}", f"{result.lengths.std():.1f}")
    if result.successes is not None:
        table.add_row("success", f"{100 * result.successes.mean():.0f} %", "")
    if result.normalized is not None:
        table.add_row("normalised score", f"{result.normalized.mean():.1f}", f"{result.normalized.std():.1f}")
    return table
