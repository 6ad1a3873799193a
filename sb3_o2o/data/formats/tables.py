"""Reads tables: CSV, and Parquet with the extra ``[parquet]``. One row a step; a map says which columns are what."""

import csv
import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sb3_o2o.data.formats.fields import FLAGS, SYNONYMS, VALUES
from sb3_o2o.data.formats.reading import Format, Reading, plain
from sb3_o2o.data.formats.steps import described_steps
from sb3_o2o.data.transitions import Source, Transitions, file_states
from sb3_o2o.errors import missing_package

#: Options of ``Reading`` that a table can follow.
TABLE_OPTIONS = frozenset({"columns", "observation_keys", "reward", "dones"})
_FIELDS = (*VALUES, "terminations", "truncations", "dones", "episode")
#: A column that is one entry of a vector: ``observations_3``, ``observations.3``, ``observations[3]``.
_ENTRY = re.compile(r"^(?P<field>.+?)(?:[_.](?P<index>\d+)|\[(?P<bracketed>\d+)\])$")
_EXAMPLE = "columns={'observations': ['x', 'y'], 'actions': ['u'], 'rewards': 'r', 'terminations': 'end'}"
_TRUTH = {"true": 1.0, "false": 0.0}

Columns = str | list[str]


def column_map(
    names: Sequence[str], asked: Mapping[str, Any] | None, source: str
) -> dict[str, Columns | dict[str, Columns]]:
    """
    :param names: columns of a table
    :param asked: which columns make which field, for the fields that the user names. A field is one column, a list of
        columns, or (for observations) a dictionary of either
    :param source: for messages
    :return: the same for all fields; those that the user did not name are found by their names, or by ``field_0``,
        ``field_1``, ...
    :raises ValueError: if a field or a column does not exist
    """
    strange = [field for field in asked or {} if field not in _FIELDS]
    if strange:
        raise ValueError(f"columns has {', '.join(map(repr, strange))}: expected some of {', '.join(_FIELDS)}.")
    named = {field: plain(value) for field, value in (asked or {}).items()}
    found = {**_by_name(names, named, source), **named}
    missing = [name for value in found.values() for name in _flat(value) if name not in set(names)]
    if missing:
        near = difflib.get_close_matches(missing[0], names, n=1)
        raise ValueError(
            f"{source} has no column {', '.join(map(repr, missing))}: it has {_shown(names)}."
            + (f" Is it {near[0]!r}?" if near else "")
        )
    needed = [field for field in ("observations", "actions") if field not in found]
    if needed:
        raise ValueError(
            f"{source} is a table with the columns {_shown(names)}: none of them is {' or '.join(needed)} by its name. "
            f"Say which are: {_EXAMPLE}."
        )
    return found


def _by_name(names: Sequence[str], asked: Collection[str], source: str) -> dict[str, Any]:
    """Of all fields but those that were asked for, whatever their columns are called."""
    found: dict[str, Any] = {}
    for name in names:
        field = SYNONYMS.get(name, name)
        if field not in _FIELDS or field in asked:
            continue
        if field in found:
            raise ValueError(
                f"{source} has the columns {found[field]!r} and {name!r}, which mean the same: pick one, "
                f"columns={{{field!r}: {name!r}}}."
            )
        found[field] = name
    entries: dict[str, dict[int, str]] = {}
    for name in names:
        match = _ENTRY.match(name)
        field = SYNONYMS.get(match["field"], match["field"]) if match else ""
        if match and field in VALUES and field not in found and field not in asked:
            index = int(match["index"] or match["bracketed"])
            entries.setdefault(field, {})[index] = name
    for field, columns in entries.items():
        if sorted(columns) not in (list(range(len(columns))), list(range(1, len(columns) + 1))):
            raise ValueError(
                f"{source} has the columns {_shown(list(columns.values()))}: some of {field} are missing. If not, name "
                f"them: columns={{{field!r}: {list(columns.values())[:3]!r}}}."
            )
        found[field] = [columns[index] for index in sorted(columns)]
    return found


def _flat(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [name for entry in value.values() for name in _flat(entry)]
    return [value] if isinstance(value, str) else list(value)


def _shown(names: Sequence[str], limit: int = 30) -> str:
    return ", ".join(map(repr, names[:limit])) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def table_source(
    names: Sequence[str],
    read: Any,
    path: Path,
    reading: Reading,
    columns: Mapping[str, Any] | None = None,
    **known: Any,
) -> Source:
    """
    :param names: of all columns
    :param read: from names to arrays ``(N,)`` or ``(N, size)``, by name
    :param path: the file or folder, for messages and the cache
    :param reading: how to read it
    :param columns: the map, if it is not the user's
    :param known: further fields of ``Source``
    :return: the source
    :raises ValueError: if something is missing or wrong
    """
    chosen = column_map(names, reading.columns if columns is None else columns, str(path))
    wanted = sorted({name for value in chosen.values() for name in _flat(value)})

    def fields() -> dict[str, Any]:
        arrays = read(wanted)
        return {field: _field(field, value, arrays) for field, value in chosen.items()}

    held = [fields()]
    called = {field: value for field, value in chosen.items() if isinstance(value, str)}
    steps = described_steps(held[0], reading, f"{path} (a table)", called)
    spaces = steps.observation_space, steps.action_space
    key = {"table": file_states(path), "columns": chosen, "spaces": list(map(str, spaces)), **reading.given}

    def chunks(clip: float) -> Iterator[Transitions]:
        # A table is parsed as a whole: what the description was made from serves once
        yield from steps.chunks(held.pop() if held else fields(), clip)

    return Source(
        str(path),
        *spaces,
        chunks,
        cache_key=key,
        on_disk=True,
        episode_ends=steps.ends.told,
        options=reading.given,
        **known,
    )


def _field(field: str, columns: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(columns, dict):
        return {key: _field(field, entry, arrays) for key, entry in columns.items()}
    parts = [arrays[name] for name in _flat(columns)]
    # One column of numbers is a vector of one entry, or a flag or reward; a column of vectors stays as it is
    scalar = field in (*FLAGS, "rewards")
    if scalar and len(parts) == 1:
        return parts[0]
    if len(parts) == 1 and parts[0].ndim > 1:
        return parts[0]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


# ---------------------------------------------------------------------------------------------------------------- CSV


def csv_source(path: Path, reading: Reading) -> Source:
    """
    :param path: a table in text, its first line the names of the columns, separated by commas, semicolons or tabs
    :param reading: how to read it
    :return: the source
    :raises ValueError: naming column, row and what was found there, if it is not a number
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}.") from error
    delimiter = max(",;\t", key=line.count)
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    if not names:
        raise ValueError(f"{path} is empty: expected a first line with the names of the columns.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{path} has the column {', '.join(map(repr, twice))} more than once.")
    asked = reading.columns or {}

    def read(wanted: Sequence[str]) -> dict[str, np.ndarray]:
        return _csv_columns(path, names, delimiter, wanted, _flat(asked.get("episode", [])))

    return table_source(names, read, path, reading)


def _csv_columns(
    path: Path, names: list[str], delimiter: str, wanted: Sequence[str], words: Collection[str]
) -> dict[str, np.ndarray]:
    """:param words: columns in which words stay what they are, besides those that are called ``episode``"""
    places = [names.index(name) for name in wanted]

    def read(dtype: Any) -> np.ndarray:
        return np.loadtxt(
            path,
            dtype=dtype,
            delimiter=delimiter,
            skiprows=1,
            usecols=places,
            ndmin=2,
            comments=None,
            quotechar='"',
            encoding="utf-8-sig",
        )

    with suppress(ValueError):
        numbers = read(np.float64)
        return {name: numbers[:, column] for column, name in enumerate(wanted)}
    # Some words are there, which takes ten times the memory
    try:
        text = read(np.str_)
    except ValueError as error:
        raise ValueError(f"{path} is not a table of {len(names)} columns: {error}.") from error
    return {name: _numbers(text[:, column], name, path, name in words) for column, name in enumerate(wanted)}


def _numbers(text: np.ndarray, name: str, path: Path, words_too: bool) -> np.ndarray:
    try:
        return text.astype(np.float64)
    except ValueError:
        pass
    if words_too or SYNONYMS.get(name, name) == "episode":
        return text
    values = np.empty(len(text))
    for row, word in enumerate(text):
        try:
            values[row] = _TRUTH.get(word.strip().lower()) if word.strip().lower() in _TRUTH else float(word)
        except ValueError as error:
            found = repr(str(word)) if word.strip() else "empty"
            raise ValueError(f"{path}, column {name!r}, row {row} is {found}: expected a number.") from error
    return values


# ------------------------------------------------------------------------------------------------------------ Parquet


def pyarrow(what: str, module: str = "parquet") -> ModuleType:
    """
    :param what: what it is needed for, for the message
    :param module: submodule of pyarrow
    :return: the submodule
    :raises ImportError: saying how to install it
    """
    import importlib

    try:
        return importlib.import_module(f"pyarrow.{module}")
    except ImportError as error:
        raise missing_package(f"{what} needs", "pyarrow", "parquet") from error


def parquet_source(path: Path, reading: Reading) -> Source:
    """
    :param path: a Parquet file; columns of lists of equal length are vectors
    :param reading: how to read it
    :return: the source
    :raises ImportError: without pyarrow
    :raises ValueError: if it is damaged, or a column is missing, has empty entries or no numbers
    """
    names = parquet_names([path])
    return table_source(names, lambda wanted: parquet_columns([path], wanted), path, reading)


def parquet_names(paths: Sequence[Path]) -> list[str]:
    """
    :param paths: Parquet files of one table
    :return: the columns of the first one
    :raises ValueError: if it is damaged
    """
    parquet = pyarrow(f"Reading {paths[0]}")
    try:
        return list(parquet.read_schema(paths[0]).names)
    except (OSError, ValueError) as error:
        raise ValueError(f"{paths[0]} cannot be read as Parquet: {error}. It may be truncated.") from error


def parquet_columns(paths: Sequence[Path], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """
    :param paths: Parquet files of one table, in order
    :param wanted: columns
    :return: arrays ``(N,)`` or ``(N, size)``, by name
    :raises ValueError: naming file and column, if there are no numbers in it
    """
    parquet, parts = pyarrow(f"Reading {paths[0]}"), []
    for path in paths:
        try:
            table = parquet.read_table(path, columns=list(wanted))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as Parquet: {error}. It may be truncated.") from error
        lacking = sorted(set(wanted) - set(table.column_names))
        if lacking:
            raise ValueError(f"{path} has no column {', '.join(map(repr, lacking))}, while {paths[0]} has.")
        parts.append({name: _array(table.column(name), f"{path}, column {name!r}") for name in wanted})
    return {name: np.concatenate([part[name] for part in parts]) for name in wanted}


def _array(column: Any, where: str) -> np.ndarray:
    types = pyarrow("Parquet", "types")
    if column.null_count:
        raise ValueError(f"{where} is empty in {column.null_count} of {len(column)} rows: drop these episodes.")
    kind, shape = column.type, [len(column)]
    values = column.combine_chunks()
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        lengths = np.unique(np.asarray(values.value_lengths()))
        if len(lengths) > 1:
            raise ValueError(f"{where} has rows of {lengths[0]} to {lengths[-1]} numbers: expected equally many.")
        shape.append(int(lengths[0]) if len(lengths) else 0)
        values, kind = values.flatten(), kind.value_type
    numbers = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    if not numbers and not types.is_string(kind):
        raise ValueError(f"{where} has the type {column.type}: expected numbers, or lists of equally many.")
    if values.null_count:
        raise ValueError(f"{where} has {values.null_count} empty entries: drop these episodes.")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


CSV = Format("a table in text", Path.is_file, csv_source, TABLE_OPTIONS)
PARQUET = Format("a Parquet table", Path.is_file, parquet_source, TABLE_OPTIONS)


def arrow_rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """
    :param paths: files of Arrow's stream format, as Hugging Face's datasets write them
    :return: row after row, by column
    :raises ImportError: without pyarrow
    :raises ValueError: if a file is damaged
    """
    ipc = pyarrow(f"Reading {paths[0].parent}", "ipc")
    for path in paths:
        try:
            with open(path, "rb") as file:
                yield from ipc.open_stream(file).read_all().to_pylist()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an Arrow stream: {error}.") from error
