"""Your own pairs as `datasets`, with the columns of the benchmarks: from a table with image paths or a data set."""

import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np

from .benchmarks import check_options
from .files import ImageFolder
from .pair_files import Columns, captions_of, own_id, read_rows, to_records
from .pair_stream import open_stream, stream_pairs
from .records import SPLIT_NAMES, Record, check_duplicates, reporter, split_name
from .tables import (
    PAIRS,
    RETRIEVAL,
    TABLE_VERSION,
    cached_split,
    columns,
    contiguous,
    partial_description,
    split_tables,
)

_TABLES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

Source = str | Path | datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | Mapping


def load_pairs(
    source: Source,
    split: str | None = None,
    image_root: str | Path | None = None,
    image_column: str = "image",
    caption_column: str = "caption",
    person_id_column: str = "person_id",
    split_column: str = "split",
    streaming: bool = False,
    on_missing: str = "error",
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset:
    """A split of your own data, ready for training (`train`) or for evaluation (`val`, `test`).

    Args:
        source: one of
            - a `.csv`, `.tsv`, `.json`, `.jsonl` or `.parquet` file, a row for each pair, with paths of images;
            - a folder with such a file named `metadata.*`;
            - a folder written by `save_to_disk`, or a `datasets` object; images as paths or as an `Image` column;
            - the id of a data set on the Hub;
            - `{"train": SOURCE, "test": SOURCE}`, where each split has a source of its own.
        split: `train`, `val` or `test`; None takes a source without splits whole, as training pairs.
        image_root: folder that holds all images, by default that of the file. Paths are relative to it or lie in it.
        image_column, caption_column, person_id_column, split_column: names in the source. A caption may be a list of
            captions of the same image.
        streaming: train only: rows are read when they are needed, and no cache is written.
        on_missing: as for `load_benchmark`.
    Returns:
        What `load_benchmark` returns, and the column `person_name`, the person id as the source has it. `person_id`
        counts from 0 without gaps in every split, in the order of the sorted ids: by value where all are whole
        numbers, else as text. `image_id` tells images apart by path, or by content where the source holds their
        bytes; `image_path` may then be empty.
        With `streaming` an `IterableDataset` of `image`, `caption`, `person_id`, `image_path`: ids cannot be
        renumbered nor images counted before they are read, so ids must be whole numbers from 0 already, and a model
        with an identity loss needs `num_identities` above the largest.
    Raises:
        ValueError: a column is missing, a row is not what it should be (in a stream when it is reached), the split is
            not there, an image lies outside `image_root`.
        FileNotFoundError: there is no such source; images are missing.

    Example:

        >>> train = load_pairs("people/pairs.csv", split="train", person_id_column="name")
        >>> test = load_pairs("people/pairs.csv", split="test", person_id_column="name")
        >>> test["gallery"][0]["person_name"]
        'guest 17'
    """
    if split is not None:
        check_options(split, on_missing)
    check_options("train", on_missing)
    names = Columns(image_column, caption_column, person_id_column, split_column)
    if isinstance(source, Mapping):
        source, title = _pick(source, split), f"the source of {split}"
        picked = True
    else:
        title, picked = str(source) if isinstance(source, (str, Path)) else "the data set", False
    if streaming:
        if split not in (None, "train"):
            raise ValueError(f"streaming is for training; {split} is ranked as a whole: load it with streaming=False.")
        return _stream(source, title, names, image_root, picked, split)
    file = _table_file(source)
    if file is not None and file.suffix.lower() != ".parquet":
        key = hashlib.sha256(file.read_bytes()).hexdigest()
        rows = read_rows(file)
        return _from_paths(rows, str(file), key, names, image_root or file.parent, picked, split, on_missing)
    if file is not None:
        data, image_root = _open_parquet(file), image_root or file.parent
    else:
        data, of_split = _open(source, split, streaming=False)
        picked = picked or of_split
    split_found = names.check(data.column_names, title)
    if isinstance(data.features[names.image], datasets.Image):
        return _from_images(data, title, names, split_found, picked, split)
    image_root = _root(image_root, source)
    wanted = [names.image, names.caption, names.person_id] + [names.split] * split_found
    rows = iter(data.select_columns(wanted).with_format(None))
    return _from_paths(rows, title, data._fingerprint, names, image_root, picked, split, on_missing)


def _pick(source: Mapping, split: str | None):
    """The source of a split from a mapping."""
    found = {SPLIT_NAMES.get(str(key).casefold(), str(key)): value for key, value in source.items()}
    if split is None or split not in found:
        raise ValueError(f"The source has the splits {', '.join(found)}; pass split= one of them, not {split}.")
    return found[split]


def _table_file(source: Source) -> Path | None:
    """The table that a path means, if it means one."""
    if not isinstance(source, (str, Path)):
        return None
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.glob("metadata.*") if file.suffix.lower() in _TABLES)
        return files[0] if files else None
    if path.suffix.lower() in _TABLES:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        return path
    if path.is_file():
        raise ValueError(f"{path} is no table that is understood; expected one of {', '.join(_TABLES)}.")
    return None


def _open_parquet(file: Path) -> datasets.Dataset:
    try:
        return datasets.Dataset.from_parquet(str(file))
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        cause = error.__cause__ or error
        raise ValueError(f"{file} is not a Parquet file that can be read: {cause}") from error


def _open(source: Source, split: str | None, streaming: bool):
    """A `datasets` object, and whether it is the split's own."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            try:
                source = datasets.load_from_disk(str(path))
            except FileNotFoundError:
                there = sorted(entry.name for entry in os.scandir(path))[:6]
                raise FileNotFoundError(
                    f"{path} holds neither a data set written by save_to_disk nor metadata.csv, .jsonl or .parquet; "
                    f"it has {', '.join(there) or 'nothing'}. Pass the table with the captions itself."
                ) from None
        elif _HUB_ID.fullmatch(str(source)):
            source = datasets.load_dataset(str(source), streaming=streaming)
        else:
            raise FileNotFoundError(f"There is no file or folder {source}, and it is no Hub id (owner/name).")
    if isinstance(source, Mapping):
        if split is None and len(source) == 1:
            return next(iter(source.values())), True
        return _pick(source, split), True
    return source, False


def _stream(
    source: Source, title: str, names: Columns, image_root: str | Path | None, picked: bool, split: str | None
) -> datasets.IterableDataset:
    file = _table_file(source)
    if file is not None:
        return stream_pairs(open_stream(file), title, names, _root(image_root or file.parent, source), split, picked)
    data, of_split = _open(source, split, streaming=True)
    if isinstance(data, datasets.Dataset):
        data = data.to_iterable_dataset()
    return stream_pairs(data, title, names, _root(image_root, source), split, picked or of_split)


def _root(image_root: str | Path | None, source: Source) -> Path:
    """The image folder of a data set whose images are paths."""
    if image_root is not None:
        return Path(image_root).expanduser()
    return Path(source).expanduser() if isinstance(source, (str, Path)) and Path(source).is_dir() else Path.cwd()


def _from_paths(
    rows,
    title: str,
    key: str,
    names: Columns,
    image_root: str | Path,
    picked: bool,
    split: str | None,
    on_missing: str,
) -> datasets.Dataset | datasets.DatasetDict:
    report = reporter(title, None)
    records, has_split = to_records(rows, names, title, Path(image_root).expanduser(), report)
    chosen = names.by_split(has_split, picked, split, title)
    remarks: list[str] = []
    records = check_duplicates(title, records, report, remarks, once=False)
    if chosen:
        for remark in remarks:
            warnings.warn(remark, stacklevel=3)
        records = [record for record in records if record.split == split]
    split = split or "train"
    if not records:
        raise ValueError(f"{title} has no rows of split {split}.")
    if not Path(image_root).expanduser().is_dir():
        raise FileNotFoundError(f"There is no image folder {image_root}; pass image_root=, the folder of the images.")
    images = ImageFolder(Path(image_root).expanduser())
    kept, missing = _present(records, images, title, on_missing)
    captions = sum(len(r.captions) for r in records) - sum(len(r.captions) for r in kept)
    lost = hashlib.sha256("\n".join(missing).encode()).hexdigest()
    return cached_split(
        re.sub(r"\W+", "-", Path(title).stem)[:40] or "pairs",
        split,
        key=[TABLE_VERSION, title, key, images.root, vars(names), chosen, lost],
        description=partial_description(title, split, len(missing), captions),
        make=lambda: split_tables(kept, images.root, split, renumber=True, names=True),
        names=True,
    )


def _present(
    records: list[Record], images: ImageFolder, title: str, on_missing: str
) -> tuple[list[Record], list[str]]:
    paths = [record.path for record in records]
    missing = images.missing(paths)
    if not missing:
        return records, missing
    text = f"{title}: {len(missing):,} of {len(set(paths)):,} images are not in {images.root}. "
    text += images.describe_missing(missing, paths)
    if on_missing == "error" or len(missing) == len(set(paths)):
        raise FileNotFoundError(f'{text} Pass image_root= their folder, or on_missing="drop" to go on without them.')
    warnings.warn(f"{text} Their pairs are left out.", stacklevel=4)
    lost = set(missing)
    return [record for record in records if record.path not in lost], missing


def _from_images(
    data: datasets.Dataset, title: str, names: Columns, has_split: bool, picked: bool, split: str | None
) -> datasets.Dataset | datasets.DatasetDict:
    """A data set that holds its images: their column is used as it is, the others are made anew."""
    if names.by_split(has_split, picked, split, title):
        of_row = data.with_format(None)[names.split][:]
        report = reporter(title, None)
        wanted = []
        for number, value in enumerate(of_row):
            try:
                if split_name(value, names.split) == split:
                    wanted.append(number)
            except ValueError as error:
                report(number, str(error))
        data = data.select(wanted)
    split = split or "train"
    if not len(data):
        raise ValueError(f"{title} has no rows of split {split}.")
    keys = data.select_columns([names.image]).cast_column(names.image, datasets.Image(decode=False))
    keys = keys.map(
        _image_keys,
        batched=True,
        fn_kwargs={"column": names.image},
        remove_columns=[names.image],
        features=datasets.Features({"key": datasets.Value("string"), "path": datasets.Value("string")}),
        desc="Telling images apart",
    )
    records = []
    report = reporter(title, None)
    rows = zip(data[names.person_id][:], data[names.caption][:], keys["key"][:])
    for number, (person, caption, image) in enumerate(rows):
        try:
            records.append(
                Record(number, own_id(person, names.person_id), image, captions_of(caption, names.caption), split)
            )
        except ValueError as error:
            report(number, str(error))
    records = check_duplicates(title, records, report, [], once=False)
    persons = [record.person_id for record in records]
    if len({type(person) for person in persons}) > 1:
        raise ValueError(f"{title}: column {names.person_id} mixes numbers and strings.")
    return _attach(data, names, records, contiguous(persons), keys["path"][:], split)


def _attach(
    data: datasets.Dataset, names: Columns, records: list[Record], persons: np.ndarray, paths: list[str], split: str
) -> datasets.Dataset | datasets.DatasetDict:
    image_ids: dict[str, int] = {}
    of_row = np.array([image_ids.setdefault(record.path, len(image_ids)) for record in records])
    repeats = np.repeat(np.arange(len(records)), [len(record.captions) for record in records])
    firsts = np.unique(of_row, return_index=True)[1]

    def part(wanted: tuple[str, ...], rows: np.ndarray) -> datasets.Dataset:
        made = {
            "caption": [caption for record in records for caption in record.captions],
            "person_id": persons[rows],
            "image_id": of_row[rows],
            "image_path": [paths[row] or "" for row in rows],
            "person_name": [str(records[row].person_id) for row in rows],
        }
        wanted = (*wanted, "person_name")
        plain = [name for name in wanted if name != "image"]
        table = datasets.Dataset.from_dict({name: made[name] for name in plain}, features=columns(plain))
        if "image" not in wanted:
            return table
        images = data.select_columns([names.image]).rename_columns(
            {names.image: "image"} if names.image != "image" else {}
        )
        if not np.array_equal(rows, np.arange(len(data))):
            images = images.select(rows)
        return datasets.concatenate_datasets([images, table], axis=1).select_columns(list(wanted))

    if split == "train":
        return part(PAIRS["pairs"], repeats)
    return datasets.DatasetDict(
        gallery=part(RETRIEVAL["gallery"], firsts), queries=part(RETRIEVAL["queries"], repeats)
    )


def _image_keys(batch: dict[str, list], column: str) -> dict[str, list]:
    """What tells images apart: their bytes, else their path. Beside bytes the Hub keeps bare file names only."""
    keys, paths = [], []
    for image in batch[column]:
        data = image["bytes"]
        keys.append(image["path"] if data is None else hashlib.blake2b(data, digest_size=16).hexdigest())
        paths.append(image["path"] or "")
    return {"key": keys, "path": paths}


__all__ = ["load_pairs"]
