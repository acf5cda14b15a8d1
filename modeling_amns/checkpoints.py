"""Which checkpoints of a run are whole: a manifest is written after every process has finished its files."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy, TrainOutput
from transformers.utils import logging

from . import disk

logger = logging.get_logger(__name__)

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def write_manifest(checkpoint: str | Path, to_come: tuple[str, ...] = ()) -> None:
    """Marks a checkpoint as whole: records the size of each of its files, atomically.

    Args:
        checkpoint: folder, all of whose processes have finished their files.
        to_come: JSON files that are written afterwards; without them, or with half of one, it is not whole.
    """
    folder = Path(checkpoint)
    sizes: dict[str, int | None] = {
        file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()
    }
    sizes.pop(MANIFEST, None)
    sizes |= dict.fromkeys(to_come)
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
        if size is None:
            if not _is_json(folder / name):
                problems.append(f"{name} is missing or cut short")
        elif found != size:
            problems.append(f"{name} has {found if found is not None else 'no'} bytes, {size} were written")
    return problems


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return True


def last_whole_checkpoint(output_dir: str | Path) -> tuple[Path | None, dict[Path, list[str]]]:
    """The newest whole checkpoint of a run, and the newer ones that are not whole with the reasons.

    Args:
        output_dir: folder with `checkpoint-<step>` folders.
    Returns:
        the checkpoint, `None` if there is none, and what was skipped.
    """
    folder = Path(output_dir)
    entries = folder.iterdir() if folder.is_dir() else ()
    found = [(int(name.group(1)), entry) for entry in entries if (name := _NAME.fullmatch(entry.name))]
    skipped: dict[Path, list[str]] = {}
    for _, checkpoint in sorted(found, reverse=True):
        problems = missing_parts(checkpoint)
        if not problems:
            return checkpoint, skipped
        skipped[checkpoint] = problems
    return None, skipped


def disk_full_message(error: BaseException, checkpoint: str | Path) -> str | None:
    """A line for the user if an error while saving means that the disk is full, else `None`; see `disk`."""
    whole, _ = last_whole_checkpoint(Path(checkpoint).parent)
    kept = f"The last whole checkpoint is {whole}" if whole else "There is no earlier checkpoint"
    advice = f"{kept}. Free some space or set save_total_limit, then resume with --resume_from_checkpoint true."
    return disk.disk_full_message(error, checkpoint, advice)


class WholeCheckpoints(Trainer):
    """Marks checkpoints as whole, resumes from whole ones only, and keeps the last one on a full disk.

    A new best evaluation is saved although its step is none of `save_steps`: what is called best can be read back.
    """

    _saved_step: int | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As `Trainer.train`; `resume_from_checkpoint=True` (or "true") takes the newest whole checkpoint.

        A checkpoint that was being written when its process ended is skipped with a warning; named explicitly, it is
        an error.
        """
        checkpoint = _asked_for(resume_from_checkpoint)
        if checkpoint is True:
            found, skipped = last_whole_checkpoint(str(self.args.output_dir))
            for folder, problems in skipped.items():
                logger.warning(f"{folder} is not whole and is skipped: {'; '.join(problems)}.")
            if found is None:
                raise ValueError(f"There is no whole checkpoint in {self.args.output_dir} to resume from.")
            logger.warning(f"Resuming from {found}.")
            checkpoint = str(found)
        elif checkpoint:
            problems = missing_parts(checkpoint)
            if problems:
                raise ValueError(
                    f"{checkpoint} can't be resumed from: {'; '.join(problems)}. Pass "
                    "--resume_from_checkpoint true to take the newest whole one."
                )
        self._saved_step = None
        return super().train(checkpoint or None, *args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH):
            if self._saved_step == self.state.global_step:
                folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
                self.state.best_model_checkpoint = str(folder)
            else:
                self.control.should_save = True
        return is_best

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Now every process has written its part. `Trainer` goes on with its own state, then removes older checkpoints:
        # by then this one has to be known as whole.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_manifest(output_dir, to_come=(TRAINER_STATE_NAME,))

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        try:
            if self.args.should_save:
                # Of an earlier run's checkpoint of this step, which is written over.
                (folder / MANIFEST).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_manifest(folder)
        except Exception as error:
            message = disk_full_message(error, folder)
            if message is None:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(message) from error
        self._saved_step = self.state.global_step


def _asked_for(resume: str | Path | bool | None) -> str | bool:
    """A checkpoint, True for the newest, or False; the command line and recipes hand over text."""
    word = str(resume).lower()
    if word in ("true", "yes", "on"):
        return True
    return False if word in ("false", "no", "off", "none", "") else str(resume)


__all__ = [
    "MANIFEST",
    "WholeCheckpoints",
    "disk_full_message",
    "last_whole_checkpoint",
    "missing_parts",
    "write_manifest",
]
