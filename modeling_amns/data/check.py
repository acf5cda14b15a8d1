"""Reads a whole benchmark once and says what is wrong with it: records, images, captions, persons."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets.utils import tqdm

from .annotations import Annotation, find_annotation, read_annotation
from .benchmarks import image_folder
from .files import ImageFolder
from .images import decode_image
from .records import SPLITS, Counts, count

MAX_TOKENS = 77
# Lines of one kind that the report prints; the JSON form has all.
MAX_LINES = 20
_BATCH = 1000


@dataclass
class Report:
    """What `check_benchmark` found.

    Attributes:
        annotation: the file that was read.
        counts: persons, images and captions of each split that has any.
        invalid: records that cannot be used, one line each; empty captions are among them.
        missing: missing images by sub-folder, and their number.
        unreadable: images that cannot be decoded, one line each.
        shared_persons: persons in more than one split.
        image_sizes: smallest and largest (width, height) in pixels, each side by itself; None if no image was read.
        repeated_captions: captions that another person of the same split has, word for word.
        long_captions: captions of more than 77 tokens, which are cut; None where they were not counted.
        remarks: what is odd but not broken.
    """

    annotation: str
    counts: dict[str, Counts]
    invalid: list[str]
    missing: str = ""
    num_missing: int = 0
    unreadable: list[str] = field(default_factory=list)
    shared_persons: int = 0
    image_sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    repeated_captions: int = 0
    long_captions: int | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Whether something must be mended before figures can be trusted."""
        return bool(self.invalid or self.num_missing or self.unreadable or self.shared_persons)

    def as_dict(self) -> dict:
        """For JSON; `broken` included."""
        counts = {split: found._asdict() for split, found in self.counts.items()}
        return {**asdict(self), "counts": counts, "broken": self.broken}

    def as_text(self) -> str:
        """For people, in Markdown."""
        lines = [self.annotation, "", "| split | persons | images | captions |", "| --- | ---: | ---: | ---: |"]
        lines += [f"| {split} | {n.persons:,} | {n.images:,} | {n.captions:,} |" for split, n in self.counts.items()]
        if self.image_sizes:
            (width, height), (widest, highest) = self.image_sizes
            lines += ["", f"Images: {width} to {widest} pixels wide, {height} to {highest} high."]
        long = "not counted, give a processor" if self.long_captions is None else f"{self.long_captions:,}"
        lines += [
            "",
            f"- records that cannot be used: {len(self.invalid):,}",
            f"- missing images: {self.num_missing:,}{f' ({self.missing})' if self.missing else ''}",
            f"- unreadable images: {len(self.unreadable):,}",
            f"- persons in more than one split: {self.shared_persons:,}",
            f"- captions that another person of the split has too: {self.repeated_captions:,}",
            f"- captions longer than {MAX_TOKENS} tokens: {long}",
        ]
        for group in (self.invalid, self.unreadable, self.remarks):
            lines += [""] * bool(group)
            lines += [f"- {line}" for line in group[:MAX_LINES]]
            if len(group) > MAX_LINES:
                lines.append(f"- and {len(group) - MAX_LINES:,} more like these")
        lines += ["", "Something is broken, see above." if self.broken else "Nothing is broken."]
        return "\n".join(lines)


def check_benchmark(
    name: str,
    root: str | Path,
    split_file: str | Path | None = None,
    count_tokens: Callable[[list[str]], list[int]] | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Reads the annotation and decodes every image.

    Args:
        name, root, split_file: as for `load_benchmark`.
        count_tokens: gives the number of tokens of each caption, start and end included.
        num_workers: threads that decode; default one for each processor.
        progress: show a bar.
    Returns:
        everything found; single bad records and images do not stop it.
    Raises:
        ValueError, FileNotFoundError: there is nothing to check: no folder, no annotation, no usable record.

    Example:

        >>> check_benchmark("rstpreid", "data").broken
        False
    """
    problems: list[str] = []
    annotation = read_annotation(name, find_annotation(name, root), split_file, problems)
    report = Report(
        str(annotation.file),
        {split: count(annotation.of(split)) for split in SPLITS if annotation.of(split)},
        problems,
        shared_persons=_shared_persons(annotation),
        repeated_captions=_repeated_captions(annotation),
        remarks=annotation.remarks,
    )
    if count_tokens is not None:
        captions = [caption for record in annotation.records for caption in record.captions]
        batches = range(0, len(captions), _BATCH)
        lengths = (length for start in batches for length in count_tokens(captions[start : start + _BATCH]))
        report.long_captions = sum(length > MAX_TOKENS for length in lengths)
    _read_images(report, annotation, image_folder(name, annotation.file), num_workers, progress)
    return report


def _read_images(
    report: Report, annotation: Annotation, images: ImageFolder, num_workers: int | None, progress: bool
) -> None:
    paths = list(dict.fromkeys(record.path for record in annotation.records))
    try:
        missing = images.missing(paths)
    except ValueError as error:
        report.invalid.append(f"{error} No image was read.")
        return
    report.num_missing = len(missing)
    if missing:
        report.missing = images.describe_missing(missing, paths)
    absent = set(missing)
    present = [path for path in paths if path not in absent]

    def read(path: str) -> tuple[int, int] | str:
        try:
            return decode_image({"path": os.path.join(images.root, path), "bytes": None}, where=path).size
        except (ValueError, OSError) as error:
            return str(error)

    sizes = []
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        for found in tqdm(
            pool.map(read, present), total=len(present), desc="Reading images", unit=" images", disable=not progress
        ):
            if isinstance(found, str):
                report.unreadable.append(found)
            else:
                sizes.append(found)
    if sizes:
        widths, heights = zip(*sizes)
        report.image_sizes = (min(widths), min(heights)), (max(widths), max(heights))


def _shared_persons(annotation: Annotation) -> int:
    splits = defaultdict(set)
    for record in annotation.records:
        splits[record.person_id].add(record.split)
    return sum(len(found) > 1 for found in splits.values())


def _repeated_captions(annotation: Annotation) -> int:
    persons = defaultdict(set)
    uses: Counter[tuple[str, str]] = Counter()
    for record in annotation.records:
        for caption in record.captions:
            key = record.split, caption.strip()
            persons[key].add(record.person_id)
            uses[key] += 1
    return sum(uses[key] for key, found in persons.items() if len(found) > 1)


__all__ = ["MAX_TOKENS", "Report", "check_benchmark"]
