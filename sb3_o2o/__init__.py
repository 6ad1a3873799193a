"""Offline-to-online reinforcement learning for Stable-Baselines3."""

from typing import TYPE_CHECKING, Any

from sb3_o2o.version import __version__

if TYPE_CHECKING:
    from sb3_o2o.algorithms import O2OSAC
    from sb3_o2o.data import OfflineDataset

__all__ = ["O2OSAC", "OfflineDataset", "__version__"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and ``sb3-o2o --help`` needs none of it
    if name == "O2OSAC":
        from sb3_o2o.algorithms import O2OSAC

        return O2OSAC
    if name == "OfflineDataset":
        from sb3_o2o.data import OfflineDataset

        return OfflineDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
