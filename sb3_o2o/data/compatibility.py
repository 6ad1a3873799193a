"""Whether a dataset and an environment speak of the same task."""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_o2o.data.rewards import reward_scale_of
from sb3_o2o.data.transitions import Observations
from sb3_o2o.evaluation.spaces_compared import same_bounds


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
    elif not same_bounds(dataset, environment):
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


def check_replay_buffer(buffer: Any, expected: Any, source: str) -> None:
    """
    :param buffer: a replay buffer that training is to go on with
    :param expected: the one that the model has made for itself
    :param source: the buffer's name, for the message
    :raises ValueError: if what is collected next would not fit to what it holds
    """
    ours, theirs = expected.action_space, buffer.action_space
    problem = ""
    if buffer.obs_shape != expected.obs_shape:
        problem = f"holds observations of shape {buffer.obs_shape}, and this model's have {expected.obs_shape}"
    elif theirs.shape != ours.shape or not same_bounds(theirs, ours):
        problem = f"holds actions that were scaled by the bounds of {theirs}, and this model's are {ours}"
    elif buffer.n_envs != expected.n_envs:
        problem = f"was collected with n_envs={buffer.n_envs}, and this model has n_envs={expected.n_envs}"
    elif reward_scale_of(buffer) != reward_scale_of(expected):
        scales = ("reward_scale={} and reward_shift={}".format(*reward_scale_of(each)) for each in (buffer, expected))
        problem = "holds rewards with {}, and this model trains on {}".format(*scales)
    if problem:
        raise ValueError(
            f"{source} {problem}. Load it into a model like the one that saved it, or take its transitions as a "
            "dataset: model.fill_replay_buffer(model.load_dataset(path))."
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
