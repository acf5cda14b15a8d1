"""A full disk in one line, and files and folders that are written whole or not at all.

Writers say little when there is no room: torch "unexpected pos 576 vs 534", Pillow "encoder error -2". So the file
system is asked.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from .stops import hold_stops

# Beside what it will replace: only within one file system a rename is whole or not done.
ASIDE = ".partial"
ADVICE = "Free some space, then run the same command again."
RESUME = "Free some space; a run that has a checkpoint goes on with --resume_from_checkpoint true."
_FULL = {
    errno.ENOSPC: "No space left on the disk",
    errno.EDQUOT: "The disk quota is used up",
    errno.EFBIG: "A file has reached the largest size that is allowed here (ulimit -f, or the file system's)",
}
# Windows has numbers of its own, which reach us as text only: Python translates its errors.
_NUMBERS = {number: number for number in _FULL} | (dict.fromkeys((39, 112), errno.ENOSPC) if os.name == "nt" else {})
# How writers in Rust and C++ spell the number of an error of the system.
_SPELT = re.compile(r"\b(?:os error|errno) (\d+)\b", re.IGNORECASE)
_PROBE_MIB = 16


class DiskFullError(OSError):
    """What was being written did not fit; the text says where, how much is free and what to do."""


def disk_full_message(error: BaseException, path: str | Path, advice: str = ADVICE) -> str | None:
    """A line for the user if an error while writing means that the disk is full, else `None`.

    Args:
        error: of whatever wrote: an `OSError` says so by its number, others are judged by whether the file system of
            `path` takes 16 MiB more. So ask before the half-written file is removed.
        path: file or folder that was being written.
        advice: what to do.
    Example:
        >>> disk_full_message(OSError(28, "No space left on device"), "/", "Free some.").partition(" (")[0]
        'No space left on the disk while writing /'
        >>> disk_full_message(FileNotFoundError(2, "No such file"), "/") is None
        True
    """
    number = next(filter(None, map(_number, _chain(error))), None)
    path = Path(path)
    # What writers raise that do not say what the system told them.
    silent = isinstance(error, (OSError, RuntimeError)) or "safetensors" in type(error).__module__
    if number is None and (not silent or getattr(error, "errno", None) is not None):
        return None
    refusals = {place: refused for place in (path, Path(tempfile.gettempdir())) if (refused := _refusal(place))}
    if number is None and not refusals:
        return None
    # Libraries write to the folder for temporary files too, which may be the one that is full.
    place, refused = next(iter(refusals.items()), (path, None))
    free = shutil.disk_usage(_existing(place)).free / 2**30
    where = f"{path}" if place == path else f"{path}, in the folder for temporary files, {place},"
    return f"{_FULL[number or refused or errno.ENOSPC]} while writing {where} ({free:.2f} GiB free). {advice}"


def names_no_room(error: BaseException) -> bool:
    """Whether an error, or one that it came from, has the number of a full disk."""
    return any(map(_number, _chain(error)))


@contextmanager
def names_full_disk(path: str | Path, advice: str = ADVICE) -> Iterator[None]:
    """Errors inside that mean a full disk become a `DiskFullError`; others stay as they are."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        message = disk_full_message(error, path, advice)
        if message is None:
            raise
        raise DiskFullError(message) from error


@contextmanager
def whole_file(path: str | Path, advice: str = ADVICE) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end; after an error `path` is as before.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "a.json") as part:
    ...         _ = part.write_text("{}")
    ...     [file.name for file in Path(folder).iterdir()]
    ['a.json']
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with names_full_disk(path, advice):
            yield part
            _sync(part)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: str | Path, text: str, advice: str = ADVICE) -> None:
    """Writes a text file, in UTF-8 with `\\n` at the ends of lines, whole or not at all."""
    with whole_file(path, advice) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def whole_folder(folder: str | Path, last: str, replaces: Sequence[str] = (), advice: str = ADVICE) -> Iterator[Path]:
    """A folder inside `folder` to write to, whose files take their places in `folder` once all are written.

    Whatever ends the writing before, also a kill, leaves what was in `folder` as it was. A kill while the files take
    their places leaves `folder` without `last`, so that nobody reads half of the one and half of the other.

    Args:
        folder: made if it is not there. Its other files stay.
        last: name of the file without which nobody reads the folder.
        replaces: patterns of files in `folder` that go if they were not written anew.
        advice: what to do if the disk is full.
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    aside, kept = folder / ASIDE, False
    try:
        with names_full_disk(folder, advice):
            folder.mkdir(parents=True, exist_ok=True)
            _remove(aside)  # of a process that was killed
            aside.mkdir()
            yield aside
            for file in aside.rglob("*"):
                _sync(file)
            with hold_stops():
                kept = True  # what is whole is not thrown away for an error of the last moment
                _take_places(aside, folder, last, replaces)
                kept = False
    finally:
        if not kept:
            shutil.rmtree(aside, ignore_errors=True)
        for place in made:
            with suppress(OSError):  # not empty, or not made
                place.rmdir()


def whole_model(folder: str | Path, advice: str = ADVICE) -> AbstractContextManager[Path]:
    """`whole_folder` for `save_pretrained`: weights of an earlier model go, in however many files they were."""
    return whole_folder(folder, "config.json", ("model*.safetensors*",), advice)


def refuse_model(folder: str | Path, patterns: Sequence[str]) -> None:
    """A ValueError for a folder with a model: its processor and results would stand beside another one's weights.

    Args:
        folder: to write to.
        patterns: of the files that make it one.
    """
    used = [path.name for pattern in patterns for path in Path(folder).glob(pattern)]
    if used:
        raise ValueError(f"{folder} holds a model already ({used[0]}); choose a new folder.")


def _take_places(aside: Path, folder: Path, last: str, replaces: Sequence[str]) -> None:
    entries = sorted(aside.iterdir(), key=lambda entry: entry.name == last)
    names = {entry.name for entry in entries}
    if last in names:
        _remove(folder / last)
    for pattern in replaces:
        for old in folder.glob(pattern):
            if old.name not in names:
                _remove(old)
    for entry in entries:
        if entry.is_dir() or (folder / entry.name).is_dir():
            _remove(folder / entry.name)
        os.replace(entry, folder / entry.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Some file systems say only now that there is no room."""
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and what was being handled then."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        error_or_none = rest.pop(0)
        if error_or_none is not None and id(error_or_none) not in seen:
            seen.add(id(error_or_none))
            rest += [error_or_none.__cause__, error_or_none.__context__]
            yield error_or_none


def _number(error: BaseException) -> int | None:
    """The number of the system's error, if it is one of a full disk."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in _FULL else None
    if found := _SPELT.search(str(error)):
        return _NUMBERS.get(int(found.group(1)))
    return errno.ENOSPC if "no space left on device" in str(error).lower() else None


def _refusal(path: Path) -> int | None:
    """The number of the error with which a file system refuses a few MiB, if it is one of a full disk."""
    try:
        with tempfile.TemporaryFile(dir=_existing(path)) as file:
            # What can be packed or left out would not be refused.
            block = os.urandom(2**20)
            for _ in range(_PROBE_MIB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno if error.errno in _FULL else None
    return None


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next((place for place in (path, *path.parents) if place.is_dir()), Path.cwd())


__all__ = [
    "ADVICE",
    "ASIDE",
    "RESUME",
    "DiskFullError",
    "disk_full_message",
    "names_full_disk",
    "names_no_room",
    "refuse_model",
    "whole_file",
    "whole_folder",
    "whole_model",
    "write_whole",
]
