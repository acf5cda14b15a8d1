"""Where a gallery's images come from: a folder, a list of paths or images, or a data set of `datasets`."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import Frame, ImageLike, Images, MetadataTable
from .metadata import check_names, read_metadata, typed
from .recordings import SUFFIXES as RECORDINGS
from .table import FileState

if TYPE_CHECKING:
    import datasets

SUFFIXES = frozenset((".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))


@dataclass
class Source:
    """Images by the name that they have in a gallery, in their order.

    Args:
        images: each image by its name; names of files of a folder are relative to it, with `/`.
        folder: the folder, if it is one: what is no longer in it can be told.
        states: bytes and time of the last change, of files.
        columns: metadata that the images bring along, a list of as many values as there are images.
        only: name of the file that the source is, alone in its folder.
    """

    images: "dict[str, ImageLike | _Row]"
    folder: Path | None = None
    states: dict[str, tuple[int, int]] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    only: str | None = None

    @classmethod
    def of(cls, images: Images, recordings: bool = False) -> "Source":
        """The source that a user's argument stands for.

        Args:
            images: as in `PersonGallery.from_images`.
            recordings: whole frames are wanted: recordings count too, and a file alone may be the source.
        Raises:
            FileNotFoundError: there is no such folder.
            NotADirectoryError: it is a file.
            ValueError: there are no images in it, or two of one name.
        """
        if isinstance(images, Source):
            return images
        if isinstance(images, (str, Path)):
            if recordings and Path(images).is_file():
                return cls._of_file(Path(images))
            return cls.of_folder(Path(images), recordings)
        if hasattr(images, "column_names"):
            return cls._of_dataset(images)
        if isinstance(images, Mapping) or not isinstance(images, Iterable):
            raise ValueError(
                "Images come as a folder, a list of paths or PIL images, or a data set with a column image; found "
                f"{type(images).__name__}. Of a DatasetDict take one split."
            )
        return cls._of_list(list(images))

    @classmethod
    def of_folder(cls, folder: Path, recordings: bool = False) -> "Source":
        """All image files in a folder and its sub-folders, on request recordings too; hidden ones are left out."""
        states = list_images(folder, recordings)
        if not states:
            suffixes = SUFFIXES | RECORDINGS if recordings else SUFFIXES
            there = 0 if recordings else len(list_images(folder, recordings=True))
            hint = f" There are {there:,} recordings, in which a detector finds persons." if there else ""
            raise ValueError(
                f"There are no images in {folder}; looked in it and its sub-folders for "
                f"{', '.join(sorted(suffixes))}.{hint}"
            )
        return cls({name: folder / name for name in states}, folder.resolve(), states)

    @classmethod
    def _of_file(cls, file: Path) -> "Source":
        if file.suffix.lower() not in SUFFIXES | RECORDINGS:
            raise ValueError(
                f"{file} is neither an image nor a recording by its name; expected "
                f"{', '.join(sorted(SUFFIXES | RECORDINGS))}."
            )
        return cls({file.name: file}, file.parent.resolve(), {file.name: _state(file)}, only=file.name)

    @classmethod
    def _of_list(cls, images: list[Any]) -> "Source":
        named: dict[str, ImageLike | _Row] = {}
        states = {}
        for number, image in enumerate(images):
            is_file = isinstance(image, (str, Path))
            if not is_file and not hasattr(image, "convert"):
                raise ValueError(f"Image {number} is a {type(image).__name__}; expected a path or a PIL image.")
            name = Path(image).as_posix() if is_file else f"image {number}"
            if name in named:
                raise ValueError(f"{name} is in the list twice; an image has one place in a gallery.")
            named[name] = image
            if is_file:
                states[name] = _state(Path(image))
        return cls(named, None, states)

    @classmethod
    def _of_dataset(cls, dataset: "datasets.Dataset") -> "Source":
        import datasets

        if "image" not in dataset.column_names:
            raise ValueError(f"The data set has no column image; it has {', '.join(dataset.column_names)}.")
        rows = dataset.with_format(None).cast_column("image", datasets.Image(decode=False))
        if "image_path" in dataset.column_names:
            names = [str(path) for path in rows["image_path"][:]]
        else:
            names = [f"row {number}" for number in range(len(rows))]
        if len(set(names)) < len(names):
            raise ValueError(
                "The data set names an image twice in image_path; take one row for each image, as the gallery of "
                'load_benchmark(name, root, "test")["gallery"] has.'
            )
        columns = {name: rows[name][:] for name in rows.column_names if name not in ("image", "image_path")}
        lazy = _Rows(rows)
        return cls({name: _Row(lazy, number) for number, name in enumerate(names)}, columns=columns)


class _Rows:
    """The image column of a data set, read row by row."""

    def __init__(self, dataset: "datasets.Dataset"):
        self.column = dataset.select_columns(["image"])


@dataclass(frozen=True)
class _Row:
    """An image of a data set that is read when it is its turn."""

    rows: _Rows
    number: int

    def read(self) -> dict[str, Any]:
        return self.rows.column[self.number]["image"]


def read_image(image: "ImageLike | _Row") -> ImageLike:
    """What an encoder takes: a path, an image or {"path", "bytes"}."""
    return image.read() if isinstance(image, _Row) else image


def list_images(folder: Path, recordings: bool = False) -> dict[str, tuple[int, int]]:
    """Bytes and time of the last change of each image file below a folder, by its path relative to it, sorted.

    Args:
        folder: the folder.
        recordings: list them too.
    Raises:
        OSError: the folder, or one in it, can't be listed: nothing is left out without a word.
    """
    return dict(sorted(_walk(os.fspath(folder), "", SUFFIXES | RECORDINGS if recordings else SUFFIXES)))


def _walk(folder: str, prefix: str, suffixes: frozenset[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            # Hidden, the gallery itself among them; or of a name that is no text.
            if entry.name.startswith(".") or not _is_text(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/", suffixes)
            elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():
                found = entry.stat()
                yield prefix + entry.name, (found.st_size, found.st_mtime_ns)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _state(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return (0, 0)  # reading it will say what is wrong
    return found.st_size, found.st_mtime_ns


def content_hash(image: ImageLike) -> str:
    """SHA-256 of a file's bytes, or of an image's mode, size and pixels.

    Raises:
        OSError: the file can't be read.
    """
    if isinstance(image, Mapping):
        data = image.get("bytes")
        return content_hash(image["path"]) if data is None else hashlib.sha256(data).hexdigest()
    if isinstance(image, (str, Path)):
        digest = hashlib.sha256()
        with open(image, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def file_state(source: Source, name: str, image: ImageLike) -> FileState:
    """An image's state; that of one that is no file is its content alone."""
    return FileState(*source.states.get(name, (0, 0)), content_hash(image))


class Metadata:
    """Metadata of a source's images from a table beside them and from the source's own columns.

    Args:
        source: the images.
        table: file, rows, or a data frame of `pandas`; `None` for the source's own columns alone.

    `unmatched` counts rows of the table that are about no image of the source.
    """

    def __init__(self, source: Source, table: MetadataTable | None = None):
        names = list(source.images)
        columns = dict(source.columns)
        self.unmatched = self.rows = 0
        where = "metadata"
        if table is not None:
            rows, key, where = _rows(table)
            self.rows = len(rows)
            check_names(dict.fromkeys(name for row in rows for name in row if name != key), where)
            place = {name: number for number, name in enumerate(names)}
            for row in rows:
                number = place.get(_name(row.get(key), source.folder))
                if number is None:
                    self.unmatched += 1
                    continue
                for name, value in row.items():
                    if name != key:
                        columns.setdefault(name, [None] * len(names))[number] = value
        check_names(columns, where)
        self.kinds, self.values = typed(columns)
        self.place = {name: number for number, name in enumerate(names)}

    def of(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The values of some images, by column."""
        places = [self.place[name] for name in names]
        return {name: [column[place] for place in places] for name, column in self.values.items()}


def _rows(table: MetadataTable) -> tuple[list[dict[str, Any]], str, str]:
    if isinstance(table, (str, Path)):
        return (*read_metadata(table), str(table))
    rows = [dict(row) for row in (table.to_dict("records") if isinstance(table, Frame) else table)]
    if any("path" not in row for row in rows):
        raise ValueError("Each row of metadata needs a column path that says which image it is about.")
    return rows, "path", "metadata"


def _name(path: object, folder: Path | None) -> str:
    """The name of an image in a gallery as a table writes it: relative to the folder, or in it."""
    text = str(path).replace("\\", "/")
    if folder is not None:
        text = os.path.normpath(text).replace(os.sep, "/")
        if os.path.isabs(text):
            text = os.path.relpath(text, folder).replace(os.sep, "/")
    return text


__all__ = ["SUFFIXES", "Metadata", "Source", "content_hash", "file_state", "list_images", "read_image"]
