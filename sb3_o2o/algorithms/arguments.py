"""Every constructor argument, declared once: its type, what it may be, and what it does.

Arguments of Stable-Baselines3 are declared where a wrong value does harm; their defaults and documentation are those of
the stock class. Ours follow them. :func:`~sb3_o2o.algorithms.constructors.takes_arguments` makes constructors of these.
"""

import math
from typing import Annotated, Any, TypedDict

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import Schedule, TrainFreq

from sb3_o2o.algorithms.constructors import Argument
from sb3_o2o.data.sources import DATASET
from sb3_o2o.kinds import (
    ARGUMENTS,
    DEVICE,
    FLAG,
    NOT_ZERO,
    NOTHING,
    PATH,
    SCHEDULE,
    Kind,
    instance,
    is_whole,
    kind,
    number,
    one_of,
    subclass,
    whole,
)
from sb3_o2o.objectives import Objective
from sb3_o2o.recipes.recipe_files import Recipe
from sb3_o2o.search_space import Choice, Range
from sb3_o2o.updates.finite import RAISE, ROLLBACK

Rate = float | Schedule
PPORate = float | str | Schedule

# -- kinds ---------------------------------------------------------------------------------------------------------


def finite(text: str) -> float | None:
    """
    :param text: perhaps a number
    :return: the number; None for another text, NaN and infinity
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def linear_start(text: str) -> float | None:
    """
    :param text: perhaps ``"lin_3e-4"``, as RL Zoo writes what falls linearly to 0
    :return: where it starts; None for another text
    """
    word, _, amount = text.partition("_")
    start = finite(amount)
    return start if word == "lin" and start is not None and start > 0 else None


def automatic_factor(text: str) -> float | None:
    """
    :param text: perhaps ``"auto"`` or ``"auto_0.5"``
    :return: its factor, 1 where it has none; None for another text
    """
    word, separator, factor = text.partition("_")
    if word != "auto":
        return None
    return finite(factor) if separator else 1.0


def _automatic(least: float) -> Kind:
    def accepts(value: Any) -> bool:
        factor = automatic_factor(value) if isinstance(value, str) else None
        return factor is not None and factor > least

    return Kind(("'auto'", "a text like 'auto_0.5'"), accepts)


#: a temperature that is tuned
AUTOMATIC = _automatic(0)


def _written(least: float) -> Kind:
    """Stable-Baselines3 reads numbers from texts here, which is what YAML makes of ``1e-3``."""

    def accepts(value: Any) -> bool:
        amount = finite(value) if isinstance(value, str) else None
        return amount is not None and amount >= least

    return kind("the same as a text", accepts)


def _is_frequency(value: Any) -> bool:
    if isinstance(value, TrainFreq):
        return True
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and is_whole(value[0])
        and value[0] >= 1
        and value[1] in ("step", "episode")
    )


COUNT = whole(1)
FRACTION = number(0, 1)
POSITIVE = number(above=0)
NOT_NEGATIVE = number(0)
RATE = NOT_NEGATIVE | SCHEDULE
PPO_RATE = RATE | kind(
    "a text like 'lin_3e-4', which falls linearly to 0",
    lambda value: isinstance(value, str) and linear_start(value) is not None,
)
CLIP_RANGE = POSITIVE | SCHEDULE
FREQUENCY = COUNT | kind("a tuple like (1, 'episode') or (4, 'step')", _is_frequency)
NOISE = NOT_NEGATIVE | instance("an ActionNoise", ActionNoise) | NOTHING
OBJECTIVE = instance("the name of an objective", str) | subclass(Objective)
CALLBACKS = (
    instance("a list, in brackets, of callbacks, of their names, or of {name: arguments}", list, tuple) | NOTHING
)
RECIPE = instance("a recipe, its name, or the path of a file that ends in .yml", str, Recipe) | NOTHING
#: what learning rates are tuned in
LEARNING_RATES = Range(1e-5, 1e-3, log=True)

# -- what all three take -------------------------------------------------------------------------------------------


class SharedArguments(TypedDict, total=False):
    """Of every algorithm."""

    gamma: Annotated[float, Argument(FRACTION)]
    n_steps: Annotated[int, Argument(COUNT)]
    stats_window_size: Annotated[int, Argument(whole(0), online=True)]
    tensorboard_log: Annotated[str | None, Argument(PATH | NOTHING, online=True)]
    policy_kwargs: Annotated[dict[str, Any] | None, Argument(ARGUMENTS | NOTHING)]
    verbose: Annotated[int, Argument(whole() | FLAG, online=True)]
    seed: Annotated[int | None, Argument(whole(0, 2**32 - 1) | NOTHING)]
    device: Annotated[th.device | str, Argument(DEVICE)]
    _init_setup_model: Annotated[bool, Argument(FLAG)]

    objective: Annotated[
        str | type[Objective], Argument(OBJECTIVE, "what ``pretrain`` minimises: {objectives}, or one of your own")
    ]
    objective_kwargs: Annotated[
        dict[str, Any] | None,
        Argument(
            ARGUMENTS | NOTHING,
            "arguments of the offline objective; those of a recipe or a saved model hold for the objective that is "
            "named there, and not for another one that is given instead",
            None,
        ),
    ]
    finetuning: Annotated[
        list[Any] | None, Argument(CALLBACKS, "fine-tuning callbacks: objects, names, or ``{name: arguments}``", None)
    ]
    recipe: Annotated[
        str | Recipe | None,
        Argument(RECIPE, "a recipe, its name or the path of one, which fills in every argument left out", None),
    ]
    normalize_observations: Annotated[
        bool,
        Argument(
            FLAG,
            "normalise observations by the dataset's mean and standard deviation, which become part of the policy",
            False,
        ),
    ]
    reward_scale: Annotated[
        float,
        Argument(
            NOT_ZERO,
            "training rewards are ``reward_scale * r + reward_shift``, offline and online; evaluation sees ``r``",
            1.0,
        ),
    ]
    reward_shift: Annotated[float, Argument(number(), "see ``reward_scale``", 0.0)]
    dataset: Annotated[
        Any,
        Argument(DATASET | NOTHING, "dataset for ``pretrain`` and for callbacks", None),
    ]
    dataset_kwargs: Annotated[
        dict[str, Any] | None, Argument(ARGUMENTS | NOTHING, "arguments of ``OfflineDataset.load``", None)
    ]
    pretrain_steps: Annotated[
        int,
        Argument(whole(0), "gradient steps that ``learn`` makes on ``dataset`` first, if they have not been made", 0),
    ]
    on_nonfinite: Annotated[
        str,
        Argument(
            one_of(RAISE, ROLLBACK),
            "what happens where a loss, a weight, an observation or a reward is NaN or infinite. ``'raise'`` ends the "
            "run with ``NonFiniteError``, which names it and keeps the batch. ``'rollback'`` goes back to the weights "
            "and optimisers of at most 2,000 updates before, and on with other random numbers, up to three times in a "
            "call; then to the newest resume bundle of a ``ResumeBundle`` of that call, up to three times",
            RAISE,
        ),
    ]
    compile: Annotated[
        bool,
        Argument(FLAG, "compile the loss functions with ``torch.compile``; PPO's of the offline phases", False),
    ]


class ExplorationArguments(TypedDict, total=False):
    """Of algorithms with a stochastic policy: generalised state-dependent exploration."""

    use_sde: Annotated[bool, Argument(FLAG)]
    sde_sample_freq: Annotated[int, Argument(whole(-1))]


# -- what those with a replay buffer take --------------------------------------------------------------------------


class OffPolicyArguments(SharedArguments, total=False):
    """Of O2OSAC and O2OTD3."""

    batch_size: Annotated[int, Argument(COUNT, search=Choice((128, 256, 512, 1024)))]
    learning_rate: Annotated[Rate, Argument(RATE, search=LEARNING_RATES)]
    buffer_size: Annotated[int, Argument(COUNT, online=True)]
    learning_starts: Annotated[int, Argument(number(), online=True)]
    tau: Annotated[float, Argument(FRACTION, search=Range(1e-3, 2e-2, log=True))]
    train_freq: Annotated[int | tuple[int, str], Argument(FREQUENCY, online=True)]
    gradient_steps: Annotated[int, Argument(whole(-1), search=Choice((1, 2, 4, 10)), online=True)]
    action_noise: Annotated[
        ActionNoise | float | None,
        Argument(
            NOISE, "an ActionNoise, or the standard deviation of Gaussian noise on the scale of [-1, 1]", online=True
        ),
    ]
    replay_buffer_class: Annotated[type[ReplayBuffer] | None, Argument(subclass(ReplayBuffer) | NOTHING, online=True)]
    replay_buffer_kwargs: Annotated[dict[str, Any] | None, Argument(ARGUMENTS | NOTHING, online=True)]
    optimize_memory_usage: Annotated[bool, Argument(FLAG, online=True)]

    online_objective: Annotated[
        str | type[Objective] | None,
        Argument(OBJECTIVE | NOTHING, "what ``learn`` minimises; by default {online}", None, online=True),
    ]
    online_objective_kwargs: Annotated[
        dict[str, Any] | None,
        Argument(
            ARGUMENTS | NOTHING,
            "arguments of the online objective; an online objective of the same name goes on as the offline one, with "
            "its multiplier and value network, unless its arguments differ. See ``objective_kwargs``",
            None,
            online=True,
        ),
    ]
    n_critics: Annotated[int, Argument(COUNT, "critics in the ensemble, N", 2, Choice((2, 5, 10)))]
    critic_layer_norm: Annotated[
        bool, Argument(FLAG, "layer normalisation in the critics, before each activation", False)
    ]
    actor_layer_norm: Annotated[bool, Argument(FLAG, "the same in the actor", False)]
    actor_batch: Annotated[
        str,
        Argument(
            one_of("minibatch", "block"),
            "where ``policy_delay`` makes it wait, the actor steps on its last ``'minibatch'`` (RLPD) or on the whole "
            "``'block'`` of ``gradient_steps * batch_size`` transitions (WSRL), which are then drawn at once",
            "minibatch",
        ),
    ]
    actor_max_grad_norm: Annotated[
        float | None,
        Argument(
            POSITIVE | NOTHING,
            "the actor's gradient is scaled down to this norm; 0.25 in OCR-CFT's interval variant and in ACA",
            None,
        ),
    ]
    qf_learning_rate: Annotated[
        Rate | None,
        Argument(RATE | NOTHING, "the critics' learning rate; ``learning_rate`` by default", None, LEARNING_RATES),
    ]
    critic_subset: Annotated[
        int | None,
        Argument(
            COUNT | NOTHING,
            "target critics drawn at each update, of which the minimum is taken (REDQ); all by default",
            None,
        ),
    ]
    subset_replacement: Annotated[
        bool, Argument(FLAG, "draw them with replacement, as the official WSRL code does", False)
    ]
    actor_critics: Annotated[
        str,
        Argument(
            one_of("min", "mean", "first", "pairs"),
            "the actor maximises the minimum or the mean over all critics, the first, or the mean over pairs of "
            "critics of their minimum (Off2On)",
        ),
    ]
    pretrain_kwargs: Annotated[
        dict[str, Any] | None,
        Argument(
            ARGUMENTS | NOTHING,
            "arguments of this list that have another value while pre-training: learning rates, ``batch_size``, "
            "``actor_max_grad_norm``, ``tau``, and all that concerns the critics (of ``policy_kwargs`` "
            "``{'net_arch': {'qf': […]}}``). Those of "
            "fine-tuning hold from the first ``learn`` or ``load_offline`` on, with fresh critics where their "
            "architecture is another one. An argument given beside a ``recipe`` holds in both phases",
            None,
        ),
    ]
    precision: Annotated[
        str,
        Argument(
            one_of("fp32", "bf16"),
            "``'bf16'`` runs the matrix products of updates in bfloat16; weights, targets and optimisers stay float32. "
            "It pays on a processor that multiplies bfloat16 (``avx512_bf16`` or ``amx_bf16`` among the flags of "
            "``lscpu``); on one that does not it was slower than float32",
            "fp32",
        ),
    ]


class SACArguments(OffPolicyArguments, ExplorationArguments, total=False):
    """Of O2OSAC."""

    ent_coef: Annotated[
        str | float,
        Argument(
            NOT_NEGATIVE | _written(0) | AUTOMATIC,
            "{stock}. Where pre-training has tuned no temperature (``'iql'``, ``'bc'``), fine-tuning starts where "
            "``'auto_0.1'`` says, and with plain ``'auto'`` at 0.2 (Luo et al. 2024)",
        ),
    ]
    target_update_interval: Annotated[int, Argument(COUNT)]
    target_entropy: Annotated[
        str | float,
        Argument(
            number() | _written(-math.inf) | _automatic(-math.inf),
            "target entropy when learning ``ent_coef``; ``'auto'`` is minus the number of action dimensions, and "
            "``'auto_0.5'`` half of that (RLPD)",
        ),
    ]
    use_sde_at_warmup: Annotated[bool, Argument(FLAG, online=True)]

    policy_delay: Annotated[
        int,
        Argument(
            COUNT,
            "critic updates per actor and temperature update when fine-tuning; pre-training updates all",
            1,
            online=True,
        ),
    ]
    ent_coef_learning_rate: Annotated[
        Rate | None, Argument(RATE | NOTHING, "the temperature's; ``learning_rate`` by default", None)
    ]
    entropy_backup: Annotated[bool, Argument(FLAG, "include the entropy in the TD target", True)]


class TD3Arguments(OffPolicyArguments, total=False):
    """Of O2OTD3."""

    policy_delay: Annotated[
        int,
        Argument(COUNT, "every ``policy_delay``-th update moves the actor and both target networks, offline as well"),
    ]
    target_policy_noise: Annotated[float, Argument(NOT_NEGATIVE, search=Range(0.05, 0.4))]
    target_noise_clip: Annotated[float, Argument(number(0, finite=False))]


# -- what PPO takes ------------------------------------------------------------------------------------------------


class PPOArguments(SharedArguments, ExplorationArguments, total=False):
    """Of O2OPPO."""

    batch_size: Annotated[int, Argument(COUNT, search=Choice((64, 128, 256)), online=True)]
    learning_rate: Annotated[PPORate, Argument(PPO_RATE, search=LEARNING_RATES)]
    n_epochs: Annotated[int, Argument(COUNT, search=Choice((5, 10, 20)), online=True)]
    gae_lambda: Annotated[float, Argument(FRACTION, search=Range(0.9, 1.0), online=True)]
    clip_range: Annotated[Rate, Argument(CLIP_RANGE, search=Range(0.1, 0.3), online=True)]
    clip_range_vf: Annotated[Rate | None, Argument(CLIP_RANGE | NOTHING, online=True)]
    normalize_advantage: Annotated[bool, Argument(FLAG, online=True)]
    ent_coef: Annotated[float, Argument(number(), online=True)]
    vf_coef: Annotated[float, Argument(NOT_NEGATIVE, online=True)]
    max_grad_norm: Annotated[float, Argument(number(above=0, finite=False))]
    rollout_buffer_class: Annotated[type[RolloutBuffer] | None, Argument(subclass(RolloutBuffer) | NOTHING)]
    rollout_buffer_kwargs: Annotated[dict[str, Any] | None, Argument(ARGUMENTS | NOTHING)]
    target_kl: Annotated[float | None, Argument(POSITIVE | NOTHING, online=True)]

    value_learning_rate: Annotated[
        PPORate | None,
        Argument(
            PPO_RATE | NOTHING,
            "learning rate of the value network, which then has an Adam and a clipping of its gradients by "
            "``max_grad_norm`` apart from the actor's, as in O2PPO; one for both by default",
            None,
        ),
    ]
    pretrain_learning_rate: Annotated[
        PPORate | None,
        Argument(
            PPO_RATE | NOTHING,
            "of ``pretrain``, which has an optimiser of its own; ``learning_rate`` by default",
            None,
        ),
    ]
    pretrain_kwargs: Annotated[
        dict[str, Any] | None,
        Argument(
            ARGUMENTS | NOTHING,
            "``{'learning_rate': …, 'batch_size': …}`` of ``pretrain``, as the other algorithms take it: "
            "``pretrain_learning_rate`` and ``pretrain_batch_size`` by one name",
            None,
        ),
    ]
    pretrain_batch_size: Annotated[int, Argument(COUNT, "transitions per gradient step of ``pretrain``", 256)]
