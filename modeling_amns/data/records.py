"""One record of an annotation: an image, its person and its captions, and the checks of each field."""

import re
import reprlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..markdown import markdown_table
from .files import relative_path

# Longer strings are files pasted into the wrong field; a caption is cut at 77 tokens anyway.
MAX_CAPTION_CHARACTERS = 100_000
SPLITS = ("train", "val", "test")
# The column, or the field of an annotation, that says which captions are right.
TRUTH = "is_clean"
_WORDS = {"true": True, "false": False}
# Of these a caption may hold what parts words: tabs, ends of lines and pages.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
# Spellings of the splits, in small letters.
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation", "dev"), "val")


# As a file has it: a number, or in own data a name.
PersonId = int | str


class Record(NamedTuple):
    """One image and what is said about it.

    Attributes:
        number: of the record in its file, from 0.
        person_id: as the file has it: a number, or in own data a name.
        path: tells images apart: relative to the image folder, or the content's key where a data set holds images.
        captions: one or more.
        split: train, val or test; empty where the file says nothing of it.
        file: name of the image to show, where `path` is a key of its content.
        is_clean: which captions are right; None where nothing says it.
    """

    number: int
    person_id: PersonId
    path: str
    captions: tuple[str, ...]
    split: str
    file: str | None = None
    is_clean: tuple[bool, ...] | None = None

    @property
    def image_path(self) -> str:
        """What the image is called; empty where nothing names it."""
        return self.path if self.file is None else self.file


class Counts(NamedTuple):
    """Size of a split: persons, images and captions."""

    persons: int
    images: int
    captions: int


def check_person_id(value: object, name: str) -> int:
    """A person id that is a whole number from 0; a ValueError says what it is instead."""
    if type(value) is not int:
        hint = f": write {value.strip()} without quotes" if isinstance(value, str) and value.strip().isdigit() else ""
        raise ValueError(f"{name} is {describe(value)}, expected a whole number{hint}")
    if not 0 <= value < 2**63:
        raise ValueError(f"{name} is {describe(value)}, expected a whole number from 0, below 2^63")
    return value


def check_path(value: object, name: str) -> str:
    """An image path inside the image folder, in one spelling; a ValueError says what it is instead."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {describe(value)}, expected the path of an image as a string")
    try:
        return relative_path(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def check_caption(value: object, name: str) -> str:
    """A caption with at least one visible character; a ValueError says what it is instead."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {describe(value)}, expected a string")
    if not value.strip():
        raise ValueError(f"{name} is empty, expected a sentence: write one, or delete it from the file")
    if len(value) > MAX_CAPTION_CHARACTERS:
        raise ValueError(f"{name} has {len(value):,} characters, expected at most {MAX_CAPTION_CHARACTERS:,}")
    if _CONTROL.search(value):
        raise ValueError(f"{name} is {describe(value)}, expected a sentence without control characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is {describe(value)}, which holds half a character (a lone surrogate)") from None
    return value


def check_truth(value: object, captions: Sequence[str]) -> tuple[bool, ...] | None:
    """Which of an image's captions are right, None where nothing is said; a ValueError says what it is instead.

    Args:
        value: true or false, which tables without types have as words, or one of them for each caption.
        captions: of the image.
    """
    if value is None or value == "":
        return None
    said = value if isinstance(value, (list, tuple)) else [value] * len(captions)
    words = [_WORDS.get(one.strip().casefold()) if isinstance(one, str) else one for one in said]
    found = tuple(one for one in words if isinstance(one, bool))
    if len(found) != len(words) or len(words) != len(captions):
        raise ValueError(
            f"{TRUTH} is {describe(value)}, expected true or false, or a list of them, one for each of "
            f"{len(captions):,} caption(s): it says which are right, rename it if it means something else"
        )
    return found


def knows_truth(source: str, records: Sequence[Record]) -> bool:
    """Whether it is said of the captions which are right; a ValueError if it is said of some records only.

    Args:
        source: of the records, for the message.
        records: of a training set.
    """
    silent = [record for record in records if record.is_clean is None]
    if silent and len(silent) < len(records):
        raise ValueError(
            f"{source}, record {silent[0].number} (counted from 0): no {TRUTH}, which other training records have; "
            "write it into all of them or into none."
        )
    return not silent


def check_duplicates(
    source: str, records: list[Record], report: Callable[[int, str], None], remarks: list[str], once: bool = True
) -> list[Record]:
    """Images named twice: of two persons an error, else a remark. Persons in two splits: a remark.

    Args:
        source: benchmark and file, for the remarks.
        records: to look at.
        report: takes number and text of an erroneous record.
        remarks: grows by what was found.
        once: whether an image should have one record; else only images in two splits are remarked.
    Returns:
        the records without those reported.
    """
    first: dict[str, Record] = {}
    kept, twice, split_twice = [], [], 0
    splits = defaultdict(set)
    for record in records:
        other = first.setdefault(record.path, record)
        if other.person_id != record.person_id:
            report(
                record.number,
                f"image {record.image_path} belongs to person {record.person_id}, in record {other.number} to person "
                f"{other.person_id}; expected one person an image",
            )
            continue
        if other is not record and (once or other.split != record.split):
            twice.append(record)
            split_twice += other.split != record.split
        splits[record.person_id].add(record.split)
        kept.append(record)
    if twice:
        across = f", {split_twice:,} of them in two splits" if split_twice else ""
        remarks.append(
            f"{source} names {len(twice):,} image(s) more than once{across}, first {twice[0].image_path} in records "
            f"{first[twice[0].path].number} and {twice[0].number}. All captions are kept; a gallery shows it once."
        )
    shared = [person for person, found in splits.items() if len(found) > 1]
    if shared:
        remarks.append(
            f"{source} has {len(shared):,} person(s) in more than one split, first {shared[0]} in "
            f"{' and '.join(sorted(splits[shared[0]]))}. Figures on persons seen in training are too high."
        )
    return kept


def count(records: list[Record]) -> Counts:
    """Persons, images (records) and captions."""
    return Counts(len({r.person_id for r in records}), len(records), sum(len(r.captions) for r in records))


def counts_table(counts: Mapping[str, Counts]) -> str:
    """Sizes of splits as a Markdown table.

    Example:

        >>> print(counts_table({"train": Counts(3, 1200, 2400)}))
        | split | persons | images | captions |
        | --- | ---: | ---: | ---: |
        | train | 3 | 1,200 | 2,400 |
    """
    rows = ([split, *(f"{number:,}" for number in numbers)] for split, numbers in counts.items())
    return markdown_table(["split", *Counts._fields], rows)


def split_name(value: object, name: str) -> str:
    """train, val or test for the usual spellings of a split; a ValueError says what it is instead."""
    split = SPLIT_NAMES.get(value.strip().casefold()) if isinstance(value, str) else None
    if split is None:
        raise ValueError(f"{name} is {describe(value)}, expected train, val or test")
    return split


def reporter(source: str, problems: list[str] | None) -> Callable[[int, str], None]:
    """A function that takes number and text of an erroneous record.

    Args:
        source: of the record, for the message.
        problems: grows by one line for each; None raises a ValueError at the first.
    """

    def report(number: int, text: str) -> None:
        line = f"{source}, record {number} (counted from 0): {text}."
        if problems is None:
            raise ValueError(line)
        problems.append(line)

    return report


def describe(value: object) -> str:
    """A value in a few words, for error messages: `the string 'x'`, `nothing (null)`, `a list of 3`."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, str):
        return f"the string {reprlib.repr(value)}"
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return f"an object of {len(value):,} fields"
    return f"the number {reprlib.repr(value)}" if isinstance(value, (int, float)) else reprlib.repr(value)


__all__ = [
    "SPLITS",
    "SPLIT_NAMES",
    "Counts",
    "PersonId",
    "TRUTH",
    "Record",
    "check_caption",
    "check_duplicates",
    "check_path",
    "check_person_id",
    "check_truth",
    "count",
    "counts_table",
    "describe",
    "knows_truth",
    "reporter",
    "split_name",
]
