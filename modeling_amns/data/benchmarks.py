"""CUHK-PEDES, ICFG-PEDES, RSTPReid, UFineBench and synthetic-pedes as `datasets`, the same columns for all.

Another benchmark is another entry of `BENCHMARKS`, with a reader of its own where its annotation has another form.
Rows stand in the order of the annotation file, the captions of an image one after the other: published noise index
files rely on that order.
"""

import os
import warnings
from pathlib import Path

import datasets

from .annotations import Annotation, Benchmark, find_annotation, read_annotation
from .files import ImageFolder
from .hub_benchmarks import is_on_hub, load_from_hub, stream_from_hub
from .records import SPLITS, Counts, knows_truth
from .tables import benchmark_form, cached_split, dropped_pairs, keep_present

# What the generator writes beside an annotation, in whichever layout.
SYNTHETIC_MARK = "synthetic.json"

_UFINE = "its authors hand it out on request (github.com/Zplusdragon/UFineBench)"

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="cuhk-pedes",
            folder="CUHK-PEDES",
            annotations=("reid_raw.json", "caption_all.json"),
            path_field="file_path",
            source="its authors hand it out on request "
            "(github.com/ShuangLI59/Person-Search-with-Natural-Language-Description)",
            counts={
                "train": Counts(11_003, 34_054, 68_126),
                "val": Counts(1_000, 3_078, 6_158),
                "test": Counts(1_000, 3_074, 6_156),
            },
            split_ids={"train": (1, 11_003), "val": (11_004, 12_003), "test": (12_004, 13_003)},
            first_id=1,
            tokens=True,
        ),
        Benchmark(
            name="icfg-pedes",
            folder="ICFG-PEDES",
            annotations=("ICFG-PEDES.json", "ICFG_PEDES.json"),
            path_field="file_path",
            source="its authors hand it out on request (github.com/zifyloo/SSAN)",
            splits=("train", "test"),
            counts={"train": Counts(3_102, 34_674, 34_674), "test": Counts(1_000, 19_848, 19_848)},
            max_captions=1,
            tokens=True,
        ),
        Benchmark(
            name="rstpreid",
            folder="RSTPReid",
            annotations=("data_captions.json",),
            path_field="img_path",
            source="see github.com/NjtechCVLab/RSTPReid-Dataset",
            counts={
                "train": Counts(3_701, 18_505, 37_010),
                "val": Counts(200, 1_000, 2_000),
                "test": Counts(200, 1_000, 2_000),
            },
        ),
        # Form of the records and counts from the authors' README; the names of the two annotation files and which
        # splits UFine6926 has are not published.
        Benchmark(
            name="ufine6926",
            folder="UFine6926",
            annotations=("UFine6926_Annotations.json", "UFine6926.json"),
            path_field="file_path",
            source=_UFINE,
            splits=("train", "test"),
            images=".",
        ),
        Benchmark(
            name="ufine3c",
            folder="UFine3C",
            annotations=("UFine3C_Annotations.json", "UFine3C.json"),
            path_field="file_path",
            source=_UFINE,
            splits=("test",),
            counts={"test": Counts(2_250, 7_446, 37_939)},
            images=".",
        ),
        Benchmark(
            name="synthetic-pedes",
            folder="synthetic-pedes",
            annotations=("reid_raw.json",),
            path_field="file_path",
            source="scripts/make_synthetic.py writes it",
            first_id=1,
            tokens=True,
            mark=SYNTHETIC_MARK,
        ),
    )
}


def load_benchmark(
    name: str,
    root: str | Path,
    split: str,
    on_missing: str = "error",
    split_file: str | Path | None = None,
    streaming: bool = False,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset:
    """A split of a benchmark from its folder, as its authors hand it out, or from a data set on the Hub.

    Nothing is decoded. Of a folder the tables are kept in the cache of `datasets`; every start reads the annotation
    file and lists the image folders anew, so a changed file or a lost image is noticed.

    Args:
        name: `cuhk-pedes`, `icfg-pedes`, `rstpreid`, `ufine6926`, `ufine3c` or `synthetic-pedes`.
        root: the folder that holds the benchmark's folder, or that folder itself (`imgs/` and the annotation file).
            Or `hf://datasets/ORG/NAME` (`@REVISION` behind it for another than the main one): a data set with the
            splits and a row for each pair, whose columns are `image`, `caption`, `person_id`, `image_path`, and
            `is_clean` where it has it. `hf://datasets/ORG` is the owner's data set of the benchmark's name.
        split: `train`, `val` or `test`.
        on_missing: `error` stops at missing image files; `drop` goes on without their pairs, warns, and leaves the
            number for `dropped_pairs`. Row numbers then differ from those of the whole set.
        split_file: for an annotation without a usable split: a JSON object of `train`, `val` and `test`, each a list
            of image paths or of person ids. This and `drop` are of folders: a data set on the Hub holds its images.
        streaming: `train` on the Hub only: pairs are downloaded when they are read.
    Returns:
        `train`: a `Dataset` with a row for each pair: `image` (decoded when read), `caption`, `person_id` (from 0
        without gaps, in the order of the file's ids), `image_id` (from 0, in order of appearance), `image_path`
        (relative to `imgs/`), and `is_clean` where the annotation says which captions are right (a
        list beside `captions`). Else a `DatasetDict`: `gallery` with `image`, `person_id` (as the file has it),
        `image_id`, `image_path`, and `queries` with `caption`, `person_id`, `image_id`. With `streaming` an
        `IterableDataset` of `image`, `caption`, `person_id` as the set has it, and `image_path`.
    Raises:
        ValueError: an unknown name, split or option; a split that the benchmark does not have; a file that is not what
            it should be, with the record and the field; an image path that leaves the image folder.
        FileNotFoundError: no such folder, annotation or data set; missing images, by sub-folder.
    Warns:
        UserWarning: counts that differ from the published ones, images named twice, persons in two splits, images left
            out.

    Example:

        >>> from tempfile import mkdtemp
        >>> from modeling_amns import make_synthetic_benchmark
        >>> sizes = {"train_identities": 3, "val_identities": 1, "test_identities": 2, "images_per_identity": 2}
        >>> folder = make_synthetic_benchmark(mkdtemp(), image_size=(64, 24), num_workers=1, **sizes)
        >>> train = load_benchmark("synthetic-pedes", folder, "train")
        >>> train.column_names, len(train)
        (['image', 'caption', 'person_id', 'image_id', 'image_path'], 12)
        >>> test = load_benchmark("synthetic-pedes", folder, "test")
        >>> len(test["gallery"]), len(test["queries"])
        (4, 8)
    """
    benchmark = known_benchmark(name)
    check_options(split, on_missing)
    if is_on_hub(root):
        if on_missing != "error" or split_file is not None:
            raise ValueError(
                f"{name}: on_missing and split_file are of folders; a data set on the Hub holds its images and says "
                "their split. Leave them out."
            )
        return (stream_from_hub if streaming else load_from_hub)(benchmark, str(root), split)
    if streaming:
        raise ValueError(
            f"{name}: streaming is of data sets on the Hub (hf://datasets/ORG/NAME); {root} is read by row number: "
            "leave it out, or call to_iterable_dataset() of what is loaded."
        )
    annotation = read_annotation(benchmark, find_annotation(benchmark, root), split_file)
    for remark in annotation.remarks:
        warnings.warn(remark, stacklevel=2)
    records = annotation.of(split)
    if not records:
        raise ValueError(_empty_split(benchmark, split, annotation))
    truth = split == "train" and knows_truth(f"{name}: {annotation.file}", records)
    images = image_folder(benchmark, annotation.file)
    found = keep_present(records, images)
    if found.missing:
        every = [record.path for record in annotation.records]
        text = (
            f"{name}: {len(found.missing):,} of {found.images:,} images of {split} are not in {images.root}. "
            f"In all splits: {images.describe_missing(images.missing(every), every)}"
        )
        if on_missing == "error":
            raise FileNotFoundError(
                f'{text} Complete the folder, or pass on_missing="drop" to go on without their '
                f"{found.dropped:,} captions."
            )
        warnings.warn(f"{text} Their pairs are left out: results are of a partial set.", stacklevel=2)
    if not found.records:
        raise FileNotFoundError(f"{name}: no image of {split} is in {images.root}. Complete the folder.")
    return cached_split(name, split, benchmark_form(split, truth), found, key=annotation.digest)


def known_benchmark(name: str) -> Benchmark:
    """The entry of `BENCHMARKS`; a ValueError lists the names where there is none."""
    if name not in BENCHMARKS:
        raise ValueError(
            f"There is no benchmark {name!r}; expected one of {', '.join(BENCHMARKS)}. "
            "For data of your own use load_pairs."
        )
    return BENCHMARKS[name]


def check_options(split: str, on_missing: str) -> None:
    """A ValueError for a split or an `on_missing` that does not exist."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; expected {', '.join(SPLITS)}.")
    if on_missing not in ("error", "drop"):
        raise ValueError(f'on_missing is {on_missing!r}; expected "error" or "drop".')


def image_folder(benchmark: Benchmark, annotation: Path) -> ImageFolder:
    """The image folder beside an annotation file.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = annotation.parent / benchmark.images
    if not folder.is_dir():
        there = ", ".join(sorted(entry.name for entry in os.scandir(annotation.parent) if entry.is_dir())[:8])
        raise FileNotFoundError(
            f"{benchmark.name}: there is no folder {folder}; beside {annotation.name} are {there or 'no folders'}. "
            f"Put the images under {benchmark.images}/, or link {benchmark.images} to them."
        )
    return ImageFolder(folder)


def _empty_split(benchmark: Benchmark, split: str, annotation: Annotation) -> str:
    name = benchmark.name
    found = ", ".join(f"{other} {len(annotation.of(other)):,}" for other in SPLITS)
    told = f"{name}: {annotation.file} has no records of split {split}; images by split: {found}."
    return benchmark.why_without(split) or told


__all__ = [
    "BENCHMARKS",
    "SYNTHETIC_MARK",
    "Benchmark",
    "check_options",
    "dropped_pairs",
    "image_folder",
    "known_benchmark",
    "load_benchmark",
]
