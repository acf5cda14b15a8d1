"""Pairs that are read when they are needed: tables too large for a cache, data sets too large for a disk."""

import os
from collections.abc import Iterator
from pathlib import Path

import datasets

from .pair_files import Columns, captions_of, inside, read_rows
from .records import check_person_id, split_name
from .tables import columns

STREAM_COLUMNS = ("image", "caption", "person_id", "image_path")


def open_stream(file: Path) -> datasets.IterableDataset:
    """The rows of a CSV, TSV, JSON, JSON Lines or Parquet file as a stream."""
    if file.suffix.lower() == ".parquet":
        return datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True)
    return datasets.IterableDataset.from_generator(read_rows, gen_kwargs={"file": file})


def stream_pairs(
    stream: datasets.IterableDataset,
    title: str,
    names: Columns,
    image_root: Path,
    split: str | None,
    whole: bool = False,
) -> datasets.IterableDataset:
    """A stream with the columns of training pairs.

    Args:
        stream: of rows in the source's own columns.
        title: name for error messages.
        names: of its columns.
        image_root: folder of images that are given as paths.
        split: rows of other splits are left out; None takes all where there is no split column.
        whole: take all rows in any case.
    Raises:
        ValueError: here, where the first row lacks a column; while reading, at a row that is not what it should be.
    """
    if stream.features is not None and isinstance(stream.features.get(names.image), datasets.Image):
        stream = stream.cast_column(names.image, datasets.Image(decode=False))
    first = next(iter(stream), None)
    if first is None:
        raise ValueError(f"{title} has no rows.")
    has_split = names.check(first, title)
    chosen = split if names.by_split(has_split, whole, split, title) else None
    made = stream.map(
        _to_pairs,
        batched=True,
        batch_size=64,
        with_indices=True,
        remove_columns=list(first),
        fn_kwargs={"names": names, "title": title, "root": os.path.abspath(image_root), "split": chosen},
    )
    # Given to `map`, the features would count as applied, and images would not be decoded.
    return made.cast(columns(STREAM_COLUMNS))


def _to_pairs(batch: dict[str, list], indices: list[int], names: Columns, title: str, root: str, split: str | None):
    made: dict[str, list] = {name: [] for name in STREAM_COLUMNS}
    for number, row in zip(indices, _rows(batch)):
        try:
            if split is not None and split_name(row[names.split], names.split) != split:
                continue
            image, path = _image(row[names.image], names.image, root)
            person = row[names.person_id]
            person = int(person) if isinstance(person, str) and person.isdecimal() else person
            captions = captions_of(row[names.caption], names.caption)
            values = (image, None, check_person_id(person, names.person_id), path)
        except ValueError as error:
            raise ValueError(
                f"{title}, row {number} (counted from 0): {error}. A stream cannot number persons anew; "
                "streaming=False can."
            ) from None
        for caption in captions:
            for name, value in zip(STREAM_COLUMNS, values):
                made[name].append(caption if name == "caption" else value)
    return made


def _rows(batch: dict[str, list]) -> Iterator[dict]:
    for values in zip(*batch.values()):
        yield dict(zip(batch, values))


def _image(value: object, name: str, root: str) -> tuple[dict, str]:
    if isinstance(value, dict) and (value.get("bytes") is not None or value.get("path")):
        return {"bytes": value.get("bytes"), "path": value.get("path")}, value.get("path") or ""
    path = inside(value, name, root)
    return {"bytes": None, "path": os.path.join(root, path)}, path


__all__ = ["open_stream", "stream_pairs"]
