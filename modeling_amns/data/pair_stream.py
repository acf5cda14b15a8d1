"""Pairs that are read when they are needed: tables too large for a cache, data sets too large for a disk."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import PIL.Image
import pyarrow as pa
import pyarrow.parquet

from ..brief import in_short
from .files import ImageFolder, check_folder, check_place
from .pair_files import Columns, inside, own_id, read_rows, whole_number
from .pair_sources import Opened
from .records import check_person_id, describe, split_name
from .tables import NO_PERSONS, columns

STREAM_COLUMNS = ("image", "caption", "person_id", "image_path")
# Rows that are read at once.
_BATCH = 64
Image = tuple[dict[str, Any], str]


def stream_pairs(opened: Opened, names: Columns, split: str | None) -> datasets.IterableDataset:
    """A stream with the columns of training pairs.

    Args:
        opened: where the rows are.
        names: of its columns.
        split: rows of other splits are left out; None takes all where there is no split column.
    Raises:
        ValueError: here, where the first row lacks a column; while reading, at a row that is not what it should be.
    """
    title, data = opened.title, opened.data
    read_image: Callable[[object], Image] = functools.partial(
        _image_of_table, name=names.image, images=ImageFolder(opened.image_root)
    )
    if isinstance(data, tuple):
        # A list is shared out among the readers, a shard is one of its items; a tuple is given to each.
        shards = [shard for file in data for shard in _shards_of(file)]
        first = next((row for row, _, _ in _table_rows(shards)), None)
    else:
        stream = data.to_iterable_dataset() if isinstance(data, datasets.Dataset) else data.with_format(None)
        if stream.features is not None and isinstance(stream.features.get(names.image), datasets.Image):
            stream = stream.cast_column(names.image, datasets.Image(decode=False))
            read_image = functools.partial(_image_of_column, name=names.image, places=opened.places)
        first = next(iter(stream), None)
    if first is None:
        raise ValueError(f"{title} has no rows.")
    rows = _Rows(names, names.chosen(names.check(first, title), opened.whole, split, title), read_image)
    if isinstance(data, tuple):
        if isinstance(first[names.image], str):
            check_folder(opened.image_root)
        stream = datasets.IterableDataset.from_generator(_table_pairs, gen_kwargs={"shards": shards, "rows": rows})
    else:
        stream = stream.map(
            _batch_of_pairs,
            batched=True,
            batch_size=_BATCH,
            with_indices=True,
            remove_columns=list(first),
            fn_kwargs={"rows": rows, "title": title},
        )
    # Given to `map`, the features would count as applied, and images would not be decoded.
    stream = stream.cast(columns(STREAM_COLUMNS))
    if names.person_id is None:
        stream.info.description = NO_PERSONS
    return stream


def gives_plain_rows(stream: datasets.IterableDataset) -> bool:
    """Whether the rows of a stream are made here, with undecoded images, and nothing was done to them since."""
    made = stream._ex_iterable
    mapped = getattr(made, "function", None) is _batch_of_pairs
    read = isinstance(getattr(made, "kwargs", {}).get("rows"), _Rows)
    form = getattr(stream._formatting, "format_type", None)
    return (mapped or read) and stream.features == columns(STREAM_COLUMNS) and form is None


@dataclass(frozen=True)
class _Rows:
    """What makes the rows of a source pairs.

    Args:
        names: of the columns.
        split: rows of others are left out; None takes all.
        read_image: an image and its path from what stands in the column.
    """

    names: Columns
    split: str | None
    read_image: Callable[[object], Image]

    def pairs(self, row: Mapping[str, Any], place: str, number: int) -> list[dict[str, Any]]:
        """The pairs of a row; errors name its place and number."""
        names = self.names
        try:
            if self.split is not None and split_name(row.get(names.split), names.split) != self.split:
                return []
            image, path = self.read_image(row.get(names.image))
            if names.person_id is None:
                person = _image_number(image, path)
            else:
                person = _class_of(row.get(names.person_id), names.person_id)
            captions = names.captions_of(row)
        except ValueError as error:
            raise ValueError(f"{place}, row {number} (counted from 0): {error}.") from None
        return [dict(zip(STREAM_COLUMNS, (image, caption, person, path))) for caption in captions]


# A file, and of Parquet which of its row groups.
_Shard: TypeAlias = tuple[Path, int | None]


@contextlib.contextmanager
def _reading_parquet(file: Path, number: list[int]) -> Iterator[pyarrow.parquet.ParquetFile]:
    """An open file; errors name it and the row before them, the last of `number`."""
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield table
    except (pa.ArrowException, OSError, UnicodeError, OverflowError) as error:
        raise ValueError(f"{file} cannot be read as Parquet, after row {number[-1]}: {in_short(error)}") from error


def _shards_of(file: Path) -> list[_Shard]:
    """What readers share out of a file: of Parquet its row groups; any other is read from its start, so it is one."""
    if file.suffix.lower() != ".parquet":
        return [(file, None)]
    with _reading_parquet(file, [0]) as table:
        return [(file, group) for group in range(table.num_row_groups)]


def _table_rows(
    shards: list[_Shard], wanted: tuple[str, ...] | None = None
) -> Iterator[tuple[dict[str, Any], Path, int]]:
    """The rows of shards with their file and number, of Parquet these columns only."""
    for file, group in shards:
        if group is None:
            for number, row in enumerate(read_rows(file)):
                yield row, file, number
            continue
        done = [0]
        with _reading_parquet(file, done) as table:
            groups = table.metadata
            done.append(sum(groups.row_group(before).num_rows for before in range(group)))
            there = [name for name in table.schema_arrow.names if wanted is None or name in wanted]
            # One thread: others are busy with images.
            batches = table.iter_batches(batch_size=_BATCH, row_groups=[group], columns=there, use_threads=False)
            for batch in batches:
                # By columns: in two thirds of the time of `batch.to_pylist()`.
                for values in zip(*(column.to_pylist() for column in batch.columns)):
                    yield dict(zip(there, values)), file, done[-1]
                    done[-1] += 1


def _table_pairs(shards: list[_Shard], rows: _Rows) -> Iterator[dict[str, Any]]:
    """The pairs of shards."""
    for row, file, number in _table_rows(shards, (*rows.names.needed, rows.names.split)):
        yield from rows.pairs(row, str(file), number)


def _batch_of_pairs(batch: dict[str, list], indices: list[int], rows: _Rows, title: str) -> dict[str, list]:
    """The same for a batch of a stream of `datasets`."""
    made: dict[str, list] = {name: [] for name in STREAM_COLUMNS}
    for number, values in zip(indices, zip(*batch.values())):
        for pair in rows.pairs(dict(zip(batch, values)), title, number):
            for name, value in pair.items():
                made[name].append(value)
    return made


def _class_of(value: object, name: str) -> int:
    """A person id that can be used as it is: names get their numbers from all rows, which a stream does not know."""
    person = own_id(value, name)
    number = whole_number(person)
    try:
        if number is None:
            raise ValueError(f"{name} is {describe(person)}, a name (as whole numbers with leading zeros are)")
        return check_person_id(number, name)
    except ValueError as error:
        raise ValueError(f"{error}. A stream cannot number persons anew; streaming=False can") from None


def _image_number(image: Mapping[str, Any], path: str) -> int:
    """A number for an image that needs no other row: rows are numbered anew in each worker. Not negative, 63 bits."""
    data = image["bytes"] if image["bytes"] is not None else os.fsencode(path)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def _image_of_column(value: object, name: str, places: tuple[Path, ...] | None) -> Image:
    """An image of a data set's own `Image` column, which knows where it lies."""
    if not isinstance(value, Mapping) or (value.get("bytes") is None and not value.get("path")):
        raise ValueError(f"{name} is {describe(value)}, expected an image")
    if value.get("bytes") is None and places is not None:
        check_place(value["path"], places, name)
    return {"bytes": value.get("bytes"), "path": value.get("path")}, value.get("path") or ""


def _image_of_table(value: object, name: str, images: ImageFolder) -> Image:
    """An image that a table holds, or names: then it lies in the image folder."""
    if isinstance(value, bytes):
        value = {"bytes": value}
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return {"bytes": value["bytes"], "path": value.get("path")}, value.get("path") or ""
    if isinstance(value, PIL.Image.Image):
        # `map` forgets what a column is, and what was decoded would be decoded for rows that nobody trains on.
        raise ValueError(f"{name} is decoded; cast_column({name!r}, datasets.Image(decode=False)) before the map")
    path = inside(value, name, images.root)
    images.check(path)
    return {"bytes": None, "path": os.path.join(images.root, path)}, path


__all__ = ["STREAM_COLUMNS", "gives_plain_rows", "stream_pairs"]
