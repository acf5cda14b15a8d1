"""Trains a model for each fold of the persons, one after the other, and goes on where it was stopped."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..ablation.grid import as_words, digest
from ..contract import refuse_person_options
from ..data.folds import Fold
from ..run_arguments import NoiseArguments, parse_arguments, recipe_options
from ..run_folder import checkpoints_in, locked
from ..run_options import check_selection
from ..run_processes import LOG, RunProcesses

# Where things lie; another place is no other run.
_PLACES = ("data_root", "image_root")
# Said by who starts the runs; and nobody asked for folds on the Hub.
_OWN = ("output_dir", "resume_from_checkpoint", "overwrite_output_dir", "push_to_hub")


def fold_options(recipe: str | Path, source: NoiseArguments) -> dict[str, Any]:
    """Options of the run of every fold: those of a recipe, on the data that are audited.

    Args:
        recipe: YAML file of `scripts/train.py`, or the name of one of the package's own.
        source: the data and their noise, which go before the recipe's.
    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: it is none, leaves out a fold itself, or names data where the audit is told none.
    """
    options = {name: value for name, value in recipe_options(recipe).items() if name not in _OWN}
    if options.get("left_out_fold") is not None:
        raise ValueError(f"{recipe} sets left_out_fold, which is for --folds to say; leave it out of the recipe.")
    data = {option.name: getattr(source, option.name) for option in fields(source)}
    for name, value in data.items():
        if value is None and options.get(name) is not None:
            raise ValueError(
                f"{recipe} sets {name}, and the audit is of data without it; pass --{name} {options[name]} to audit "
                "what the folds are trained on."
            )
    options |= {name: value for name, value in data.items() if value is not None}
    _, _, args = parse_arguments([*as_words(options), "--output_dir", "unused", "--yes"])
    check_selection(args)
    if not source.names_persons:
        refuse_person_options(args)
    return options


def train_folds(
    options: Mapping[str, Any],
    count: int,
    folder: str | Path,
    tell: Callable[[str], None],
    processes: RunProcesses | None = None,
) -> list[Path]:
    """Trains the models of all folds that are not there yet.

    Args:
        options: of `fold_options`.
        count: of folds.
        folder: holds a folder for each run; those that have ended are left as they are, one that was stopped goes on
            from its last checkpoint.
        tell: called with a line before each run.
        processes: how they are started.
    Returns:
        the folders of the models, in the order of the folds.
    Raises:
        ValueError: the folder holds runs with other options, or another program is at work in it.
        ChildProcessError: a run failed; the text says why, and where its output is.
    """
    processes = processes or RunProcesses("AUDIT")
    told = {name: value for name, value in options.items() if name not in _PLACES}
    runs = []
    for number in range(1, count + 1):
        fold = str(Fold(number, count))
        place, sign = Path(folder) / f"fold-{number}-of-{count}", digest([told, fold])
        if not processes.is_of(place, sign) and (checkpoints_in(place) or (place / "results.json").is_file()):
            raise ValueError(
                f"{place} holds a run with other options than these; choose another --folds_dir, or delete it."
            )
        runs.append((fold, place, sign))
    with locked(folder), processes.stop_together():
        for fold, place, sign in runs:
            if processes.is_done(place, sign):
                tell(f"Fold {fold} is trained: {place}")
                continue
            tell(f"Training without fold {fold}: {place / LOG}")
            reason = processes.train(place, {**options, "left_out_fold": fold}, sign)
            if reason:
                raise ChildProcessError(
                    f"The model without fold {fold} could not be trained: {reason} (its output: {place / LOG})"
                )
    return [place for _, place, _ in runs]


__all__ = ["fold_options", "train_folds"]
