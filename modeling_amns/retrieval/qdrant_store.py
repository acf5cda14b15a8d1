"""Rows in Qdrant, on a server that grows past one machine."""

import contextlib
import datetime
import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from .arguments import Value
from .exact import EXACT_ROWS, check_group
from .hits import Hit, best_of_each
from .metadata import as_kind
from .qdrant_filter import key_of, to_filter
from .table import FILE_COLUMNS, FileState, Table, joined_kinds

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.grpc import PointId

API_KEY = "QDRANT_API_KEY"
_URL = re.compile(r"(qdrants?)://([^/?#@\s]+)/([^/?#@\s]+)")
# Rows of a request; Qdrant reads at most 32 MB.
_ROWS = 500
_SECONDS = 60
# The collection's metadata that says whose it is.
_OURS = "amns"
_INDEXES = {"text": "keyword", "integer": "integer", "real": "float", "boolean": "bool", "time": "datetime"}


def is_server(place: object) -> bool:
    """Whether a gallery's place is a server's, not a folder.

    >>> is_server("qdrant://localhost:6333/persons"), is_server("photos/.amns")
    (True, False)
    """
    return isinstance(place, str) and "://" in place


class QdrantStore:
    """A collection of Qdrant's; its metadata hold what the gallery says of itself and the kinds of the columns.

    A put of more rows than a request holds is none in one piece: killed in between, the rows that arrived stay, and
    the same put completes it.

    Args:
        url: `qdrant://HOST:PORT/COLLECTION`, or `qdrants://` for TLS. The key lies in the variable QDRANT_API_KEY.
    """

    def __init__(self, url: str):
        found = _URL.fullmatch(url)
        if found is None:
            # Not shown: somebody may have written a key into it.
            raise ValueError(
                "A server's gallery is named qdrant://HOST:6333/COLLECTION, or qdrants:// for TLS; a key belongs in "
                f"the environment variable {API_KEY}."
            )
        self.url, self.collection = url, found[3]
        self._address = f"{'https' if found[1] == 'qdrants' else 'http'}://{found[2]}"
        self._client: QdrantClient | None = None

    @property
    def client(self) -> "QdrantClient":
        """The connection, made at first use."""
        if self._client is None:
            made = require("qdrant_client", "qdrant", "A gallery on a server").QdrantClient
            key = os.environ.get(API_KEY) or None
            self._client = made(url=self._address, api_key=key, timeout=_SECONDS, check_compatibility=False)
        return self._client

    def exists(self) -> bool:
        """Whether the server has such a collection."""
        with self._answers():
            return self.client.collection_exists(self.collection)

    def create(self, settings: dict[str, Any]) -> None:
        """Makes the collection, empty.

        Args:
            settings: what the gallery says of itself.
        """
        models = require("qdrant_client", "qdrant", "A gallery on a server").models
        # Vectors have length 1; with COSINE the server would bring them to it again and change their last bits.
        vectors = models.VectorParams(size=settings["model"]["dimension"], distance=models.Distance.DOT)
        with self._answers():
            about = {"settings": settings, "kinds": {}, "unwritten": {}}
            self.client.create_collection(self.collection, vectors_config=vectors, metadata={_OURS: json.dumps(about)})
        self._index({"path": "text"})

    def _about(self) -> dict[str, Any]:
        with self._answers():
            if not self.client.collection_exists(self.collection):
                raise FileNotFoundError(
                    f"There is no gallery {self.url}; make it with PersonGallery.from_images or from_parquet."
                )
            config = self.client.get_collection(self.collection).config
        noted = (config.metadata or {}).get(_OURS)
        if not isinstance(noted, str):
            raise ValueError(f"{self.url} holds something else than a gallery; take a new collection.")
        about = json.loads(noted)
        size, wanted = getattr(config.params.vectors, "size", None), about["settings"]["model"]["dimension"]
        if size != wanted:
            raise ValueError(f"{self.url} holds vectors of {size} numbers, its model makes {wanted}; index anew.")
        return about

    @property
    def settings(self) -> dict[str, Any]:
        """What the gallery says of itself.

        Raises:
            FileNotFoundError: there is no such collection.
            ValueError: it is no gallery.
        """
        return self._about()["settings"]

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Keeps what the gallery says of itself; which model it was opened with this time is no part of that."""
        self._write({"settings": {name: value for name, value in settings.items() if name != "open"}})

    def _write(self, part: dict[str, Any]) -> None:
        about = {**self._about(), **part}
        with self._answers():
            self.client.update_collection(self.collection, metadata={_OURS: json.dumps(about)})

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each metadata column."""
        return self._about()["kinds"]

    def __len__(self) -> int:
        with self._answers():
            return self.client.count(self.collection, exact=True).count

    def put(self, table: Table) -> None:
        """Adds or replaces rows; rows of a column whose kind changes are written anew."""
        if not len(table):
            return
        about = self._about()
        if about["unwritten"]:  # by a writer that was killed
            self._write_anew()
        before, kinds = about["kinds"], joined_kinds(about["kinds"], table.kinds)
        payloads = _payloads(table.in_kinds(kinds))
        changed = {name: kind for name, kind in before.items() if kinds[name] != kind}
        if kinds != before:
            self._write({"kinds": kinds, "unwritten": changed})
            self._index({name: kind for name, kind in kinds.items() if before.get(name) != kind})
        if changed:
            self._write_anew()
        self._upsert(table, payloads)

    def _write_anew(self) -> None:
        """Writes all rows in the kinds that the columns have now; until then they are read in those they had."""
        table = self.read(vectors=True)
        self._upsert(table, _payloads(table))
        self._write({"unwritten": {}})

    def _index(self, kinds: dict[str, str]) -> None:
        """Filters on columns with an index are quick, and some servers take no others."""
        schema = require("qdrant_client", "qdrant", "A gallery on a server").models.PayloadSchemaType
        with self._answers():
            for name, kind in kinds.items():
                self.client.create_payload_index(self.collection, key_of(name), field_schema=schema(_INDEXES[kind]))

    def _upsert(self, table: Table, payloads: Sequence[dict[str, Any]]) -> None:
        models = require("qdrant_client", "qdrant", "A gallery on a server").models
        assert table.vectors is not None
        for start in range(0, len(table), _ROWS):
            points = [
                models.PointStruct(id=_id(table.paths[row]), vector=table.vectors[row].tolist(), payload=payloads[row])
                for row in range(start, min(start + _ROWS, len(table)))
            ]
            with self._answers():
                self.client.upsert(self.collection, points)

    def remove(self, paths: Iterable[str]) -> None:
        """Removes rows."""
        gone: list[int | str | uuid.UUID | PointId] = [_id(path) for path in dict.fromkeys(paths)]
        for start in range(0, len(gone), _ROWS):
            with self._answers():
                self.client.delete(self.collection, gone[start : start + _ROWS])

    def read(self, vectors: bool = False) -> Table:
        """All rows, in the order of their paths."""
        about = self._about()
        points = sorted(self._scroll(True, vectors), key=lambda point: point.payload["path"])
        found = [point.payload for point in points]
        values = {name: [_value(row, name, about) for row in found] for name in about["kinds"]}
        files = [FileState(*(row[name] for name in FILE_COLUMNS)) for row in found]
        matrix = None
        if vectors:
            shape = (len(points), about["settings"]["model"]["dimension"])
            matrix = np.array([point.vector for point in points], np.float32).reshape(shape)
        return Table([row["path"] for row in found], files, matrix, about["kinds"], values)

    def _scroll(self, payload: bool | list[str], vectors: bool) -> Iterator[Any]:
        place = None
        while True:
            with self._answers():
                points, place = self.client.scroll(
                    self.collection, limit=_ROWS, offset=place, with_payload=payload, with_vectors=vectors
                )
            yield from points
            if place is None:
                return

    def states(self) -> dict[str, tuple[int, int]]:
        """Bytes and time of the last change of each file, by path."""
        rows = (point.payload for point in self._scroll(["path", *FILE_COLUMNS[:2]], False))
        return {row["path"]: (row["file_size"], row["file_mtime_ns"]) for row in rows}

    def vectors(self, paths: list[str]) -> np.ndarray:
        """Vectors of rows by path."""
        found: dict[str, Any] = {}
        for start in range(0, len(paths), _ROWS):
            ids = [_id(path) for path in paths[start : start + _ROWS]]
            with self._answers():
                points = self.client.retrieve(self.collection, ids, with_payload=False, with_vectors=True)
            found.update((str(point.id), point.vector) for point in points)
        rows = [found[_id(path)] for path in paths]
        return np.array(rows, np.float32).reshape(len(paths), self.settings["model"]["dimension"])

    def search(
        self, query: np.ndarray, k: int, where: str | None, group_by: str | None, exact: bool | None
    ) -> list[Hit]:
        """Exactly up to `EXACT_ROWS` rows or on demand, else by the server's own index."""
        models = require("qdrant_client", "qdrant", "A gallery on a server").models
        about, total = self._about(), len(self)
        kinds = about["kinds"]
        if group_by is not None:
            check_group(group_by, kinds)
        condition = None if where is None else to_filter(where, {"path": "text", **kinds})
        flat = total <= EXACT_ROWS if exact is None else exact

        def ask(count: int) -> list[Hit]:
            with self._answers():
                points = self.client.query_points(
                    self.collection,
                    query=query.tolist(),
                    query_filter=condition,
                    search_params=models.SearchParams(exact=True) if flat else None,
                    limit=max(1, min(count, total)),
                    with_payload=True,
                ).points
            return [_hit(point.payload or {}, point.score, about) for point in points]

        return ask(k) if group_by is None else best_of_each(ask, group_by, k, total)

    def finish(self) -> None:
        """The server tidies up by itself."""

    @contextlib.contextmanager
    def _answers(self) -> Iterator[None]:
        """One line for what a server answers otherwise than hoped for; the key is in none of them."""
        faults = require("qdrant_client", "qdrant", "A gallery on a server").http.exceptions
        try:
            yield
        except faults.ResponseHandlingException as error:
            text = " ".join(str(error).split())[:200]
            raise ConnectionError(f"The server of {self.url} does not answer; is it running? ({text})") from error
        except faults.UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise PermissionError(
                    f"The server of {self.url} refuses; is the environment variable {API_KEY} set to its key?"
                ) from error
            text = " ".join(error.content.decode("utf-8", "replace").split())[:200]
            raise ValueError(f"The server of {self.url} answers {error.status_code}: {text}") from error


def _id(path: str) -> str:
    """The same for the same path, so that a row that comes again takes its place."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, path))


def _payloads(table: Table) -> list[dict[str, Any]]:
    """What Qdrant keeps of each row beside its vector; a column without a value is left out.

    Raises:
        ValueError: a number is infinite.
    """
    made = []
    for row, path in enumerate(table.paths):
        payload: dict[str, Any] = {"path": path, **dict(zip(FILE_COLUMNS, table.files[row]))}
        for name, value in table.metadata(row).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{path}: {name} is {value}, which a server can't take; leave it out.")
            payload[name] = f"{value.isoformat()}Z" if isinstance(value, datetime.datetime) else value
        made.append(payload)
    return made


def _value(payload: dict[str, Any], name: str, about: dict[str, Any]) -> Value:
    kind = about["kinds"][name]
    return as_kind(as_kind(payload.get(name), about["unwritten"].get(name, kind)), kind)


def _hit(payload: dict[str, Any], score: float, about: dict[str, Any]) -> Hit:
    metadata = {name: _value(payload, name, about) for name in about["kinds"]}
    known = {name: value for name, value in metadata.items() if value is not None}
    return Hit(payload["path"], score, known)


__all__ = ["API_KEY", "QdrantStore", "is_server"]
