"""``sb3-o2o collect``."""

from shlex import quote
from typing import Annotated

import typer

from sb3_o2o.cli.console import next_command
from sb3_o2o.cli.shared_options import ActingThreads, Seed, Trust, acting_threads


def collect(
    env: Annotated[str, typer.Argument(help="Gymnasium id, such as Hopper-v5.")],
    dataset_id: Annotated[str, typer.Argument(help="Name of the new Minari dataset, such as my/hopper/random-v0.")],
    policy: Annotated[
        str, typer.Option(help="`random`, a saved model (any of Stable-Baselines3's), or a run folder of ours.")
    ] = "random",
    n_steps: Annotated[int | None, typer.Option("--n-steps", help="Environment steps.", min=1)] = None,
    n_episodes: Annotated[
        int | None, typer.Option("--n-episodes", help="Whole episodes, instead of steps.", min=1)
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--stochastic", help="Act by the policy's mode, or by sampling.")
    ] = False,
    seed: Seed = 0,
    threads: ActingThreads = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a dataset of that name.")] = False,
    trust: Trust = False,
) -> None:
    """Record a policy's episodes as a new Minari dataset, in Minari's own folder.

    `sb3-o2o collect Hopper-v5 my/hopper/medium-v0 --policy sac_hopper.zip --n-steps 100000`

    The folder is $MINARI_DATASETS_PATH, or ~/.minari/datasets.
    """
    from sb3_o2o.data.collect import collect as collect_dataset
    from sb3_o2o.data.collect import refuse_taken
    from sb3_o2o.evaluation import reference_score
    from sb3_o2o.evaluation.spaces_compared import check_acts_in
    from sb3_o2o.runs.environments import Environment, import_named
    from sb3_o2o.runs.saved_policies import load_policy

    if (n_steps is None) == (n_episodes is None):
        raise typer.BadParameter("give one of --n-steps and --n-episodes", param_hint="--n-steps")
    if not force:
        refuse_taken(dataset_id, "--force")
    model = None if policy == "random" else load_policy(policy, trust)[0]
    import_named(env)
    environment = Environment(env).make()
    if model is not None:
        check_acts_in("The policy", model, environment, env)
    acting_threads(threads)
    reference = reference_score(env)
    dataset = collect_dataset(
        model,
        environment,
        dataset_id,
        n_steps=n_steps,
        n_episodes=n_episodes,
        deterministic=deterministic,
        seed=seed,
        progress_bar=True,
        ref_min_score=None if reference is None else reference.minimum,
        ref_max_score=None if reference is None else reference.maximum,
        force=force,
    )
    dataset.summary()
    # the dataset has the environment's id alone, not the module that registers it
    named = f" --env {quote(env)}" if ":" in env else ""
    next_command("Pre-train on it:", f"sb3-o2o pretrain {quote(dataset_id)}{named}")
