"""Which checkpoints of a run are whole: a manifest is written after every process has finished its files."""

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy, TrainOutput
from transformers.utils import logging

from . import disk
from .resuming import ResumesExactly
from .run_folder import check_wishes, checkpoints_in, delete_run, locked, refuse_foreign, refuse_used, set_back
from .run_record import differences, make_record, pace_of, read_record, reading_of, resumed_record, write_record
from .training_args import AMNSTrainingArguments

logger = logging.get_logger(__name__)

MANIFEST = "manifest.json"
_Made = TypeVar("_Made")


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
    skipped: dict[Path, list[str]] = {}
    for checkpoint in reversed(checkpoints_in(output_dir).values()):
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


def check_resumable(checkpoint: str | Path) -> None:
    """Refuses to resume from what is not whole, or from weights alone.

    Raises:
        ValueError: what is missing, and what to do instead.
    """
    problems = missing_parts(checkpoint)
    if problems:
        raise ValueError(
            f"{checkpoint} can't be resumed from: {'; '.join(problems)}. Pass --resume_from_checkpoint true to take "
            "the newest whole one."
        )
    if not (Path(checkpoint) / OPTIMIZER_NAME).is_file():
        raise ValueError(
            f"{checkpoint} can't be resumed from: it holds no optimizer state, as with --save_only_model true. Start "
            "a new run from its weights with --model_name_or_path."
        )


def newest_resumable(output_dir: str | Path) -> Path:
    """The newest checkpoint of a folder that can be resumed from; newer ones are named in a warning.

    Raises:
        ValueError: there is none.
    """
    reason = ""
    for checkpoint in reversed(checkpoints_in(output_dir).values()):
        problems = missing_parts(checkpoint)
        if not problems:
            try:
                check_resumable(checkpoint)
                return checkpoint
            except ValueError as error:
                reason = reason or f" {error}"
                problems = ["it holds no optimizer state"]
        logger.warning(f"{checkpoint} is not whole and is skipped: {'; '.join(problems)}.")
    raise ValueError(f"There is no whole checkpoint in {output_dir} to resume from.{reason}")


class WholeCheckpoints(ResumesExactly):
    """Marks checkpoints as whole and of this run, resumes from such only, and keeps the last one on a full disk.

    A new best evaluation is saved although its step is none of `save_steps`: what is called best can be read back.
    """

    args: AMNSTrainingArguments
    # What decides this run besides its arguments, by name; a program that reads data and model sets it.
    run_options: Mapping[str, Any] = {}
    run_record: dict[str, Any] | None = None
    # Closed when `train` ends.
    _stack = contextlib.ExitStack()
    _saved_step: int | None = None

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: object = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """As `Trainer.train`; `resume_from_checkpoint=True` (or "true") takes the newest whole checkpoint.

        A checkpoint that was being written when its process ended is skipped with a warning; named explicitly, it is
        an error. A run resumes from checkpoints of its own only: what would make it another run (see
        `run_record.DECIDING`) must be as it was.

        Raises:
            ValueError: there is nothing to resume from, the checkpoint is of another run, or a run that starts anew
                finds another one's checkpoints in `output_dir`.
        """
        with contextlib.ExitStack() as stack:
            self._stack = stack
            # One process decides for all: they would find the folder at different times.
            checkpoint, self.run_record = self._agreed(lambda: self._begin(resume_from_checkpoint, trial, stack))
            before = read_record(checkpoint) if checkpoint else None
            self.read_state(checkpoint, pace_of(before))
            self.expect(reading_of(before))
            inside = checkpoint is not None and Path(checkpoint).parent.resolve() == self._folder.resolve()
            self._saved_step = self._resumed.global_step if inside and self._resumed else None
            return super().train(checkpoint, cast(Any, trial), *args, **kwargs)

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def _agreed(self, work: Callable[[], _Made]) -> _Made:
        """What the main process makes, on all; its error, too."""
        outcome: list[Any] = [None, None]
        if self.is_world_process_zero():
            try:
                outcome[0] = work()
            except (ValueError, OSError) as error:
                outcome[1] = error
        broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _begin(
        self, resume: str | bool | None, trial: object, stack: contextlib.ExitStack
    ) -> tuple[str | None, dict[str, Any] | None]:
        asked = asked_for(resume)
        if self._is_trial(trial):
            # It has a folder of its own, which is known once its values are set: see `_hp_search_setup`.
            if asked is True:
                raise ValueError("A trial resumes from a checkpoint that is named; which one is the search's to say.")
            if asked:
                check_resumable(asked)
            # Searches that go on with other values do so on purpose: they are not compared.
            return (str(asked), read_record(asked)) if asked else (None, None)
        stack.enter_context(locked(self._folder))
        check_wishes(bool(asked), self.args.overwrite_output_dir)
        if not asked:
            record = make_record(self, self.run_options)
            if self.args.overwrite_output_dir:
                delete_run(self._folder)
            refuse_used(self._folder, whole_run=False)
            return None, record
        if asked is True:
            checkpoint = newest_resumable(self._folder)
            logger.warning(f"Resuming from {checkpoint}.")
        else:
            checkpoint = Path(str(asked))
            check_resumable(checkpoint)
        self._check_state(checkpoint)
        record, before = make_record(self, self.run_options), read_record(checkpoint)
        step = int(json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"])
        if before is None:
            logger.warning(f"{checkpoint} does not say which run wrote it, so its options and data are not compared.")
        else:
            changed = differences(before, record)
            if changed:
                raise ValueError(
                    f"{checkpoint} is of another run: {'; '.join(changed)}. Resume with what it was started with, or "
                    "start a new run from its weights: --model_name_or_path, and another --output_dir."
                )
            record = resumed_record(before, record, step)
            if record["changes"] and record["changes"][-1]["step"] == step:
                logger.warning(f"The run goes on with other options: {record['changes'][-1]}.")
        refuse_foreign(self._folder, record["run"])
        if checkpoint.parent.resolve() == self._folder.resolve():
            set_back(self._folder, step)
        return str(checkpoint), record

    def _is_trial(self, trial: object) -> bool:
        return trial is not None and self.hp_search_backend is not None

    def _hp_search_setup(self, trial: object) -> None:
        """As `Trainer`; then the folder of the trial is its own until it ends, and empty where it starts anew."""
        super()._hp_search_setup(cast(Any, trial))
        if self._is_trial(trial):
            self._agreed(lambda: self._begin_trial(trial))

    def _begin_trial(self, trial: object) -> None:
        folder = Path(self._get_output_dir(trial=cast(Any, trial)))
        # Not that of the search: several processes may work on one.
        self._stack.enter_context(locked(folder))
        if self.resumed_from is None:
            if self.args.overwrite_output_dir:
                delete_run(folder)
            refuse_used(folder, whole_run=False, trial=True)

    def _check_state(self, checkpoint: Path) -> None:
        """For what a trainer keeps besides: raises an error where a checkpoint lacks it."""

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
        run_dir = Path(self._get_output_dir(trial=trial))
        folder = run_dir / f"checkpoint-{self.state.global_step}"
        if self.run_record is None:
            self.run_record = make_record(self, self.run_options)
        if self.pace is not None:
            self.run_record["pace"] = list(self.pace)
        if self.reading is not None:
            self.run_record["reading"] = self.reading._asdict()
        if self.args.should_save and self.args.save_total_limit:
            # Older ones are removed, by their names alone.
            refuse_foreign(run_dir, self.run_record["run"])
        try:
            if self.args.should_save:
                _begin_anew(folder)
                write_record(self.run_record, folder)
            # No process may write into what is still being emptied.
            self.accelerator.wait_for_everyone()
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


def _begin_anew(folder: Path) -> None:
    """Empties a checkpoint that is written over, its manifest first: from then on it is not whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def asked_for(resume: str | Path | bool | None) -> str | bool:
    """A checkpoint, True for the newest, or False; the command line and recipes hand over text."""
    word = str(resume).lower()
    if word in ("true", "yes", "on"):
        return True
    return False if word in ("false", "no", "off", "none", "") else str(resume)


__all__ = [
    "MANIFEST",
    "WholeCheckpoints",
    "asked_for",
    "check_resumable",
    "disk_full_message",
    "last_whole_checkpoint",
    "missing_parts",
    "newest_resumable",
    "write_manifest",
]
