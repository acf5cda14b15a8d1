"""Reads whole data once and says what is wrong with it: records, images, captions, persons.

A benchmark by `check_benchmark`, own pairs by `check_pairs`; both report the same.
"""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import datasets
from datasets.utils import tqdm
from PIL import Image

from .annotations import Benchmark, count_remarks, find_annotation, read_annotation
from .benchmarks import image_folder, known_benchmark
from .files import ImageFolder
from .hub_benchmarks import HubSplit, is_on_hub, open_hub, read_split
from .images import decode_image
from .pair_files import Columns
from .pair_records import read_pairs
from .pair_sources import Source, open_splits
from .records import SPLITS, Counts, Record, count, counts_table, knows_truth

# Of CLIP, and so of most checkpoints.
MAX_TOKENS = 77
# Its start and end tokens.
_ENDS = 2
# Lines of one kind that the report prints; the JSON form has all.
MAX_LINES = 20
_BATCH = 1000
# What rows without a split are counted as.
_ALL = "all"

Place = TypeVar("Place", str, int)
Size = tuple[int, int]


@dataclass
class Report:
    """What `check_benchmark` or `check_pairs` found.

    Attributes:
        annotation: the file or source that was read.
        counts: persons, images and captions of each split that has any.
        invalid: records that cannot be used, one line each; empty captions are among them.
        missing: missing images by sub-folder, and their number.
        unreadable: images that cannot be decoded, one line each.
        shared_persons: persons in more than one split.
        image_sizes: smallest and largest (width, height) in pixels, each side by itself; None if no image was read.
        repeated_captions: captions that another person of the same split has, word for word.
        long_captions: captions of more than `max_tokens`, which are cut; None where they were not counted.
        longest_caption: tokens of the longest caption; None where they were not counted.
        surely_long_captions: captions of more words than `max_tokens` leaves beside start and end; a word has at least
            one token, so at least these are too long.
        max_tokens: that a caption may have, start and end included.
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
    longest_caption: int | None = None
    surely_long_captions: int = 0
    max_tokens: int = MAX_TOKENS
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
        lines = [self.annotation, "", counts_table(self.counts)]
        if self.image_sizes:
            (width, height), (widest, highest) = self.image_sizes
            lines += ["", f"Images: {width} to {widest} pixels wide, {height} to {highest} high."]
        long = f"at least {self.surely_long_captions:,}, by their words; give a processor to count them"
        if self.long_captions is not None:
            captions = sum(found.captions for found in self.counts.values())
            share = f" of {captions:,} ({self.long_captions / max(captions, 1):.2%})" if self.long_captions else ""
            long = f"{self.long_captions:,}{share}, the longest caption has {self.longest_caption:,}"
        lines += [
            "",
            f"- records that cannot be used: {len(self.invalid):,}",
            f"- missing images: {self.num_missing:,}{f' ({self.missing})' if self.missing else ''}",
            f"- unreadable images: {len(self.unreadable):,}",
            f"- persons in more than one split: {self.shared_persons:,}",
            f"- captions that another person of the split has too: {self.repeated_captions:,}",
            f"- captions longer than {self.max_tokens} tokens: {long}",
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
    max_tokens: int = MAX_TOKENS,
) -> Report:
    """Reads the annotation, or a data set on the Hub, and decodes every image.

    Args:
        name, root, split_file: as for `load_benchmark`.
        count_tokens: gives the number of tokens of each caption, start and end included.
        num_workers: threads that decode; default one for each processor.
        progress: show a bar.
        max_tokens: that a caption may have.
    Returns:
        everything found; single bad records and images do not stop it.
    Raises:
        ValueError, FileNotFoundError: there is nothing to check: no folder, no annotation, no usable record.

    Example:

        >>> from tempfile import mkdtemp
        >>> from modeling_amns import make_synthetic_benchmark
        >>> sizes = {"train_identities": 2, "val_identities": 1, "test_identities": 1, "images_per_identity": 1}
        >>> folder = make_synthetic_benchmark(mkdtemp(), image_size=(64, 24), num_workers=1, **sizes)
        >>> check_benchmark("synthetic-pedes", folder, progress=False).broken
        False
    """
    problems: list[str] = []
    benchmark = known_benchmark(name)
    if is_on_hub(root):
        if split_file is not None:
            raise ValueError(f"{name}: split_file is of folders; a data set on the Hub has splits. Leave it out.")
        title, parts = open_hub(benchmark, str(root))
        splits = [read_split(title, split, data, problems) for split, data in parts.items()]
        records = [record for split in splits for record in _apart(split.records)]
        report = _report(title, records, problems, _remarks(benchmark, splits))
    else:
        annotation = read_annotation(benchmark, find_annotation(benchmark, root), split_file, problems)
        splits, records = [], annotation.records
        report = _report(str(annotation.file), records, problems, annotation.remarks)
    _count_long(report, records, count_tokens, max_tokens)
    reader = _Images(report, num_workers, progress)
    for split in splits:
        reader.read_column(split.title, split.images, split.records)
    if not splits:
        reader.read_folder(image_folder(benchmark, annotation.file), records)
    return report


def _apart(records: list[Record]) -> list[Record]:
    """Persons of train, who are numbered anew, under numbers that no other split has."""
    return [r._replace(person_id=-1 - int(r.person_id)) if r.split == "train" else r for r in records]


def _remarks(benchmark: Benchmark, splits: list[HubSplit]) -> list[str]:
    """What is odd in the splits of a data set on the Hub."""
    remarks = [remark for split in splits for remark in split.remarks]
    for one, other in itertools.combinations(splits, 2):
        if shared := {record.path for record in one.records} & {record.path for record in other.records}:
            remarks.append(f"{len(shared):,} image(s) of {one.title} are in {other.title} too, first {min(shared)}.")
    counts = {split.records[0].split: split.counts for split in splits}
    remarks += count_remarks(benchmark, counts)
    return [*remarks, "Training persons are numbered anew there, so nothing says whether they are in other splits."]


def check_pairs(
    source: Source,
    image_root: str | Path | None = None,
    columns: Columns | None = None,
    count_tokens: Callable[[list[str]], list[int]] | None = None,
    num_workers: int | None = None,
    progress: bool = True,
    max_tokens: int = MAX_TOKENS,
) -> Report:
    """Reads own pairs, all splits of them, and decodes every image.

    Args:
        source, image_root: as for `load_pairs`.
        columns: names in the source.
        count_tokens, num_workers, progress, max_tokens: as for `check_benchmark`.
    Returns:
        everything found; rows without a split count as `all`. Single bad rows and images do not stop it.
    Raises:
        ValueError, FileNotFoundError: there is nothing to check: no source, no image folder, a column is missing, no
            usable row.
    """
    problems: list[str] = []
    remarks: list[str] = []
    records: list[Record] = []
    parts = []
    for split, opened in open_splits(source, image_root):
        pairs, _ = read_pairs(opened, columns or Columns(), None, problems)
        own = [record._replace(split=split or record.split or _ALL) for record in pairs.records]
        remarks += pairs.remarks
        records += own
        parts.append((opened.title, pairs.images, own))
    if columns is not None and columns.person_id is None:
        remarks.append("Without person ids each image counts as a person of its own.")
    title = str(source) if isinstance(source, (str, Path)) else parts[0][0]
    if not records:
        raise ValueError(f"{title} has no usable row" + (f": {problems[0]}" if problems else "."))
    report = _report(title, records, problems, remarks)
    _count_long(report, records, count_tokens, max_tokens)
    reader = _Images(report, num_workers, progress)
    for part, images, own in parts:
        if not isinstance(images, ImageFolder):
            reader.read_column(part, images, own)
        elif os.path.isdir(images.root):
            reader.read_folder(images, own)
        else:
            raise FileNotFoundError(f"There is no image folder {images.root}; pass image_root, the images' folder.")
    return report


def _report(title: str, records: list[Record], problems: list[str], remarks: list[str]) -> Report:
    by_split = {split: [record for record in records if record.split == split] for split in (*SPLITS, _ALL)}
    try:
        knows_truth(title, by_split["train"] or by_split[_ALL])
    except ValueError as error:
        problems.append(str(error))
    return Report(
        title,
        {split: _count(found) for split, found in by_split.items() if found},
        problems,
        shared_persons=_shared_persons(records),
        repeated_captions=_repeated_captions(records),
        remarks=remarks,
    )


def _count(records: list[Record]) -> Counts:
    """As `count`, an image of several rows once."""
    return count(records)._replace(images=len({record.path for record in records}))


def _count_long(
    report: Report,
    records: list[Record],
    count_tokens: Callable[[list[str]], list[int]] | None,
    max_tokens: int,
) -> None:
    report.max_tokens = max_tokens
    captions = [caption for record in records for caption in record.captions]
    report.surely_long_captions = sum(len(caption.split()) > max_tokens - _ENDS for caption in captions)
    if count_tokens is not None:
        batches = range(0, len(captions), _BATCH)
        lengths = [length for start in batches for length in count_tokens(captions[start : start + _BATCH])]
        report.long_captions = sum(length > max_tokens for length in lengths)
        report.longest_caption = max(lengths, default=0)


@dataclass
class _Images:
    """Decodes images and notes in a report what is missing, what is broken, and how large the others are."""

    report: Report
    num_workers: int | None
    progress: bool

    def read_folder(self, folder: ImageFolder, records: list[Record]) -> None:
        """Image files."""
        paths = list(dict.fromkeys(record.path for record in records))
        try:
            missing = folder.missing(paths)
        except ValueError as error:
            self.report.invalid.append(f"{error} No image was read.")
            return
        if missing:
            self.report.num_missing += len(missing)
            texts = [self.report.missing, folder.describe_missing(missing, paths)]
            self.report.missing = " ".join(text for text in texts if text)
        absent = set(missing)

        def load(path: str) -> Image.Image:
            return decode_image({"path": os.path.join(folder.root, path), "bytes": None}, where=path)

        self._decode([path for path in paths if path not in absent], load)

    def read_column(self, title: str, images: datasets.Dataset, records: list[Record]) -> None:
        """Images inside a data set, each once."""
        rows = {record.path: record.number for record in reversed(records)}
        images = images.cast_column("image", datasets.Image(decode=False))

        def load(row: int) -> Image.Image:
            return decode_image(images[row]["image"], where=f"{title}, row {row}")

        self._decode(sorted(rows.values()), load)

    def _decode(self, places: Sequence[Place], load: Callable[[Place], Image.Image]) -> None:
        def size(place: Place) -> Size | str:
            try:
                return load(place).size
            except (ValueError, OSError) as error:
                return str(error)

        found: list[Size | str] = []
        with (
            ThreadPoolExecutor(self.num_workers or os.cpu_count()) as pool,
            tqdm(total=len(places), desc="Reading images", unit=" images", disable=not self.progress) as bar,
        ):
            for one in pool.map(size, places):
                found.append(one)
                bar.update()
        self.report.unreadable += [text for text in found if isinstance(text, str)]
        sizes = [pair for pair in (*found, *(self.report.image_sizes or ())) if not isinstance(pair, str)]
        if sizes:
            widths, heights = zip(*sizes)
            self.report.image_sizes = (min(widths), min(heights)), (max(widths), max(heights))


def _shared_persons(records: Iterable[Record]) -> int:
    splits = defaultdict(set)
    for record in records:
        splits[record.person_id].add(record.split)
    return sum(len(found) > 1 for found in splits.values())


def _repeated_captions(records: Iterable[Record]) -> int:
    persons = defaultdict(set)
    uses: Counter[tuple[str, str]] = Counter()
    for record in records:
        for caption in record.captions:
            key = record.split, caption.strip()
            persons[key].add(record.person_id)
            uses[key] += 1
    return sum(uses[key] for key, found in persons.items() if len(found) > 1)


__all__ = ["MAX_TOKENS", "Report", "check_benchmark", "check_pairs"]
