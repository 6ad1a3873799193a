"""Steps one after the other, one row each, as dictionaries, D4RL's files and tables have them; into transitions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_o2o.data.checks import (
    Location,
    checked_actions,
    checked_flags,
    checked_observations,
    checked_rewards,
)
from sb3_o2o.data.formats.ends import Ends, step_ends
from sb3_o2o.data.formats.fields import (
    FLAGS,
    VALUES,
    check_lengths,
    chosen_observations,
    contents,
    joined_observations,
    named_fields,
    plain_fields,
    require_fields,
    spaces_or_inferred,
)
from sb3_o2o.data.formats.reading import Reading
from sb3_o2o.data.transitions import (
    Observations,
    Source,
    Transitions,
    close_episodes,
    map_observations,
    named_observations,
)

#: Options of ``Reading`` that steps can follow.
STEP_OPTIONS = frozenset({"observation_keys", "reward", "dones"})


@dataclass(frozen=True)
class Steps:
    """
    N steps, described and with their lengths compared; the arrays themselves are given to ``chunks``, so that they may
    lie in a file.

    :param names: what the source calls each field
    :param ends: where episodes end
    :param observation_space: of the observations
    :param action_space: of the actions
    :param reading: how they are read
    :param chosen: names of the observations to take, None where there is one array
    """

    names: Mapping[str, str]
    ends: Ends
    observation_space: spaces.Space
    action_space: spaces.Box
    reading: Reading
    chosen: list[str] | None

    def chunks(
        self, arrays: Mapping[str, Any], clip: float, slab: int | None = None, already_scaled: bool = False
    ) -> Iterator[Transitions]:
        """
        :param arrays: what was described, in memory or in a file
        :param clip: largest absolute value of a scaled action
        :param slab: rows to read at a time, unless an episode is longer; None for all
        :param already_scaled: whether the actions are scaled to [-1, 1] already
        :return: the transitions, a part at a time
        :raises ValueError: naming the field, the first bad index and what was found
        """
        length = len(self.ends.breaks)
        values = {field: arrays[name] for field, name in self.names.items() if field in VALUES}
        stops = np.append(np.flatnonzero(self.ends.breaks) + 1, length)
        start = 0
        while start < length:
            # The last break within the slab, or the first one after it
            within = stops[(stops > start) & (stops <= start + (slab or length))]
            stop = int(within[-1] if len(within) else stops[stops > start][0])
            fields = {field: _rows(value, start, stop, self.chosen) for field, value in values.items()}
            part = Ends(
                self.ends.terminations[start:stop],
                self.ends.truncations[start:stop],
                self.ends.breaks[start:stop],
                self.ends.told,
            )
            chunk = self._transitions(fields, part, clip, already_scaled, Location(start))
            if len(chunk):
                yield chunk
            start = stop

    def _transitions(
        self, fields: dict[str, Any], ends: Ends, clip: float, already_scaled: bool, where: Location
    ) -> Transitions:
        if self.chosen is not None:
            for field in ("observations", "next_observations"):
                if field in fields:
                    fields[field] = joined_observations(fields[field], self.chosen, self.reading)
        fields.setdefault("rewards", np.full(len(ends.breaks), self.reading.reward or 0.0))
        bounds = self.observation_space, self.action_space, clip
        if "next_observations" not in fields:
            return without_next_observations(fields, ends, *bounds, where, already_scaled)
        flags = {"terminations": ends.terminations, "truncations": ends.truncations}
        return flat_transitions({**fields, **flags}, *bounds, already_scaled, where)


def described_steps(
    arrays: Mapping[str, Any], reading: Reading, source: str, called: Mapping[str, str] | None = None
) -> Steps:
    """
    Look at names, shapes, lengths and flags, before anything else is read.

    :param arrays: all that the source holds, in memory or in a file
    :param reading: how to read them
    :param source: its name, and what it is, for messages
    :param called: other names of fields, for messages
    :return: the description
    :raises ValueError: if something is missing, has another length, or says where episodes end in no way that is known
    """
    names, found = named_fields(arrays, source), contents(arrays)
    rewards_given = ("rewards",) if reading.reward is not None else ()
    require_fields([*names, *rewards_given], ("observations", "actions", "rewards"), source, found)
    if rewards_given and "rewards" in names:
        raise ValueError(f"reward={reading.reward} is for sources without rewards: {source} has {names['rewards']!r}.")
    actions = arrays[names["actions"]]
    if not hasattr(actions, "shape") or len(actions.shape) == 0:
        raise ValueError(f"actions of {source}: expected an array (N, action_dim), it has {found}.")
    length = actions.shape[0]
    values = {field: arrays[name] for field, name in names.items() if field in VALUES}
    flags = {field: arrays[name] for field, name in names.items() if field in FLAGS}
    dictionaries = [names[field] for field, value in flags.items() if isinstance(value, Mapping)]
    if dictionaries:
        raise ValueError(f"{dictionaries[0]} of {source} is a dictionary: expected one array of flags. It has {found}.")
    check_lengths({names[field]: value for field, value in flags.items()}, length)
    flags = {field: np.asarray(value[:]) for field, value in flags.items()}
    ends = step_ends(
        flags,
        names,
        length,
        reading,
        source,
        has_next="next_observations" in names,
        has_rewards="rewards" in names,
        called=called,
    )
    called = {names[field]: value for field, value in values.items()}
    check_lengths(called, length, hint=_hint(values, length, int(ends.breaks.sum())))
    chosen = None
    if isinstance(values["observations"], Mapping):
        chosen = chosen_observations(values["observations"], reading, source)
        _check_entries(values.get("next_observations"), chosen)
    elif reading.observation_keys is not None:
        raise ValueError(f"observation_keys is for several observations: {source} has one array, it has {found}.")
    sample = _rows(values["observations"], 0, 1, chosen)
    if chosen is not None:
        sample = joined_observations(sample, chosen, reading)
    described = spaces_or_inferred({"observations": sample, "actions": actions}, reading)
    return Steps(names, ends, *described, reading, chosen)


def _check_entries(following: Any, chosen: list[str]) -> None:
    if following is None:
        return
    if not isinstance(following, Mapping):
        raise ValueError(f"next_observations is one array: expected a dictionary with the keys {chosen}.")
    if any(key not in following for key in chosen):
        raise ValueError(f"next_observations has the keys {sorted(following)}, expected {chosen}.")


def _rows(values: Any, start: int, stop: int, chosen: list[str] | None) -> Any:
    if isinstance(values, Mapping):
        return {key: values[key][start:stop] for key in (chosen or values)}
    return values[start:stop]


def _hint(values: Mapping[str, Any], length: int, episodes: int) -> str:
    observations = values["observations"]
    arrays = list(observations.values()) if isinstance(observations, Mapping) else [observations]
    if "next_observations" not in values and all(array.shape[:1] == (length + episodes,) for array in arrays):
        return (
            f"That is one more for each of {episodes} episodes: give a list of dictionaries, one for each episode, or "
            "leave out the last observations and add 'next_observations'."
        )
    return ""


def steps_source(
    arrays: Mapping[str, Any], name: str, reading: Reading, *, already_scaled: bool = False, **known: Any
) -> Source:
    """
    :param arrays: steps in memory, anything array-like
    :param name: for people
    :param reading: how to read them
    :param already_scaled: whether the actions are scaled to [-1, 1] already
    :param known: further fields of ``Source``
    :return: the source
    :raises ValueError: naming the field, if one is missing or something is wrong with it
    """
    label = f"{name} (flat arrays)" if known.get("on_disk") else name
    used = named_fields(arrays, label)
    plain = {**arrays, **plain_fields({used[field]: arrays[used[field]] for field in used})}
    steps = described_steps(plain, reading, label)
    return Source(
        name,
        steps.observation_space,
        steps.action_space,
        lambda clip: steps.chunks(plain, clip, already_scaled=already_scaled),
        episode_ends=steps.ends.told,
        options=reading.given,
        **known,
    )


def flat_transitions(
    fields: Mapping[str, Any],
    space: spaces.Space,
    action_space: spaces.Box,
    clip: float,
    already_scaled: bool = False,
    where: Location | None = None,
) -> Transitions:
    """
    Bring arrays of N transitions, next observations among them, into the T+1 layout.

    :param fields: ``observations``, ``actions``, ``rewards``, ``next_observations``, ``terminations`` and optionally
        ``truncations``, each with N rows
    :param space: of the observations
    :param action_space: of the actions
    :param clip: largest absolute value of a scaled action
    :param already_scaled: whether the actions are scaled to [-1, 1] already
    :param where: for messages
    :return: the transitions
    :raises ValueError: naming the field, the first bad index and what was found
    """
    where = where or Location()
    actions = checked_actions(fields["actions"], action_space, where, clip, already_scaled)
    length = len(actions)
    observations = checked_observations(fields["observations"], space, length, where)
    following = checked_observations(fields["next_observations"], space, length, where, "next_observations")
    terminations = checked_flags("terminations", fields["terminations"], length, where)
    truncations = checked_flags("truncations", fields.get("truncations", np.zeros(length)), length, where)
    rewards = checked_rewards(fields["rewards"], length, where)
    # A last row of its own for each stretch in which one transition's next observation is the next one's observation
    continues = np.zeros(length, dtype=bool)
    continues[:-1] = _rows_equal(following, observations)
    row_index = np.arange(length)
    row_index[1:] += np.cumsum(~continues[:-1])
    ends = np.flatnonzero(~continues)

    def lay_out(array: np.ndarray, after: np.ndarray) -> np.ndarray:
        rows = np.empty((length + len(ends), *array.shape[1:]), dtype=array.dtype)
        rows[row_index] = array
        rows[row_index[ends] + 1] = after[ends]
        return rows

    rows: Observations
    if isinstance(observations, dict) and isinstance(following, dict):
        rows = {key: lay_out(array, following[key]) for key, array in observations.items()}
    else:
        assert isinstance(observations, np.ndarray)
        assert isinstance(following, np.ndarray)
        rows = lay_out(observations, following)
    truncations, _ = close_episodes(row_index, terminations, truncations)
    return Transitions(rows, row_index, actions, rewards, terminations, truncations)


def _rows_equal(following: Observations, observations: Observations) -> np.ndarray:
    named, result = named_observations(observations), None
    for name, array in named_observations(following).items():
        equal = (array[:-1] == named[name][1:]).all(axis=tuple(range(1, array.ndim)))
        result = equal if result is None else result & equal
    assert result is not None
    return result


def without_next_observations(
    fields: Mapping[str, Any],
    ends: Ends,
    space: spaces.Space,
    action_space: spaces.Box,
    clip: float,
    where: Location,
    already_scaled: bool = False,
) -> Transitions:
    """
    The next observation of a step is then the next row. What was seen after the last step before a time limit is
    unknown, so that step is dropped (as ``d4rl.qlearning_dataset`` does) and the episode truncated one step earlier.
    After a termination nothing is bootstrapped, so the last observation stands in.

    :param fields: ``observations``, ``actions`` and ``rewards``, each with N rows
    :param ends: of these rows, the last of which counts as a break
    :param space: of the observations
    :param action_space: of the actions
    :param clip: largest absolute value of a scaled action
    :param where: for messages
    :param already_scaled: whether the actions are scaled to [-1, 1] already
    :return: the transitions that are known whole; maybe none
    :raises ValueError: naming the field, the first bad index and what was found
    """
    actions = checked_actions(fields["actions"], action_space, where, clip, already_scaled)
    length = len(actions)
    rewards = checked_rewards(fields["rewards"], length, where)
    observations = checked_observations(fields["observations"], space, length, where)
    terminations, breaks = ends.terminations, ends.breaks.copy()
    breaks[-1] = True
    kept, stands_in = terminations | ~breaks, terminations & breaks
    # Such an observation is there twice, the second one for the row that comes after it
    row_index = np.arange(length) + np.cumsum(stands_in) - stands_in
    truncations = np.zeros(int(kept.sum()), dtype=bool)
    if len(truncations):
        truncations, _ = close_episodes(row_index[kept], terminations[kept], truncations)
    return Transitions(
        rows=map_observations(lambda array: np.repeat(array, 1 + stands_in, axis=0), observations),
        row_index=row_index[kept],
        actions=actions[kept],
        rewards=rewards[kept],
        terminations=terminations[kept],
        truncations=truncations,
    )
