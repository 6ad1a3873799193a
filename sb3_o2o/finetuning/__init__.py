"""Fine-tuning callbacks, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sb3_o2o.checked import check_keyword_arguments, checked
from sb3_o2o.errors import unknown
from sb3_o2o.finetuning.actor_critic_alignment import ActorCriticAlignment
from sb3_o2o.finetuning.adaptive_bc import AdaptiveBC
from sb3_o2o.finetuning.advantage import AuxiliaryAdvantage
from sb3_o2o.finetuning.asynchronous import AsynchronousUpdates
from sb3_o2o.finetuning.balanced_replay import BalancedReplay
from sb3_o2o.finetuning.callback import FineTuningCallback
from sb3_o2o.finetuning.champion import ChampionChallenger
from sb3_o2o.finetuning.constraint import ConstrainedFineTuning, TrustRegion
from sb3_o2o.finetuning.dual_critic import DualCritic
from sb3_o2o.finetuning.expansion import PolicyExpansion
from sb3_o2o.finetuning.jump_start import JumpStart
from sb3_o2o.finetuning.kappa import LinearSchedule
from sb3_o2o.finetuning.online_pretraining import OnlinePretraining
from sb3_o2o.finetuning.reconstruction import PolicyReevaluation, ValueAlignment
from sb3_o2o.finetuning.replay import DatasetReplay, FIFOReplay, SymmetricReplay
from sb3_o2o.finetuning.targets import PerturbedTargets
from sb3_o2o.finetuning.warmup import Warmup
from sb3_o2o.updates.hooks import refuse_conflicts


@checked
def build_finetuning(finetuning: Sequence[Any] | None) -> list[FineTuningCallback]:
    """
    Fine-tuning callbacks from what YAML can hold.

    :param finetuning: for each callback an instance, a name (``"Warmup"``), or a one-entry dictionary with keyword
        arguments (``{"Warmup": {"steps": 5000}}``)
    :return: the callbacks, in the same order
    :raises ValueError: unknown name or keyword argument (the nearest is named), another spelling, or two callbacks that
        decide what only one can
    """
    if isinstance(finetuning, str | Mapping | FineTuningCallback):
        raise ValueError(f"finetuning must be a list of callbacks, got {finetuning!r}: put it in brackets.")
    callbacks: list[FineTuningCallback] = [
        spec if isinstance(spec, FineTuningCallback) else _build_callback(spec, FineTuningCallback.registry)
        for spec in finetuning or ()
    ]
    refuse_conflicts(callbacks)
    return callbacks


def _build_callback(spec: Any, registry: Mapping[str, Callable[..., Any]]) -> Any:
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ValueError(
            "Each callback in finetuning is written as a name or as {name: {argument: value}}, "
            f"and there is {spec!r}."
        )
    name, arguments = next(iter(spec.items()))
    if name not in registry:
        raise unknown("fine-tuning callback", name, registry)
    if not isinstance(arguments or {}, Mapping):
        raise ValueError(f"Arguments of {name} must be written as {{argument: value}}, got {arguments!r}.")
    check_keyword_arguments(f"argument of {name}", registry[name], dict(arguments or {}))
    return registry[name](**(arguments or {}))


__all__ = [
    "ActorCriticAlignment",
    "AdaptiveBC",
    "AsynchronousUpdates",
    "AuxiliaryAdvantage",
    "BalancedReplay",
    "ChampionChallenger",
    "ConstrainedFineTuning",
    "DatasetReplay",
    "DualCritic",
    "FIFOReplay",
    "FineTuningCallback",
    "JumpStart",
    "LinearSchedule",
    "OnlinePretraining",
    "PerturbedTargets",
    "PolicyExpansion",
    "PolicyReevaluation",
    "SymmetricReplay",
    "TrustRegion",
    "ValueAlignment",
    "Warmup",
    "build_finetuning",
]
