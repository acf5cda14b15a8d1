"""CUHK-PEDES, ICFG-PEDES, RSTPReid and synthetic-pedes as `datasets`, the same columns for all.

Rows stand in the order of the annotation file, the captions of an image one after the other: published noise index
files rely on that order.
"""

import hashlib
import os
import warnings
from pathlib import Path

import datasets

from .annotations import BENCHMARKS, SPLITS, Annotation, Benchmark, find_annotation, read_annotation
from .files import ImageFolder
from .tables import TABLE_VERSION, cached_split, dropped_pairs, partial_description, split_tables


def load_benchmark(
    name: str,
    root: str | Path,
    split: str,
    on_missing: str = "error",
    split_file: str | Path | None = None,
) -> datasets.Dataset | datasets.DatasetDict:
    """A split of a benchmark from its folder, as its authors hand it out.

    Nothing is decoded. The tables are kept in the cache of `datasets`; every start reads the annotation file and lists
    the image folders anew, so a changed file or a lost image is noticed.

    Args:
        name: `cuhk-pedes`, `icfg-pedes`, `rstpreid` or `synthetic-pedes`.
        root: the folder that holds the benchmark's folder, or that folder itself (`imgs/` and the annotation file).
        split: `train`, `val` or `test`.
        on_missing: `error` stops at missing image files; `drop` goes on without their pairs, warns, and leaves the
            number for `dropped_pairs`. Row numbers then differ from those of the whole set.
        split_file: for an annotation without a usable split: a JSON object of `train`, `val` and `test`, each a list
            of image paths or of person ids.
    Returns:
        `train`: a `Dataset` with a row for each pair: `image` (decoded when read), `caption`, `person_id` (from 0
        without gaps, in the order of the file's ids), `image_id` (from 0, in order of appearance), `image_path`
        (relative to `imgs/`). Else a `DatasetDict`: `gallery` with `image`, `person_id` (as the file has it),
        `image_id`, `image_path`, and `queries` with `caption`, `person_id`, `image_id`.
    Raises:
        ValueError: an unknown name, split or option; a split that the benchmark does not have; a file that is not what
            it should be, with the record and the field; an image path that leaves the image folder.
        FileNotFoundError: no such folder or annotation; missing images, by sub-folder.
    Warns:
        UserWarning: counts that differ from the published ones, images named twice, persons in two splits, images left
            out.

    Example:

        >>> train = load_benchmark("cuhk-pedes", "data", "train")
        >>> train[0]["caption"]
        'A pedestrian with dark hair is wearing red and white shoes, ...'
    """
    if name not in BENCHMARKS:
        raise ValueError(
            f"There is no benchmark {name!r}; expected one of {', '.join(BENCHMARKS)}. "
            "For data of your own use load_pairs."
        )
    check_options(split, on_missing)
    annotation = read_annotation(name, find_annotation(name, root), split_file)
    for remark in annotation.remarks:
        warnings.warn(remark, stacklevel=2)
    records = annotation.of(split)
    if not records:
        raise ValueError(_empty_split(name, split, annotation))
    images = image_folder(name, annotation.file)
    missing = images.missing(record.path for record in records)
    lost = set(missing)
    dropped = [record for record in records if record.path in lost]
    if missing:
        every = [record.path for record in annotation.records]
        text = (
            f"{name}: {len(missing):,} of {len({record.path for record in records}):,} images of {split} are not in "
            f"{images.root}. In all splits: {images.describe_missing(images.missing(every), every)}"
        )
        if on_missing == "error":
            raise FileNotFoundError(
                f'{text} Complete the folder, or pass on_missing="drop" to go on without their '
                f"{sum(len(record.captions) for record in dropped):,} captions."
            )
        warnings.warn(f"{text} Their pairs are left out: results are of a partial set.", stacklevel=2)
    kept = [record for record in records if record.path not in lost]
    if not kept:
        raise FileNotFoundError(f"{name}: no image of {split} is in {images.root}. Complete the folder.")
    captions = sum(len(record.captions) for record in dropped)
    return cached_split(
        name,
        split,
        key=[TABLE_VERSION, annotation.digest, images.root, hashlib.sha256("\n".join(missing).encode()).hexdigest()],
        description=partial_description(name, split, len(missing), captions),
        make=lambda: split_tables(kept, images.root, split, renumber=split == "train"),
    )


def check_options(split: str, on_missing: str) -> None:
    """A ValueError for a split or an `on_missing` that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; expected {', '.join(SPLITS)}.")
    if on_missing not in ("error", "drop"):
        raise ValueError(f'on_missing is {on_missing!r}; expected "error" or "drop".')


def image_folder(name: str, annotation: Path) -> ImageFolder:
    """`imgs/` beside an annotation file.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = annotation.parent / "imgs"
    if not folder.is_dir():
        there = ", ".join(sorted(entry.name for entry in os.scandir(annotation.parent) if entry.is_dir())[:8])
        raise FileNotFoundError(
            f"{name}: there is no folder {folder}; beside {annotation.name} are {there or 'no folders'}. "
            "Put the images under imgs/, or link imgs to them."
        )
    return ImageFolder(folder)


def _empty_split(name: str, split: str, annotation: Annotation) -> str:
    if split == "val" and not BENCHMARKS[name].has_val:
        return (
            f'{name} has no val split. Published results on it are selected on test: pass split="test", or set a part '
            "of train aside."
        )
    found = ", ".join(f"{other} {len(annotation.of(other)):,}" for other in SPLITS)
    return f"{name}: {annotation.file} has no records of split {split}; images by split: {found}."


__all__ = ["BENCHMARKS", "Benchmark", "check_options", "dropped_pairs", "image_folder", "load_benchmark"]
