"""
How a source tells where episodes end, and whether they end for good.

Nothing is bootstrapped from after a termination, but the value goes on after a time limit, so each source says which of
its flags mean what, and how that was told is kept with the dataset (``summary`` shows it).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sb3_o2o.data.checks import Location, checked_flags, checked_length
from sb3_o2o.data.formats.reading import Reading
from sb3_o2o.errors import warn


@dataclass(frozen=True)
class Ends:
    """
    :param terminations: the episode ended here for good, ``(N,)`` bool
    :param truncations: the recording stopped here, ``(N,)`` bool
    :param breaks: the next row is not what came after this one, ``(N,)`` bool
    :param told: how this was told, one line for people
    """

    terminations: np.ndarray
    truncations: np.ndarray
    breaks: np.ndarray
    told: str


def step_ends(
    flags: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    length: int,
    reading: Reading,
    source: str,
    *,
    has_next: bool,
    has_rewards: bool = True,
    one_episode: bool = False,
    where: Location | None = None,
    called: Mapping[str, str] | None = None,
) -> Ends:
    """
    :param flags: any of ``fields.FLAGS``, one value a step
    :param names: what the source calls them
    :param length: number of steps
    :param reading: may say what ``dones`` are
    :param source: for messages
    :param has_next: whether next observations are recorded; otherwise every end of an episode must be known
    :param has_rewards: whether rewards are; OGBench's files have none, and another meaning of ``terminals``
    :param one_episode: whether all steps belong to one episode
    :param where: for messages
    :param called: other names of fields, for messages
    :return: the ends
    :raises ValueError: if they cannot be told, or a flag is something else than 0 or 1
    """
    where = where or Location()
    checked = {
        field: checked_flags(names.get(field, field), values, length, where)
        for field, values in flags.items()
        if field != "episode"
    }
    last = _last_of_each(flags["episode"], names["episode"], length, where) if "episode" in flags else None
    if one_episode:
        last = np.arange(length) == length - 1
    if "valids" in checked or "masks" in checked or _is_ogbench(checked, names, has_rewards):
        _refuse_dones(reading, source)
        return _ogbench(checked, names, length, last, source, has_next)
    return _general(checked, {**names, **(called or {})}, length, last, reading, source, has_next)


def _is_ogbench(flags: Mapping[str, np.ndarray], names: Mapping[str, str], has_rewards: bool) -> bool:
    return not has_rewards and set(flags) == {"terminations"} and names["terminations"] == "terminals"


def _ogbench(
    flags: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    length: int,
    last: np.ndarray | None,
    source: str,
    has_next: bool,
) -> Ends:
    # OGBench's terminals mark the ends of trajectories; its masks (of the single-task variants) are 0 at a success
    ends = flags.get("terminations", flags.get("truncations", last))
    if ends is None and "valids" not in flags:
        raise ValueError(f"{source} has {' and '.join(map(repr, flags))}, but no 'terminals': where trajectories end?")
    terminations, told = np.zeros(length, dtype=bool), "no terminations known"
    if "masks" in flags:
        terminations, told = ~flags["masks"], "terminations where 'masks' are 0"
    mark = f"{names.get('terminations', 'terminals')!r} mark the ends of trajectories"
    if "valids" in flags:
        if has_next:
            raise ValueError(f"{source} has both 'valids' and next observations: expected one of them.")
        # A row that is not valid holds the last observation of a trajectory, and an action that led nowhere
        ends, terminations = ~flags["valids"], terminations & flags["valids"]
        mark = "'valids' are 0 at the last observation of each trajectory"
    assert ends is not None
    return Ends(terminations, ends & ~terminations, ends, f"as in OGBench, {mark}; {told}")


def _general(
    flags: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    length: int,
    last: np.ndarray | None,
    reading: Reading,
    source: str,
    has_next: bool,
) -> Ends:
    terminations, truncations = flags.get("terminations"), flags.get("truncations")
    dones, none = flags.get("dones"), np.zeros(length, dtype=bool)
    called = {field: repr(names.get(field, field)) for field in ("terminations", "truncations", "dones")}
    known = truncations is not None or dones is not None or last is not None or has_next
    if terminations is None and dones is None and last is None:
        raise ValueError(f"{source} has no field 'terminations', 'terminals' or 'dones': where do episodes end?")
    if dones is not None and terminations is None and truncations is None:
        kind = meaning_of_dones(bool(dones.any()), reading, source, called["dones"])
        terminations, truncations = (dones, none) if kind == "terminations" else (none, dones)
        told = told_of_dones(kind, reading, called["dones"])
    elif not known:
        if reading.dones is None:
            raise ValueError(
                f"{source} has no field 'timeouts' and no 'next_observations': without one of them it is unknown "
                f"where episodes end, if not at {called['terminations']}. If they do, say how: dones='terminations', "
                "or dones='truncations' (OGBench's meaning)."
            )
        assert terminations is not None
        told = f"{called['terminations']} are all ends of episodes, taken as {reading.dones} (dones=)"
        terminations, truncations = (terminations, none) if reading.dones == "terminations" else (none, terminations)
    else:
        _refuse_dones(reading, source)
        told = _told_by_names(called, terminations is not None, truncations is not None, dones is not None)
        if terminations is None:
            terminations = none if dones is None else dones & ~(none if truncations is None else truncations)
        elif dones is not None:
            truncations = (none if truncations is None else truncations) | (dones & ~terminations)
    if truncations is None:
        truncations = none
        if last is None:
            told += "; other ends are where a next observation is not the next row"
    if last is not None:
        truncations = truncations | (last & ~terminations)
        told += "" if "episode" not in names else f"; where {names['episode']!r} changes, the recording stopped"
    return Ends(terminations, truncations, terminations | truncations, told)


def _told_by_names(called: Mapping[str, str], terminations: bool, truncations: bool, dones: bool) -> str:
    parts = []
    if terminations:
        parts.append(f"{called['terminations']} are terminations")
    elif dones:
        parts.append(f"{called['dones']} that are not {called['truncations']} are terminations")
    else:
        parts.append("no terminations known")
    if truncations:
        parts.append(f"{called['truncations']} are time limits")
    elif dones:
        parts.append(f"other {called['dones']} are time limits")
    return ", ".join(parts)


def meaning_of_dones(any_done: bool, reading: Reading, source: str, field: str = "'dones'") -> str:
    """
    Decide about flags that may be terminations or time limits, and warn where the user did not.

    :param any_done: whether there is one at all
    :param reading: may say what they are
    :param source: for the warning
    :param field: the flags, for the warning
    :return: "terminations" or "truncations"
    """
    if reading.dones is None and any_done:
        warn(
            f"{source}: time limits cannot be told from terminations by {field}. All are taken as terminations, after "
            "which nothing is bootstrapped. Say what they are: dones='terminations', or dones='truncations' for a task "
            "that never terminates.",
        )
    return reading.dones or "terminations"


def told_of_dones(kind: str, reading: Reading, field: str = "'dones'") -> str:
    """
    :param kind: from ``meaning_of_dones``
    :param reading: what it was decided by
    :param field: the flags
    :return: how ends were told, one line
    """
    if reading.dones is None:
        return f"{field} are all taken as terminations: time limits cannot be told from them"
    return f"{field} are {kind}, as the caller says (dones=)"


def _refuse_dones(reading: Reading, source: str) -> None:
    if reading.dones is not None:
        raise ValueError(
            f"dones={reading.dones!r} is for sources that do not tell terminations from time limits: {source} does."
        )


def _last_of_each(episodes: np.ndarray, name: str, length: int, where: Location) -> np.ndarray:
    if episodes.ndim == 2 and episodes.shape[1] == 1:
        episodes = episodes[:, 0]
    checked_length(name, episodes, length, where)
    if episodes.ndim != 1:
        raise ValueError(f"{name} has rows of shape {episodes.shape[1:]}, expected one number or text for each step.")
    last = np.ones(length, dtype=bool)
    last[:-1] = episodes[1:] != episodes[:-1]
    firsts = episodes[np.append(0, np.flatnonzero(last)[:-1] + 1)] if length else episodes
    values, counts = np.unique(firsts, return_counts=True)
    if len(counts) and counts.max() > 1:
        raise ValueError(
            f"{name}: {values[np.argmax(counts)]!r} comes back after another episode. Sort rows by episode and time."
        )
    return last
