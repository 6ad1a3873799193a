"""Offline-to-online reinforcement learning for Stable-Baselines3."""

from typing import TYPE_CHECKING, Any

from sb3_o2o.errors import NonFiniteError
from sb3_o2o.plain import UntrustedError, add_safe_globals
from sb3_o2o.version import __version__

if TYPE_CHECKING:
    from sb3_o2o.advice import advise
    from sb3_o2o.algorithms import O2OPPO, O2OSAC, O2OTD3
    from sb3_o2o.algorithms.residual import ResidualActions, ResidualPolicy
    from sb3_o2o.data import OfflineDataset
    from sb3_o2o.resume import ResumeBundle

__all__ = [
    "O2OPPO",
    "O2OSAC",
    "O2OTD3",
    "NonFiniteError",
    "OfflineDataset",
    "ResidualActions",
    "ResidualPolicy",
    "ResumeBundle",
    "UntrustedError",
    "__version__",
    "add_safe_globals",
    "advise",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and ``sb3-o2o --help`` needs none of it
    if name in ("O2OPPO", "O2OSAC", "O2OTD3"):
        from sb3_o2o import algorithms

        return getattr(algorithms, name)
    if name in ("ResidualActions", "ResidualPolicy"):
        from sb3_o2o.algorithms import residual

        return getattr(residual, name)
    if name == "advise":
        from sb3_o2o.advice import advise

        return advise
    if name == "OfflineDataset":
        from sb3_o2o.data import OfflineDataset

        return OfflineDataset
    if name == "ResumeBundle":
        from sb3_o2o.resume import ResumeBundle

        return ResumeBundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
