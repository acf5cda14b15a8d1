"""Which checkpoints of a run are whole: a manifest is written last, after every process has finished its files."""

import errno
import json
import re
import shutil
from pathlib import Path

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def write_manifest(checkpoint: str | Path) -> None:
    """Marks a checkpoint as whole: records the size of each of its files, atomically."""
    folder = Path(checkpoint)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
    sizes.pop(MANIFEST, None)
    partial = folder / (MANIFEST + ".partial")
    partial.write_text(json.dumps(sizes, indent=2))
    partial.rename(folder / MANIFEST)


def missing_parts(checkpoint: str | Path) -> list[str]:
    """What keeps a checkpoint from being whole, a line each; empty for a whole one."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return [f"{folder} is no folder"]
    if not (folder / MANIFEST).is_file():
        return [f"{MANIFEST} is missing, so the process ended while it was written"]
    sizes = json.loads((folder / MANIFEST).read_text())
    problems = []
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            problems.append(f"{name} has {found if found is not None else 'no'} bytes, {size} were written")
    return problems


def last_whole_checkpoint(output_dir: str | Path) -> tuple[Path | None, dict[Path, list[str]]]:
    """The newest whole checkpoint of a run, and the newer ones that are not whole with the reasons.

    Args:
        output_dir: folder with `checkpoint-<step>` folders.
    Returns:
        the checkpoint, `None` if there is none, and what was skipped.
    """
    folder = Path(output_dir)
    found = [entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name)] if folder.is_dir() else []
    skipped = {}
    for checkpoint in sorted(found, key=lambda entry: int(_NAME.fullmatch(entry.name).group(1)), reverse=True):
        problems = missing_parts(checkpoint)
        if not problems:
            return checkpoint, skipped
        skipped[checkpoint] = problems
    return None, skipped


def disk_full_message(error: BaseException, checkpoint: str | Path) -> str | None:
    """A line for the user if an error while saving means that the disk is full, else `None`."""
    text = f"{error} {error.__cause__ or ''}".lower()
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "no space left" in text
    if not full and not ("write" in text and _free(checkpoint) < 2**20):
        return None
    whole, _ = last_whole_checkpoint(Path(checkpoint).parent)
    kept = f"the last whole checkpoint is {whole}" if whole else "there is no earlier checkpoint"
    return (
        f"No space left on the disk while writing {checkpoint} ({_free(checkpoint) / 2**30:.2f} GiB free); {kept}. "
        "Free some space or set save_total_limit, then resume with --resume_from_checkpoint true."
    )


def _free(path: str | Path) -> int:
    path = Path(path)
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


__all__ = ["MANIFEST", "disk_full_message", "last_whole_checkpoint", "missing_parts", "write_manifest"]
