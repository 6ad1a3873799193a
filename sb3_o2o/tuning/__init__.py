"""Tuning: Optuna studies over a recipe, several seeds a trial, pre-training shared by trials that only fine-tune."""

from sb3_o2o.tuning.best_recipe import trials_table, write_best_recipe
from sb3_o2o.tuning.configuration import METRICS, TuningConfig, TuningTask
from sb3_o2o.tuning.pictures import draw_study
from sb3_o2o.tuning.samplers import make_pruner, make_sampler
from sb3_o2o.tuning.searched import declared_space, overrides_of_trial, select_space, suggest
from sb3_o2o.tuning.storages import open_storage, open_study
from sb3_o2o.tuning.studies import tune

__all__ = [
    "METRICS",
    "TuningConfig",
    "TuningTask",
    "declared_space",
    "draw_study",
    "make_pruner",
    "make_sampler",
    "open_storage",
    "open_study",
    "overrides_of_trial",
    "select_space",
    "suggest",
    "trials_table",
    "tune",
    "write_best_recipe",
]
