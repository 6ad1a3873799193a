"""Algorithms: Stable-Baselines3's, offline to online."""

from sb3_o2o.algorithms.sac import O2OSAC

__all__ = ["O2OSAC"]
