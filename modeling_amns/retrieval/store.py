"""What keeps a gallery's rows: a small contract, and the keeper in memory."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from .exact import ExactIndex, check_group
from .hits import Hit
from .table import Table, states_of


class VectorStore(Protocol):
    """A keeper of rows. Each change is whole or has not happened, whatever ends the program in between."""

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each metadata column."""

    def __len__(self) -> int: ...

    def put(self, table: Table) -> None:
        """Adds rows with vectors, in place of those with the same path; makes room for new columns and kinds."""

    def remove(self, paths: Iterable[str]) -> None:
        """Removes rows; paths that are not there are no error."""

    def read(self, vectors: bool = False) -> Table:
        """All rows."""

    def states(self) -> dict[str, tuple[int, int]]:
        """Bytes and time of the last change of each file, by path; quick."""

    def vectors(self, paths: list[str]) -> np.ndarray:
        """Vectors of rows by path, float32 [paths, D]."""

    def search(
        self, query: np.ndarray, k: int, where: str | None, group_by: str | None, exact: bool | None
    ) -> list[Hit]:
        """The k rows nearest to a normalised query among those that a filter keeps, see `ExactIndex.search`.

        Args:
            exact: compare every vector; `False`: ask the index that approximates; `None`: as the size demands.
        """

    def finish(self) -> None:
        """Called after a series of changes: tidies up and makes search quick."""


class MemoryStore:
    """Rows in memory: for pictures, audits and evaluation, and for galleries that live as long as a program.

    Args:
        dimension: of the vectors.
    """

    def __init__(self, dimension: int):
        self.table = Table([], [], np.zeros((0, dimension), np.float32))
        self._index: ExactIndex | None = None

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each metadata column."""
        return self.table.kinds

    def __len__(self) -> int:
        return len(self.table)

    def put(self, table: Table) -> None:
        """Adds or replaces rows."""
        self.table, self._index = self.table.followed_by(table), None

    def remove(self, paths: Iterable[str]) -> None:
        """Removes rows."""
        gone = set(paths)
        kept = [row for row, path in enumerate(self.table.paths) if path not in gone]
        self.table, self._index = self.table.select(kept), None

    def read(self, vectors: bool = False) -> Table:
        """All rows."""
        return self.table

    def states(self) -> dict[str, tuple[int, int]]:
        """Bytes and time of the last change of each file, by path."""
        return states_of(self.table)

    def vectors(self, paths: list[str]) -> np.ndarray:
        """Vectors of rows by path."""
        assert self.table.vectors is not None
        row = {path: number for number, path in enumerate(self.table.paths)}
        return self.table.vectors[[row[path] for path in paths]]

    def search(
        self, query: np.ndarray, k: int, where: str | None, group_by: str | None, exact: bool | None
    ) -> list[Hit]:
        """Compares every vector."""
        if exact is False:
            raise ValueError("A gallery in memory has no index that approximates; save it to a folder for one.")
        if group_by is not None:
            check_group(group_by, self.kinds)
        if self._index is None:
            self._index = ExactIndex.build(self.table)
        return self._index.search(query, k, where, group_by)

    def finish(self) -> None:
        """Nothing is left to do."""


__all__ = ["MemoryStore", "VectorStore"]
