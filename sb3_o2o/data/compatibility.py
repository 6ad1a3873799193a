"""Whether a dataset and an environment speak of the same task."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_o2o.data.transitions import Observations


def check_observation_spaces(dataset: spaces.Space, environment: spaces.Space, source: str) -> None:
    """
    :param dataset: the dataset's space
    :param environment: the environment's space
    :param source: the dataset's name, for the message
    :raises ValueError: if keys or shapes differ
    """
    problem = ""
    if isinstance(dataset, spaces.Dict) != isinstance(environment, spaces.Dict):
        problem = "one is a dictionary, the other is not"
        advice = (
            "Use the wrapper with which the data were recorded (FlattenObservation turns a dictionary into one array)."
        )
    elif isinstance(dataset, spaces.Dict) and isinstance(environment, spaces.Dict):
        advice = "Use an environment that gives the keys and shapes of the data."
        if set(dataset.spaces) != set(environment.spaces):
            problem = f"the keys are {sorted(dataset.spaces)} and {sorted(environment.spaces)}"
        else:
            for key, subspace in dataset.spaces.items():
                if subspace.shape != environment.spaces[key].shape:
                    problem = f"the shapes of {key!r} are {subspace.shape} and {environment.spaces[key].shape}"
    elif dataset.shape != environment.shape:
        problem = f"the shapes are {dataset.shape} and {environment.shape}"
        advice = "Use the environment (id, version and wrappers) with which the data were recorded."
    if problem:
        raise ValueError(
            f"Dataset {source!r} does not match the environment's observations: {problem}. Dataset: {dataset}; "
            f"environment: {environment}. {advice}"
        )


def check_action_spaces(dataset: spaces.Box, environment: spaces.Space, source: str) -> None:
    """
    :param dataset: the space by whose bounds the dataset's actions were scaled
    :param environment: the environment's space
    :param source: the dataset's name, for the message
    :raises ValueError: if it is not a ``Box`` of the same shape and bounds
    """
    problem = ""
    if not isinstance(environment, spaces.Box):
        problem = "the environment's actions are not continuous (Box)"
    elif dataset.shape != environment.shape:
        problem = f"the shapes are {dataset.shape} and {environment.shape}"
    elif not (np.allclose(dataset.low, environment.low) and np.allclose(dataset.high, environment.high)):
        problem = (
            f"the bounds are [{dataset.low.min()}, {dataset.high.max()}] and "
            f"[{environment.low.min()}, {environment.high.max()}], so the same scaled action would mean another one"
        )
    if problem:
        raise ValueError(
            f"Dataset {source!r} does not match the environment's actions: {problem}. Dataset: {dataset}; environment: "
            f"{environment}. If the data were recorded with the environment's bounds, pass "
            "action_space=env.action_space when loading."
        )


def channels_first(
    rows: Observations, dataset: spaces.Space, environment: spaces.Space
) -> tuple[Observations, spaces.Space]:
    """
    SB3's environments have channel-first images, Gymnasium's (hence Minari's) mostly channel-last ones.

    :param rows: observations, ``(R, *obs_shape)`` or a dictionary of such
    :param dataset: their space
    :param environment: the space that is wanted
    :return: rows and space with the axes of images exchanged where that makes the shapes equal; otherwise as given
    """
    if isinstance(dataset, spaces.Dict) and isinstance(environment, spaces.Dict) and isinstance(rows, dict):
        pairs = {
            key: channels_first(rows[key], subspace, environment.spaces[key])
            if key in environment.spaces
            else (rows[key], subspace)
            for key, subspace in dataset.spaces.items()
        }
        if all(space is dataset.spaces[key] for key, (_, space) in pairs.items()):
            return rows, dataset
        converted = {key: array for key, (array, _) in pairs.items() if not isinstance(array, dict)}
        return converted, spaces.Dict({key: space for key, (_, space) in pairs.items()})
    if not isinstance(dataset, spaces.Box) or isinstance(rows, dict) or dataset.shape == environment.shape:
        return rows, dataset
    if not is_image_space(dataset):
        return rows, dataset
    transposed = VecTransposeImage.transpose_space(dataset)
    if transposed.shape != environment.shape:
        return rows, dataset
    return rows.transpose(0, 3, 1, 2), transposed
