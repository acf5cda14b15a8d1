"""Records to `datasets` with the columns that all loaders share: the one maker of splits.

A `Form` says what a split is made of, `SplitRows` numbers its rows once, and the images are laid beside them: as paths
in the cache of `datasets` (`cached_split`), or as the column of a data set that holds them (`attached_split`).
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from .files import ImageFolder
from .records import TRUTH, PersonId, Record

# Part of the cache key: raise it when the same input gives other rows.
TABLE_VERSION = "1.0.0"
_COLUMNS = {
    "image": datasets.Image(),
    "caption": datasets.Value("string"),
    "person_id": datasets.Value("int64"),
    "image_id": datasets.Value("int64"),
    "image_path": datasets.Value("string"),
    "person_name": datasets.Value("string"),
    TRUTH: datasets.Value("bool"),
}
# The parts of a split and their columns, in order.
_PAIRS = {"pairs": ("image", "caption", "person_id", "image_id", "image_path")}
_RETRIEVAL = {
    "gallery": ("image", "person_id", "image_id", "image_path"),
    "queries": ("caption", "person_id", "image_id"),
}
# What the info of a data set says where each image is a person of its own; `has_persons` reads it.
NO_PERSONS = "person_ids: none"
_DROPPED = re.compile(r"^dropped_pairs: (\d+)$", re.MULTILINE)


def columns(names: Sequence[str]) -> datasets.Features:
    """The feature types of these columns."""
    return datasets.Features({name: _COLUMNS[name] for name in names})


def contiguous(ids: Sequence[PersonId]) -> np.ndarray:
    """Numbers from 0 without gaps for person ids, in the order of the sorted ids, int64.

    Sorted and not by first appearance, so that reordering a file leaves every person's number.

    Args:
        ids: all numbers, or all strings.

    Example:

        >>> contiguous([7, 3, 7])
        array([1, 0, 1])
    """
    # As objects: arrays of strings are as wide as the longest in every row, and lose zero characters at their ends.
    return np.unique(np.array(ids, dtype=object), return_inverse=True)[1].astype(np.int64)


def by_appearance(ids: Sequence[PersonId]) -> np.ndarray:
    """Numbers from 0 in the order in which ids appear, int64: the number of the image, where it is the person."""
    known: dict[PersonId, int] = {}
    return np.array([known.setdefault(one, len(known)) for one in ids], dtype=np.int64)


def as_written(ids: Sequence[PersonId]) -> np.ndarray:
    """Person ids that are numbers, as they are, int64."""
    return np.array(ids, dtype=np.int64)


@dataclass(frozen=True)
class Form:
    """What a split is made of.

    Attributes:
        parts: their columns in order: `pairs` to train on, or `gallery` and `queries`.
        number: gives each person id its number, int64.
        note: a line that the info of its data sets says.
    """

    parts: Mapping[str, tuple[str, ...]]
    number: Callable[[Sequence[PersonId]], np.ndarray]
    note: str = ""

    def join(self, parts: dict[str, datasets.Dataset]) -> datasets.Dataset | datasets.DatasetDict:
        """Pairs alone, or the parts by name."""
        return parts["pairs"] if "pairs" in parts else datasets.DatasetDict(parts)


def benchmark_form(split: str, truth: bool = False) -> Form:
    """Of a benchmark: persons are classes in train, and as the file has them elsewhere.

    Args:
        split: train, or one to rank.
        truth: whether it is known which pairs are right: to train on, they then have `is_clean`.
    """
    return Form(_with_truth(_PAIRS, truth), contiguous) if split == "train" else Form(_RETRIEVAL, as_written)


def own_form(split: str, truth: bool = False, persons: bool = True) -> Form:
    """Of own pairs: persons may have names, which stay beside their numbers as `person_name`; see `benchmark_form`.

    Args:
        split, truth: as there.
        persons: whether there are person ids; else each image is a person, whose number is the image's.
    """
    parts = _PAIRS if split == "train" else _RETRIEVAL
    if not persons:
        return Form(_with_truth(parts, truth and split == "train"), by_appearance, NO_PERSONS)
    parts = {part: (*names, "person_name") for part, names in parts.items()}
    return Form(_with_truth(parts, truth and split == "train"), contiguous)


def _with_truth(parts: Mapping[str, tuple[str, ...]], truth: bool) -> Mapping[str, tuple[str, ...]]:
    return {part: (*names, TRUTH) for part, names in parts.items()} if truth else parts


class SplitRows:
    """The rows of a split's parts: which record each shows, and their columns.

    Args:
        records: of the split, in order; images are told apart by `path`.
        form: of the split.
    """

    def __init__(self, records: Sequence[Record], form: Form):
        self._records = records
        self._numbers = form.number([record.person_id for record in records])
        image_ids: dict[str, int] = {}
        of_record = [image_ids.setdefault(record.path, len(image_ids)) for record in records]
        self._image_ids = np.array(of_record, dtype=np.int64)

    def records_of(self, part: str) -> np.ndarray:
        """Position of each row's record: a caption is a row, in a gallery an image, shown by its first record."""
        if part == "gallery":
            return np.unique(self._image_ids, return_index=True)[1]
        return np.repeat(np.arange(len(self._records)), [len(record.captions) for record in self._records])

    def table(self, part: str, names: Sequence[str]) -> pa.Table:
        """These columns of a part, images left out."""
        rows = self.records_of(part)
        make: dict[str, Callable[[], pa.Array]] = {
            "caption": lambda: pa.array([text for record in self._records for text in record.captions], pa.string()),
            "person_id": lambda: pa.array(self._numbers[rows]),
            "image_id": lambda: pa.array(self._image_ids[rows]),
            "image_path": lambda: pa.array(self.paths_of(part), pa.string()),
            "person_name": lambda: pa.array([str(self._records[row].person_id) for row in rows], pa.string()),
            TRUTH: lambda: pa.array([one for record in self._records for one in record.is_clean or ()], pa.bool_()),
        }
        return pa.table({name: make[name]() for name in names if name != "image"})

    def paths_of(self, part: str) -> list[str]:
        """`image_path` of each row."""
        return [self._records[row].image_path for row in self.records_of(part)]


class _Builder(datasets.ArrowBasedBuilder):
    """Puts one ready table into the cache; `make` is called only where it is not there yet."""

    VERSION = datasets.Version(TABLE_VERSION)

    def __init__(self, make: Callable[[], pa.Table], features: datasets.Features, description: str, **options: Any):
        self._make, self._features, self._description = make, features, description
        super().__init__(**options)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self._description, features=self._features)

    def _split_generators(self, _: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(datasets.Split.TRAIN)]

    def _generate_tables(self):
        yield (0, 0), self._make()


@dataclass(frozen=True)
class Found:
    """Records whose images are there, and what is not.

    Attributes:
        folder: of the images.
        records: with an image.
        images: how many were looked for.
        missing: paths that are not there, each once.
        dropped: captions of the records without an image.
    """

    folder: ImageFolder
    records: list[Record]
    images: int
    missing: list[str]
    dropped: int


def keep_present(records: list[Record], folder: ImageFolder) -> Found:
    """Sets records aside whose images are not in the folder; errors as `ImageFolder.missing`."""
    paths = dict.fromkeys(record.path for record in records)
    missing = folder.missing(paths)
    lost = set(missing)
    kept = [record for record in records if record.path not in lost] if lost else records
    dropped = sum(len(record.captions) for record in records if record.path in lost)
    return Found(folder, kept, len(paths), missing, dropped)


def cached_split(
    title: str, split: str, form: Form, found: Found, key: object
) -> datasets.Dataset | datasets.DatasetDict:
    """A split whose images are files, from the cache of `datasets`; made and put there where it is not yet in it.

    Args:
        title: of the benchmark or file; its stem names the folder in the cache.
        split: for the name of the entry.
        form: what the split is made of.
        found: its records.
        key: all that the records depend on besides their folder and missing images, as JSON types; another key is
            another entry of the cache.
    """
    description = "\n".join(filter(None, (_description(title, split, found), form.note)))
    parts = {part: list(names) for part, names in form.parts.items()}
    lost = hashlib.sha256("\n".join(found.missing).encode()).hexdigest()
    whole_key = [TABLE_VERSION, key, found.folder.root, lost, description, parts]
    rows = functools.cache(lambda: SplitRows(found.records, form))

    def make(part: str, names: Sequence[str]) -> pa.Table:
        table = rows().table(part, names)
        if "image" not in names:
            return table
        paths = [os.path.join(found.folder.root, path) for path in rows().paths_of(part)]
        return table.append_column("image", image_column(paths)).select(names)

    made = {}
    for part, names in form.parts.items():
        builder = _Builder(
            make=functools.partial(make, part, names),
            features=columns(names),
            description=description,
            dataset_name=re.sub(r"\W+", "-", Path(title).stem)[:40] or "pairs",
            config_name=f"{split}-{part}",
            hash=hashlib.sha256(json.dumps(whole_key).encode()).hexdigest()[:32],
        )
        builder.download_and_prepare(verification_mode="no_checks")
        made[part] = builder.as_dataset(split="train")
    return form.join(made)


def attached_split(form: Form, rows: SplitRows, images: datasets.Dataset) -> datasets.Dataset | datasets.DatasetDict:
    """A split whose images a data set holds: they are used as they lie there, the other columns are made anew.

    Args:
        form: what the split is made of.
        rows: of the split.
        images: a data set with the one column `image`, a row for each record.
    """
    made = {}
    for part, names in form.parts.items():
        plain = [name for name in names if name != "image"]
        info = datasets.DatasetInfo(description=form.note, features=columns(plain))
        table = datasets.Dataset(datasets.table.InMemoryTable(rows.table(part, plain)), info=info)
        if "image" in names:
            chosen = rows.records_of(part)
            own = images if np.array_equal(chosen, np.arange(len(images))) else images.select(chosen)
            table = datasets.concatenate_datasets([own, table], axis=1).select_columns(list(names))
        made[part] = table
    return form.join(made)


def image_column(paths: list[str]) -> pa.Array:
    """Paths as the storage of a `datasets.Image` column: nothing is read."""
    return pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], ["bytes", "path"]
    )


def _description(title: str, split: str, found: Found) -> str:
    """What the info of a data set says of images that were left out; `dropped_pairs` reads it."""
    if not found.missing:
        return f"{title}, {split}."
    return (
        f"{title}, {split}: partial, {found.dropped:,} captions left out because their {len(found.missing):,} images "
        f"are missing.\ndropped_pairs: {found.dropped}"
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


def note_dropped(dataset: datasets.Dataset, pairs: int) -> datasets.Dataset:
    """The data set, whose info says how many pairs it lacks."""
    kept = _DROPPED.sub("", dataset.info.description or "").strip()
    dataset.info.description = f"{kept}\ndropped_pairs: {pairs}" if pairs else kept
    return dataset


def has_persons(dataset: datasets.Dataset | datasets.IterableDataset) -> bool:
    """Whether a training set names persons; else each of its images is one (`load_pairs(person_id_column=None)`)."""
    return NO_PERSONS not in (dataset.info.description or "").splitlines()


__all__ = [
    "NO_PERSONS",
    "Form",
    "Found",
    "SplitRows",
    "as_written",
    "attached_split",
    "benchmark_form",
    "by_appearance",
    "cached_split",
    "columns",
    "contiguous",
    "dropped_pairs",
    "has_persons",
    "keep_present",
    "note_dropped",
    "own_form",
]
