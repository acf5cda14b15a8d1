"""Image files below one folder: paths that stay inside it, and which of them are there, found by listing folders."""

import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from ..image_modes_amns import readable_formats

MAX_PATH_CHARACTERS = 1024
# Sub-folders that an error message lists before it counts the rest.
MAX_LISTED = 12
_IMPOSSIBLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def relative_path(text: str) -> str:
    """A path of an annotation in one spelling: relative, with `/`, without `.` and empty parts.

    Args:
        text: as the annotation has it; Windows separators are understood.
    Raises:
        ValueError: it is empty, absolute, leads out of the image folder or cannot be a file name; the text says which.

    Example:

        >>> relative_path("cam_a\\\\./0001.png")
        'cam_a/0001.png'
    """
    if len(text) > MAX_PATH_CHARACTERS:
        raise ValueError(f"has {len(text):,} characters, expected at most {MAX_PATH_CHARACTERS:,}")
    if _IMPOSSIBLE.search(text):
        raise ValueError(f"is {text[:60]!r}, expected no control characters and no lone surrogates")
    unified = text.replace("\\", "/")
    parts = [part for part in unified.split("/") if part not in ("", ".")]
    if unified.startswith("/") or (parts and parts[0][1:2] == ":"):
        raise ValueError(f"is the absolute path {text!r}, expected one relative to the image folder")
    if ".." in parts:
        raise ValueError(f"is {text!r}, which leaves the image folder; expected a path inside it, without '..'")
    if not parts:
        raise ValueError(f"is {text!r}, expected the path of an image")
    return "/".join(parts)


@functools.lru_cache(maxsize=1)
def _other_endings() -> frozenset[str]:
    """Of pictures that Pillow knows and that are not opened here: `.eps` and its kind."""
    formats = set(readable_formats())
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name not in formats) | {
        ".svg",
        ".svgz",
        ".pdf",
    }


def check_ending(path: str) -> None:
    """A ValueError for a file whose name says that it is a picture of a kind that is not read.

    What has no ending, or one that no picture has, is looked at when it is opened.
    """
    if os.path.splitext(path)[1].lower() in _other_endings():
        raise ValueError(f"{path} is of a kind that is not read; expected one of {', '.join(readable_formats())}.")


def check_folder(images: str | Path) -> None:
    """A FileNotFoundError where there is no such folder of images."""
    if not Path(images).is_dir():
        raise FileNotFoundError(f"There is no image folder {images}; pass image_root=, the folder of the images.")


def check_place(path: str, roots: Sequence[str | Path], name: str) -> None:
    """A ValueError for an image that a stranger's data set names, and that lies in none of these folders.

    Args:
        path: of a file; of the Hub's own (`hf://`) nothing is asked.
        roots: the folders.
        name: of the column.
    """
    if path.rpartition("::")[2].startswith("hf://"):
        return
    whole = os.path.realpath(path)
    if not any(_below(whole, os.path.realpath(root)) for root in roots):
        raise ValueError(f"{name} is the path {path[:200]!r}, expected an image inside the data set or in its folder")
    if os.path.exists(whole) and not os.path.isfile(whole):
        raise ValueError(f"{path} is no regular file; expected an image")
    check_ending(path)


def _below(target: str, root: str) -> bool:
    return target == root or target.startswith(root.rstrip(os.sep) + os.sep)


class ImageFolder:
    """What lies below a folder, each sub-folder listed once when it is first asked for.

    Args:
        root: the image folder; may itself be a link.
    """

    def __init__(self, root: str | Path):
        self.root = os.path.abspath(root)
        self._real = os.path.realpath(root)
        self._files: dict[str, frozenset[str]] = {}
        self._links: set[str] = set()
        self._odd: set[str] = set()
        self._spellings: dict[str, tuple[dict[str, str], dict[str, str]]] = {}

    def missing(self, paths: Iterable[str]) -> list[str]:
        """The paths without a file, in the order given, each once.

        Raises:
            ValueError: a path leads through a link out of the folder, or to what is no regular file or of a kind that
                is not read.
        """
        absent: dict[str, None] = {}
        for path in paths:
            check_ending(path)
            parent, _, name = path.rpartition("/")
            if name not in self._listing(parent):
                if path in self._odd:
                    self.check(path)
                absent[path] = None
            elif path in self._links:
                self._refuse_outside(path)
        return list(absent)

    def check(self, path: str) -> None:
        """A ValueError for a path as `missing` has them.

        Looks at this path alone, where `missing` lists its whole folder. A file that is not there passes.
        """
        check_ending(path)
        self._refuse_outside(path)
        whole = os.path.join(self.root, path)
        if os.path.exists(whole) and not os.path.isfile(whole):
            raise ValueError(f"{whole} is no regular file; expected an image")

    def describe_missing(self, missing: list[str], paths: Iterable[str]) -> str:
        """Missing files by sub-folder with counts, and what is there under a similar name.

        Args:
            missing: as `missing` returns them.
            paths: all paths, of which they are missing.
        """
        total = Counter(map(_top, set(paths)))
        lacking = Counter(map(_top, missing))
        parts = []
        for top, count in lacking.most_common(MAX_LISTED):
            absent = "" if os.path.isdir(os.path.join(self.root, top)) else " (no such sub-folder)"
            parts.append(f"{top or 'directly in it'}: {count:,} of {total[top]:,}{absent}")
        if len(lacking) > MAX_LISTED:
            rest = sum(count for _, count in lacking.most_common()[MAX_LISTED:])
            parts.append(f"{len(lacking) - MAX_LISTED:,} more sub-folders: {rest:,}")
        text = "; ".join(parts) + f". First: {missing[0]}."
        similar = [(path, found) for path in missing if (found := self._similar(path))]
        if similar:
            path, found = similar[0]
            text += (
                f" {len(similar):,} of them are there under another spelling or extension, for example {path} as "
                f"{found}: rename the files as the annotation names them."
            )
        return text

    def _listing(self, parent: str) -> frozenset[str]:
        if parent not in self._files:
            self._refuse_outside(parent)
            names = []
            try:
                with os.scandir(os.path.join(self.root, parent)) as entries:
                    for entry in entries:
                        if entry.is_file():
                            names.append(entry.name)
                            if entry.is_symlink():
                                self._links.add(f"{parent}/{entry.name}".lstrip("/"))
                        elif not entry.is_dir() and os.path.exists(entry.path):
                            self._odd.add(f"{parent}/{entry.name}".lstrip("/"))
            except (FileNotFoundError, NotADirectoryError):
                pass
            self._files[parent] = frozenset(names)
        return self._files[parent]

    def _refuse_outside(self, path: str) -> None:
        target = os.path.realpath(os.path.join(self.root, path))
        if not _below(target, self._real):
            raise ValueError(
                f"{path} in {self.root} is a link to {target}, outside of the image folder. Copy or hard-link the "
                f"files into it (cp -rl), or make {self.root} itself a link to the folder that holds all images."
            )

    def _similar(self, path: str) -> str | None:
        """A file whose path differs in case, Unicode form or extension only."""
        current = ""
        *parents, name = path.split("/")
        for part in parents:
            whole, _ = self._spelling(current)
            if _key(part) not in whole:
                return None
            current = f"{current}/{whole[_key(part)]}".lstrip("/")
        whole, stems = self._spelling(current)
        found = whole.get(_key(name)) or stems.get(_key(os.path.splitext(name)[0]))
        return f"{current}/{found}".lstrip("/") if found else None

    def _spelling(self, parent: str) -> tuple[dict[str, str], dict[str, str]]:
        if parent not in self._spellings:
            try:
                names = os.listdir(os.path.join(self.root, parent))
            except OSError:
                names = []
            stems = {_key(os.path.splitext(name)[0]): name for name in names if os.path.splitext(name)[1]}
            self._spellings[parent] = {_key(name): name for name in names}, stems
        return self._spellings[parent]


def _top(path: str) -> str:
    return path.split("/", 1)[0] if "/" in path else ""


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


__all__ = ["ImageFolder", "check_ending", "check_folder", "check_place", "relative_path"]
