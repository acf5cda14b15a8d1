"""A run's `output_dir`: one run at a time, and nothing of another run in it."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from transformers.utils import logging

from .run_record import read_record

logger = logging.get_logger(__name__)

LOCK = ".run.lock"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# What a run leaves besides checkpoints, and what `overwrite_output_dir` deletes.
_RESULTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors", "adapter", "results.json")
_BESIDE = (
    *("trainer_state.json", "training_args.bin", "queries.parquet", "pair_scores.parquet"),
    *("ranking.png", "mask.png", "pairs.png", "curves.png", "attention.png", "masks.png"),
)
# Locks that this process holds, and how often.
_held: dict[str, tuple[IO[str], int]] = {}


def checkpoints_in(folder: str | Path) -> dict[int, Path]:
    """The `checkpoint-<step>` folders of a folder by step, whole or not, in order."""
    path = Path(folder)
    entries = path.iterdir() if path.is_dir() else ()
    found = {int(name.group(1)): entry for entry in entries if (name := _CHECKPOINT.fullmatch(entry.name))}
    return dict(sorted(found.items()))


def _left(folder: str | Path, patterns: tuple[str, ...]) -> list[Path]:
    """Checkpoints, and what of these names there is."""
    found = sorted(path for pattern in patterns for path in Path(folder).glob(pattern))
    return [*checkpoints_in(folder).values(), *found]


def check_wishes(resumes: bool, overwrites: bool, folder: str | Path = "", start: str | None = None) -> None:
    """Before anything is read or deleted.

    Args:
        resumes: the run goes on with what is there.
        overwrites: what is there is deleted.
        folder: the `output_dir`.
        start: checkpoint that the run starts from.
    Raises:
        ValueError: one needs what the other deletes.
    """
    if not overwrites:
        return
    if resumes:
        raise ValueError(
            "overwrite_output_dir would delete what resume_from_checkpoint goes on with; leave one of them out."
        )
    if start and Path(start).exists() and Path(start).resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"The run starts from {start}, which overwrite_output_dir would delete with what is in {folder}; choose "
            "another --output_dir."
        )


def refuse_used(folder: str | Path, whole_run: bool, trial: bool = False) -> None:
    """For a run that starts anew.

    Args:
        folder: its `output_dir`.
        whole_run: also where only a final model or a report of a run is in it.
        trial: it is one of a search for hyperparameters, in a folder of its own.
    Raises:
        ValueError: it holds another run.
    """
    found = _left(folder, _RESULTS if whole_run else ())
    if found and trial:
        raise ValueError(
            f"{folder} is in use: it holds {_listed(found)} of a trial of another search. Choose another output_dir, "
            "or let each trial delete what lies in its folder: overwrite_output_dir=True."
        )
    if found:
        raise ValueError(
            f"{folder} is in use: it holds {_listed(found)} of another run. Go on with that one by "
            "--resume_from_checkpoint true, choose another --output_dir, or delete what it left with "
            "--overwrite_output_dir true."
        )


def refuse_foreign(folder: str | Path, run: str) -> None:
    """For a run that goes on: no other run's checkpoints may be in its folder.

    Raises:
        ValueError: there are some.
    """
    records = {path: read_record(path) for path in checkpoints_in(folder).values()}
    foreign = [path for path, record in records.items() if record is not None and record["run"] != run]
    if foreign:
        raise ValueError(
            f"{folder} holds {_listed(foreign)} of another run than this one. Choose another --output_dir; a "
            "checkpoint to resume from may lie elsewhere."
        )


def delete_run(folder: str | Path) -> None:
    """Deletes what runs have left in a folder, and says so before; files of other kinds stay."""
    found = _left(folder, _RESULTS + _BESIDE)
    if not found:
        return
    logger.warning(f"overwrite_output_dir deletes from {folder}: {', '.join(path.name for path in found)}.")
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def set_back(folder: str | Path, step: int) -> None:
    """Makes later checkpoints than a step older than all others.

    A run that goes on from an earlier one than its last writes them again; when older ones are removed, these go
    first, not those that are written now.
    """
    found = checkpoints_in(folder)
    if found:
        oldest = min(path.stat().st_mtime for path in found.values()) - 60
        for later in (path for number, path in found.items() if number > step):
            os.utime(later, (oldest, oldest))


def _listed(paths: list[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keeps other runs out of a folder, as long as this process lives at most.

    The lock is the system's own, on a file that names the process: one that was killed holds none. Where the file
    system knows no locks, it is left aside with a warning.

    Raises:
        ValueError: another run is using the folder.
    """
    key = os.path.realpath(folder)
    file, count = _held.get(key, (None, 0))
    made = False
    if file is None:
        made = not Path(folder).exists()
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = _lock(Path(folder) / LOCK, folder)
    if file is None:
        yield
        return
    _held[key] = (file, count + 1)
    try:
        yield
    finally:
        file, count = _held.pop(key)
        if count > 1:
            _held[key] = (file, count - 1)
        else:
            # While it is held, so that nobody else's is removed.
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            file.close()
        if made:
            # A run that was refused leaves no empty folder; one that began has filled it.
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _lock(path: Path, folder: str | Path) -> IO[str] | None:
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return None
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            # Of the process, not of the open file: workers that outlive it do not keep the lock.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(200).strip()
            file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ValueError(
                    f"{folder} is in use by another run{f' ({owner})' if owner else ''}. Wait for its end, or choose "
                    "another --output_dir."
                ) from None
            logger.warning(f"{folder} cannot be locked ({error}): take care that no other run writes into it.")
            return None
        # Whoever held it before may have removed it in between.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
                file.truncate(0)
                file.write(f"process {os.getpid()}")
                file.flush()
            return file
        file.close()


__all__ = [
    "LOCK",
    "check_wishes",
    "checkpoints_in",
    "delete_run",
    "locked",
    "refuse_foreign",
    "refuse_used",
    "set_back",
]
