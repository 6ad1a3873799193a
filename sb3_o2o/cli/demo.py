"""``sb3-o2o demo``."""

from dataclasses import dataclass
from shlex import quote
from typing import Annotated

import typer

from sb3_o2o.cli.console import next_command
from sb3_o2o.cli.set_options import parse_settings
from sb3_o2o.cli.shared_options import (
    DEFAULT_LOG_DIR,
    Device,
    Episodes,
    Evaluations,
    LogDir,
    Resume,
    Seed,
    Settings,
    Threads,
    Trust,
)


@dataclass(frozen=True)
class DemoSizes:
    """
    Everything about the demo's length in one place, chosen for a few minutes on two cores.

    :param gradient_steps: updates on the dataset
    :param steps: environment steps of fine-tuning, warm-up included
    :param warmup: of these, steps that only collect
    :param n_critics: critics in the ensemble (the paper: 10)
    :param n_actions: actions of CQL from each distribution (the paper: 10)
    :param net_arch: units per hidden layer (the paper: 256, 256)
    :param learning_rate: of actor, critics and temperature (the paper: 1e-4, 3e-4 and 1e-4)
    :param eval_episodes: episodes of each evaluation, and of the final table
    :param evaluations: evaluations during each phase
    """

    gradient_steps: int = 1_500
    steps: int = 5_000
    warmup: int = 1_000
    n_critics: int = 5
    n_actions: int = 4
    net_arch: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3
    eval_episodes: int = 10
    evaluations: int = 4


SIZES = DemoSizes()


GradientSteps = Annotated[int, typer.Option("--gradient-steps", help="Updates on the dataset.", min=1)]
Steps = Annotated[int, typer.Option("--steps", help="Environment steps of fine-tuning.", min=1)]
WarmupSteps = Annotated[int, typer.Option("--warmup", help="Steps of these that collect without updates.", min=0)]
Critics = Annotated[int, typer.Option("--n-critics", help="Critics in the ensemble (the paper: 10).", min=2)]
Actions = Annotated[
    int, typer.Option("--n-actions", help="Actions of CQL from each distribution (the paper: 10).", min=1)
]


def demo(
    ctx: typer.Context,
    gradient_steps: GradientSteps = SIZES.gradient_steps,
    steps: Steps = SIZES.steps,
    warmup: WarmupSteps = SIZES.warmup,
    n_critics: Critics = SIZES.n_critics,
    n_actions: Actions = SIZES.n_actions,
    eval_episodes: Episodes = SIZES.eval_episodes,
    evaluations: Evaluations = SIZES.evaluations,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    log_dir: LogDir = DEFAULT_LOG_DIR,
    resume: Resume = None,
    trust: Trust = False,
) -> None:
    """The whole story in a few minutes: a dataset, offline pre-training, online fine-tuning.

    Pre-trains with CQL on 20,000 transitions of a double pendulum that come with the library, fine-tunes the WSRL
    way, and ends in a table: how good the dataset is, the offline policy, and the fine-tuned one.
    """
    from sb3_o2o.cli.train import resume_run, start_run
    from sb3_o2o.demo_data import DEMO_DATASET, DEMO_ENVIRONMENT
    from sb3_o2o.recipes import load_recipe
    from sb3_o2o.runs.environments import Environment
    from sb3_o2o.runs.folder import RunConfig

    if resume is not None:
        resume_run(resume, ctx)
        return
    if warmup >= steps:
        raise ValueError(f"--warmup {warmup} leaves no step of --steps {steps} to learn in.")
    environment = Environment(DEMO_ENVIRONMENT)
    recipe = load_recipe("wsrl", environment.id)
    conservative = recipe.arguments["objective_kwargs"]
    sizes = {
        "n_critics": n_critics,
        "finetuning": [{"Warmup": {"steps": warmup}}],
        "buffer_size": steps,
        **{name: SIZES.learning_rate for name in ("learning_rate", "qf_learning_rate", "ent_coef_learning_rate")},
        "policy_kwargs": {"net_arch": list(SIZES.net_arch)},
        "objective_kwargs": {**conservative, "n_actions": n_actions, "max_target_backup": False},
    }
    config = RunConfig(
        command="demo",
        environment=environment,
        recipe=recipe.reference,
        dataset=str(DEMO_DATASET),
        overrides=parse_settings(settings, recipe.arguments, recipe.algorithm, sizes),
        pretrain_steps=gradient_steps,
        online_steps=steps,
        seed=seed,
        device=device,
        threads=threads,
        n_eval_episodes=eval_episodes,
        n_evaluations=evaluations,
        n_checkpoints=1,
    )
    folder = start_run(config, log_dir, recipe)
    trained = config.overrides  # the recipe's networks are larger
    networks = f"n_critics={trained['n_critics']}", f"policy_kwargs.net_arch={trained['policy_kwargs']['net_arch']}"
    command = f"sb3-o2o finetune {quote(str(folder.path))} --recipe wsrl --steps 50000"
    next_command("Go on from its policy:", " ".join([command, *(f"--set {quote(setting)}" for setting in networks)]))
