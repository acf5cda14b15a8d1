"""Tables of pairs as people write them: CSV, JSON and JSON Lines, row by row, and `datasets` with image paths."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import relative_path
from .records import TRUTH, PersonId, Record, check_caption, check_truth, describe, split_name

# Tables that are understood.
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
# A field of a CSV file may be as long as a caption that `check_caption` then refuses by name.
_MAX_FIELD = 10_000_000
# Without leading zeros: 007 is a name. In ASCII: other digits would make one number of two ways to write it.
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
MAX_ID_CHARACTERS = 200
# What pandas and others write for a value that is not there. "Nan" and "Null" are people's names.
_NOTHING = frozenset(("nan", "NaN", "NAN", "NaT", "<NA>", "None", "null", "NULL"))


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table of pairs; `split` may be absent from the table.

    Attributes:
        image: of the image or its path.
        caption: of the caption; several columns hold a caption of the same image each.
        person_id: of the person; None where nothing says it and each image is a person of its own.
        split: of train, val or test.
    """

    image: str = "image"
    caption: str | Sequence[str] = "caption"
    person_id: str | None = "person_id"
    split: str = "split"

    def __post_init__(self):
        if not all(self.captions or [""]) or len(set(self.captions)) < len(self.captions):
            raise ValueError(f"caption_column must name one or more columns, each once; found {self.caption!r}.")

    @property
    def captions(self) -> tuple[str, ...]:
        """Names of the columns of captions."""
        return (self.caption,) if isinstance(self.caption, str) else tuple(self.caption)

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the columns that a table must have."""
        return (self.image, *self.captions, *(() if self.person_id is None else (self.person_id,)))

    def person_of(self, row: Mapping[str, object], image: str) -> PersonId:
        """The person of a row, without ids what tells its image apart; a ValueError says what is no id."""
        return image if self.person_id is None else own_id(row.get(self.person_id), self.person_id)

    def captions_of(self, row: Mapping[str, object]) -> tuple[str, ...]:
        """The captions of a row, of several columns those that are filled; a ValueError says what is no caption."""
        filled = self.captions
        if len(filled) == 1:
            return captions_of(row.get(filled[0]), filled[0])
        # An image without any is an error as in one column, and is said of the first.
        filled = tuple(name for name in filled if not _is_empty(row.get(name))) or filled[:1]
        return tuple(caption for name in filled for caption in captions_of(row.get(name), name))

    def check(self, found: Iterable[str], source: str) -> bool:
        """Whether there is a split column.

        Raises:
            ValueError: one of the others is missing.
        """
        found = list(found)
        lacking = [name for name in self.needed if name not in found]
        if lacking:
            without = " If each image is a person of its own, pass person_id_column none (in Python None)."
            raise ValueError(
                f"{source} has no column {', '.join(lacking)}; its columns are {_names(found)}. "
                "Name yours with image_column, caption_column, person_id_column and split_column."
                f"{without if self.person_id in lacking else ''}"
            )
        return self.split in found

    def chosen(self, has_split: bool, whole: bool, split: str | None, source: str) -> str | None:
        """The split whose rows are to be chosen; None where all rows are.

        Args:
            has_split: as `check` returns it.
            whole: whether the source is a split by itself.
            split: the one asked for; None for a source without splits.
            source: name for error messages.
        Raises:
            ValueError: it is unclear which rows belong to the split.
        """
        if whole or (split is None and not has_split):
            return None
        if split is None:
            raise ValueError(f"{source} has a column {self.split}: pass split=, so that test rows are not trained on.")
        if not has_split:
            raise ValueError(
                f"{source} has no column {self.split}, so nothing says which rows are of {split}. Name it with "
                'split_column, pass {"train": SOURCE, "test": SOURCE}, or train on all rows: split=None, of a '
                "program split_column none."
            )
        return split


def _names(found: list[str]) -> str:
    """Column names on one line, the first of many."""
    shown = [name if name.isprintable() else ascii(name) for name in (str(name)[:60] for name in found[:20])]
    return ", ".join(shown + [f"and {len(found) - 20:,} more"] * (len(found) > 20))


def read_rows(file: Path) -> Iterator[dict]:
    """The rows of a CSV, TSV, JSON or JSON Lines file as dictionaries.

    Raises:
        ValueError: the file is broken; the text names file and line.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() in (".csv", ".tsv"):
                yield from _csv_rows(file, lines)
            elif file.suffix.lower() == ".json":
                yield from _json_rows(file, lines.read())
            else:
                yield from _json_lines(file, lines)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}. Save it as UTF-8.") from None


def _csv_rows(file: Path, lines: Iterable[str]) -> Iterator[dict]:
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    try:
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{file}, line {reader.line_num}: {len(row) - 1 + len(row[None])} fields, the first line names "
                    f"{len(row) - 1}. Put captions that hold a comma in double quotes."
                )
            yield row
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}.") from None


def _json_rows(file: Path, text: str) -> Iterator[dict]:
    rows = _parse(text, str(file))
    if not isinstance(rows, list):
        raise ValueError(
            f"{file} holds {describe(rows)}; expected a list of objects, or .jsonl with one on each line."
        )
    for number, row in enumerate(rows):
        yield _object(row, f"{file}, record {number} (counted from 0)")


def _json_lines(file: Path, lines: Iterable[str]) -> Iterator[dict]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _object(_parse(line, f"{file}, line {number}"), f"{file}, line {number}")


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}.") from None


def _object(row: object, where: str) -> dict:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object, found {describe(row)}.")
    return row


def to_records(
    rows: Iterable[dict],
    columns: Columns,
    has_split: bool,
    source: str,
    image_root: Path,
    report: Callable[[int, str], None],
) -> list[Record]:
    """Checked records of a table with image paths.

    Args:
        rows: dictionaries with the columns' names.
        columns: which they are.
        has_split: whether rows say their split; else it stays empty.
        source: name for error messages.
        image_root: folder that holds all images; paths are relative to it or lie in it.
        report: takes number and text of an erroneous row.
    """
    records: list[Record] = []
    root = os.path.abspath(image_root)
    for number, row in enumerate(rows):
        try:
            split = split_name(row.get(columns.split), columns.split) if has_split else ""
            path = inside(row.get(columns.image), columns.image, root)
            captions = columns.captions_of(row)
            person, truth = columns.person_of(row, path), check_truth(row.get(TRUTH), captions)
            records.append(Record(number, person, path, captions, split, is_clean=truth))
        except ValueError as error:
            report(number, str(error))
    return records if columns.person_id is None else same_kind(records, source)


def _is_empty(value: object) -> bool:
    """Whether a cell holds nothing: null, NaN, text without a visible character, a list of nothing else."""
    if isinstance(value, list):
        return all(map(_is_empty, value))
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def captions_of(value: object, name: str) -> tuple[str, ...]:
    """A caption, or a list of captions of the same image."""
    if isinstance(value, (list, tuple)) and value:
        return tuple(check_caption(caption, f"{name}[{i}]") for i, caption in enumerate(value))
    return (check_caption(value, name),)


def own_id(value: object, name: str) -> PersonId:
    """A person id of own data: a whole number or a name; a ValueError says what it is instead."""
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {describe(value)}, expected a whole number or a name")
    text = value.strip()
    if text in _NOTHING:
        raise ValueError(f"{name} is {describe(text)}, which stands for no value; expected a whole number or a name")
    if len(text) > MAX_ID_CHARACTERS:
        raise ValueError(f"{name} has {len(text):,} characters, expected a name of at most {MAX_ID_CHARACTERS}")
    if _CONTROL.search(text):
        raise ValueError(f"{name} is {describe(text)}, expected a name without control characters")
    # Only a name that can be stored: lone surrogates cannot.
    return check_caption(text, name)


def whole_number(value: PersonId) -> int | None:
    """The number that an id is, or is written as; None for names, which `007` is too."""
    if isinstance(value, int):
        return value
    return int(value) if _WHOLE.fullmatch(value) else None


def same_kind(records: list[Record], source: str) -> list[Record]:
    """Person ids all numbers or all strings: `7` of a JSON file and `"7"` are not silently two persons."""
    texts = [record.person_id for record in records if isinstance(record.person_id, str)]
    if not texts:
        return records
    if len(texts) < len(records):
        raise ValueError(
            f"{source} has person ids that are numbers and others that are strings (first {describe(texts[0])}). "
            "Write all of them in one way."
        )
    numbers = [number for text in texts if (number := whole_number(text)) is not None]
    if len(numbers) < len(texts):
        return records
    return [record._replace(person_id=number) for record, number in zip(records, numbers)]


def inside(value: object, name: str, root: str) -> str:
    """The path of an image relative to the image folder `root`; a ValueError says what it is instead.

    As `datasets` writes images, `{"path": ...}` is one as well.
    """
    if isinstance(value, dict) and value.get("bytes") is None:
        value = value.get("path", value)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {describe(value)}, expected the path of an image as a string")
    if os.path.isabs(value):
        path = os.path.normpath(value)
        if not path.startswith(root.rstrip(os.sep) + os.sep):
            raise ValueError(
                f"{name} is {describe(value)}, which is not in the image folder {root}; pass image_root=, the folder "
                "that holds all images"
            )
        value = os.path.relpath(path, root)
    try:
        return relative_path(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


__all__ = [
    "TABLES",
    "Columns",
    "captions_of",
    "inside",
    "own_id",
    "read_rows",
    "same_kind",
    "to_records",
    "whole_number",
]
