"""Reads SB3's replay buffers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_o2o.data.checks import Location, checked_spaces
from sb3_o2o.data.formats.ends import meaning_of_dones, told_of_dones
from sb3_o2o.data.formats.fields import contents
from sb3_o2o.data.formats.reading import Reading
from sb3_o2o.data.formats.steps import flat_transitions
from sb3_o2o.data.rewards import reward_scale_of, unscaled_rewards
from sb3_o2o.data.transitions import Observations, Source, Transitions, map_observations
from sb3_o2o.errors import warn

#: Attributes that every version of SB3 gave its buffers.
_REQUIRED = (
    "observation_space",
    "action_space",
    "buffer_size",
    "pos",
    "full",
    "observations",
    "actions",
    "rewards",
    "dones",
)


def _warn_of_mixture(buffer: ReplayBuffer, name: str) -> None:
    offline, online = getattr(buffer, "offline", None), getattr(buffer, "online", None)
    if isinstance(offline, ReplayBuffer) and isinstance(online, ReplayBuffer):
        n_online = online.size() * online.n_envs
        warn(
            f"{name} mixes a dataset of {offline.size()} transitions into its batches: read are the {n_online} that it "
            "collected online. Its dataset is buffer.offline.dataset.",
        )


def replay_buffer_source(buffer: ReplayBuffer, reading: Reading, name: str | None = None, **known: Any) -> Source:
    """
    The transitions of each environment in the order in which they were added. A full buffer has overwritten the
    beginning of its oldest episode; what is left of it counts as an episode.

    With ``optimize_memory_usage=True`` the observation after a time limit has been overwritten by the first one of the
    next episode: such a transition is dropped, and its episode truncated one step earlier.

    Rewards that a model of this library has scaled are the environment's again: whoever reads them scales them anew.

    Buffers of old versions of SB3 have no ``timeouts``: they are read as SB3 reads them, as if no episode had ended by
    a time limit, with a warning.

    :param buffer: any replay buffer of SB3; its actions are scaled already
    :param reading: says what ``dones`` are, where the buffer has not recorded time limits
    :param name: for people; the class by default
    :param known: further fields of ``Source``
    :return: the transitions
    :raises ValueError: if it is empty, lacks something that every version has, or its spaces are not supported
    """
    name = name or type(buffer).__name__
    missing = [attribute for attribute in _REQUIRED if getattr(buffer, attribute, None) is None]
    if missing:
        raise ValueError(
            f"{name} is a {type(buffer).__name__} without {', '.join(missing)}: it holds {contents(vars(buffer))}. It "
            "may be from a version of Stable-Baselines3 that is not supported; fill a new buffer with its transitions."
        )
    for attribute in ("observation_space", "action_space"):
        if not isinstance(getattr(buffer, attribute), spaces.Space):
            raise ValueError(
                f"{name} has a {attribute} of {type(getattr(buffer, attribute)).__module__}, from before "
                "Stable-Baselines3 2.0: set it to Gymnasium's, buffer.observation_space = env.observation_space."
            )
    checked_spaces(buffer.observation_space, buffer.action_space)
    action_space = buffer.action_space
    assert isinstance(action_space, spaces.Box)
    rows = _recorded_rows(buffer)
    if len(rows) == 0:
        raise ValueError(f"{name} is an empty replay buffer: expected at least one transition.")
    _warn_of_mixture(buffer, name)
    ends_of, told = _ends(buffer, rows, reading, name)

    def chunks(clip: float) -> Iterator[Transitions]:
        for column in range(buffer.rewards.shape[1]):
            where = Location(column * len(rows))
            fields = {**_column(buffer, rows, column), **ends_of(column)}
            if _shares_observations(buffer):
                fields = _without_unseen(fields)
            yield flat_transitions(
                fields, buffer.observation_space, action_space, clip, already_scaled=True, where=where
            )

    return Source(
        name,
        buffer.observation_space,
        action_space,
        chunks,
        episode_ends=told,
        options=reading.given,
        **known,
    )


def _shares_observations(buffer: ReplayBuffer) -> bool:
    """Whether one array serves for observations and next observations; old buffers do not say it."""
    return bool(getattr(buffer, "optimize_memory_usage", getattr(buffer, "next_observations", None) is None))


def _recorded_rows(buffer: ReplayBuffer) -> np.ndarray:
    if not buffer.full:
        return np.arange(buffer.pos)
    rows = (np.arange(buffer.buffer_size) + buffer.pos) % buffer.buffer_size
    # With one array for both, the oldest observation has been overwritten by the newest next observation
    return rows[1:] if _shares_observations(buffer) else rows


def _column(buffer: ReplayBuffer, rows: np.ndarray, column: int) -> dict[str, Any]:
    stored: Observations = buffer.observations
    following, next_rows = stored, (rows + 1) % buffer.buffer_size
    if not _shares_observations(buffer):
        following, next_rows = buffer.next_observations, rows
    rewards, scale = buffer.rewards[rows, column], reward_scale_of(buffer)
    return {
        "observations": map_observations(lambda array: array[rows, column], stored),
        "next_observations": map_observations(lambda array: array[next_rows, column], following),
        "actions": buffer.actions[rows, column],
        "rewards": rewards if scale == (1.0, 0.0) else unscaled_rewards(rewards, *scale),
    }


def _without_unseen(fields: dict[str, Any]) -> dict[str, Any]:
    """
    :param fields: of one environment, with flags
    :return: the same without the last steps before time limits, whose next observations are of other episodes; that of
        the newest transition has not been overwritten yet
    """
    unseen = fields["truncations"].copy()
    unseen[-1:] = False
    # a step between two time limits is one that goes as well
    ends = np.append(unseen[1:], False) & ~fields["terminations"]
    fields = {**fields, "truncations": fields["truncations"] | ends}
    return {name: map_observations(lambda array: array[~unseen], values) for name, values in fields.items()}


def _ends(
    buffer: ReplayBuffer, rows: np.ndarray, reading: Reading, name: str
) -> tuple[Callable[[int], dict[str, np.ndarray]], str]:
    """Flags of each environment, and how they were told apart."""
    dones = buffer.dones[rows] > 0
    timeouts = getattr(buffer, "timeouts", None)
    # Without it SB3 leaves timeouts at zero, whatever happened
    if timeouts is not None and getattr(buffer, "handle_timeout_termination", False):
        if reading.dones is not None:
            raise ValueError(f"dones={reading.dones!r} is for buffers without time limits: {name} has recorded them.")
        limits = timeouts[rows] > 0
        told = "replay buffer, 'dones' are terminations, those with 'timeouts' time limits"
    else:
        kind = meaning_of_dones(
            bool(dones.any()), reading, f"{name} (handle_timeout_termination=False, or an old version)"
        )
        limits = np.full_like(dones, kind == "truncations")
        told = f"replay buffer, {told_of_dones(kind, reading)}"

    def of(column: int) -> dict[str, np.ndarray]:
        return {
            "terminations": dones[:, column] & ~limits[:, column],
            "truncations": dones[:, column] & limits[:, column],
        }

    return of, told
