"""`amns index` and `amns search`: from a folder of person images and a sentence to the person."""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

from .building import is_main
from .detection import PersonDetector
from .encoders import ExportedEncoder, end_processes
from .gallery import PersonGallery
from .options import HIDDEN
from .place import BROKEN, SETTINGS, GalleryInUse, holds_persons
from .qdrant_store import QdrantStore

_DETECTION = ("label", "threshold", "min_height", "every")


def index(options: argparse.Namespace) -> int:
    """Brings a folder's gallery up to date, or makes it."""
    if isinstance(options.folder, str):
        raise ValueError(f"Name the images to index: amns index FOLDER --gallery {options.folder}.")
    gallery = _open(options)
    if gallery is None:
        gallery = _make(options)
    else:
        _update(gallery, options)
    if is_main():
        _report(gallery, options)
    end_processes()
    return 0


def search(options: argparse.Namespace) -> int:
    """Prints the images of a folder that fit a query best."""
    if options.k < 1:
        raise ValueError(f"-k must be 1 or more, found {options.k}.")
    text, image = _query(options)
    gallery = _open(options)
    if gallery is None:
        if options.no_index:
            raise ValueError(f"There is no gallery for {options.folder} yet, and --no_index was given.")
        gallery = _make(options)
        _report(gallery, options)
    elif (
        not options.no_index
        and not isinstance(options.folder, str)
        and (options.metadata or options.detector or not gallery.is_current())
    ):
        try:
            _update(gallery, options)
            _report(gallery, options)
        except (GalleryInUse, PermissionError) as error:
            _note(options, f"new images are not searched. {error}")
    if options.int8:
        gallery = _quantised(gallery, options)
    if options.long_captions:
        # Both kinds of encoders that a command opens know it.
        cast(Any, gallery.encoder).long_captions = options.long_captions
    exact = True if options.exact else False if options.approximate else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        hits = gallery.search(text, image, options.k, options.where, options.group_by, exact)
    for warning in caught:
        if warning.category is UserWarning:
            _note(options, str(warning.message))
    _print(gallery, hits, options)
    return 0


def _quantised(gallery: PersonGallery, options: argparse.Namespace) -> PersonGallery:
    """The same gallery, asked through the quantised encoders; its images are embedded by the whole ones."""
    name = options.model or gallery.settings["name"]
    if not Path(name).is_dir() or not list(Path(name).glob("*.int8.onnx")):
        raise ValueError(
            f"--int8 needs a model that was exported with --int8; {name} is none. Leave it out, or export."
        )
    quantised = PersonGallery.load(options.place, ExportedEncoder(name, int8=True))
    quantised.settings["source"] = gallery.settings.get("source")
    return quantised


def _query(options: argparse.Namespace) -> tuple[Any, Any]:
    added = [] if options.sentence is None else [options.sentence]
    text = [*((part, 1.0) for part in [*added, *options.add]), *((part, -1.0) for part in options.subtract)]
    image = [*((part, 1.0) for part in options.image), *((part, -1.0) for part in options.subtract_image)]
    if not text and not image:
        raise ValueError('Say what to search for: a sentence such as "a woman in a red coat", or --image FILE.')
    return text, image


def open_gallery(folder: Path | str, gallery: Path | str | None = None, model: str | None = None) -> PersonGallery:
    """The gallery of a folder that is indexed, or the gallery that the folder is.

    Args:
        folder: of images, or a gallery.
        gallery: where the gallery lies, default hidden in the folder.
        model: default the one that it was made with.
    Raises:
        FileNotFoundError: there is no such folder, or no gallery of it.
        ValueError: the gallery is another folder's or another model's.
    """
    found = _load(_Places.of(folder, gallery), model)
    if found is None:
        raise FileNotFoundError(
            f"There is no gallery for {folder} yet. Make it with: amns index {folder} --model {model or 'MODEL'}."
        )
    return found


def _open(options: argparse.Namespace) -> PersonGallery | None:
    """The gallery that the options name, `None` where there is none yet; notes where everything lies."""
    places = _Places.of(options.folder, options.gallery)
    options.root, options.place, options.detector = places.root, places.gallery, _detector(options)
    return _load(places, options.model, options.detector is not None, options.batch_size, options.num_workers)


class _Places(NamedTuple):
    """Where a gallery lies, and what it is of.

    Args:
        named: a folder of images, a recording, or a gallery itself.
        root: that the images lie in.
        gallery: its folder.
        itself: whether a gallery was named.
    """

    named: Path | str
    root: Path
    gallery: Path | str
    itself: bool

    @classmethod
    def of(cls, named: Path | str, gallery: Path | str | None) -> "_Places":
        if isinstance(named, str):
            if gallery is not None:
                raise ValueError(f"{named} is a gallery itself; leave out --gallery, or name the folder of images.")
            return cls(named, Path(), named, True)
        # Beside a recording, hidden too.
        hidden, root = named / HIDDEN, named
        if named.is_file():
            hidden, root = named.with_name(f".{named.name}{HIDDEN}"), named.parent
        elif not named.is_dir():
            raise FileNotFoundError(f"There is no folder {named}.")
        itself = gallery is None and (named / SETTINGS).is_file()
        return cls(named, root, named if itself else gallery or hidden, itself)


def _load(
    places: _Places, model: str | None, detects: bool = False, batch_size: int = 64, num_workers: int = 0
) -> PersonGallery | None:
    named, place = places.named, places.gallery
    if isinstance(named, Path) and named.is_file() and not detects and not holds_persons(place):
        raise ValueError(f"{named} is a file; with --detect MODEL the persons in it are indexed, or pass a folder.")
    if not _is_there(places):
        return None
    gallery = PersonGallery.load(place, model, None, batch_size, num_workers)
    resolved = places.root.resolve()
    if not places.itself:
        # A folder that was moved takes its hidden gallery along; a gallery elsewhere belongs to one folder.
        hidden = isinstance(place, Path) and place.resolve().parent == resolved
        if not hidden and gallery.source not in (None, resolved):
            raise ValueError(f"The gallery {place} is of {gallery.source}, not of {resolved}; give each its own.")
        gallery.settings["source"] = str(resolved)
    return gallery


def _is_there(places: _Places) -> bool:
    if isinstance(places.gallery, Path):
        return (places.gallery / SETTINGS).is_file()
    # Named itself it has to be: opening it says that it is not.
    return places.itself or QdrantStore(places.gallery).exists()


def _make(options: argparse.Namespace) -> PersonGallery:
    if options.model is None:
        raise ValueError(
            f"There is no gallery for {options.folder} yet. Say which model to index it with: "
            f"amns index {options.folder} --model MODEL."
        )
    with _writable(options):
        return PersonGallery.from_images(
            options.model,
            None,
            options.folder,
            options.metadata,
            options.place,
            options.batch_size,
            options.num_workers,
            progress=sys.stderr.isatty(),
            detector=options.detector,
        )


def _update(gallery: PersonGallery, options: argparse.Namespace) -> None:
    with _writable(options):
        gallery.update(metadata=options.metadata, progress=sys.stderr.isatty(), detector=options.detector)


def _detector(options: argparse.Namespace) -> PersonDetector | None:
    """The detector that is named."""
    given = {name: getattr(options, name) for name in _DETECTION if getattr(options, name) is not None}
    if options.detect is None:
        if given:
            raise ValueError(f"--{next(iter(given))} is about persons in frames; it needs --detect MODEL.")
        return None
    return PersonDetector(options.detect, **given)


class _writable:
    """Says of a folder that can't be written to what to do about it."""

    def __init__(self, options: argparse.Namespace):
        self.options = options

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        place = str(self.options.place)
        if (
            isinstance(error, OSError)
            and error.errno in (1, 13, 30)
            and str(error.filename or place).startswith(place)
        ):
            raise PermissionError(
                f"The gallery {place} can't be written ({error.strerror}); pass --gallery DIR with a folder that can."
            ) from error


def _report(gallery: PersonGallery, options: argparse.Namespace) -> None:
    _note(options, f"{gallery.changes}; {len(gallery):,} images in {options.place}")
    if gallery.changes.frames and not len(gallery):
        options_named = ", ".join(f"--{name} {value}" for name, value in gallery.detector.options.items())
        _note(options, f"no person was found in any frame with {options_named}.")
    broken = list(gallery.changes.broken.items())
    for path, reason in broken[:10]:
        # Of a recording that ends in the middle what was read counts.
        left_out = "" if reason.startswith("read up") else "left out "
        _note(options, f"{left_out}{path}: {reason[:200]}")
    if len(broken) > 10:
        where = "" if isinstance(options.place, str) else f"; all are in {options.place / BROKEN}"
        _note(options, f"left out {len(broken) - 10:,} more{where}")


def _print(gallery: PersonGallery, hits: list[Any], options: argparse.Namespace) -> None:
    from .pages import as_html, as_json, as_lines, as_sheet, read_file, read_frame

    # A server's images may lie on another machine: their paths are shown as they are.
    root = gallery.source
    read, frame = read_file(root), read_frame(root)
    shown_root = options.root
    if isinstance(options.folder, str) or (options.folder / SETTINGS).is_file():
        shown_root = None if isinstance(options.folder, str) else root

    def place(path: str) -> str:
        return path if shown_root is None else str(shown_root / path)

    if options.json:
        print(as_json(hits, place))
    elif options.paths:
        for hit in hits:
            print(place(hit.path))
    elif hits:
        print(as_lines(hits))
    if not hits:
        _note(options, "no image fits the filter." if options.where else "the gallery is empty.")
    parts = [*filter(None, [options.sentence]), *options.add, *options.image]
    title = " + ".join(parts) + "".join(f" - {part}" for part in [*options.subtract, *options.subtract_image])
    if options.html:
        about = [f"{len(hits)} of {len(gallery):,} images", f"where {options.where}" if options.where else ""]
        page = as_html(hits, title, " · ".join(filter(None, about)), read, frame)
        Path(options.html).write_text(page, encoding="utf-8")
        _note(options, f"wrote {options.html}")
    if options.sheet:
        as_sheet(hits, title, read, frame).save(options.sheet)
        _note(options, f"wrote {options.sheet}")


def _note(options: argparse.Namespace, text: str) -> None:
    """A line beside the result, which goes to stdout alone."""
    print(f"{options.program}: {' '.join(text.split())}", file=sys.stderr)


__all__ = ["index", "open_gallery", "search"]
