"""
Which recipe to start with: facts in, a recipe with its reasons out. Nothing is measured and nothing is opened here.

Each rule says where it comes from. Numbers that no source gives stand at the top, as ours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sb3_o2o.advice.facts import DatasetFacts, PolicyFacts
from sb3_o2o.checked import checked
from sb3_o2o.recipes import load_recipe

Regime = Literal["superior", "comparable", "inferior"]

#: part of the scale within which policy and dataset are alike (Li et al. 2025, section 5: 0.05)
MARGIN = 0.05
#: one-sided 5 % quantile of the normal distribution, for the test that the difference exceeds the margin
QUANTILE = 1.645
#: ours: below this score of its best episodes a dataset shows nothing worth imitating
POOR = 10.0
#: ours: from this score on a dataset or a policy counts as an expert's
EXPERT = 80.0
#: ours: below this actions in similar states are nearly the same; docs/howto/advise.md has seven datasets'
NARROW = 0.5
#: ours: below this a critic does not rank; benchmarks/README.md has 0.6 on Hopper and 0.2 on HalfCheetah
RANKS = 0.3
#: whose recipes have constants for expert data
_LOCOMOTION = ("HalfCheetah-", "Hopper-", "Walker2d-", "Ant-")

_REGIMES = "Li et al. 2025, The Three Regimes of Offline-to-Online RL, arXiv:2510.01460"
_CALQL = "Nakamoto et al. 2023, Cal-QL, arXiv:2303.05479"
_WSRL = "Zhou et al. 2024, WSRL, arXiv:2412.07762"
_RLPD = "Ball et al. 2023, RLPD, arXiv:2302.02948"
_OCR_CFT = "Luo et al. 2024, OCR-CFT, arXiv:2412.18855"
_SO2 = "Zhang et al. 2024, SO2, figure 2c, arXiv:2312.07685"
_DATASETS = "Schweighofer et al. 2022, A Dataset Perspective on Offline RL, arXiv:2111.04714"
_OURS = "ours"


@dataclass(frozen=True)
class Reason:
    """
    A rule that applied.

    :param text: what was found, and what follows
    :param source: who says so
    """

    text: str
    source: str


@dataclass(frozen=True)
class Choice:
    """
    A recipe, and why.

    :param recipe: name
    :param reasons: rules that applied, in order; the last one that names a recipe decides
    :param regime: of a policy beside the dataset; None without a policy
    """

    recipe: str
    reasons: tuple[Reason, ...]
    regime: Regime | None = None


@checked
def choose(dataset: DatasetFacts, policy: PolicyFacts | None = None) -> Choice:
    """
    :param dataset: what is known of it
    :param policy: what is to be fine-tuned; None if that is to be trained first
    :return: the recipe to start with, and why
    """
    notes = tuple(_notes(dataset, policy))
    if policy is None:
        recipe, reasons = _without_policy(dataset)
        return Choice(recipe, (*notes, *reasons))
    found = regime(dataset, policy)
    recipe, reasons = _WITH_POLICY[found](dataset, policy)
    return Choice(recipe, (*notes, *reasons), found)


@checked
def regime(dataset: DatasetFacts, policy: PolicyFacts) -> Regime:
    """
    Li et al. 2025: what is worth keeping online is the policy or the dataset, whichever earns more on average. Both
    means are compared by a one-sided test of whether they differ by more than :data:`MARGIN` (normal instead of t).

    :param dataset: what is known of it
    :param policy: likewise
    :return: ``"superior"`` where the policy is better, ``"inferior"`` where the dataset is
    """
    difference, margin = policy.mean - dataset.mean, MARGIN * dataset.scale
    error = math.sqrt(dataset.deviation**2 / dataset.episodes + policy.deviation**2 / policy.episodes)
    if difference - margin > QUANTILE * error:
        return "superior"
    if -difference - margin > QUANTILE * error:
        return "inferior"
    return "comparable"


# -- what is noted, whatever follows -------------------------------------------------------------------------------


def _notes(dataset: DatasetFacts, policy: PolicyFacts | None) -> Iterator[Reason]:
    if dataset.unit == "return":
        yield Reason(
            "No reference returns are known for this environment: whether data or policy are an expert's or poor "
            "cannot be said, and returns are compared on the scale from the dataset's worst episode to its best.",
            _OURS,
        )
    if dataset.best - dataset.mean > 0.2 * dataset.scale and policy is None:
        yield Reason(
            f"The best tenth of the episodes is far above the mean ({dataset.best:.1f} and {dataset.mean:.1f}): "
            "imitation alone would learn the mean, values can tell the episodes apart.",
            _DATASETS,
        )
    if policy is None and _is_narrow(dataset):
        yield Reason(
            f"Actions in similar states are nearly the same (coverage {dataset.coverage:.2f}): what others are worth "
            "cannot be known offline, so offline values must be pessimistic and the switch gentle.",
            _DATASETS,
        )
    if policy is not None and policy.mean < dataset.best - MARGIN * dataset.scale:
        yield Reason(
            f"The policy ({policy.mean:.1f}) is below the best tenth of the dataset ({dataset.best:.1f}): the dataset "
            "has more to give, by more gradient steps or by keeping it online.",
            _OURS,
        )
    if policy is not None and policy.kendall_tau is not None:
        verb = "ranks" if policy.kendall_tau >= RANKS else "does not rank"
        yield Reason(
            f"Kendall's tau of the critic with returns is {policy.kendall_tau:.2f}: it {verb} actions"
            + ("." if verb == "ranks" else ", and a policy that follows it is misled."),
            _SO2,
        )


# -- a dataset alone -----------------------------------------------------------------------------------------------


def _without_policy(dataset: DatasetFacts) -> tuple[str, tuple[Reason, ...]]:
    if dataset.unit != "return" and dataset.best < POOR:
        return _poor(dataset)
    if dataset.sparse:
        recipe = "wsrl" if _wsrl_calibrates(dataset.env_id) else "calql"
        return recipe, (
            Reason(
                "Rewards are sparse: values must begin on the scale of returns, or the first online updates unlearn "
                "the policy. Pre-train with Cal-QL, which bounds them from below by the dataset's returns.",
                f"{_CALQL}; {_WSRL}",
            ),
        )
    if dataset.unit == "score" and dataset.mean >= EXPERT:
        return _near_expert("o2td3", dataset, True), (
            Reason(
                f"The data are an expert's ({dataset.mean:.1f}): imitation is enough offline, and online the policy "
                "must stay near what it knows. TD3+BC, then updates within a distance of the best policy.",
                f"{_DATASETS}; {_OCR_CFT}",
            ),
        )
    return "wsrl", (
        Reason(
            "Rewards are dense and the data leave room above them: pre-train an ensemble with CQL, then warm up and go "
            "on as plain SAC. Ask again with the trained policy, which says whether to keep the dataset.",
            f"{_WSRL}; {_REGIMES}",
        ),
    )


def _poor(dataset: DatasetFacts) -> tuple[str, tuple[Reason, ...]]:
    if _is_narrow(dataset):
        return "sac_fast", (
            Reason(
                f"The best episodes reach {dataset.best:.1f}, and actions in similar states are nearly the same "
                f"(coverage {dataset.coverage:.2f}): the data show neither what to do nor what else there is. Train "
                "without them.",
                _DATASETS,
            ),
        )
    return "rlpd", (
        Reason(
            f"The best episodes reach {dataset.best:.1f}: there is no policy to be had from them, but what was tried "
            "is of use. Train online from the first step, half of each batch from the dataset.",
            f"{_RLPD}; {_DATASETS}",
        ),
    )


def _is_narrow(dataset: DatasetFacts) -> bool:
    return dataset.coverage is not None and dataset.coverage < NARROW


def _wsrl_calibrates(env_id: str) -> bool:
    """Whether the recipe has constants of a sparse task for an environment."""
    return bool(load_recipe("wsrl", env_id).arguments["objective"] == "calql")


def _near_expert(recipe: str, dataset: DatasetFacts, is_expert: bool) -> str:
    """The variant with an expert's thresholds, where there is one."""
    return f"{recipe}_expert" if is_expert and dataset.env_id.rpartition(":")[2].startswith(_LOCOMOTION) else recipe


# -- a policy beside a dataset -------------------------------------------------------------------------------------


def _superior(dataset: DatasetFacts, policy: PolicyFacts) -> tuple[str, tuple[Reason, ...]]:
    why = Reason(
        f"The policy earns more than the dataset ({policy.mean:.1f} and {dataset.mean:.1f}): protect the policy.",
        _REGIMES,
    )
    if policy.family == "SAC" and _ranks(policy):
        return "wsrl", (
            why,
            Reason(
                "Its critic can be gone on with: warm up with the frozen policy, then plain SAC. The dataset need not "
                "be kept.",
                _WSRL,
            ),
        )
    recipe, reason = _reconstructed(dataset, policy)
    return recipe, (why, reason)


def _comparable(dataset: DatasetFacts, policy: PolicyFacts) -> tuple[str, tuple[Reason, ...]]:
    why = Reason(
        f"Policy and dataset earn about the same ({policy.mean:.1f} and {dataset.mean:.1f}): keep both, the policy by "
        "staying near it and the dataset in the batches.",
        _REGIMES,
    )
    if dataset.sparse and policy.family == "SAC" and _ranks(policy):
        return "calql", (why, Reason("Rewards are sparse and the critic ranks: go on with Cal-QL.", _CALQL))
    recipe, reason = _reconstructed(dataset, policy)
    return recipe, (why, reason)


def _inferior(dataset: DatasetFacts, policy: PolicyFacts) -> tuple[str, tuple[Reason, ...]]:
    return "rlpd", (
        Reason(
            f"The dataset earns more than the policy ({dataset.mean:.1f} and {policy.mean:.1f}): protect the dataset. "
            "Networks begin afresh, half of each batch comes from the dataset.",
            f"{_REGIMES}; {_RLPD}",
        ),
    )


_WITH_POLICY = {"superior": _superior, "comparable": _comparable, "inferior": _inferior}


def _ranks(policy: PolicyFacts) -> bool:
    return policy.kendall_tau is not None and policy.kendall_tau >= RANKS


def _reconstructed(dataset: DatasetFacts, policy: PolicyFacts) -> tuple[str, Reason]:
    """The recipe that gives a policy a critic that fits it, then stays near the policy."""
    recipe = {"TD3": "o2td3", "PPO": "o2ppo"}.get(policy.family, "o2sac")
    is_expert = dataset.unit == "score" and policy.mean >= EXPERT
    if policy.kendall_tau is None:
        critic = "It brings no critic that can be gone on with"
    elif policy.kendall_tau < RANKS:
        critic = "Its critic does not rank"
    else:
        critic = "Its critic may be another objective's than the one it is to follow online"
    near = ", within an expert's distance." if is_expert else "."
    return _near_expert(recipe, dataset, is_expert), Reason(
        f"{critic}: evaluate the policy anew on the dataset, align the values with it, and stay near the best policy "
        f"so far{near}",
        _OCR_CFT,
    )
