"""Annotation files: found, read and checked record by record, given what is known of their benchmark.

No benchmark is known here by name; `benchmarks.py` lists them. Every error names the file and the record (counted
from 0), what was found, what was expected and what to do.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    reporter,
)

_SPLIT_FILE_HELP = (
    'pass split_file=FILE.json, an object {"train": [...], "val": [...], "test": [...]} of image paths or person ids'
)


def read_json(benchmark: "Benchmark", file: Path, data: bytes) -> Sequence[object]:
    """The common form: a JSON list of objects, one for each image.

    Args:
        benchmark: whose annotation it is.
        file: where it lies, for error messages.
        data: its bytes.
    Raises:
        ValueError: it is not valid JSON, or no list.
    """
    items = _load_json(benchmark.name, file, data)
    if not isinstance(items, list):
        raise ValueError(
            f"{benchmark.name}: {file} holds {describe(items)}; expected a list of records; {benchmark.source}."
        )
    return items


# By identity: an entry is itself and no other, and so it can be part of a key.
@dataclass(frozen=True, eq=False)
class Benchmark:
    """All that is known of a benchmark.

    Attributes:
        name: by which it is asked for.
        folder: name of its folder.
        annotations: names of its annotation file, best first.
        path_field: field of the image path, relative to the image folder.
        source: where to get it.
        splits: those it has; records of a benchmark with one need not name it.
        counts: published sizes, by split.
        split_ids: first and last person id of each split, where the published split goes by id.
        first_id: person id of the first person; the others follow, split after split.
        max_captions: captions of an image, at most; None where there may be any number.
        tokens: whether its records also have `processed_tokens`, the words of each caption.
        mark: a file beside the annotation that tells it from another benchmark of the same form.
        images: name of the image folder beside the annotation; `.` where paths start there.
        read: turns the bytes of its annotation into a dictionary for each image, with `id`, `path_field`, `captions`
            (a list), where the file has splits `split`, and where it says which captions are right `is_clean` (one of
            each). All are checked field by field: a reader only renames.
    """

    name: str
    folder: str
    annotations: tuple[str, ...]
    path_field: str
    source: str
    splits: tuple[str, ...] = SPLITS
    counts: Mapping[str, Counts] = field(default_factory=dict)
    split_ids: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    first_id: int = 0
    max_captions: int | None = None
    tokens: bool = False
    mark: str | None = None
    images: str = "imgs"
    read: Callable[["Benchmark", Path, bytes], Sequence[object]] = read_json

    def why_without(self, split: str) -> str:
        """What to say where it is asked for a split that it does not have as published; else nothing."""
        if split in self.splits:
            return ""
        if split == "train":
            return (
                f"{self.name} has no train split: it is for evaluation. Train on another benchmark and evaluate on "
                "this one."
            )
        return (
            f"{self.name} has no {split} split. Published results on it are selected on test: pass "
            'split="test", or set a part of train aside.'
        )


@dataclass(frozen=True)
class Annotation:
    """A checked annotation file.

    Attributes:
        file: where it lies.
        digest: of its bytes (and of the split file's), hexadecimal.
        records: in the order of the file.
        remarks: what is odd but no error, one line each.
    """

    file: Path
    digest: str
    records: list[Record]
    remarks: list[str]

    def of(self, split: str) -> list[Record]:
        """The records of a split, in the order of the file."""
        return [record for record in self.records if record.split == split]


def find_annotation(benchmark: Benchmark, root: str | Path) -> Path:
    """The annotation file of a benchmark.

    Args:
        benchmark: whose it is.
        root: the folder that holds the benchmark's folder, or that folder itself.
    Raises:
        FileNotFoundError: there is none, or not the one of this benchmark; the text says what was looked for and what
            is there.
    """
    name, root = benchmark.name, Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"{name}: {root} is {'a file' if root.exists() else 'not there'}. Pass the folder that holds "
            f"{benchmark.folder}/, or that folder itself; {benchmark.source}."
        )
    inside = sorted(path for path in root.iterdir() if _plain(path.name) == _plain(benchmark.folder) and path.is_dir())
    for folder in (*inside, root):
        names = {path.name.casefold(): path for path in folder.iterdir() if path.is_file()}
        for wanted in benchmark.annotations:
            if wanted.casefold() not in names:
                continue
            if benchmark.mark and benchmark.mark not in names:
                raise FileNotFoundError(
                    f"{name}: {folder} holds {wanted} and no {benchmark.mark}, so it may be another benchmark of this "
                    f"form, CUHK-PEDES say. Name that one, or pass the folder of {name}; {benchmark.source}."
                )
            return names[wanted.casefold()]
    folder = inside[0] if inside else root
    there = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(there[:6] + ["..."] * (len(there) > 6)) or "nothing"
    images = "the images" if benchmark.images == "." else f"{benchmark.images}/"
    raise FileNotFoundError(
        f"{name}: no annotation file in {folder}; looked for {', '.join(benchmark.annotations)}, found {shown}. "
        f"Pass the folder that holds {images} and the JSON file, or the folder above it; {benchmark.source}."
    )


# The annotation that was read last, under all that it was read from: each split of a benchmark asks for it again.
_read_last: dict[tuple[Benchmark, Path, Path | None, str], Annotation] = {}


def read_annotation(
    benchmark: Benchmark,
    file: str | Path,
    split_file: str | Path | None = None,
    problems: list[str] | None = None,
) -> Annotation:
    """Reads and checks an annotation file; reading the same bytes again costs nothing.

    Args:
        benchmark: whose it is.
        file: the annotation.
        split_file: replaces the file's own split: a JSON object of `train`, `val` and `test`, each a list of image
            paths or of person ids.
        problems: errors of single records go here, and the record is left out, instead of stopping at the first.
    Raises:
        ValueError: the file is not what it should be.
        FileNotFoundError: it is not there.
    """
    file = Path(file)
    split_file = None if split_file is None else Path(split_file)
    data = _read_bytes(benchmark.name, file)
    digest = hashlib.sha256(data)
    if split_file is not None:
        digest.update(b"split file" + _read_bytes(benchmark.name, split_file))
    key = (benchmark, file, split_file, digest.hexdigest())
    if problems is not None:
        return _parse(benchmark, file, data, digest.hexdigest(), split_file, problems)
    if key not in _read_last:
        annotation = _parse(benchmark, file, data, digest.hexdigest(), split_file, None)
        _read_last.clear()
        _read_last[key] = annotation
    return _read_last[key]


def _parse(
    benchmark: Benchmark, file: Path, data: bytes, digest: str, split_file: Path | None, problems: list[str] | None
) -> Annotation:
    name = benchmark.name
    items = benchmark.read(benchmark, file, data)
    has_split = split_file is None and any(isinstance(item, dict) and "split" in item for item in items)
    report = reporter(f"{name}: {file}", problems)
    records: list[Record] = []
    unknown: Counter[str] = Counter()
    for number, item in enumerate(items):
        try:
            record = _read_record(item, number, benchmark.path_field, has_split)
        except ValueError as error:
            report(number, str(error))
            continue
        if has_split:
            split = SPLIT_NAMES.get(record.split.strip().casefold())
            if split is None:
                unknown[record.split] += 1
                split = "val"
            record = record._replace(split=split)
        records.append(record)
    if not records:
        raise ValueError(f"{name}: {file} holds no usable record; {benchmark.source}.")
    remarks: list[str] = []
    if unknown:
        shown = ", ".join(f"{describe(split)} ({count:,} records)" for split, count in unknown.most_common(3))
        remarks.append(f"{name}: {file} has splits that are neither train nor test, read as val: {shown}.")
    if split_file is not None:
        records = _split_by_file(name, file, records, split_file)
    elif not has_split and len(benchmark.splits) == 1:
        records = [record._replace(split=benchmark.splits[0]) for record in records]
    elif not has_split:
        records = _split_by_id(benchmark, file, records)
        remarks.append(
            f"{name}: {file} carries no split; it was rebuilt from the person ids, and all counts are the published "
            "ones. The order of its pairs may differ from reid_raw.json, on which published noise index files rely."
        )
    records = check_duplicates(f"{name}: {file}", records, report, remarks)
    counts = {split: count([record for record in records if record.split == split]) for split in benchmark.counts}
    remarks += count_remarks(benchmark, counts)
    return Annotation(file, digest, records, remarks)


def _read_record(item: object, number: int, path_field: str, has_split: bool) -> Record:
    needed = ["id", path_field, "captions"] + ["split"] * has_split
    if not isinstance(item, dict):
        raise ValueError(f"expected an object with {', '.join(needed)}, found {describe(item)}")
    lacking = [key for key in needed if key not in item]
    if lacking:
        found = ", ".join(list(map(describe, item))[:8]) or "none"
        raise ValueError(f"lacks {', '.join(lacking)}; its fields are {found}")
    split = item["split"] if has_split else ""
    if not isinstance(split, str):
        raise ValueError(f"split is {describe(split)}, expected train, val or test")
    path = check_path(item[path_field], path_field)
    captions = item["captions"]
    if not isinstance(captions, list) or not captions:
        raise ValueError(f"captions is {describe(captions)}, expected a list of one or more strings")
    captions = tuple(check_caption(caption, f"captions[{i}]") for i, caption in enumerate(captions))
    truth = check_truth(item.get(TRUTH), captions)
    return Record(number, check_person_id(item["id"], "id"), path, captions, split, is_clean=truth)


def count_remarks(benchmark: Benchmark, counts: Mapping[str, Counts]) -> list[str]:
    """A line for each split whose size is not the published one.

    Args:
        benchmark: whose they are.
        counts: of its splits, or of some.
    """
    remarks = []
    for split, found in counts.items():
        published = benchmark.counts.get(split, found)
        different = [
            f"{getattr(found, kind):,} {kind} (published: {getattr(published, kind):,})"
            for kind in Counts._fields
            if getattr(found, kind) != getattr(published, kind)
        ]
        if different:
            remarks.append(
                f"{benchmark.name}: {split} has {', '.join(different)}. Figures will not compare with published ones."
            )
    return remarks


def _split_by_file(name: str, file: Path, records: list[Record], split_file: Path) -> list[Record]:
    table = _load_json(name, split_file, _read_bytes(name, split_file))
    if not isinstance(table, dict) or not table or not all(isinstance(value, list) for value in table.values()):
        raise ValueError(f"{name}: {split_file} holds {describe(table)}; {_SPLIT_FILE_HELP}.")
    lookup: dict[object, str] = {}
    for key, values in table.items():
        if key.strip().casefold() not in SPLIT_NAMES:
            raise ValueError(f"{name}: {split_file} has the split {describe(key)}; expected train, val, test.")
        split = SPLIT_NAMES[key.strip().casefold()]
        for value in values:
            try:
                entry = check_path(value, "entry") if isinstance(value, str) else check_person_id(value, "entry")
            except ValueError as error:
                raise ValueError(f"{name}: {split_file}, {key}: {error}; {_SPLIT_FILE_HELP}.") from None
            if lookup.setdefault(entry, split) != split:
                raise ValueError(f"{name}: {split_file} puts {describe(entry)} into {lookup[entry]} and {split}.")
    result = []
    for record in records:
        found = lookup.get(record.path) or lookup.get(record.person_id)
        if found is None:
            raise ValueError(
                f"{name}: {split_file} says nothing of record {record.number} of {file}: image {record.path}, person "
                f"{record.person_id}. List every image or person in one of its splits."
            )
        result.append(record._replace(split=found))
    return result


def _split_by_id(benchmark: Benchmark, file: Path, records: list[Record]) -> list[Record]:
    """The published split by person id, where there is one, accepted if every count comes out."""
    by_id = [
        record._replace(split=split)
        for record in records
        for split, (low, high) in benchmark.split_ids.items()
        if low <= int(record.person_id) <= high
    ]
    found = {split: count([record for record in by_id if record.split == split]) for split in benchmark.split_ids}
    if benchmark.split_ids and len(by_id) == len(records) and found == benchmark.counts:
        return by_id
    told = ""
    if benchmark.split_ids:
        told = " Split by person id it would have " + "; ".join(
            f"{split} {found[split].images:,} images and {found[split].captions:,} captions (published: "
            f"{published.images:,} and {published.captions:,})"
            for split, published in benchmark.counts.items()
        )
        told += ", so its ids are not the published ones."
    raise ValueError(
        f"{benchmark.name}: {file} has no field split, so nothing says which images are for training.{told} "
        f"Get {benchmark.annotations[0]}, or {_SPLIT_FILE_HELP}."
    )


def _read_bytes(name: str, file: Path) -> bytes:
    if file.exists() and not file.is_file():
        # A pipe or a device would be waited for without an end.
        raise ValueError(f"{name}: {file} is no regular file.")
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: there is no file {file}.") from None
    except OSError as error:
        raise ValueError(f"{name}: {file} cannot be read: {error}.") from error


def _load_json(name: str, file: Path, data: bytes) -> object:
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError(f"{name}: {file} is nested too deeply; expected a list of records.") from None
    except ValueError as error:
        raise ValueError(
            f"{name}: {file} ({len(data):,} bytes) is not valid JSON: {error}. If it was cut short, get it again."
        ) from None


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")


__all__ = ["Annotation", "Benchmark", "find_annotation", "read_annotation", "read_json"]
