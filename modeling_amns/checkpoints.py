"""Which checkpoints of a run are whole: a manifest is written last, after every process has finished its files."""

import errno
import json
import re
import shutil
from pathlib import Path

from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

logger = logging.get_logger(__name__)

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


class WholeCheckpointsMixin:
    """For a `Trainer`: marks checkpoints as whole, resumes from whole ones only, keeps the last one on a full disk."""

    def train(self, resume_from_checkpoint=None, **kwargs):
        """As `Trainer.train`; `resume_from_checkpoint=True` (or "true") takes the newest whole checkpoint.

        A checkpoint that was being written when its process ended is skipped with a warning; named explicitly, it is
        an error.
        """
        # The command line hands over text.
        if resume_from_checkpoint is True or str(resume_from_checkpoint).lower() == "true":
            resume_from_checkpoint, skipped = last_whole_checkpoint(self.args.output_dir)
            for folder, problems in skipped.items():
                logger.warning(f"{folder} is not whole and is skipped: {'; '.join(problems)}.")
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no whole checkpoint in {self.args.output_dir} to resume from.")
            logger.warning(f"Resuming from {resume_from_checkpoint}.")
        elif resume_from_checkpoint:
            problems = missing_parts(resume_from_checkpoint)
            if problems:
                raise ValueError(
                    f"{resume_from_checkpoint} can't be resumed from: {'; '.join(problems)}. Pass "
                    "--resume_from_checkpoint true to take the newest whole one."
                )
        return super().train(str(resume_from_checkpoint) if resume_from_checkpoint else None, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            # Only now has every process written its part.
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_manifest(folder)
        except Exception as error:
            message = disk_full_message(error, folder)
            if message is None:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(message) from error
        finally:
            self.args.save_total_limit = limit
        # Older ones go after the new one is known to be whole, not before.
        if self.args.should_save:
            rotate_checkpoints(str(folder.parent), limit, self.state.best_model_checkpoint)


__all__ = [
    "MANIFEST",
    "WholeCheckpointsMixin",
    "disk_full_message",
    "last_whole_checkpoint",
    "missing_parts",
    "write_manifest",
]
