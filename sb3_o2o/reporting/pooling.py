"""What counts as seeds of one method: each run once, and what differs between them is said."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sb3_o2o.progress import counted
from sb3_o2o.runs.records import RunRecord

#: Groups of runs that are spoken of one by one, and settings of each.
_SAID, _SETTINGS = 5, 3


def each_once(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """
    :param records: of runs, which may lie in several of the given folders
    :return: the first record of each; a sentence where there were more
    """
    first: dict[Any, RunRecord] = {}
    for record in records:
        first.setdefault(record.path.resolve(), record)
    twice = len(records) - len(first)
    return list(first.values()), [f"{counted(twice, 'run')} given more than once: each counts once."] if twice else []


def differing(records: Sequence[RunRecord]) -> list[str]:
    """
    Runs of one method on one task that are no seeds of one thing: the same seed again, or other settings.

    :param records: of runs, each once
    :return: a sentence for each method and task
    """
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        if record.online is not None:  # a pre-training alone is no seed of what is compared
            groups.setdefault((record.label, record.task), []).append(record)
    said = [
        f"{label} on {task}: {'; '.join(found)}. All of these count as seeds of one method."
        for (label, task), group in sorted(groups.items())
        if (found := [*_repeated_seeds(group), *_other_settings(group)])
    ]
    more = len(said) - _SAID
    return [*said[:_SAID], f"So it is with {more} more."] if more > 0 else said


def _repeated_seeds(group: Sequence[RunRecord]) -> Iterator[str]:
    by_seed: dict[int, list[RunRecord]] = {}
    for record in group:
        if record.seed is not None:
            by_seed.setdefault(record.seed, []).append(record)
    for seed, runs in sorted(by_seed.items()):
        if len(runs) > 1:
            yield f"seed {seed} is there {len(runs)} times ({', '.join(map(_name, runs))})"


def _other_settings(group: Sequence[RunRecord]) -> Iterator[str]:
    known = [(record, dict(_flat(record.settings))) for record in group if record.settings]
    names = sorted({name for _, settings in known for name in settings})
    differ = [name for name in names if len({str(settings.get(name)) for _, settings in known}) > 1]
    for name in differ[:_SETTINGS]:
        runs: dict[str, RunRecord] = {}
        for record, settings in known:
            runs.setdefault(str(settings.get(name, "not set")), record)
        yield f"{name} is {', '.join(f'{value} in {_name(record)}' for value, record in runs.items())}"
    if len(differ) > _SETTINGS:
        yield f"and {len(differ) - _SETTINGS} more"


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _name(record: RunRecord) -> str:
    """With the folder above, as runs of two experiments may have one name."""
    return "/".join(record.path.resolve().parts[-2:])
