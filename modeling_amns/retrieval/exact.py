"""Exact search: every vector is compared, filters run in SQLite. It needs numpy and Python alone: a quick start."""

import contextlib
import datetime
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..disk import names_full_disk
from .arguments import Value
from .hits import Hit
from .table import FILE_COLUMNS, FileState, Table
from .where import parse_time, quoted_name, to_sql

# Up to this many rows every vector is compared: 16 ms for 100,000 x 512 on two cores.
EXACT_ROWS = 100_000
FULL = "Free some space, then do the same again: the gallery holds what was there before, and goes on from there."
_VECTORS, _ROWS, _POINTER = "vectors.npy", "rows.sqlite", "quick.json"
_SQL_TYPES = {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "boolean": "INTEGER", "time": "TEXT"}


class ExactIndex:
    """Vectors in memory, or mapped from a file, beside an SQLite table of paths and metadata; it does not change.

    Args:
        rows: the table.
        vectors: L2-normalised, float32 [rows, D].
        kinds: of the metadata columns.
    """

    def __init__(self, rows: sqlite3.Connection, vectors: np.ndarray, kinds: Mapping[str, str]):
        self.rows, self.vectors, self.kinds = rows, vectors, dict(kinds)
        rows.execute("PRAGMA case_sensitive_like = ON")

    @classmethod
    def build(cls, table: Table, file: str | Path = ":memory:") -> "ExactIndex":
        """An index of a table with vectors, its rows in memory or written to a new file."""
        assert table.vectors is not None
        connection = sqlite3.connect(file, check_same_thread=False)
        columns = [("path", "TEXT"), *zip(FILE_COLUMNS, ("INTEGER", "INTEGER", "TEXT"))]
        columns += [(name, _SQL_TYPES[kind]) for name, kind in table.kinds.items()]
        declared = ", ".join(f"{quoted_name(name)} {kind}" for name, kind in columns)
        connection.execute(f"CREATE TABLE images (id INTEGER PRIMARY KEY, {declared})")
        values = [[_to_sqlite(value, kind) for value in table.values[name]] for name, kind in table.kinds.items()]
        marks = ", ".join("?" * (1 + len(columns)))
        files = zip(*table.files) if table.files else [()] * len(FILE_COLUMNS)
        connection.executemany(
            f"INSERT INTO images VALUES ({marks})", zip(range(len(table)), table.paths, *files, *values)
        )
        connection.commit()
        return cls(connection, table.vectors, table.kinds)

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, query: np.ndarray, k: int, where: str | None = None, group_by: str | None = None) -> list[Hit]:
        """The k rows nearest to a query among those that a filter keeps, best first, equal scores in their order.

        Args:
            query: L2-normalised, float32 [D].
            k: at most this many.
            where: see `where.to_sql`.
            group_by: a column; of the rows with one value in it only the best is returned.
        Raises:
            ValueError: a filter or a column that there is not.
        """
        ids = self._kept(where)
        if ids is None:
            scores = self.vectors @ query
            ids = np.arange(len(scores))
        elif 4 * len(ids) < len(self.vectors):
            scores = self.vectors[ids] @ query
        else:
            # Copying most of the rows costs more than comparing the others too.
            scores = (self.vectors @ query)[ids]
        order = best(scores, k) if group_by is None else self._best_of_each(ids, scores, k, group_by)
        return self._hits(ids[order], scores[order])

    def files(self) -> Table:
        """All rows without vectors."""
        names = ["path", *FILE_COLUMNS, *self.kinds]
        rows = self.rows.execute(f"SELECT {', '.join(map(quoted_name, names))} FROM images ORDER BY id").fetchall()
        columns = [list(column) for column in zip(*rows)] if rows else [[] for _ in names]
        values = {
            name: [_from_sqlite(value, kind) for value in column]
            for (name, kind), column in zip(self.kinds.items(), columns[4:])
        }
        return Table(columns[0], [FileState(*state) for state in zip(*columns[1:4])], None, dict(self.kinds), values)

    def states(self) -> dict[str, tuple[int, int]]:
        """Bytes and time of the last change of each file, by path."""
        rows = self.rows.execute("SELECT path, file_size, file_mtime_ns FROM images")
        return {path: (size, mtime_ns) for path, size, mtime_ns in rows}

    def _kept(self, where: str | None) -> np.ndarray | None:
        if where is None:
            return None
        # Times lie in ISO form, which sorts as they do.
        condition = to_sql(where, {"path": "text", **self.kinds})
        rows = self.rows.execute(f"SELECT id FROM images WHERE {condition} ORDER BY id")
        return np.fromiter((row[0] for row in rows), np.int64)

    def _best_of_each(self, ids: np.ndarray, scores: np.ndarray, k: int, group_by: str) -> np.ndarray:
        column = dict(self.rows.execute(f"SELECT id, {quoted_name(group_by)} FROM images"))
        seen: set[Any] = set()
        order = []
        for place in np.argsort(-scores, kind="stable").tolist():
            value = column[int(ids[place])]
            # Who is not known is nobody else.
            if value is None or value not in seen:
                seen.add(value)
                order.append(place)
                if len(order) == k:
                    break
        return np.array(order, dtype=np.int64)

    def _hits(self, ids: np.ndarray, scores: np.ndarray) -> list[Hit]:
        names = ["id", "path", *self.kinds]
        found: dict[int, tuple[str | int | float | None, ...]] = {}
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500].tolist()
            marks = ", ".join("?" * len(part))
            rows = self.rows.execute(
                f"SELECT {', '.join(map(quoted_name, names))} FROM images WHERE id IN ({marks})", part
            )
            found.update((row[0], row[1:]) for row in rows)
        hits = []
        for number, score in zip(ids.tolist(), scores.tolist()):
            path, *values = found[number]
            pairs = zip(self.kinds.items(), values)
            metadata = {name: _from_sqlite(value, kind) for (name, kind), value in pairs if value is not None}
            hits.append(Hit(str(path), score, metadata))
        return hits


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k highest scores, best first, equal ones in their order."""
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    cut = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= cut)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


def write_quick(folder: Path, table: Table, state: Sequence[str]) -> None:
    """Writes an index to be opened without any store's package; what was written before goes.

    Args:
        folder: of the gallery.
        table: all rows.
        state: what the store's state was when they were read.
    """
    assert table.vectors is not None
    name = f"quick-{os.urandom(6).hex()}"
    target = folder / name
    target.mkdir()
    try:
        with names_full_disk(folder, FULL):
            np.save(target / _VECTORS, np.ascontiguousarray(table.vectors, np.float32))
            try:
                ExactIndex.build(table, target / _ROWS).rows.close()
            except sqlite3.Error as error:
                raise OSError(f"{target / _ROWS}: {error}") from error
            write_json(folder / _POINTER, {"folder": name, "state": list(state), "kinds": table.kinds})
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    remove_quick(folder, name)


def remove_quick(folder: Path, kept: str | None = None) -> None:
    """Removes what `write_quick` wrote, one apart."""
    for old in folder.glob("quick-*"):
        if old.name != kept:
            shutil.rmtree(old, ignore_errors=True)


def open_quick(folder: Path, state: Sequence[str]) -> ExactIndex | None:
    """What `write_quick` wrote, if it is there and the store has not changed since."""
    try:
        pointer = json.loads((folder / _POINTER).read_text(encoding="utf-8"))
        if pointer["state"] != list(state):
            return None
        target = folder / Path(pointer["folder"]).name
        vectors = np.load(target / _VECTORS, mmap_mode="r", allow_pickle=False)
        file = (target / _ROWS).resolve().as_uri()
        rows = sqlite3.connect(f"{file}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        index = ExactIndex(rows, vectors, pointer["kinds"])
        count = rows.execute("SELECT count(*) FROM images").fetchone()[0]
    # It only repeats what the store holds: if anything is wrong with it, the store is asked.
    except (OSError, ValueError, KeyError, TypeError, sqlite3.Error):
        return None
    return index if count == len(vectors) else None


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(part, file)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def check_group(group_by: str, kinds: Iterable[str]) -> None:
    """A ValueError if a gallery has no such column."""
    if group_by not in kinds:
        known = ", ".join(kinds) or "none"
        raise ValueError(f"Can't take the best of each {group_by}: the gallery has no such column; it has {known}.")


def _to_sqlite(value: Value, kind: str) -> str | int | float | None:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return int(value) if kind == "boolean" and value is not None else value


def _from_sqlite(value: str | int | float | None, kind: str) -> Value:
    if value is None:
        return None
    return bool(value) if kind == "boolean" else parse_time(str(value)) if kind == "time" else value


__all__ = [
    "EXACT_ROWS",
    "FULL",
    "ExactIndex",
    "best",
    "check_group",
    "open_quick",
    "remove_quick",
    "write_json",
    "write_quick",
]
