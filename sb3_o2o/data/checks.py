"""The checks that each value of a dataset passes once. Errors name the field, the first bad index, what was found."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_o2o.data.transitions import Observations

#: Largest magnitude of a value. Adam keeps the square of a gradient, which for a linear layer is an error times an
#: input: the fourth power of such values, and float32 ends at 3.4e38, the fourth power of 4e9.
LARGEST = 1e9

#: How far an action may lie outside of the action space, in the units of the environment.
ACTION_TOLERANCE = 1e-4


class Location:
    """
    Says where in a source a value is, for messages.

    :param offset: transitions before the ones being checked
    :param episode: the episode being checked, or None if the source is not divided into episodes
    """

    def __init__(self, offset: int = 0, episode: int | None = None) -> None:
        self.offset, self.episode = offset, episode

    def __call__(self, field: str, index: int) -> str:
        """
        :param field: name of the field
        :param index: row in the arrays being checked
        :return: for instance ``rewards[1203] (episode 4, step 203)``
        """
        if self.episode is None:
            return f"{field}[{self.offset + index}]"
        return f"{field}[{self.offset + index}] (episode {self.episode}, step {index})"

    @property
    def place(self) -> str:
        """The episode, to end a sentence with; empty if there is none."""
        return "" if self.episode is None else f" in episode {self.episode}"


def as_array(values: Any) -> np.ndarray:
    """
    :param values: anything array-like, a torch tensor on any device among it
    :return: a NumPy array, sharing memory where that is possible
    :raises ValueError: if it is ragged
    """
    if isinstance(values, th.Tensor):
        tensor = values.detach().cpu()
        return (tensor.float() if tensor.dtype == th.bfloat16 else tensor).numpy()  # NumPy has no bfloat16
    if isinstance(values, (list, tuple)) and any(isinstance(value, th.Tensor) for value in values):
        values = [as_array(value) for value in values]
    return np.asarray(values)


def numeric(field: str, values: Any, where: Location) -> np.ndarray:
    """
    :param field: name of the field
    :param values: anything array-like, torch tensors among it
    :param where: for the message
    :return: an array of a boolean, integer or floating dtype
    :raises ValueError: if the values are something else: text, objects, complex numbers, ragged lists
    """
    try:
        array = as_array(values)
    except ValueError as error:
        raise ValueError(f"{field}{where.place}: not a rectangular array of numbers ({error}).") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{field}{where.place} has dtype {array.dtype}: expected numbers.")
    return array


def checked_length(
    field: str, values: Any, length: int, where: Location, reference: str = "actions", hint: str = ""
) -> None:
    """
    :param field: name of the field
    :param values: ``(length, ...)``, in memory or in a file
    :param length: expected number of rows
    :param where: for the message
    :param reference: the field that has this length
    :param hint: what may be the reason, in place of the usual advice
    :raises ValueError: if there are more or fewer rows
    """
    if values.ndim == 0 or len(values) != length:
        found = "no rows (a single number)" if values.ndim == 0 else f"{len(values)} rows"
        advice = hint or "The source may be truncated: write it again, or drop what is incomplete."
        raise ValueError(f"{field}{where.place} has {found}, expected {length} to go with {reference}. {advice}")


def checked_values(field: str, values: np.ndarray, where: Location) -> np.ndarray:
    """
    Read once into float32 (uint8 images stay as they are).

    :param field: name of the field
    :param values: numbers, ``(length, ...)``
    :param where: for the message
    :return: the same in float32, or the same uint8
    :raises ValueError: if a value is NaN, infinite, or beyond ``LARGEST``
    """
    if values.dtype == np.uint8:
        return values
    with np.errstate(over="ignore"):
        result = values.astype(np.float32, copy=False)
    usable = np.abs(result) <= LARGEST  # NaN is not
    if not usable.all():
        first = np.argwhere(~usable)[0]
        found = values[tuple(first)]
        entry = f", entry {first[1:].tolist()}" if len(first) > 1 else ""
        count = int((~usable.reshape(len(usable), -1)).any(axis=1).sum())
        advice = "drop the episodes that hold them"
        if np.isfinite(found):
            advice += ", or store them in a larger unit: squares of such numbers leave float32 in training"
        raise ValueError(
            f"{where(field, int(first[0]))}{entry} is {found}: expected a finite number of at most {LARGEST:g}. "
            f"So it is in {count} of {len(usable)} rows{where.place}: {advice}."
        )
    return result


def checked_flags(field: str, values: Any, length: int, where: Location) -> np.ndarray:
    """
    :param field: name of the field
    :param values: booleans, or numbers that are 0 or 1, ``(length,)`` or ``(length, 1)``
    :param length: expected number of rows
    :param where: for the message
    :return: ``(length,)`` bool
    :raises ValueError: for another length, or another value
    """
    array = numeric(field, values, where)
    checked_length(field, array, length, where)
    array = checked_shape(field, array, (), where)
    wrong = (array != 0) & (array != 1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(f"{where(field, first)} is {array[first]}: expected False or True (0 or 1).")
    return array.astype(bool)


def checked_shape(field: str, values: np.ndarray, shape: tuple[int, ...], where: Location) -> np.ndarray:
    """
    :param field: name of the field
    :param values: ``(length, *shape)``; scalars may also come as ``(length, 1)``
    :param shape: expected shape of one row
    :param where: for the message
    :return: ``(length, *shape)``
    :raises ValueError: if a row has another shape
    """
    if shape == () and values.shape[1:] == (1,):
        return values[:, 0]
    if values.shape[1:] != shape:
        raise ValueError(f"{field}{where.place} has rows of shape {values.shape[1:]}, expected {shape}.")
    return values


def checked_observations(
    values: Any,
    space: spaces.Space,
    length: int,
    where: Location,
    field: str = "observations",
    reference: str = "actions",
) -> Observations:
    """
    :param values: ``(length, *obs_shape)``, or a dictionary of such
    :param space: ``Box`` or flat ``Dict`` of ``Box``
    :param length: expected number of rows
    :param where: for the message
    :param field: name of the field
    :param reference: what has this length, for the message
    :return: float32 (uint8 kept), in the order of the space's keys
    :raises ValueError: if something does not fit the space, or is not finite
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(values, dict):
            raise ValueError(f"{field}{where.place}: expected a dictionary with the keys {sorted(space.spaces)}.")
        if set(values) != set(space.spaces):
            raise ValueError(f"{field}{where.place} has the keys {sorted(values)}, expected {sorted(space.spaces)}.")
        return {
            key: _checked_box(f"{field}/{key}", values[key], subspace, length, where, reference)
            for key, subspace in space.spaces.items()
        }
    if isinstance(values, dict):
        raise ValueError(f"{field}{where.place} is a dictionary with the keys {sorted(values)}, expected one array.")
    return _checked_box(field, values, space, length, where, reference)


def _checked_box(
    field: str, values: Any, space: spaces.Space, length: int, where: Location, reference: str
) -> np.ndarray:
    array = numeric(field, values, where)
    checked_length(field, array, length, where, reference)
    assert space.shape is not None
    return checked_values(field, checked_shape(field, array, space.shape, where), where)


def checked_actions(
    values: Any, space: spaces.Box, where: Location, clip: float, already_scaled: bool = False
) -> np.ndarray:
    """
    Scale actions to [-1, 1] by the bounds of the action space, as SB3 does before it stores them, and clip them inside:
    the log-probability of a squashed Gaussian is infinite at the bounds themselves.

    :param values: in the environment's units, ``(length, *action_shape)``
    :param space: the environment's action space
    :param where: for the message
    :param clip: largest absolute value of the result, in (0, 1]
    :param already_scaled: the values are in [-1, 1] already (SB3's buffers store them so)
    :return: ``(length, action_dim)`` float32
    :raises ValueError: if an action lies outside of the space by more than 1e-4, is not finite, or has another shape
    """
    array = numeric("actions", values, where)
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"actions{where.place} is empty: expected at least one transition.")
    array = checked_shape("actions", array, space.shape, where).reshape(len(array), -1)
    checked_values("actions", array, where)
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    if already_scaled:
        low, high = -np.ones_like(low), np.ones_like(high)
    outside = (array < low - ACTION_TOLERANCE) | (array > high + ACTION_TOLERANCE)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(
            f"{where('actions', int(row))}, entry {column} is {array[row, column]}: outside of the action space's "
            f"bounds [{low[column]}, {high[column]}] by more than {ACTION_TOLERANCE}. "
            "If the environment's bounds are others, pass action_space=env.action_space."
        )
    scaled = 2.0 * ((array - low) / (high - low)) - 1.0
    return np.clip(scaled, -clip, clip).astype(np.float32)


def checked_rewards(values: Any, length: int, where: Location) -> np.ndarray:
    """
    :param values: ``(length,)`` or ``(length, 1)``
    :param length: expected number of rows
    :param where: for the message
    :return: ``(length,)`` float32
    :raises ValueError: for another length, or a value that is not finite
    """
    array = numeric("rewards", values, where)
    checked_length("rewards", array, length, where)
    return checked_values("rewards", checked_shape("rewards", array, (), where), where).astype(np.float32, copy=False)


def checked_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param observation_space: must be a ``Box``, or a flat ``Dict`` of ``Box``
    :param action_space: must be a ``Box`` with finite bounds
    :raises ValueError: if one of them is something else
    """
    if not isinstance(action_space, spaces.Box):
        raise ValueError(f"The action space is {action_space}: only continuous actions (Box) are supported.")
    if not np.all(np.isfinite(action_space.low) & np.isfinite(action_space.high)):
        raise ValueError(f"The action space is {action_space}: finite bounds are needed to scale actions to [-1, 1].")
    if not np.all(action_space.low < action_space.high):
        raise ValueError(f"The action space is {action_space}: every lower bound must lie below its upper bound.")
    if isinstance(observation_space, spaces.Dict):
        for key, subspace in observation_space.spaces.items():
            if not isinstance(subspace, spaces.Box):
                raise ValueError(
                    f"The observation space has {subspace} under {key!r}: only Box entries are supported. "
                    "Wrap the environment with gymnasium.wrappers.FlattenObservation, and record the dataset so."
                )
    elif not isinstance(observation_space, spaces.Box):
        raise ValueError(f"The observation space is {observation_space}: only Box and flat Dict are supported.")


def infer_observation_space(observations: Any) -> spaces.Space:
    """
    :param observations: ``(N, *obs_shape)``, or a dictionary of such
    :return: an unbounded float32 ``Box`` ([0, 255] for uint8), or a ``Dict`` of them
    :raises ValueError: if something is not an array of numbers
    """
    if isinstance(observations, dict):
        return spaces.Dict({key: _infer_box(f"observations/{key}", value) for key, value in observations.items()})
    return _infer_box("observations", observations)


def _infer_box(field: str, values: Any) -> spaces.Box:
    # Only shape and dtype are looked at, so that a dataset in a file is not read
    in_a_file = hasattr(values, "dtype") and hasattr(values, "shape") and not isinstance(values, th.Tensor)
    array = values if in_a_file else numeric(field, values, Location())
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{field} has dtype {array.dtype}: expected numbers.")
    if array.dtype == np.uint8:
        return spaces.Box(0, 255, array.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, array.shape[1:], np.float32)
