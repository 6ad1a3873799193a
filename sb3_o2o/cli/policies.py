"""``sb3-o2o evaluate`` and ``select``."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sb3_o2o.cli.console import bold, console, next_command
from sb3_o2o.cli.shared_options import ActingThreads, Seed, Trust, acting_threads, trusting_as_here

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from sb3_o2o.evaluation import Evaluation, ReferenceScore
    from sb3_o2o.evaluation.video import Film
    from sb3_o2o.runs.environments import Environment
    from sb3_o2o.runs.folder import RunConfig


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A run folder of ours, a model file in one (best_model.zip, a checkpoint), or any saved model of "
            "Stable-Baselines3's."
        ),
    ],
    env: Annotated[
        str | None, typer.Option("--env", help="Gymnasium id. Default: the run's; a lone model needs one.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Whole episodes.", min=1)] = 10,
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--stochastic", help="Act by the policy's mode, or by sampling.")
    ] = True,
    video: Annotated[
        Path | None,
        typer.Option("--video", metavar="FILE.mp4", help="Film these episodes (needs the extra [video])."),
    ] = None,
    seed: Seed = 0,
    threads: ActingThreads = None,
    trust: Trust = False,
) -> None:
    """Score a policy: raw return and, where references are known, normalised score (0 random, 100 expert).

    `sb3-o2o evaluate runs/wsrl-Hopper-v5_1 --episodes 20`

    A model file in a run folder is evaluated as the run was: in its environment, with its wrappers and references.
    """
    from stable_baselines3.common.utils import set_random_seed

    from sb3_o2o.evaluation import evaluate as evaluate_policy
    from sb3_o2o.evaluation.spaces_compared import check_acts_in
    from sb3_o2o.evaluation.video import check_video, draw_without_a_screen
    from sb3_o2o.runs.saved_policies import load_policy

    if video is not None:
        check_video(video)
        draw_without_a_screen()
    policy, run = load_policy(model, trust)
    environment = _environment(model, env, run)
    acting_threads(threads)
    set_random_seed(seed)  # of sampled actions
    with _opened(environment, episodes, seed, video) as (vec_env, film):
        check_acts_in("The policy", policy, vec_env, environment.id)
        reference = _reference(run, environment)
        with console.status(f"Running {episodes} episodes of {environment.id} …"):
            result = evaluate_policy(
                policy, vec_env, episodes, deterministic=deterministic, reference=reference, seed=seed
            )
    console.print(_table(result, environment.id))
    console.print(result.note, highlight=False)
    if film is not None:
        console.print(f"Video: {bold(video)} ({film.n_frames:,} frames)", soft_wrap=True, highlight=False)


def select(
    models: Annotated[
        list[str],
        typer.Argument(help="Two or more saved models, such as runs/cql-Hopper-v5_1/offline/checkpoints/*.zip."),
    ],
    env: Annotated[
        str | None, typer.Option("--env", help="Gymnasium id. Default: that of the first model's run.")
    ] = None,
    episodes: Annotated[
        int, typer.Option(help="Budget of episodes for all of them: at least K ceil(log2 K) for K models.", min=1)
    ] = 60,
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--stochastic", help="Act by the policies' mode, or by sampling.")
    ] = True,
    seed: Seed = 0,
    threads: ActingThreads = None,
    trust: Trust = False,
) -> None:
    """Say which of several checkpoints to fine-tune, within a budget of episodes.

    `sb3-o2o select runs/cql-Hopper-v5_1/offline/checkpoints/*.zip --episodes 60`

    Sequential halving: in each round the better half goes on, so that episodes are spent where the choice is close.
    """
    from stable_baselines3.common.utils import set_random_seed

    from sb3_o2o.evaluation import select_policy
    from sb3_o2o.runs.saved_policies import load_policy

    if len(models) < 2 or len(set(models)) < len(models):
        raise ValueError(f"Give two or more models to choose from, each once, not {' '.join(models)}.")
    opened = {path: load_policy(path, trust) for path in models}
    run = opened[models[0]][1]
    environment = _environment(models[0], env, run)
    acting_threads(threads)
    set_random_seed(seed)  # of sampled actions
    policies = {path: policy for path, (policy, _) in opened.items()}
    reference = _reference(run, environment)
    with console.status(f"Running {episodes} episodes of {environment.id} …"):
        found = select_policy(
            policies, environment.make, episodes, deterministic=deterministic, reference=reference, seed=seed
        )
    table = Table(title=f"{environment.id}, {found.n_episodes} episodes", title_justify="left")
    table.add_column("model", overflow="fold")
    for title in ("rounds", "episodes", "return", "standard error", "score"):
        table.add_column(title, justify="right")
    for each in found.candidates:
        score = "" if reference is None else f"{each.scores.mean():.1f}"
        returns = f"{each.returns.mean():.2f}", f"{each.standard_error:.2f}"
        table.add_row(each.name, str(each.rounds), str(len(each.returns)), *returns, score)
    console.print(table)
    console.print(found.note, highlight=False)
    more = "" if run is not None and env is None else f" --env {environment.id}"
    next_command("Fine-tune the best:", trusting_as_here(f"sb3-o2o finetune {quote(found.best)}{more}"))


def _environment(model: str, env_id: str | None, run: "RunConfig | None") -> "Environment":
    from sb3_o2o.runs.environments import Environment, import_named

    if env_id is not None:
        import_named(env_id)
    if run is not None and (env_id is None or run.environment.is_called(env_id)):
        return run.environment
    if env_id is None:
        raise ValueError(f"{model} does not say which environment it is for: add --env.")
    return Environment(env_id)


def _reference(run: "RunConfig | None", environment: "Environment") -> "ReferenceScore | None":
    from sb3_o2o.evaluation import reference_score
    from sb3_o2o.runs.references import recorded_reference

    if run is None or environment.id != run.environment.id:
        return reference_score(environment.id)
    return recorded_reference(run.dataset, run.dataset_kwargs, environment.id)


@contextmanager
def _opened(
    environment: "Environment", episodes: int, seed: int, video: Path | None
) -> Iterator[tuple["VecEnv", "Film | None"]]:
    """Environments side by side; or one, and the film of it, which is on the disk when all went well."""
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_o2o.evaluation.rollouts import n_side_by_side
    from sb3_o2o.evaluation.video import filmed, made_to_be_drawn

    with ExitStack() as stack:
        if video is None:
            vec_env = environment.make_vectorised(n_side_by_side(episodes), seed)
            stack.callback(vec_env.close)
            yield vec_env, None
            return
        env = made_to_be_drawn(environment.make, environment.id)
        stack.callback(env.close)
        film = stack.enter_context(filmed(env, video))
        yield make_vec_env(lambda: film, seed=seed), film


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
