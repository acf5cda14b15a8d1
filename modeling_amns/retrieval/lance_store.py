"""Rows in LanceDB, on disk: versions, so that no reader sees half a change, filters in SQL, an index for millions."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..extras import require
from .exact import EXACT_ROWS, ExactIndex, check_group, open_quick, remove_quick, write_quick
from .hits import Hit, best_of_each
from .table import FILE_COLUMNS, Table, arrow_type, joined_kinds, kind_of, states_of, vector_array
from .where import quoted_text, to_sql

if TYPE_CHECKING:
    import lancedb

_NAME = "images"
# Rows of a list of the index, which is LanceDB's own choice.
_LIST = 4096
# So many lists are read times the square root of all rows, at least 40: at a million rows two of five.
_PROBED = 0.1
# So many times k candidates are compared again by their whole vectors.
_REFINE = 20
# Readers that opened the gallery so long ago may find their version gone.
_KEPT = timedelta(days=1)
_ALL = timedelta(days=36_500)
# Files of LanceDB's that end with its mark.
_ENDS, _MARK = (".lance", ".manifest", ".idx"), b"LANC"


class LanceStore:
    """A table of LanceDB in a gallery's folder.

    Small galleries are searched exactly, in memory (`ExactIndex`; LanceDB's own flat search takes 18 times as long),
    by a copy that `finish` leaves beside the table for those who start. Above `EXACT_ROWS` rows an IVF_RQ index finds
    candidates, which are compared again by their whole vectors.

    Args:
        folder: of the gallery.
        dimension: of the vectors.
    """

    def __init__(self, folder: Path, dimension: int):
        self.folder, self.dimension = folder, dimension
        self._opened: Any = None
        self._exact: tuple[list[str], ExactIndex] | None = None
        self._indexed: tuple[list[str], bool] | None = None

    @property
    def table(self) -> "lancedb.table.Table":
        """The table at its newest version, made if there is none."""
        # It logs what is no news, such as that a new table is new.
        os.environ.setdefault("LANCE_LOG", "error")
        if self._opened is None:
            database = require("lancedb", "search", "A gallery in a folder").connect(str(self.folder))
            with _readable(self.folder):
                if (self.folder / f"{_NAME}.lance").is_dir():
                    self._opened = database.open_table(_NAME)
                else:
                    empty = Table([], [], np.zeros((0, self.dimension), np.float32))
                    self._opened = database.create_table(_NAME, empty.to_arrow())
        with _readable(self.folder):
            self._opened.checkout_latest()
        return self._opened

    @property
    def state(self) -> list[str]:
        """Names of the versions on disk; it differs after every change."""
        try:
            return sorted(os.listdir(self.folder / f"{_NAME}.lance" / "_versions"))
        except FileNotFoundError:
            return []

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each metadata column."""
        quick = self._quick()
        return quick.kinds if quick is not None else self._kinds()

    def _kinds(self) -> dict[str, str]:
        own = {"path", "vector", *FILE_COLUMNS}
        return {field.name: kind_of(field) for field in self.table.schema if field.name not in own}

    def __len__(self) -> int:
        quick = self._quick()
        return len(quick) if quick is not None else self.table.count_rows()

    def put(self, table: Table) -> None:
        """Adds or replaces rows in one commit; new columns are added before, and other kinds written anew."""
        if len(table):
            with self._whole():
                self._put(table)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """A change of the table: what is written is read again at its end, and what is cut is taken back.

        On a full disk LanceDB at times commits a file of which it wrote a part only. Taking back must need no room, so
        that it is the version that goes, not one that is added.
        """
        before = self._files()
        try:
            yield
        except BaseException:
            self._take_back(before)
            raise
        cut = self._take_back(before)
        if cut:
            raise OSError(f"{cut[0]} was written in part only; the gallery in {self.folder} is as it was before.")

    def _files(self) -> set[Path]:
        return {path for path in (self.folder / f"{_NAME}.lance").rglob("*") if path.suffix in _ENDS}

    def _take_back(self, before: set[Path]) -> list[Path]:
        """Removes new versions if a new file is cut, and new files that no version has; returns those that are cut."""
        fresh = self._files() - before
        cut = sorted(path for path in fresh if not _has_end(path))
        versions = {path for path in fresh if path.suffix == ".manifest"}
        if cut or not versions:
            for path in (*versions, *(fresh - versions)):
                path.unlink(missing_ok=True)
            self._opened = self._exact = self._indexed = None
        return cut

    def _put(self, table: Table) -> None:
        before = self._kinds()
        kinds = joined_kinds(before, table.kinds)
        if any(kinds[name] != kind for name, kind in before.items()):
            self._write_anew(self.read(vectors=True).in_kinds(kinds))
        elif len(kinds) > len(before):
            import pyarrow as pa

            fresh = [pa.field(name, arrow_type(kind)) for name, kind in kinds.items() if name not in before]
            self.table.add_columns(pa.schema(fresh))
        # By name: a table keeps the order in which its columns came.
        rows = table.in_kinds(kinds).to_arrow().select(self.table.schema.names).cast(self.table.schema)
        self.table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def _write_anew(self, table: Table) -> None:
        database = require("lancedb", "search", "A gallery in a folder").connect(str(self.folder))
        self._opened = database.create_table(_NAME, table.to_arrow(), mode="overwrite")

    def remove(self, paths: Iterable[str]) -> None:
        """Removes rows, all in one commit."""
        gone = list(dict.fromkeys(paths))
        if gone:
            with self._whole():
                self.table.delete(_among(gone))

    def read(self, vectors: bool = False) -> Table:
        """All rows."""
        quick = None if vectors else self._quick()
        if quick is not None:
            return quick.files()
        table = self.table
        with _readable(self.folder):
            names = [name for name in table.schema.names if vectors or name != "vector"]
            return Table.from_arrow(table.search().select(names).limit(None).to_arrow())

    def states(self) -> dict[str, tuple[int, int]]:
        """Bytes and time of the last change of each file, by path."""
        quick = self._quick()
        return quick.states() if quick is not None else states_of(self.read())

    def vectors(self, paths: list[str]) -> np.ndarray:
        """Vectors of rows by path."""
        parts = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(paths), 500):
            some = paths[start : start + 500]
            found = self.table.search().where(_among(some)).select(["path", "vector"]).limit(None).to_arrow()
            row = {path: number for number, path in enumerate(found.column("path").to_pylist())}
            parts.append(vector_array(found.column("vector"))[[row[path] for path in some]])
        return np.concatenate(parts)

    def search(
        self, query: np.ndarray, k: int, where: str | None, group_by: str | None, exact: bool | None
    ) -> list[Hit]:
        """Exactly up to `EXACT_ROWS` rows or on demand, else by the index."""
        if group_by is not None:
            check_group(group_by, self.kinds)
        if exact is not False:
            index = self._exact_index()
            if index is not None:
                return index.search(query, k, where, group_by)
        if exact is False and not self.has_index:
            raise ValueError("The gallery has no index that approximates; make one with build_index().")
        flat = exact or not self.has_index
        if group_by is None:
            return self._ask(query, k, where, flat)
        total = self.table.count_rows()
        return best_of_each(lambda count: self._ask(query, count, where, flat), group_by, k, total)

    def _ask(self, query: np.ndarray, k: int, where: str | None, flat: bool) -> list[Hit]:
        table, kinds = self.table, self._kinds()
        k = max(1, min(k, table.count_rows()))
        asked = cast(Any, table.search(query)).distance_type("cosine").limit(k)
        if flat:
            asked = asked.bypass_vector_index()
        else:
            rows = table.count_rows()
            # What a filter keeps lies in lists far apart: all are read, and few rows of each.
            probes = max(40, round(_PROBED * rows**0.5) if where is None else -(-rows // _LIST) + 1)
            asked = asked.nprobes(probes).refine_factor(_REFINE)
        if where is not None:
            condition = to_sql(where, {"path": "text", **kinds}, "TIMESTAMP '{}'".format)
            asked = asked.where(condition, prefilter=True)
        with _readable(self.folder):
            rows = asked.select(["path", *kinds, "_distance"]).to_arrow().to_pylist()
        return [
            Hit(
                row["path"],
                1 - row["_distance"],
                {name: row[name] for name in kinds if row[name] is not None},
            )
            for row in rows
        ]

    @property
    def has_index(self) -> bool:
        """Whether there is an index that approximates."""
        state = self.state
        if self._indexed is None or self._indexed[0] != state:
            found = any(index.columns == ["vector"] for index in self.table.list_indices())
            self._indexed = (state, found)
        return self._indexed[1]

    def build_index(self) -> None:
        """Makes the index that approximates, anew if there is one.

        Raises:
            ValueError: there are too few rows to learn one from.
        """
        rows = self.table.count_rows()
        if rows < 256:
            raise ValueError(f"An index is learnt from 256 images or more, the gallery has {rows}; search it exactly.")
        from lancedb.index import BTree, IvfPq, IvfRq

        # A bit a dimension tells candidates better than product quantisation, but in whole bytes only.
        kind = IvfPq if self.dimension % 8 else IvfRq
        with self._whole():
            self.table.create_index("vector", config=kind(distance_type="cosine"), replace=True)
            for name in self._kinds():
                # Else a filter reads its column from end to end.
                self.table.create_index(f"`{name}`", config=BTree(), replace=True)
            with contextlib.suppress(ValueError, RuntimeError):
                self.table.wait_for_index(["vector_idx"], timedelta(hours=1))

    def finish(self) -> None:
        """Joins the pieces that commits left, brings the index up to date, and leaves the copy for quick starts."""
        table = self.table
        if len(table.list_versions()) > 1:
            with self._whole():
                table.optimize(cleanup_older_than=_ALL)
            # Older versions go once the new one is known to be whole.
            table.optimize(cleanup_older_than=_KEPT)
        rows = table.count_rows()
        if rows > EXACT_ROWS and not self.has_index:
            self.build_index()
        if rows > EXACT_ROWS:
            remove_quick(self.folder)
        elif self._quick() is None:
            state = self.state
            write_quick(self.folder, self.read(vectors=True), state)

    def _quick(self) -> ExactIndex | None:
        """The copy, if it holds what the table holds."""
        state = self.state
        if self._exact is not None and self._exact[0] == state:
            return self._exact[1]
        index = open_quick(self.folder, state) if state else None
        self._exact = None if index is None else (state, index)
        return index

    def _exact_index(self) -> ExactIndex | None:
        quick = self._quick()
        if quick is not None:
            return quick
        state = self.state
        if self.table.count_rows() > EXACT_ROWS:
            return None
        self._exact = (state, ExactIndex.build(self.read(vectors=True)))
        return self._exact[1]


def _has_end(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-len(_MARK), os.SEEK_END)
            return file.read() == _MARK
    except OSError:
        return False


def _among(paths: Iterable[str]) -> str:
    return "path IN (" + ", ".join(map(quoted_text, paths)) + ")"


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    # LanceDB raises all of these for files that are cut off or gone.
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        if isinstance(error, ImportError):
            raise
        text = " ".join(str(error).split())[:300]
        raise ValueError(
            f"The gallery in {folder} can't be read, was it copied in full? Remove it and index the images anew. "
            f"({type(error).__name__}: {text})"
        ) from error


__all__ = ["LanceStore"]
