"""Saved policies of any kind, opened to act."""

from typing import Any

from sb3_o2o import algorithms  # noqa: F401  # those of ours enter themselves in the table of families
from sb3_o2o.runs.folder import RunConfig, run_of, saved_model
from sb3_o2o.transfer.archive import saved_family
from sb3_o2o.transfer.foreign import open_saved


def load_policy(path: str, trust: bool = False) -> tuple[Any, RunConfig | None]:
    """
    Open a saved policy of any algorithm of ours, of Stable-Baselines3 or of sb3-contrib.

    :param path: zip, or run folder
    :param trust: whether the file may run code
    :return: the model, and the configuration of its run where it lies in one
    :raises ValueError: there is none, or its algorithm is not known
    """
    zip_path, run = saved_model(path), run_of(path)
    model = open_saved(saved_family(zip_path), zip_path, trust=trust)
    if model is None:
        raise ValueError(f"{path} holds a model of an algorithm that is not known here: load it in Python.")
    return model, None if run is None else run.read_config()
