"""Metadata of images: tables that lie beside them, and the kind of each column."""

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .arguments import Value
from .where import parse_time

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
# Names of the column that holds the path, in the order in which they are looked for.
PATH_COLUMNS = ("path", "image_path", "file_path", "file_name", "image", "file", "filename")
# A store's own columns.
RESERVED = frozenset({"path", "vector", "file_size", "file_mtime_ns", "file_sha256", "score", "id"})
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
# Digits alone that are no integer of 64 bits are a name: a real number would lose some of them.
_REAL = re.compile(r"-?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")
# A number written with zeros in front is a name.
_NAME_OF_DIGITS = re.compile(r"-?0\d")


def read_metadata(file: str | Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of a table and the name of its column of paths.

    Args:
        file: CSV or TSV with a line of names, JSON (a list of objects), JSON Lines or Parquet. The paths stand in one
            of the columns `path`, `image_path`, `file_path`, `file_name`, `image`, `file`, `filename`.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be read, or has no column of paths. The text names the file.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There is no metadata file {file}.")
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{file}: metadata is read from {', '.join(SUFFIXES)} files.")
    rows = _read(file)
    names = dict.fromkeys(name for row in rows for name in row)
    for name in PATH_COLUMNS:
        if name in names:
            return rows, name
    raise ValueError(
        f"{file} has no column that says which image a row is about: name one of its columns path. "
        f"Found {', '.join(map(str, names)) or 'no columns'}."
    )


def _read(file: Path) -> list[dict[str, Any]]:
    if file.suffix.lower() != ".parquet":
        from ..data.pair_files import read_rows

        return list(read_rows(file))
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"{file} is no Parquet file that can be read: {error}.") from error


def typed(columns: Mapping[str, Sequence[Any]]) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """The kind of each column, and its values in that kind.

    A column is integer, real, boolean or time where all its values are, or are written so; else text. Digits with
    zeros in front (`007`) are text; empty text is no value. Times with a zone become UTC.

    Returns:
        kinds and values by column; a column without any value has none of either.
    Raises:
        ValueError: a value is a list, an object or the like.

    >>> typed({"camera": ["c1", ""], "person": ["3", "12"], "time": ["2026-11-25 08:00", None]})[0]
    {'camera': 'text', 'person': 'integer', 'time': 'time'}
    """
    kinds, values = {}, {}
    for name, column in columns.items():
        cleaned = [_plain(value, name) for value in column]
        kind = _kind(cleaned)
        if kind is not None:
            kinds[name], values[name] = kind, [as_kind(value, kind) for value in cleaned]
    return kinds, values


def joined(first: str, second: str) -> str:
    """The kind that holds values of both kinds."""
    return first if first == second else "real" if {first, second} == {"integer", "real"} else "text"


def as_kind(value: Value, kind: str) -> Value:
    """A value in a kind that can hold it, as `typed` chose it; text for any value."""
    if value is None:
        return None
    if kind == "text":
        return value.isoformat() if isinstance(value, datetime.datetime) else str(value)
    if kind == "integer":
        return int(str(value))
    if kind == "real":
        return float(str(value))
    if kind == "boolean":
        return value if isinstance(value, bool) else str(value).lower() == "true"
    return value if isinstance(value, datetime.datetime) else parse_time(str(value))


def _plain(value: object, name: str) -> Value:
    """A value as one of Python's own, without zones, `None` for empty."""
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):  # of numpy, torch
        value = value.item()
    if isinstance(value, datetime.datetime):
        time = parse_time(value.isoformat())
        return time
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day)
    if value is None or (isinstance(value, str) and not value.strip()) or value != value:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, (bool, int, float, str)):
        # What no file and no terminal can hold.
        return value.encode("utf-8", "replace").decode().replace("\0", "") if isinstance(value, str) else value
    raise ValueError(
        f"Metadata column {name} holds {type(value).__name__} values ({str(value)[:40]!r}); expected text, numbers, "
        "true and false or times. Leave it out, or write it as text."
    )


def _kind(values: Iterable[Any]) -> str | None:
    kinds = {_kind_of(value) for value in values if value is not None}
    if not kinds:
        return None
    kind = kinds.pop()
    for other in kinds:
        kind = joined(kind, other)
    return kind


def _kind_of(value: Value) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, datetime.datetime):
        return "time"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "real"
    value = str(value)
    if value.lower() in ("true", "false"):
        return "boolean"
    if _WHOLE.fullmatch(value):
        return "integer"
    if _REAL.fullmatch(value) and not _NAME_OF_DIGITS.match(value):
        return "real"
    return "time" if parse_time(value) is not None else "text"


def check_names(names: Iterable[Any], source: str) -> None:
    """A ValueError for a column that no filter could name, or that is a store's own."""
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or "`" in name or '"' in name:
            raise ValueError(f"{source}: {name!r} is no name for a metadata column; use letters, digits and _.")
        if name.lower() in RESERVED:
            raise ValueError(f"{source}: a metadata column can't be called {name}; the gallery has one of its own.")
        if seen.setdefault(name.lower(), name) != name:
            raise ValueError(f"{source}: columns {seen[name.lower()]} and {name} differ in capitals only; rename one.")


__all__ = ["SUFFIXES", "as_kind", "check_names", "joined", "read_metadata", "typed"]
