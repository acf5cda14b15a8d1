"""Duplicates and leaks of a data set: images and captions that occur twice, persons and images in several splits."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor

from ..data.files import ImageFolder
from ..data.records import PersonId, Record
from .auditing import Audit, image_names, person_names
from .cleaning import SourceRecords
from .scoring import BLOCK


@dataclass(frozen=True)
class Duplicates:
    """What was found twice.

    Args:
        same_images: images of the same bytes, a list of (split, path) for each that occurs more than once.
        near_images: image, the most similar image of another person, and their cosine; the most similar first.
        shared_captions: captions of more than one person of the training split, with these persons.
        shared_persons: persons in more than one split, with these splits.
    """

    same_images: list[list[tuple[str, str]]] = field(default_factory=list)
    near_images: list[tuple[str, str, float]] = field(default_factory=list)
    shared_captions: list[tuple[str, list[PersonId]]] = field(default_factory=list)
    shared_persons: dict[PersonId, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """Counts, a line each."""
        count = len(self.same_images)
        across = sum(len({split for split, _ in group}) > 1 for group in self.same_images)
        return "\n".join(
            [
                f"- images that occur more than once, byte by byte: {count:,}, in several splits: {across:,}",
                f"- images nearly the same as one of another person: {len(self.near_images):,}",
                f"- captions that more than one person has: {len(self.shared_captions):,}",
                f"- persons in more than one split: {len(self.shared_persons):,}",
            ]
        )


def find_duplicates(
    source: Sequence[SourceRecords], train: datasets.Dataset, audit: Audit, near_threshold: float
) -> Duplicates:
    """All that occurs twice in a data set.

    Args:
        source: the records of all splits.
        train: the set that was audited.
        audit: of it.
        near_threshold: cosine from which on images of two persons are nearly the same.
    """
    names = image_names(train.select(audit.first_rows))
    near = near_images(audit.embedded.images.cpu(), audit.embedded.image_persons.cpu(), near_threshold)
    folders = (part.images if isinstance(part.images, ImageFolder) else None for part in source)
    return Duplicates(
        same_images((part.records, folder) for part, folder in zip(source, folders)),
        [(names[one], names[other], cosine) for one, other, cosine in near],
        shared_captions(train["caption"][:], person_names(train)),
        dict(shared_persons(record for part in source for record in part.records)),
    )


def same_images(parts: Iterable[tuple[Sequence[Record], ImageFolder | None]]) -> list[list[tuple[str, str]]]:
    """Groups of images whose bytes are the same; only files of equal size are read.

    Args:
        parts: records and the folder of their images; `None` where a record's `path` is a key of its image's content.
    """
    by_size: dict[int, dict[tuple[str, str], Path]] = defaultdict(dict)
    groups: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for records, folder in parts:
        for record in records:
            name = record.split, record.path
            if folder is None:
                groups[record.path][name] = None
                continue
            file = Path(folder.root) / record.path
            if file.is_file():
                by_size[os.stat(file).st_size][name] = file
    for files in by_size.values():
        # The same file in two splits is one image in both.
        for name, file in files.items() if len(files) > 1 else ():
            groups[hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()][name] = None
    return [list(group) for group in groups.values() if len(group) > 1]


@torch.no_grad()
def near_images(images: Tensor, persons: Tensor, threshold: float, block: int = BLOCK) -> list[tuple[int, int, float]]:
    """Images of which the most similar image of another person is nearly the same.

    Args:
        images: L2-normalised embeddings, float32 [M, D].
        persons: person of each, int64 [M].
        threshold: cosine from which on two images are nearly the same.
        block: similarities held at a time.
    Returns:
        both images, the earlier one first, and their cosine, each two once; the most similar first.

    Example:
        >>> near_images(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 2, 3]), 0.9)
        [(0, 2, 1.0)]
    """
    found: dict[tuple[int, int], float] = {}
    step = max(1, block // max(1, len(images)))
    for start in range(0, len(images), step):
        cosine = images[start : start + step] @ images.T
        cosine.masked_fill_(persons[start : start + step, None] == persons, -torch.inf)
        highest, place = cosine.max(1)
        for row in (highest >= threshold).nonzero()[:, 0].tolist():
            both = sorted((start + row, int(place[row])))
            found[both[0], both[1]] = min(1.0, float(highest[row]))
    return sorted(((*both, cosine) for both, cosine in found.items()), key=lambda entry: (-entry[2], entry[:2]))


def shared_captions(captions: Sequence[str], persons: Sequence[PersonId]) -> list[tuple[str, list[PersonId]]]:
    """Captions that more than one person has, word for word, with their persons in the order of appearance.

    Example:
        >>> shared_captions(["a hat", "a coat", "a hat "], [1, 2, 3])
        [('a hat', [1, 3])]
    """
    owners: dict[str, dict[PersonId, None]] = defaultdict(dict)
    for caption, person in zip(captions, persons, strict=True):
        owners[" ".join(caption.split())][person] = None
    return [(caption, list(found)) for caption, found in owners.items() if len(found) > 1]


def shared_persons(records: Iterable[Record]) -> Mapping[PersonId, list[str]]:
    """Persons in more than one split, with these splits."""
    splits: dict[PersonId, dict[str, None]] = defaultdict(dict)
    for record in records:
        splits[record.person_id][record.split] = None
    return {person: list(found) for person, found in splits.items() if len(found) > 1}


__all__ = ["Duplicates", "find_duplicates", "near_images", "same_images", "shared_captions", "shared_persons"]
