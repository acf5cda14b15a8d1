"""Records to `datasets` tables with the columns that all loaders share, kept in the cache of `datasets`."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from .records import Record

# Part of the cache key: raise it when the same input gives other rows.
TABLE_VERSION = "1.0.0"
_COLUMNS = {
    "image": datasets.Image(),
    "caption": datasets.Value("string"),
    "person_id": datasets.Value("int64"),
    "image_id": datasets.Value("int64"),
    "image_path": datasets.Value("string"),
    "person_name": datasets.Value("string"),
}
# The parts of a split and their columns, in order.
PAIRS = {"pairs": ("image", "caption", "person_id", "image_id", "image_path")}
RETRIEVAL = {
    "gallery": ("image", "person_id", "image_id", "image_path"),
    "queries": ("caption", "person_id", "image_id"),
}
_DROPPED = re.compile(r"^dropped_pairs: (\d+)$", re.MULTILINE)


def columns(names: Sequence[str]) -> datasets.Features:
    """The feature types of these columns."""
    return datasets.Features({name: _COLUMNS[name] for name in names})


def contiguous(ids: Sequence[int] | Sequence[str]) -> np.ndarray:
    """Numbers from 0 without gaps for person ids, in the order of the sorted ids, int64.

    Sorted and not by first appearance, so that reordering a file leaves every person's number.

    Example:

        >>> contiguous([7, 3, 7])
        array([1, 0, 1])
    """
    return np.unique(np.asarray(ids, dtype=None if ids else np.int64), return_inverse=True)[1].astype(np.int64)


def split_tables(
    records: list[Record], image_root: str | Path, split: str, renumber: bool, names: bool = False
) -> dict[str, pa.Table]:
    """The parts of a split as Arrow tables.

    Args:
        records: of the split, in the order of the file.
        image_root: folder of the images.
        split: `train` gives `pairs`, anything else `gallery` and `queries`.
        renumber: make person ids contiguous from 0.
        names: add `person_name`, the id as the file has it.
    """
    persons = [record.person_id for record in records]
    numbers = contiguous(persons) if renumber else np.array(persons, dtype=np.int64)
    image_ids: dict[str, int] = {}
    of_record = np.array([image_ids.setdefault(record.path, len(image_ids)) for record in records], dtype=np.int64)
    repeats = np.repeat(np.arange(len(records)), [len(record.captions) for record in records])
    captions = pa.array([caption for record in records for caption in record.captions], pa.string())
    # The record that introduces each image.
    firsts = np.unique(of_record, return_index=True)[1]
    paths = np.array([record.path for record in records], dtype=object)

    def part(wanted: Sequence[str], rows: np.ndarray) -> pa.Table:
        make: dict[str, Callable[[], pa.Array]] = {
            "image": lambda: image_column([os.path.join(os.path.abspath(image_root), path) for path in paths[rows]]),
            "caption": lambda: captions,
            "person_id": lambda: pa.array(numbers[rows]),
            "image_id": lambda: pa.array(of_record[rows]),
            "image_path": lambda: pa.array(paths[rows], pa.string()),
            "person_name": lambda: pa.array([str(persons[row]) for row in rows], pa.string()),
        }
        return pa.table({name: make[name]() for name in wanted})

    extra = ("person_name",) if names else ()
    if split == "train":
        return {"pairs": part(PAIRS["pairs"] + extra, repeats)}
    return {
        "gallery": part(RETRIEVAL["gallery"] + extra, firsts),
        "queries": part(RETRIEVAL["queries"] + extra, repeats),
    }


def image_column(paths: list[str]) -> pa.Array:
    """Paths as the storage of a `datasets.Image` column: nothing is read."""
    return pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], ["bytes", "path"]
    )


class _Builder(datasets.ArrowBasedBuilder):
    """Puts one ready table into the cache; `make` is called only where it is not there yet."""

    VERSION = datasets.Version(TABLE_VERSION)

    def __init__(self, make: Callable[[], pa.Table], features: datasets.Features, description: str, **options):
        self._make, self._features, self._description = make, features, description
        super().__init__(**options)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self._description, features=self._features)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(datasets.Split.TRAIN)]

    def _generate_tables(self):
        yield (0, 0), self._make()


def cached_split(
    source: str,
    split: str,
    key: object,
    description: str,
    make: Callable[[], dict[str, pa.Table]],
    names: bool = False,
) -> datasets.Dataset | datasets.DatasetDict:
    """The parts of a split from the cache of `datasets`, made and put there where they are not yet in it.

    Args:
        source: name of the benchmark or file; names the folder in the cache.
        split: `train` is a `Dataset` of pairs, anything else a `DatasetDict` of gallery and queries.
        key: all that the rows depend on, as JSON types; another key is another entry of the cache.
        description: of the data set's info.
        make: gives the tables, as `split_tables` does.
        names: whether they have `person_name`.
    """
    digest = hashlib.sha256(json.dumps([key, description, names]).encode()).hexdigest()[:32]
    make = functools.cache(make)
    extra = ("person_name",) if names else ()
    parts = {}
    for part, wanted in (PAIRS if split == "train" else RETRIEVAL).items():
        builder = _Builder(
            make=lambda part=part: make()[part],
            features=columns(wanted + extra),
            description=description,
            dataset_name=source,
            config_name=f"{split}-{part}",
            hash=digest,
        )
        builder.download_and_prepare(verification_mode="no_checks")
        parts[part] = builder.as_dataset(split="train")
    return parts["pairs"] if split == "train" else datasets.DatasetDict(parts)


def partial_description(source: str, split: str, images: int, captions: int) -> str:
    """What the info of a data set says of images that were left out; `dropped_pairs` reads it."""
    if not images:
        return f"{source}, {split}."
    return (
        f"{source}, {split}: partial, {captions:,} captions left out because their {images:,} images are missing.\n"
        f"dropped_pairs: {captions}"
    )


def dropped_pairs(dataset: datasets.Dataset | datasets.IterableDataset | Mapping[str, datasets.Dataset]) -> int:
    """How many pairs `on_missing="drop"` left out of a split: 0 where the set is whole.

    Args:
        dataset: of `load_benchmark` or `load_pairs`, a train set or a gallery and its queries, also after `map`,
            `select` or `inject_noise`. The number is kept in `dataset.info.description`.
    """
    if isinstance(dataset, Mapping):
        dataset = dataset["queries"]
    found = _DROPPED.search(dataset.info.description or "")
    return int(found[1]) if found else 0


__all__ = [
    "PAIRS",
    "RETRIEVAL",
    "cached_split",
    "columns",
    "contiguous",
    "dropped_pairs",
    "image_column",
    "partial_description",
    "split_tables",
]
