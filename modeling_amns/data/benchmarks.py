"""`load_benchmark`: the benchmarks in the layouts in which their authors hand them out, as `datasets`."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from .annotations import SPLITS, Record, read_annotations

# Bump it when the rows made from the same files change: cached data sets are then made anew.
_READER_VERSION = "1"
_DROPPED = "pairs dropped because their images are missing: "


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark lies on disk and how large it is.

    Args:
        folder: its name under the data folder.
        annotations: names of the annotation file, the usual one first.
        path_field: field of a record that holds the image path, relative to `imgs/`.
        has_val: whether it has a val split.
        pairs: published number of image-caption pairs by split; empty where none is published.
    """

    folder: str
    annotations: tuple[str, ...]
    path_field: str
    has_val: bool = True
    pairs: tuple[tuple[str, int], ...] = ()


BENCHMARKS = {
    "cuhk-pedes": Benchmark(
        "CUHK-PEDES", ("reid_raw.json",), "file_path", pairs=(("train", 68126), ("val", 6158), ("test", 6156))
    ),
    "icfg-pedes": Benchmark(
        "ICFG-PEDES",
        ("ICFG-PEDES.json", "ICFG_PEDES.json"),
        "file_path",
        has_val=False,
        pairs=(("train", 34674), ("test", 19848)),
    ),
    "rstpreid": Benchmark(
        "RSTPReid", ("data_captions.json",), "img_path", pairs=(("train", 37010), ("val", 2000), ("test", 2000))
    ),
    "synthetic-pedes": Benchmark("synthetic-pedes", ("reid_raw.json",), "file_path"),
}


def load_benchmark(
    name: str, root: str | Path, split: str, on_missing: str = "error"
) -> datasets.Dataset | datasets.DatasetDict:
    """Reads a split of a benchmark; images stay files until they are looked at.

    Args:
        name: "cuhk-pedes", "icfg-pedes", "rstpreid" or "synthetic-pedes".
        root: the folder that holds the benchmark's folder, or that folder itself.
        split: "train", "val" or "test".
        on_missing: "error" stops when images are missing; "drop" goes on without their pairs (`dropped_pairs` counts).
    Returns:
        train: a `Dataset`, a row a pair in the order of the annotation file, captions of one image adjacent: `image`,
        `caption`, `person_id` (from 0 without gaps), `image_id`, `image_path`. val and test: a `DatasetDict` of
        `gallery` (`image`, `person_id`, `image_id`, `image_path`) and `queries` (`caption`, `person_id`, `image_id`).
    Raises:
        FileNotFoundError: the folder, the annotation file or images are missing.
        ValueError: unknown name or split, a split that the benchmark lacks, or a record that is not right.

    ```python
    train = load_benchmark("cuhk-pedes", "data", "train")
    test = load_benchmark("cuhk-pedes", "data", "test")
    test["gallery"][0]["image"], test["queries"][0]["caption"]
    ```
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}; the benchmarks are {', '.join(BENCHMARKS)}.")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, found {split!r}.")
    if on_missing not in ("error", "drop"):
        raise ValueError(f"on_missing must be error or drop, found {on_missing!r}.")
    benchmark = BENCHMARKS[name]
    if split == "val" and not benchmark.has_val:
        raise ValueError(f"{name} has no val split; published results select on test.")
    annotation = find_annotation(name, root)
    fingerprint = _fingerprint(annotation, split, on_missing)
    images = annotation.parent / "imgs"
    records = [r for r in read_annotations(annotation, benchmark.path_field) if r.split == split]
    if not records:
        raise ValueError(f"{annotation} has no record of the split {split}.")
    _check_counts(name, benchmark, split, records)
    kept = _existing(name, images, records, on_missing)
    dropped = sum(len(record.captions) for record in records) - sum(len(record.captions) for record in kept)
    info = datasets.DatasetInfo(description=f"{name} {split}; {_DROPPED}{dropped}")
    if split == "train":
        return _pairs(kept, images, info, fingerprint)
    return _gallery_and_queries(kept, images, info, fingerprint)


def dropped_pairs(dataset: datasets.Dataset | datasets.DatasetDict) -> int:
    """How many pairs of the benchmark were left out because their images are missing."""
    if isinstance(dataset, datasets.DatasetDict):
        return dropped_pairs(dataset["queries"])
    _, found, count = dataset.info.description.partition(_DROPPED)
    return int(count) if found else 0


def find_annotation(name: str, root: str | Path) -> Path:
    """The annotation file of a benchmark, from the data folder or from the benchmark's own."""
    benchmark, root = BENCHMARKS[name], Path(root)
    names = ", ".join(benchmark.annotations)
    layout = f"{benchmark.folder}/{{{benchmark.annotations[0]},imgs/}}"
    if not root.is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {root}. Pass the folder that holds {layout}.")
    folders = [folder for folder in (root / benchmark.folder, root) if folder.is_dir()]
    for folder in folders:
        for file in benchmark.annotations:
            if (folder / file).is_file():
                if not (folder / "imgs").is_dir():
                    raise FileNotFoundError(f"{name}: {folder} has {file} but no folder imgs/ with the images.")
                return folder / file
    if any((folder / "caption_all.json").is_file() for folder in folders):
        raise FileNotFoundError(
            f"{name}: {folders[0]} has caption_all.json, which carries no split; {names} is needed, the file with the "
            "field split that the benchmark's users share."
        )
    raise FileNotFoundError(f"{name}: no annotation file in {folders[0]}; looked for {names}. Expected {layout}.")


def _fingerprint(annotation: Path, split: str, on_missing: str) -> str:
    parts = (_READER_VERSION, str(annotation.resolve()), hashlib.sha256(annotation.read_bytes()).hexdigest())
    return hashlib.sha256("\0".join((*parts, split, on_missing)).encode()).hexdigest()[:16]


def _check_counts(name: str, benchmark: Benchmark, split: str, records: Sequence[Record]) -> None:
    published = dict(benchmark.pairs).get(split)
    found = sum(len(record.captions) for record in records)
    if published is not None and found != published:
        warnings.warn(
            f"{name} {split}: {found} pairs, {published} are published. Results may not compare with published ones.",
            stacklevel=3,
        )


def _existing(name: str, images: Path, records: Sequence[Record], on_missing: str) -> list[Record]:
    """The records whose image file is there and lies inside the image folder."""
    present = set(_files(images))
    missing = [record for record in records if record.path not in present]
    if missing and on_missing == "error":
        folders = Counter(record.path.rpartition("/")[0] or "." for record in missing)
        listed = ", ".join(f"{folder}/ ({count})" for folder, count in sorted(folders.items())[:12])
        raise FileNotFoundError(
            f"{name}: {len(missing)} of {len(records)} images are missing under {images}, by folder: {listed}; the "
            f"first is {missing[0].path}. Complete the images, or go on without them with on_missing=drop."
        )
    if len(missing) == len(records):
        raise FileNotFoundError(f"{name}: none of the {len(records)} images is under {images}.")
    return [record for record in records if record.path in present]


def _files(images: Path) -> Iterator[str]:
    """All files below a folder, relative to it; links that lead out of it are left out."""
    inside = os.path.realpath(images) + os.sep
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(images / prefix) as entries:
            for entry in entries:
                if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                    continue
                if entry.is_dir():
                    waiting.append(f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name


def _pairs(records: Sequence[Record], images: Path, info: datasets.DatasetInfo, fingerprint: str) -> datasets.Dataset:
    people = {person: number for number, person in enumerate(sorted({record.person_id for record in records}))}
    columns: dict[str, list] = {name: [] for name in ("image", "caption", "person_id", "image_id", "image_path")}
    for image_id, record in enumerate(records):
        for caption in record.captions:
            columns["image"].append(str(images / record.path))
            columns["caption"].append(caption)
            columns["person_id"].append(people[record.person_id])
            columns["image_id"].append(image_id)
            columns["image_path"].append(record.path)
    return _dataset(columns, info, fingerprint)


def _gallery_and_queries(
    records: Sequence[Record], images: Path, info: datasets.DatasetInfo, fingerprint: str
) -> datasets.DatasetDict:
    gallery = {
        "image": [str(images / record.path) for record in records],
        "person_id": [record.person_id for record in records],
        "image_id": list(range(len(records))),
        "image_path": [record.path for record in records],
    }
    said = [(caption, record.person_id, number) for number, record in enumerate(records) for caption in record.captions]
    queries = dict(zip(("caption", "person_id", "image_id"), map(list, zip(*said))))
    return datasets.DatasetDict(
        gallery=_dataset(gallery, info, fingerprint + "g"), queries=_dataset(queries, info, fingerprint + "q")
    )


def _dataset(columns: dict[str, list], info: datasets.DatasetInfo, fingerprint: str) -> datasets.Dataset:
    kinds = {"image": datasets.Image(), "caption": datasets.Value("string"), "image_path": datasets.Value("string")}
    features = datasets.Features({name: kinds.get(name, datasets.Value("int64")) for name in columns})
    info = datasets.DatasetInfo(description=info.description, features=features)
    made = datasets.Dataset.from_dict(columns, features=features, info=info)
    # Derived from the annotation's content, so that `map` over it is cached from one start to the next.
    made._fingerprint = fingerprint
    return made


__all__ = ["BENCHMARKS", "Benchmark", "dropped_pairs", "find_annotation", "load_benchmark"]
