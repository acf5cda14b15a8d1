"""What lies in a gallery's folder beside its rows: whose it is, what was left out, who writes."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..disk import names_full_disk
from ..extras import require
from .building import Broken
from .cropping import Looked
from .encoders import Encoder, check_same
from .exact import FULL, write_json
from .metadata import check_names
from .table import Table

SETTINGS, BROKEN, LOOKED, LOCK = "gallery.json", "broken.json", "frames.json", "lock"
_FORMAT = 1


class GalleryInUse(ValueError):
    """Another process is writing to a gallery."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Alone with a gallery's folder; the lock goes with its process, however that ends.

    Raises:
        GalleryInUse: another process is writing to it.
    """
    filelock = require("filelock", "search", "Writing to a gallery")
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise GalleryInUse(f"Another process is writing to the gallery in {folder}; try again later.") from None
    try:
        with names_full_disk(folder, FULL):
            yield
    finally:
        lock.release()


@contextlib.contextmanager
def whole_or_gone(folder: Path | None) -> Iterator[None]:
    """For a gallery that is written in one go: an error leaves nothing of one that is new."""
    fresh = folder is not None and not (folder / BROKEN).exists() and not list(folder.glob("*.lance"))
    try:
        yield
    except BaseException:
        if folder is not None and fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def read_settings(folder: Path) -> dict[str, Any]:
    """What a gallery's folder says of it.

    Raises:
        FileNotFoundError: it holds no gallery.
        ValueError: it can't be read, or was written by a later version.
    """
    file = folder / SETTINGS
    if not file.is_file():
        raise FileNotFoundError(f"There is no gallery in {folder}; make one with PersonGallery.from_images.")
    advice = "Remove the gallery and index the images anew."
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        version, model = settings["format"], settings["model"]
        whole = isinstance(model["dimension"], int) and isinstance(settings["name"], str) and isinstance(version, int)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} can't be read, was it copied in full? {advice} ({error})") from error
    if not whole or version != _FORMAT:
        raise ValueError(f"{file} is of format {version}, this version reads format {_FORMAT}. {advice}")
    return settings


def note_metadata(settings: dict[str, Any], file: Path) -> None:
    """Keeps which file the metadata came from, and what state it was in."""
    found = file.stat()
    settings["metadata"] = [str(file.resolve()), found.st_size, found.st_mtime_ns]


def noted_metadata(settings: dict[str, Any]) -> str | None:
    """The file that the metadata came from, if it is still there."""
    noted = settings.get("metadata")
    return noted[0] if noted is not None and Path(noted[0]).is_file() else None


def metadata_changed(settings: dict[str, Any]) -> bool:
    """Whether that file has changed since."""
    file = noted_metadata(settings)
    if file is None:
        return False
    found = Path(file).stat()
    return settings["metadata"][1:] != [found.st_size, found.st_mtime_ns]


def read_parquet(file: Path, dimension: int) -> Table:
    """Rows with vectors from a Parquet file; files' states are unknown where it has none.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds no such rows.
    """
    import pyarrow as pa
    import pyarrow.parquet

    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    try:
        found = pyarrow.parquet.read_table(file)
        for name, kind, missing in (
            ("file_size", pa.int64(), 0),
            ("file_mtime_ns", pa.int64(), 0),
            ("file_sha256", pa.string(), ""),
        ):
            if name not in found.column_names:
                found = found.append_column(name, pa.array([missing] * found.num_rows, kind))
        if "vector" not in found.column_names:
            raise ValueError("there is no column vector")
        listed = found.column("vector").cast(pa.list_(pa.float32(), dimension))
        found = found.set_column(found.column_names.index("vector"), "vector", listed)
        table = Table.from_arrow(found)
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{file} holds no rows of a gallery with vectors of {dimension} numbers: {error}.") from error
    check_names(table.kinds, str(file))
    if len(set(table.paths)) < len(table) or not all(table.paths):
        raise ValueError(f"{file}: each row needs a path of its own.")
    assert table.vectors is not None
    lengths = np.linalg.norm(table.vectors, axis=1, keepdims=True)
    if not np.isfinite(table.vectors).all() or (lengths == 0).any():
        raise ValueError(f"{file}: each vector needs finite numbers that are not all zero.")
    # Those of a gallery stay as they are, to the bit.
    table.vectors = np.where(np.abs(lengths - 1) < 1e-6, table.vectors, table.vectors / lengths)
    return table


def new_settings(encoder: Encoder) -> dict[str, Any]:
    """What a new gallery of a model says of itself."""
    identity = json.loads(json.dumps(encoder.identity))
    name = os.path.abspath(encoder.name) if os.path.exists(encoder.name) else encoder.name
    return {"format": _FORMAT, "name": name, "model": identity}


def settings_for(folder: Path, encoder: Encoder, writer: bool) -> dict[str, Any]:
    """What the gallery in a folder says of itself; the writer makes it if there is none.

    Raises:
        ValueError: it is another model's, or the folder holds something else.
    """
    if (folder / SETTINGS).exists():
        settings = read_settings(folder)
        check_same(settings["model"], encoder, str(folder), settings["name"])
        return settings
    settings = new_settings(encoder)
    if writer:
        require("lancedb", "search", "A gallery in a folder")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} holds something else than a gallery; take an empty folder or a new one.")
        folder.mkdir(parents=True, exist_ok=True)
        write_settings(folder, settings)
    return settings


def holds_persons(folder: str | Path | None) -> bool:
    """Whether the gallery in a folder is one of persons in frames, by what it says of itself."""
    return folder is not None and (Path(folder) / SETTINGS).exists() and "detector" in read_settings(Path(folder))


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes what a gallery says of itself; which model it was opened with this time is no part of that."""
    with names_full_disk(folder, FULL):
        write_json(folder / SETTINGS, {name: value for name, value in settings.items() if name != "open"})


def write_broken(folder: Path, broken: Broken) -> None:
    """Writes which images could not be read."""
    write_json(folder / BROKEN, broken)


def read_broken(folder: Path) -> Broken:
    """Which images could not be read before; nothing where that is not known."""
    try:
        found = json.loads((folder / BROKEN).read_text(encoding="utf-8"))
        return {name: (int(size), int(mtime_ns), str(text)) for name, (size, mtime_ns, text) in found.items()}
    # It only saves a second try.
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_looked(folder: Path, looked: dict[str, Looked]) -> None:
    """Writes which whole frames and recordings have been looked at."""
    write_json(folder / LOOKED, looked)


def read_looked(folder: Path) -> dict[str, Looked]:
    """Which whole frames and recordings have been looked at; nothing where that is not known."""
    try:
        found = json.loads((folder / LOOKED).read_text(encoding="utf-8"))
        looked = {str(name): Looked(*seen) for name, seen in found.items()}
        if all(seen.began is None or isinstance(seen.size + seen.mtime_ns, int) for seen in looked.values()):
            return looked
    # Looking again finds the same persons.
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return {}


__all__ = [
    "BROKEN",
    "LOOKED",
    "SETTINGS",
    "GalleryInUse",
    "holds_persons",
    "metadata_changed",
    "new_settings",
    "note_metadata",
    "noted_metadata",
    "read_broken",
    "read_looked",
    "read_parquet",
    "read_settings",
    "settings_for",
    "whole_or_gone",
    "write_broken",
    "write_looked",
    "write_settings",
    "writing",
]
