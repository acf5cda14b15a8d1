"""The rows of a gallery: where an image came from, its vector and its metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .metadata import as_kind, joined

if TYPE_CHECKING:
    import pyarrow as pa

FILE_COLUMNS = ("file_size", "file_mtime_ns", "file_sha256")


class FileState(NamedTuple):
    """What tells whether a file has changed: bytes, time of its last change in ns, SHA-256 of its content."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass
class Table:
    """Rows of a gallery, each path once.

    Args:
        paths: of the images.
        files: their state when they were embedded.
        vectors: L2-normalised embeddings, float32 [rows, D]; `None` where they were not read.
        kinds: kind of each metadata column, see `metadata.typed`.
        values: values of each metadata column, a list of as many as there are rows.
    """

    paths: list[str]
    files: list[FileState]
    vectors: np.ndarray | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    values: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def metadata(self, row: int) -> dict[str, Any]:
        """A row's metadata, without the columns in which it has no value."""
        return {name: column[row] for name, column in self.values.items() if column[row] is not None}

    def select(self, rows: Sequence[int]) -> "Table":
        """Some of the rows."""
        return Table(
            [self.paths[row] for row in rows],
            [self.files[row] for row in rows],
            None if self.vectors is None else self.vectors[list(rows)],
            dict(self.kinds),
            {name: [column[row] for row in rows] for name, column in self.values.items()},
        )

    def in_kinds(self, kinds: Mapping[str, str]) -> "Table":
        """The same rows with these metadata columns, which hold all of the table's own."""
        empty = [None] * len(self)
        values = {
            name: [as_kind(value, kind) for value in self.values.get(name, empty)] for name, kind in kinds.items()
        }
        return Table(self.paths, self.files, self.vectors, dict(kinds), values)

    def followed_by(self, other: "Table") -> "Table":
        """Both tables' rows; where both have a path the other's row stands in its place."""
        kinds = joined_kinds(self.kinds, other.kinds)
        first, second = self.in_kinds(kinds), other.in_kinds(kinds)
        place = {path: row for row, path in enumerate([*first.paths, *second.paths])}
        # A path keeps its first place in the order and has its last row.
        order = [place[path] for path in dict.fromkeys([*first.paths, *second.paths])]
        vectors = None
        if first.vectors is not None and second.vectors is not None:
            vectors = np.concatenate([first.vectors, second.vectors])
        values = {name: first.values[name] + second.values[name] for name in kinds}
        return Table(first.paths + second.paths, first.files + second.files, vectors, kinds, values).select(order)

    def to_arrow(self) -> "pa.Table":
        """As a `pyarrow.Table`: path, the state of the file, metadata, and the vectors where there are any."""
        import pyarrow as pa

        arrays = {"path": pa.array(self.paths, pa.string())}
        for place, name in enumerate(FILE_COLUMNS):
            kind = pa.string() if name == "file_sha256" else pa.int64()
            arrays[name] = pa.array([state[place] for state in self.files], kind)
        for name, kind in self.kinds.items():
            arrays[name] = pa.array(self.values[name], arrow_type(kind))
        if self.vectors is not None:
            flat = pa.array(np.ascontiguousarray(self.vectors, np.float32).ravel())
            arrays["vector"] = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        return pa.table(arrays)

    @classmethod
    def from_arrow(cls, table: "pa.Table") -> "Table":
        """From what `to_arrow` returned, or another's table of the same columns.

        Raises:
            ValueError: a column is missing, or is of a kind that no gallery has.
        """
        names = table.column_names
        lacking = [name for name in ("path", *FILE_COLUMNS) if name not in names]
        if lacking:
            raise ValueError(f"there is no column {', '.join(lacking)}; found {', '.join(names)}")
        vectors = None
        if "vector" in names:
            vectors = vector_array(table.column("vector"))
        files = zip(*(table.column(name).to_pylist() for name in FILE_COLUMNS))
        own = [name for name in names if name not in ("path", "vector", *FILE_COLUMNS) and not name.startswith("_")]
        kinds = {name: kind_of(table.schema.field(name)) for name in own}
        values = {name: table.column(name).to_pylist() for name in own}
        return cls(table.column("path").to_pylist(), [FileState(*state) for state in files], vectors, kinds, values)

    def to_parquet(self, file: str | Path) -> None:
        """Writes all rows; the file is there whole or not at all."""
        import os

        import pyarrow.parquet

        part = Path(file).with_name(f".{Path(file).name}.{os.getpid()}.part")
        try:
            pyarrow.parquet.write_table(self.to_arrow(), part)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


def states_of(table: Table) -> dict[str, tuple[int, int]]:
    """Bytes and time of the last change of each file, by path."""
    return {path: (state.size, state.mtime_ns) for path, state in zip(table.paths, table.files)}


def joined_kinds(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """The columns of both, each in the kind that holds the values of both."""
    kinds = dict(first)
    for name, kind in second.items():
        kinds[name] = joined(kinds.get(name, kind), kind)
    return kinds


def vector_array(column: "pa.ChunkedArray") -> np.ndarray:
    """A column of vectors as float32 [rows, D]."""
    import pyarrow as pa

    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # without any chunk
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    if not pa.types.is_fixed_size_list(array.type):
        raise ValueError(f"the column vector holds {array.type}, expected lists of one size")
    dimension = array.type.list_size
    return np.asarray(array.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, dimension)


def arrow_type(kind: str) -> "pa.DataType":
    """How Arrow calls a kind."""
    import pyarrow as pa

    return {
        "text": pa.string(),
        "integer": pa.int64(),
        "real": pa.float64(),
        "boolean": pa.bool_(),
        "time": pa.timestamp("us"),
    }[kind]


def kind_of(field: "pa.Field") -> str:
    """The kind of an Arrow column.

    Raises:
        ValueError: a gallery has none such.
    """
    for kind in ("text", "integer", "real", "boolean", "time"):
        if field.type == arrow_type(kind):
            return kind
    raise ValueError(f"column {field.name} holds {field.type}; expected string, int64, double, bool or timestamp[us]")


__all__ = ["FILE_COLUMNS", "FileState", "Table", "arrow_type", "joined_kinds", "kind_of", "states_of", "vector_array"]
