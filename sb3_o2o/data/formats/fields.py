"""Fields of a source: their names, how long they are, and what is said when something is missing."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_o2o.data.checks import Location, as_array, checked_length, checked_spaces, infer_observation_space, numeric
from sb3_o2o.data.formats.reading import Reading

#: Other names for a field: D4RL's, Gymnasium's, imitation's.
SYNONYMS = {
    "terminals": "terminations",
    "terminated": "terminations",
    "terminal": "terminations",
    "timeouts": "truncations",
    "truncated": "truncations",
    "done": "dones",
    "obs": "observations",
    "observation": "observations",
    "next_obs": "next_observations",
    "next_observation": "next_observations",
    "acts": "actions",
    "action": "actions",
    "rews": "rewards",
    "reward": "rewards",
    "episode_id": "episode",
    "episode_index": "episode",
}
#: What a transition consists of, besides the flags that end an episode.
VALUES = ("observations", "actions", "rewards", "next_observations")
#: Flags that say how and where episodes end, one a step; see ``formats.ends``.
FLAGS = ("terminations", "truncations", "dones", "masks", "valids", "episode")
#: Names that are shown of a source that has more.
_SHOWN = 16


def named_fields(names: Iterable[str], source: str) -> dict[str, str]:
    """
    :param names: as the source has them
    :param source: its name, for the message
    :return: the name in the source of each field that it has
    :raises ValueError: if two names stand for the same field
    """
    found: dict[str, str] = {}
    for name in names:
        field = SYNONYMS.get(name, name)
        if field not in (*VALUES, *FLAGS):
            continue
        if field in found:
            raise ValueError(
                f"{source} has both {found[field]!r} and {name!r}, which mean the same: leave out the wrong one."
            )
        found[field] = name
    return found


def grouped(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param arrays: by name; an entry of a dictionary may also be called ``observations/key``
    :return: by name, with dictionaries in place of such entries
    """
    fields: dict[str, Any] = {}
    for name, values in arrays.items():
        field, _, key = str(name).partition("/")
        if key:
            entries = fields.setdefault(field, {})
            if isinstance(entries, dict):
                entries[key] = values
                continue
        fields[str(name)] = values
    return fields


def contents(fields: Mapping[str, Any]) -> str:
    """
    :param fields: what a source really holds, known or not; dictionaries (or groups of a file) hold more
    :return: all names with their shapes, in one line
    """
    described = list(islice(_described("", fields), _SHOWN + 1))
    if not described:
        return "nothing"
    return ", ".join(described[:_SHOWN]) + (" and more" if len(described) > _SHOWN else "")


def _described(prefix: str, fields: Mapping[str, Any]) -> Iterable[str]:
    for name in sorted(fields, key=str):
        value = fields[name]
        if isinstance(value, Mapping):
            yield from _described(f"{prefix}{name}/", value) if len(value) else (f"{prefix}{name}/ (empty)",)
        elif hasattr(value, "shape"):
            yield f"{prefix}{name} {tuple(value.shape)}"
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name} ({type(value).__name__} of {len(value)})"
        else:
            yield f"{prefix}{name} ({type(value).__name__})"


def require_fields(fields: Iterable[str], required: Iterable[str], source: str, found: str) -> None:
    """
    :param fields: which fields a source has
    :param required: which it must have
    :param source: what it is, for the message
    :param found: what it really holds, from ``contents``
    :raises ValueError: naming the fields that are missing
    """
    present = set(fields)
    missing = [field for field in required if field not in present]
    advice = ""
    if missing == ["rewards"]:
        advice = (
            " Without rewards, pass reward=0.0 (the same for every transition: enough for behaviour cloning), or add "
            "an array of them."
        )
    if missing:
        raise ValueError(f"{source} has no field {', '.join(map(repr, missing))}: it has {found}.{advice}")


def plain_fields(fields: Mapping[str, Any], where: Location | None = None) -> dict[str, Any]:
    """
    :param fields: anything array-like, torch tensors among them, or dictionaries of such
    :param where: for the message
    :return: NumPy arrays, sharing memory where that is possible
    :raises ValueError: naming the field, if something is not an array of numbers
    """
    where = where or Location()
    return {name: _plain(name, values, where) for name, values in fields.items()}


def _plain(field: str, values: Any, where: Location) -> Any:
    if isinstance(values, Mapping):
        return {
            str(key): value if isinstance(value, Mapping) else numeric(f"{field}/{key}", value, where)
            for key, value in values.items()
        }
    if field == "episode":  # may be text
        return as_array(values)
    return numeric(field, values, where)


def check_lengths(fields: Mapping[str, Any], length: int, hint: str = "") -> None:
    """
    Compare lengths before anything is read in part: a field that is cut to the length of another says nothing.

    :param fields: arrays, in memory or in a file, or dictionaries of such
    :param length: expected number of rows
    :param hint: what may be the reason, for the message
    :raises ValueError: naming the field (or its entry) and both lengths
    """
    for name, values in fields.items():
        entries = values.items() if isinstance(values, Mapping) else [("", values)]
        for key, array in entries:
            if isinstance(array, Mapping):
                raise ValueError(f"{name}/{key} is a dictionary: only flat dictionaries are supported.")
            checked_length(f"{name}/{key}" if key else name, array, length, Location(), hint=hint)


def spaces_or_inferred(fields: Mapping[str, Any], reading: Reading) -> tuple[spaces.Space, spaces.Box]:
    """
    :param fields: ``observations`` and ``actions``, of which only shapes and dtypes are looked at
    :param reading: may hold the environment's spaces
    :return: both spaces: the environment's, else an unbounded one of the observations' shapes, and [-1, 1]
    :raises ValueError: if one of them is not supported
    """
    observation_space = reading.observation_space
    if observation_space is None:
        observation_space = infer_observation_space(fields["observations"])
    elif _has_images(observation_space):
        observation_space = _as_recorded(observation_space, infer_observation_space(fields["observations"]))
    action_space = reading.action_space or _unit_action_space(fields["actions"])
    checked_spaces(observation_space, action_space)
    assert isinstance(action_space, spaces.Box)
    return observation_space, action_space


def _has_images(space: spaces.Space) -> bool:
    return any(map(_has_images, space.spaces.values())) if isinstance(space, spaces.Dict) else is_image_space(space)


def _as_recorded(space: spaces.Space, recorded: spaces.Space) -> spaces.Space:
    """A model has the channels of images first, where its environment, and the data of that, have them last."""
    if isinstance(space, spaces.Dict) and isinstance(recorded, spaces.Dict):
        own = {key: _as_recorded(each, recorded.spaces.get(key, each)) for key, each in space.spaces.items()}
        return space if own == space.spaces else spaces.Dict(own)
    if not is_image_space(recorded) or recorded.shape == space.shape:
        return space
    is_last = is_image_space(space) and VecTransposeImage.transpose_space(recorded).shape == space.shape  # type: ignore[arg-type]
    return recorded if is_last else space


def _unit_action_space(actions: Any) -> spaces.Box:
    shape = actions.shape if hasattr(actions, "shape") else numeric("actions", actions, Location()).shape
    if len(shape) < 2:
        raise ValueError(
            f"actions has the shape {tuple(shape)}: expected (N, action_dim). Discrete actions are not supported."
        )
    return spaces.Box(-1.0, 1.0, tuple(shape[1:]), np.float32)


def chosen_observations(entries: Mapping[str, Any], reading: Reading, source: str) -> list[str]:
    """
    :param entries: observations by name
    :param reading: says which to take; all by default
    :param source: for the message
    :return: names, in order
    :raises ValueError: if one does not exist
    """
    keys = reading.observation_keys
    chosen = sorted(entries) if keys is None else [keys] if isinstance(keys, str) else [str(key) for key in keys]
    missing = [key for key in chosen if key not in entries]
    if missing or not chosen:
        raise ValueError(
            f"{source} has no observation {', '.join(map(repr, missing or ['at all']))}: it has {contents(entries)}."
        )
    return chosen


def joined_observations(entries: Mapping[str, Any], chosen: list[str], reading: Reading) -> Any:
    """
    :param entries: arrays by name, ``(N, ...)`` each
    :param chosen: from ``chosen_observations``
    :param reading: says whether a dictionary is wanted
    :return: one array where one name was chosen; a dictionary where all were, or where the environment has one; else
        the named ones side by side, ``(N, sum of their sizes)``
    :raises ValueError: if images would have to be joined with something
    """
    as_dictionary = isinstance(reading.observation_space, spaces.Dict)
    if len(chosen) == 1 and not as_dictionary:
        return entries[chosen[0]]
    if as_dictionary or reading.observation_keys is None:
        return {key: entries[key] for key in chosen}
    arrays = [np.asarray(entries[key]) for key in chosen]
    for key, array in zip(chosen, arrays, strict=True):
        if array.ndim > 2:
            raise ValueError(
                f"The observation {key!r} has rows of shape {array.shape[1:]}: only vectors can be joined. Choose it "
                "alone, or pass a Dict observation_space."
            )
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)
