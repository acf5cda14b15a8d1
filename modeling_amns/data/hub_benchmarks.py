"""Benchmarks as data sets on the Hub: a row for each pair, with the columns of `load_benchmark`, images inside."""

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc
from huggingface_hub import HfUri, constants, parse_hf_uri
from huggingface_hub.errors import HfUriError

from .annotations import Benchmark, count_remarks
from .files import check_place
from .pair_sources import Data, hub_caches
from .pair_stream import STREAM_COLUMNS
from .records import (
    SPLIT_NAMES,
    SPLITS,
    TRUTH,
    Counts,
    Record,
    check_caption,
    check_duplicates,
    check_path,
    check_person_id,
    check_truth,
    count,
    describe,
    knows_truth,
    reporter,
)
from .tables import SplitRows, attached_split, benchmark_form, columns

_OWNER = re.compile(r"hf://datasets/([\w.-]+)/?")
_FORMS = "hf://datasets/ORG/NAME, with @REVISION where it is not the main one, or hf://datasets/ORG"


@dataclass(frozen=True)
class HubSplit:
    """A split that lies on the Hub.

    Attributes:
        title: what errors call it.
        records: one for each row that can be used, whose number is the row.
        images: a data set whose one column `image` holds them, by row.
        remarks: what is odd but no error, one line each.
    """

    title: str
    records: list[Record]
    images: datasets.Dataset
    remarks: list[str]

    @property
    def counts(self) -> Counts:
        """Persons, images and captions."""
        return count(self.records)._replace(images=len({record.path for record in self.records}))


def is_on_hub(root: str | Path) -> bool:
    """Whether a root is on the Hub (`hf://...`) and no folder."""
    return str(root).startswith(constants.HF_PROTOCOL)


def names_owner(root: str | Path) -> bool:
    """Whether a root is all that an owner has on the Hub, where each benchmark is a data set of its name."""
    return _OWNER.fullmatch(str(root)) is not None


def hub_place(name: str, root: str) -> HfUri:
    """The data set that a root means.

    Args:
        name: of the benchmark.
        root: `hf://datasets/ORG/NAME`, or `hf://datasets/ORG`: then the data set has the benchmark's name.
    Raises:
        ValueError: it is neither.

    Example:

        >>> hub_place("rstpreid", "hf://datasets/org/data@v1").revision, hub_place("rstpreid", "hf://datasets/org").id
        ('v1', 'org/rstpreid')
    """
    owner = _OWNER.fullmatch(root)
    try:
        place = parse_hf_uri(f"hf://datasets/{owner[1]}/{name}" if owner else root)
    except HfUriError as error:
        raise ValueError(f"{name}: {root} is no data set on the Hub: {error} Expected {_FORMS}.") from None
    if place.type != "dataset" or place.path_in_repo:
        what = f"a {place.type}" if place.type != "dataset" else f"{place.path_in_repo} inside a data set"
        raise ValueError(f"{name}: {root} is {what}. Expected {_FORMS}.")
    return place


def open_hub(benchmark: Benchmark, root: str, streaming: bool = False) -> tuple[str, dict[str, Data]]:
    """Name and splits of a data set on the Hub, whose rows are not read yet.

    Args:
        benchmark: which it is.
        root: as for `hub_place`.
        streaming: nothing is downloaded before it is read.
    Raises:
        ValueError: no such root, or it has neither train nor val nor test.
        FileNotFoundError: there is no such data set, or it is not open to this user.
    """
    place = hub_place(benchmark.name, root)
    found = datasets.load_dataset(place.id, revision=place.revision, streaming=streaming)
    title = f"{benchmark.name}: {place.to_uri()}"
    named = {SPLIT_NAMES.get(str(name).casefold(), ""): part for name, part in found.items()}
    splits = {split: named[split] for split in SPLITS if split in named}
    if not splits:
        raise ValueError(f"{title} has the splits {', '.join(map(str, found))}; expected {', '.join(SPLITS)}.")
    return title, splits


def load_from_hub(benchmark: Benchmark, root: str, split: str) -> datasets.Dataset | datasets.DatasetDict:
    """A split as `load_benchmark` returns it; its images stay where `datasets` puts what it downloads."""
    title, parts = open_hub(benchmark, root)
    read = read_split(title, split, _pick(benchmark, title, parts, split))
    for remark in read.remarks + count_remarks(benchmark, {split: read.counts}):
        # Of whoever called load_benchmark.
        warnings.warn(remark, stacklevel=3)
    form = benchmark_form(split, split == "train" and knows_truth(read.title, read.records))
    return attached_split(form, SplitRows(read.records, form), read.images)


def read_split(title: str, split: str, data: datasets.Dataset, problems: list[str] | None = None) -> HubSplit:
    """Reads all columns but the images, of which it only looks whether they are there.

    Args:
        title: of the data set.
        split: its name.
        data: its rows.
        problems: grows by a line for each bad row, which is left out, instead of stopping at the first.
    Raises:
        ValueError: a column is missing, a row is not what it should be, there are no rows.
    """
    title = f"{title}, {split}"
    _check_columns(title, data.column_names)
    if not isinstance(data.features["image"], datasets.Image):
        raise ValueError(
            f"{title}: image is a column of {data.features['image']}; expected images (datasets.Image) inside the set."
        )
    images = data.select_columns(["image"])
    held = images.cast_column("image", datasets.Image(decode=False)).with_format("arrow")[:]["image"]
    inside, paths = pc.is_valid(pc.struct_field(held, "bytes")).to_pylist(), pc.struct_field(held, "path").to_pylist()
    texts = data.select_columns([name for name in (*STREAM_COLUMNS, TRUTH) if name in data.column_names])
    report, records = reporter(title, problems), []
    remarks: list[str] = []
    for number, row in enumerate(texts.remove_columns("image")):
        try:
            _check_image(inside[number], paths[number])
            person, path, caption = _checked(row)
            truth = check_truth(row.get(TRUTH), [caption])
            records.append(Record(number, person, path, (caption,), split, is_clean=truth))
        except ValueError as error:
            report(number, str(error))
    records = check_duplicates(title, records, report, remarks, once=False)
    if not records:
        raise ValueError(f"{title} has no rows that can be used{f': {problems[0]}' if problems else '.'}")
    return HubSplit(title, records, images, remarks)


def stream_from_hub(benchmark: Benchmark, root: str, split: str) -> datasets.IterableDataset:
    """Training pairs of a data set on the Hub, downloaded when they are read.

    Raises:
        ValueError: another split, a missing column; while reading, at a row that is not what it should be.
    """
    if split != "train":
        raise ValueError(f"streaming is for training; {split} is ranked as a whole: load it with streaming=False.")
    title, parts = open_hub(benchmark, root, streaming=True)
    title, stream = f"{title}, {split}", _pick(benchmark, title, parts, split)
    if stream.features is not None and isinstance(stream.features.get("image"), datasets.Image):
        stream = stream.cast_column("image", datasets.Image(decode=False))
    first = next(iter(stream), None)
    if first is None:
        raise ValueError(f"{title} has no rows.")
    _check_columns(title, first)
    made = stream.map(
        functools.partial(_streamed, title=title),
        with_indices=True,
        remove_columns=[name for name in first if name not in STREAM_COLUMNS],
    )
    # Given to `map`, the features would count as applied, and images would not be decoded.
    return made.cast(columns(STREAM_COLUMNS))


def _pick(benchmark: Benchmark, title: str, parts: Mapping[str, Data], split: str) -> Data:
    if split not in parts:
        why = benchmark.why_without(split) or f"{title} has no split {split}."
        raise ValueError(f"{why} Its splits there are {', '.join(parts)}.")
    return parts[split]


def _check_columns(title: str, found: Sequence[str] | Mapping[str, object]) -> None:
    lacking = [name for name in STREAM_COLUMNS if name not in found]
    if lacking:
        raise ValueError(
            f"{title} has no column {', '.join(lacking)}; its columns are {', '.join(found)}. As a benchmark it needs "
            f"{', '.join(STREAM_COLUMNS)}; one with other names is read as own pairs: pairs=ORG/NAME, with "
            "image_column, caption_column and person_id_column."
        )


def _check_image(inside: bool, path: str | None) -> None:
    if not inside and not path:
        raise ValueError("image is nothing (null), expected an image")
    if not inside:
        check_place(str(path), hub_caches(), "image")


def _checked(row: Mapping[str, Any]) -> tuple[int, str, str]:
    """Person, path and caption of a row; a ValueError says what is none."""
    return (
        check_person_id(row["person_id"], "person_id"),
        check_path(row["image_path"], "image_path"),
        check_caption(row["caption"], "caption"),
    )


def _streamed(row: dict[str, Any], number: int, title: str) -> dict[str, Any]:
    try:
        image = row["image"]
        if image is not None and not isinstance(image, Mapping):
            raise ValueError(f"image is {describe(image)}, expected an image inside the set")
        _check_image((image or {}).get("bytes") is not None, (image or {}).get("path"))
        person, path, caption = _checked(row)
    except ValueError as error:
        reporter(title, None)(number, str(error))
    return {"caption": caption, "person_id": person, "image_path": path}


__all__ = [
    "HubSplit",
    "hub_place",
    "is_on_hub",
    "load_from_hub",
    "names_owner",
    "open_hub",
    "read_split",
    "stream_from_hub",
]
