"""``sb3-o2o advise``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sb3_o2o.cli.console import console
from sb3_o2o.cli.shared_options import (
    DEFAULT_LOG_DIR,
    ActingThreads,
    Seed,
    Trust,
    acting_threads,
    trusting_as_here,
)

if TYPE_CHECKING:
    from sb3_o2o.advice import Advice

_UNITS = {"score": "normalised score", "success": "success in %", "return": "return"}


def advise(
    dataset: Annotated[
        str,
        typer.Argument(help="Minari id, or path of a dataset; a run folder alone stands for both."),
    ],
    policy: Annotated[
        str | None,
        typer.Argument(
            help="What is to be fine-tuned: a run folder, a model file, any saved model of Stable-Baselines3's. "
            "Without one: how to pre-train.",
            show_default=False,
        ),
    ] = None,
    env: Annotated[
        str | None, typer.Option("--env", help="Gymnasium id. Default: the run's, else the dataset's.")
    ] = None,
    episodes: Annotated[int, typer.Option(help="Whole episodes that the policy plays.", min=1)] = 10,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="dataset_kwargs.NAME=VALUE",
            help="How the dataset is read, as for pretrain, once for each. Values as in YAML.",
        ),
    ] = None,
    seed: Seed = 0,
    threads: ActingThreads = None,
    log_dir: Annotated[
        Path, typer.Option("--log-dir", help="Where the commands that it prints look for runs.")
    ] = DEFAULT_LOG_DIR,
    trust: Trust = False,
) -> None:
    """Say which recipe to start with, and why; each rule with its source.

    `sb3-o2o advise mujoco/hopper/medium-v0`

    With a policy, its score beside the dataset's says what is worth keeping online:

    `sb3-o2o advise mujoco/hopper/medium-v0 runs/wsrl-Hopper-v5_1`

    Nothing is trained.
    """
    from sb3_o2o.advice import advise as advise_on
    from sb3_o2o.cli.set_options import dataset_settings

    if policy is None:
        dataset, policy = _dataset_and_policy(dataset)
    if policy is not None:
        acting_threads(threads)
    with console.status("Measuring …"):
        advice = advise_on(
            dataset,
            policy,
            env,
            n_episodes=episodes,
            dataset_kwargs=dataset_settings(settings),
            log_dir=Path(log_dir),
            seed=seed,
            trust=trust,
        )
    _show(advice)


def _dataset_and_policy(named: str) -> tuple[str, str | None]:
    """
    :param named: a dataset, or a run folder
    :return: the dataset, or the run's dataset and the run
    :raises ValueError: the run did without a dataset
    """
    from sb3_o2o.runs.folder import RunFolder, is_run

    if not is_run(Path(named)):
        return named, None
    dataset = RunFolder(Path(named)).read_config().dataset
    if dataset is None:
        raise ValueError(f"{named!r} is a run without a dataset: name one before it, sb3-o2o advise DATASET {named}.")
    return dataset, named


def _show(advice: "Advice") -> None:
    console.print(_facts(advice))
    console.print(f"\nRecipe: [bold]{advice.recipe}[/]" + (f" ({advice.regime})" if advice.regime else ""))
    for reason in advice.reasons:
        console.print(f"- {reason.text}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"  Source: {reason.source}", style="dim", markup=False, highlight=False, soft_wrap=True)
    console.print()
    for command in advice.commands:
        console.print(trusting_as_here(command), style="bold", markup=False, highlight=False, soft_wrap=True)


def _facts(advice: "Advice") -> Table:
    data, policy = advice.dataset, advice.policy
    table = Table(title=f"{data.name} ({data.env_id})", title_justify="left")
    for column, justify in (("", "left"), ("dataset", "right"), ("policy", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    rows = [
        ("transitions", f"{data.transitions:,}", ""),
        ("episodes", f"{data.episodes:,}", "" if policy is None else f"{policy.episodes:,}"),
        (_UNITS[data.unit], f"{data.mean:.1f} ± {data.deviation:.1f}", _mean(advice)),
        ("best tenth", f"{data.best:.1f}", ""),
        ("rewards", "sparse" if data.sparse else "dense", ""),
        ("coverage", "not measured" if data.coverage is None else f"{data.coverage:.2f}", ""),
    ]
    if policy is not None:
        tau = policy.kendall_tau
        rows += [("algorithm", "", policy.family), ("Kendall's tau", "", "no critic" if tau is None else f"{tau:.2f}")]
    for row in rows:
        table.add_row(*row)
    return table


def _mean(advice: "Advice") -> str:
    return "" if advice.policy is None else f"{advice.policy.mean:.1f} ± {advice.policy.deviation:.1f}"
