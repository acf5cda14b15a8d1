"""Own pairs read and checked: records of an opened source, and where their images are."""

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import datasets

from .files import ImageFolder, check_place
from .pair_files import Columns, read_rows, same_kind, to_records
from .pair_sources import Opened, open_parquets
from .records import TRUTH, Record, check_duplicates, check_truth, reporter, split_name


@dataclass(frozen=True)
class OwnPairs:
    """Checked pairs of a source.

    Attributes:
        records: in the order of the source; `number` is the row.
        images: the folder of their files, or a data set whose one column `image` holds them, by row.
        key: changes with what the source holds.
        remarks: what is odd but no error, one line each.
    """

    records: list[Record]
    images: ImageFolder | datasets.Dataset
    key: str
    remarks: list[str]


def read_pairs(
    opened: Opened, names: Columns, split: str | None, problems: list[str] | None = None
) -> tuple[OwnPairs, str | None]:
    """Reads the rows of a source.

    Args:
        opened: where they are.
        names: of its columns.
        split: the one asked for, as `load_pairs` takes it.
        problems: grows by a line for each bad row, which is left out, instead of stopping at the first; the rows of
            all splits are then wanted, whatever `split` is.
    Returns:
        the pairs, and the split whose records are to be chosen from them, None for all. Of images inside a data set
        only the chosen rows are read: each is read through to tell it from others.
    Raises:
        ValueError: a column is missing, it is unclear which rows are wanted, or a row is not what it should be.
    """
    title, data, key = opened.title, opened.data, ""
    if isinstance(data, tuple) and data[0].suffix.lower() == ".parquet":
        data = open_parquets(data, names.image)
    if isinstance(data, datasets.IterableDataset):
        raise ValueError(f"{title} is a stream; pass streaming=True, or a data set that can be read by row number.")
    if isinstance(data, datasets.Dataset):
        found, key = data.column_names, data._fingerprint
        rows: Iterable[dict] = data
    else:
        key = " ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in data)
        rows = itertools.chain.from_iterable(map(read_rows, data))
        first = next(iter(rows), None)
        if first is None:
            raise ValueError(f"{title} has no rows; expected one for each pair of image and caption.")
        found, rows = list(first), itertools.chain([first], rows)
    has_split = names.check(found, title)
    chosen = None if problems is not None else names.chosen(has_split, opened.whole, split, title)
    has_split = has_split and not opened.whole
    report = reporter(title, problems)
    images: ImageFolder | datasets.Dataset
    if isinstance(data, datasets.Dataset) and isinstance(data.features[names.image], datasets.Image):
        records = _image_records(data, names, has_split, chosen, opened, report)
        images = data.select_columns([names.image])
        images = images if names.image == "image" else images.rename_column(names.image, "image")
    else:
        if isinstance(data, datasets.Dataset):
            wanted = [*names.needed] + [names.split] * has_split + [TRUTH] * (TRUTH in found)
            rows = data.select_columns(wanted)
        records = to_records(rows, names, has_split, title, opened.image_root, report)
        images = ImageFolder(opened.image_root)
    remarks: list[str] = []
    records = check_duplicates(title, records, report, remarks, once=False)
    return OwnPairs(records, images, key, remarks), chosen


def _image_records(
    data: datasets.Dataset,
    names: Columns,
    has_split: bool,
    chosen: str | None,
    opened: Opened,
    report: Callable[[int, str], None],
) -> list[Record]:
    """Records of a data set that holds its images."""
    splits = {}
    for number, value in enumerate(data[names.split][:] if has_split else [""] * len(data)):
        try:
            splits[number] = split_name(value, names.split) if has_split else ""
        except ValueError as error:
            report(number, str(error))
    numbers = [number for number, split in splits.items() if chosen in (None, split)]
    rows = data if len(numbers) == len(data) else data.select(numbers)
    keys = rows.select_columns([names.image]).cast_column(names.image, datasets.Image(decode=False))
    keys = keys.map(
        _image_keys,
        batched=True,
        fn_kwargs={"column": names.image},
        remove_columns=[names.image],
        features=datasets.Features({"key": datasets.Value("string"), "file": datasets.Value("string")}),
        desc="Telling images apart",
    )
    records = []
    told = rows[TRUTH][:] if TRUTH in rows.column_names else [None] * len(rows)
    # Without the images, which were told apart above.
    texts = rows.select_columns([*dict.fromkeys(name for name in names.needed if name != names.image)])
    values = zip(numbers, texts, keys["key"][:], keys["file"][:], told)
    for number, row, key, file, right in values:
        try:
            if not key:
                raise ValueError(f"{names.image} is nothing (null), expected an image")
            if key == file and opened.places is not None:
                check_place(file, opened.places, names.image)
            captions = names.captions_of(row)
            own, truth = names.person_of(row, key), check_truth(right, captions)
            records.append(Record(number, own, key, captions, splits[number], file, truth))
        except ValueError as error:
            report(number, str(error))
    return records if names.person_id is None else same_kind(records, opened.title)


def _image_keys(batch: dict[str, list], column: str) -> dict[str, list]:
    """What tells images apart: their bytes, else their path. Beside bytes the Hub keeps bare file names only."""
    keys, files = [], []
    for image in batch[column]:
        data, path = (image or {}).get("bytes"), (image or {}).get("path") or ""
        keys.append(path if data is None else hashlib.blake2b(data, digest_size=16).hexdigest())
        files.append(path)
    return {"key": keys, "file": files}


__all__ = ["OwnPairs", "read_pairs"]
