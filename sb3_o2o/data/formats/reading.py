"""What a user says about a source, and the table that a source is recognised by."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gymnasium import spaces

from sb3_o2o.data.transitions import Source

#: What a ``done`` may stand for where a source does not tell the two apart.
DONES = ("terminations", "truncations")
#: Options of ``OfflineDataset.load`` about how a source is read, as opposed to what is done with it.
READING_OPTIONS = ("columns", "observation_keys", "reward", "dones")


@dataclass(frozen=True)
class Reading:
    """
    How a source is to be read.

    :param observation_space: stands in where the source has none
    :param action_space: likewise; its bounds scale the actions
    :param columns: which columns of a table make which field
    :param observation_keys: which of several observations to take
    :param reward: of every transition, where the source records none
    :param dones: "terminations" or "truncations", where the source does not tell them apart
    :param trust: whether a pickle may run any code; it is not remembered
    """

    observation_space: spaces.Space | None = None
    action_space: spaces.Space | None = None
    columns: Mapping[str, Any] | None = None
    observation_keys: str | Sequence[str] | None = None
    reward: float | None = None
    dones: str | None = None
    trust: bool = False

    def __post_init__(self) -> None:
        if self.reward is not None and not (isinstance(self.reward, (int, float)) and math.isfinite(self.reward)):
            raise ValueError(f"reward is {self.reward!r}: expected a finite number.")
        if self.columns is not None and not isinstance(self.columns, Mapping):
            raise ValueError(f"columns is {self.columns!r}: expected a dictionary from fields to columns.")
        keys = [] if self.observation_keys is None else self.observation_keys
        if not isinstance(keys, (str, list, tuple)) or not all(isinstance(key, str) for key in keys):
            raise ValueError(f"observation_keys is {keys!r}: expected a name or a list of names.")
        if self.dones is not None and self.dones not in DONES:
            raise ValueError(f"dones is {self.dones!r}: expected 'terminations' or 'truncations'.")

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, without the spaces, as plain types."""
        return {name: plain(getattr(self, name)) for name in READING_OPTIONS if getattr(self, name) is not None}


def plain(value: Any) -> Any:
    """
    :param value: dictionaries and sequences of text or numbers
    :return: the same of ``dict`` and ``list``, as JSON and YAML have them
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    return value if isinstance(value, (str, int, float)) else [plain(entry) for entry in value]


@dataclass(frozen=True)
class Format:
    """
    One kind of source.

    :param name: for people, such as "a robomimic file"
    :param recognises: whether something is of this kind: an object, or the names that a file holds
    :param open: describes it, without reading more than that takes
    :param options: which options of ``Reading`` it can follow, besides the spaces
    """

    name: str
    recognises: Callable[[Any], bool]
    open: Callable[[Any, Reading], Source]
    options: frozenset[str] = field(default_factory=frozenset)


def first_match(formats: Iterable[Format], thing: Any) -> Format | None:
    """
    :param formats: in the order in which they are asked
    :param thing: an object, or what is known of a file
    :return: the first that recognises it, if any does
    """
    return next((each for each in formats if each.recognises(thing)), None)


def open_as(kind: Format, thing: Any, reading: Reading, name: str | None = None) -> Source:
    """
    :param kind: what it is
    :param thing: what ``kind`` opens
    :param reading: how to read it
    :param name: the source, for the message; ``thing`` by default
    :return: the source
    :raises ValueError: if an option was given that this kind of source cannot follow
    """
    strange = [option for option in reading.given if option not in kind.options]
    if strange:
        known = ", ".join(sorted(kind.options)) or "none of these options"
        raise ValueError(f"{name or thing} is {kind.name}: it does not take {', '.join(strange)} (it takes {known}).")
    return kind.open(thing, reading)
