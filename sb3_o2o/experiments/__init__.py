"""Experiments: grids of datasets, recipes and seeds, on this machine or on many."""

from sb3_o2o.experiments.running import run

__all__ = ["run"]
