"""Where own pairs lie: the table, the data set or the split that a user's source means, opened and not yet read."""

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import datasets
import pyarrow.compute as pc
from huggingface_hub import constants

from ..brief import in_short
from .pair_files import TABLES
from .records import SPLIT_NAMES, SPLITS, describe

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

T = TypeVar("T")
Source: TypeAlias = str | Path | datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | Mapping[str, Any]
Data: TypeAlias = datasets.Dataset | datasets.IterableDataset


@dataclass(frozen=True)
class Opened:
    """A source of pairs before its rows are read.

    Attributes:
        title: what errors call it.
        data: table files of one kind, the shards of one table, or a `datasets` object.
        image_root: folder of the images that are given as paths.
        whole: whether it is a split by itself, whatever its columns say.
        places: folders in which the images of an `Image` column lie that are given as paths; None where the data set
            was handed over as an object, whose owner may name any file.
    """

    title: str
    data: tuple[Path, ...] | Data
    image_root: Path
    whole: bool
    places: tuple[Path, ...] | None = None


def is_hub_id(source: str) -> bool:
    """Whether a text has the form of a data set's id on the Hub, `owner/name`."""
    return _HUB_ID.fullmatch(source) is not None


def open_source(source: Source, split: str | None, image_root: str | Path | None, streaming: bool = False) -> Opened:
    """What a source means for a split.

    Args:
        source, split, image_root: as for `load_pairs`.
        streaming: open data sets of the Hub as streams.
    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it is none, or does not have the split.
    """
    title, whole = str(source) if isinstance(source, (str, Path)) else "the data set", False
    if isinstance(source, Mapping):
        source, title, whole = _pick(source, split), f"the source of {split}", True
    data = _resolve(source, streaming)
    root = _image_root(image_root, source, data)
    places = _places(source, root)
    if isinstance(data, Mapping):
        alone = split is None and len(data) == 1
        data, whole = next(iter(data.values())) if alone else _pick(data, split), True
    if isinstance(data, datasets.Dataset) and data.format["type"] is not None:
        # Rows are read as Python's own types, whatever the data set shows to others.
        data = data.with_format(None)
    if isinstance(data, tuple) and len(data) == 1:
        title = str(data[0])
    return Opened(title, data, root, whole, places)


def open_splits(source: Source, image_root: str | Path | None) -> list[tuple[str, Opened]]:
    """All that a source holds: its splits under their names, or the source as a whole under an empty name."""
    data = source if isinstance(source, Mapping) else _resolve(source, streaming=False)
    if not isinstance(data, Mapping):
        return [("", open_source(source, None, image_root))]
    # A folder or a data set of the Hub is not opened again for every split.
    root = image_root if isinstance(source, Mapping) else _image_root(image_root, source, data)
    found = [(SPLIT_NAMES.get(str(name).casefold(), ""), name) for name in data]
    unknown = [str(name) for split, name in found if not split]
    if unknown:
        raise ValueError(f"The source has the splits {', '.join(unknown)}; expected {', '.join(SPLITS)}.")
    places = _places(source, root)
    opened = [(split, open_source(data, split, root)) for split, _ in found]
    return [(split, one if places is None else replace(one, places=places)) for split, one in opened]


def open_parquets(files: tuple[Path, ...], image: str) -> datasets.Dataset:
    """The shards of a table one after the other, as `open_parquet` opens each; a ValueError where they differ."""
    parts = [open_parquet(file, image) for file in files]
    for file, part in zip(files, parts):
        if part.features != parts[0].features:
            raise ValueError(
                f"{file} has other columns than {files[0]}: {_types(part)}, there {_types(parts[0])}. Write all "
                "shards of a table with the same columns and types."
            )
    return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _types(data: datasets.Dataset) -> str:
    return ", ".join(f"{name} ({getattr(kind, 'dtype', kind)})" for name, kind in data.features.items())[:300]


def open_parquet(file: Path, image: str) -> datasets.Dataset:
    """A Parquet file as a data set; images that lie in it as an `Image` column, else their paths as strings.

    Args:
        file: to read.
        image: name of the column with images: paths, bytes, or `{"bytes", "path"}`.
    Raises:
        ValueError: it cannot be read.
    """
    try:
        data = datasets.Dataset.from_parquet(str(file))
        # Text that is no UTF-8 would be an error of whoever reads it.
        data.data.table.validate(full=True)
    # What pyarrow makes of a broken header: errors of the file, of memory, of types and of text.
    except Exception as error:
        cause = in_short(error.__cause__ or error)
        raise ValueError(f"{file} is not a Parquet file that can be read: {cause}") from error
    kind = data.features.get(image)
    if getattr(kind, "dtype", "") in ("binary", "large_binary"):
        return data.cast_column(image, datasets.Image())
    if not (isinstance(kind, datasets.Image) or (isinstance(kind, dict) and set(kind) == {"bytes", "path"})):
        return data
    column = data.data.column(image)
    if pc.struct_field(column, "bytes").null_count < len(data):
        return data.cast_column(image, datasets.Image())
    # None is in the file. As strings their paths get the checks of any table: a file of others names no other folder.
    return datasets.Dataset(
        datasets.table.InMemoryTable(
            data.data.table.drop_columns([image]).append_column(image, pc.struct_field(column, "path"))
        ),
        fingerprint=data._fingerprint,
    )


def _pick(source: Mapping[str, T], split: str | None) -> T:
    """The source of a split from a mapping."""
    found = {SPLIT_NAMES.get(str(key).casefold(), str(key)): value for key, value in source.items()}
    if split is None or split not in found:
        raise ValueError(f"The source has the splits {', '.join(found)}; pass split= one of them, not {split}.")
    return found[split]


def _resolve(source: Source, streaming: bool) -> tuple[Path, ...] | Data | Mapping[str, Data]:
    """The table files that a path means, or a `datasets` object."""
    if isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        return source
    if not isinstance(source, (str, Path)):
        frame = type(source).__name__ == "DataFrame"
        hint = "; make a data set of it with datasets.Dataset.from_pandas(frame)" if frame else ""
        raise ValueError(
            f"The source is {'a DataFrame' if frame else describe(source)}, expected a file, a folder, a Hub id, a "
            f"datasets object or a dictionary of these by split{hint}."
        )
    path = Path(source).expanduser()
    if is_pattern(source):
        return _shards(str(source), glob.glob(str(path), recursive=True))
    file = _table_file(source)
    if file is not None:
        return (file,)
    if path.is_dir():
        try:
            return datasets.load_from_disk(str(path))
        except FileNotFoundError:
            if tables := [str(file) for file in path.iterdir() if file.suffix.lower() == ".parquet"]:
                return _shards(str(path), tables)
            there = sorted(entry.name for entry in os.scandir(path))[:6]
            raise FileNotFoundError(
                f"{path} holds neither a data set written by save_to_disk nor metadata.csv, .jsonl or .parquet, nor "
                f"shards of Parquet; it has {', '.join(there) or 'nothing'}. Pass the table with the captions itself, "
                "or a pattern of tables as 'FOLDER/*.jsonl'."
            ) from None
    if is_hub_id(str(source)):
        return datasets.load_dataset(str(source), streaming=streaming)
    raise FileNotFoundError(f"There is no file or folder {source}, and it is no Hub id (owner/name).")


def _table_file(source: str | Path) -> Path | None:
    """The table that a path means, if it means one."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.glob("metadata.*") if file.suffix.lower() in TABLES and file.is_file())
        return files[0] if files else None
    if path.suffix.lower() in TABLES:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        return path
    if path.is_file():
        raise ValueError(f"{path} is no table that is understood; expected one of {', '.join(TABLES)}.")
    return None


def is_pattern(source: str | Path) -> bool:
    """Whether a path stands for several (`shards/*.parquet`); one that is there stands for itself."""
    return glob.has_magic(str(source)) and not Path(source).expanduser().exists()


def _shards(source: str, found: list[str]) -> tuple[Path, ...]:
    """Files of one table in the order of their names."""
    files = tuple(Path(name) for name in sorted(found))
    if not files:
        raise FileNotFoundError(f"There is no file {source}; write the pattern in quotes, so that no shell reads it.")
    kinds = sorted({file.suffix.lower() for file in files})
    if kinds == [".tar"]:
        raise ValueError(
            f"{source} are archives; open them with datasets.load_dataset('webdataset', data_files=..., "
            "streaming=True) and pass that to load_pairs(..., streaming=True)."
        )
    if len(kinds) > 1 or kinds[0] not in TABLES:
        raise ValueError(
            f"{source} are files of {' and '.join(map(repr, kinds))}; expected one of {', '.join(TABLES)}."
        )
    odd = [file for file in files if not file.is_file()]
    if odd:
        raise ValueError(f"{odd[0]}, one of {source}, is no regular file.")
    return files


def _image_root(image_root: str | Path | None, source: Source, data: object) -> Path:
    """The folder of images given as paths: that of the table, a folder itself, else where the program runs."""
    if image_root is not None:
        return Path(image_root).expanduser()
    if isinstance(data, tuple):
        return Path(os.path.commonpath([file.parent for file in data]))
    if isinstance(source, (str, Path)) and Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    return Path.cwd()


def _places(source: Source, image_root: str | Path | None) -> tuple[Path, ...] | None:
    """Where the images of a source of others lie: its folder, or where `datasets` puts what it downloads."""
    if not isinstance(source, (str, Path)):
        return None
    downloaded = () if Path(source).expanduser().exists() else hub_caches()
    return tuple(Path(place) for place in (image_root, *downloaded) if place is not None)


def hub_caches() -> tuple[Path, ...]:
    """The folders into which images of a data set on the Hub are downloaded."""
    config = datasets.config
    return tuple(map(Path, (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE)))


__all__ = [
    "Data",
    "Opened",
    "Source",
    "hub_caches",
    "is_hub_id",
    "is_pattern",
    "open_parquet",
    "open_parquets",
    "open_source",
    "open_splits",
]
