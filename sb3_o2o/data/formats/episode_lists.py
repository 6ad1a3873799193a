"""One dictionary for each episode: lists of them, and files that are laid out so; into transitions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sb3_o2o.data.checks import (
    Location,
    as_array,
    checked_actions,
    checked_flags,
    checked_length,
    checked_observations,
    checked_rewards,
)
from sb3_o2o.data.formats.ends import Ends, meaning_of_dones, step_ends, told_of_dones
from sb3_o2o.data.formats.fields import (
    FLAGS,
    VALUES,
    chosen_observations,
    contents,
    grouped,
    joined_observations,
    named_fields,
    plain_fields,
    require_fields,
    spaces_or_inferred,
)
from sb3_o2o.data.formats.reading import Reading
from sb3_o2o.data.formats.steps import flat_transitions, without_next_observations
from sb3_o2o.data.transitions import Source, Transitions, close_episodes


class EpisodeReader:
    """
    Turns episodes into transitions, all by the description of the first one.

    :param first: the first episode, by name; observations have T + 1 rows, or T (with or without next observations)
    :param reading: how to read it
    :param source: its name, for messages
    :param called: other names of fields, for messages
    :raises ValueError: if something is missing, or says where episodes end in no way that is known
    """

    def __init__(
        self, first: Mapping[str, Any], reading: Reading, source: str, called: Mapping[str, str] | None = None
    ) -> None:
        self.reading, self.source, self.called = reading, source, dict(called or {})
        first = grouped(first)
        self.names = named_fields(first, source)
        found = contents(first)
        rewards_given = ("rewards",) if reading.reward is not None else ()
        require_fields([*self.names, *rewards_given], ("observations", "actions", "rewards"), source, found)
        if rewards_given and "rewards" in self.names:
            raise ValueError(
                f"reward={reading.reward} is for sources without rewards: {source} has {self.names['rewards']!r}."
            )
        fields = plain_fields({field: first[self.names[field]] for field in ("observations", "actions")})
        self.chosen: list[str] | None = None
        if isinstance(fields["observations"], dict):
            self.chosen = chosen_observations(fields["observations"], reading, source)
            fields["observations"] = joined_observations(fields["observations"], self.chosen, reading)
        elif reading.observation_keys is not None:
            raise ValueError(f"observation_keys is for several observations: {source} has {found}.")
        self.observation_space, self.action_space = spaces_or_inferred(fields, reading)

    def decide(self, first: Mapping[str, Any], any_done: bool) -> str:
        """
        Decide once for all episodes what their flags mean, and warn where that is not known.

        :param first: the first episode
        :param any_done: whether any episode has a ``done``
        :return: how ends are told, one line
        """
        if "dones" in self.names and not {"terminations", "truncations"} & set(self.names):
            field = repr(self.called.get("dones", self.names["dones"]))
            kind = meaning_of_dones(any_done, self.reading, self.source, field)
            told = told_of_dones(kind, self.reading, field)
            self.reading = replace(self.reading, dones=kind)
            return told
        actions = plain_fields({"actions": grouped(first)[self.names["actions"]]})["actions"]
        return self.ends(grouped(first), len(actions), Location(episode=0)).told

    def ends(self, episode: Mapping[str, Any], length: int, where: Location) -> Ends:
        """
        :param episode: by name; a flag is an array ``(T,)``, or one value for the end of the episode
        :param length: T
        :param where: for messages
        :return: where it ends, and how
        """
        flags = {}
        for field, name in self.names.items():
            if field in FLAGS and field != "episode":
                value = as_array(episode[name])
                flags[field] = value if value.ndim else np.arange(length) == (length - 1 if value else -1)
                if value.ndim == 0 and value not in (0, 1):
                    raise ValueError(f"{name}{where.place} is {value}: expected False or True (0 or 1).")
        has_next = "next_observations" in self.names
        return step_ends(
            flags, self.names, length, self.reading, self.source, has_next=has_next, one_episode=True, where=where
        )

    def transitions(self, episode: Mapping[str, Any], where: Location, clip: float) -> Transitions:
        """
        :param episode: by name, with the fields of the first one
        :param where: for messages
        :param clip: largest absolute value of a scaled action
        :return: its transitions; maybe none
        :raises ValueError: naming the field, the first bad index and what was found
        """
        episode = grouped(episode)
        names = named_fields(episode, f"Episode {where.episode} of {self.source}")
        if names != self.names:
            raise ValueError(
                f"Episode {where.episode} of {self.source} has {contents(episode)}: expected the fields of the first "
                f"episode, {', '.join(sorted(self.names.values()))}."
            )
        fields = plain_fields({field: episode[names[field]] for field in VALUES if field in names}, where)
        actions = checked_actions(fields["actions"], self.action_space, where, clip)
        length = len(actions)
        for field in ("observations", "next_observations"):
            if self.chosen is not None and field in fields:
                if not isinstance(fields[field], dict):
                    raise ValueError(f"{field}{where.place} is one array: expected the entries {self.chosen}.")
                chosen_observations(fields[field], self.reading, f"Episode {where.episode} of {self.source}")
                fields[field] = joined_observations(fields[field], self.chosen, self.reading)
        fields.setdefault("rewards", np.full(length, self.reading.reward or 0.0))
        ends = self.ends(episode, length, where)
        rows = _rows(fields["observations"])
        if "next_observations" not in fields and rows == length + 1:
            row_index = np.arange(length)
            return Transitions(
                rows=checked_observations(
                    fields["observations"],
                    self.observation_space,
                    length + 1,
                    where,
                    reference="actions and a last one",
                ),
                row_index=row_index,
                actions=actions,
                rewards=checked_rewards(fields["rewards"], length, where),
                terminations=checked_flags("terminations", ends.terminations, length, where),
                truncations=close_episodes(row_index, ends.terminations, ends.truncations)[0],
            )
        if "next_observations" not in fields:
            _check_rows(fields["observations"], length, where)
            return without_next_observations(fields, ends, self.observation_space, self.action_space, clip, where)
        flags = {"terminations": ends.terminations, "truncations": ends.truncations}
        return flat_transitions({**fields, **flags}, self.observation_space, self.action_space, clip, where=where)


def _rows(observations: Any) -> int:
    array = next(iter(observations.values())) if isinstance(observations, dict) else observations
    return len(array) if array.ndim else 0


def _check_rows(observations: Any, length: int, where: Location) -> None:
    entries = observations.items() if isinstance(observations, dict) else [("", observations)]
    for key, array in entries:
        name = f"observations/{key}" if key else "observations"
        checked_length(name, array, length, where, hint=f"Or {length + 1}, with the one after the last action.")


def episodes_source(
    episodes: Callable[[], Iterator[Mapping[str, Any]]],
    name: str,
    reading: Reading,
    *,
    any_done: bool = True,
    kind: str = "",
    called: Mapping[str, str] | None = None,
    **known: Any,
) -> Source:
    """
    :param episodes: reads them from the start, one after the other
    :param name: for people
    :param reading: how to read them
    :param any_done: whether any of their ``dones`` is set, where they have nothing else
    :param kind: what the source is, for ``summary``
    :param called: other names of fields, for messages
    :param known: further fields of ``Source``
    :return: the source
    :raises ValueError: if there is no episode, or something is missing or wrong in the first one
    """
    first = next(iter(episodes()), None)
    if first is None:
        raise ValueError(f"{name} holds no transitions: expected at least one episode.")
    reader = EpisodeReader(first, reading, name, called)
    told = reader.decide(first, any_done)

    def chunks(clip: float) -> Iterator[Transitions]:
        offset = 0
        for index, episode in enumerate(episodes()):
            chunk = reader.transitions(episode, Location(offset, index), clip)
            if len(chunk):
                yield chunk
            offset += len(chunk)

    return Source(
        name,
        reader.observation_space,
        reader.action_space,
        chunks,
        episode_ends=f"{kind}, {told}" if kind else told,
        options=reading.given,
        **known,
    )
