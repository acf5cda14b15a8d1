"""Pairs judged by models that have not seen them: one model for each fold of the persons.

A model that has learnt a wrong pair by heart no longer doubts it. Confident learning (arXiv 1911.00068) takes what it
counts from held-out predictions for that reason; here folds are of persons, as the pairs of one resemble each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from ..data.folds import Fold, pairs_digest, person_folds
from ..protocols import MaskedEncoder, PairProcessor
from ..report import find_report
from ..run_record import read_record
from .pair_scores import PairScores, score_pairs


@dataclass(frozen=True)
class CrossFitted:
    """What models find of the pairs that they have not seen.

    Args:
        scores: losses, ranks and what fits better, each among the fold of the pair.
        folds: how many.
    """

    scores: PairScores
    folds: int


def check_folds(train: datasets.Dataset, count: int) -> NDArray[np.int64]:
    """The fold of each pair, where each fold can be audited.

    Args:
        train: with `person_id`.
        count: of folds.
    Raises:
        ValueError: a fold has fewer than two persons.
    """
    ids = np.asarray(train["person_id"][:])
    folds = person_folds(ids, count)
    for number in range(1, count + 1):
        if len(np.unique(ids[folds == number])) < 2:
            raise ValueError(
                f"Fold {number} of {count} has one person alone, and an audit compares pairs with those of others; "
                "ask for fewer folds."
            )
    return folds


def check_fold_models(folders: Sequence[str | Path], train: datasets.Dataset) -> None:
    """Makes sure that each checkpoint is of a run that has not seen its fold.

    Args:
        folders: output folders of runs with `--left_out_fold 1/K` to `K/K`, or checkpoints in them, in this order.
        train: the set that is audited, with its noise.
    Raises:
        ValueError: a run has no record of a fold, or of another one, or of another set.
        FileNotFoundError: there is no such folder.
    """
    digest = pairs_digest(train)
    for number, folder in enumerate(folders, start=1):
        fold = Fold(number, len(folders))
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"There is no folder {folder}; pass that of a run with --left_out_fold {fold}.")
        known = _recorded(Path(folder))
        found = known.get("left_out_fold")
        if found != str(fold):
            said = "has no record of a fold that its run left out" if found is None else f"is of a run with {found}"
            raise ValueError(
                f"{folder} {said}; expected a run with --left_out_fold {fold}. Pass the models of all folds in order."
            )
        if known.get("left_out_of") != digest:
            raise ValueError(
                f"{folder} is of a run on other pairs than these: other persons or captions. Pass the options of data "
                "and noise that it was trained with."
            )


def _recorded(folder: Path) -> dict[str, Any]:
    """What a run says of itself: in its report, which must be of these weights, or in its checkpoint."""
    report = find_report(folder)
    if report is not None:
        return report.training
    options = (read_record(folder) or {}).get("options")
    return options if isinstance(options, dict) else {}


def cross_fit(
    folders: Sequence[str | Path],
    load: Callable[[str | Path], tuple[MaskedEncoder, PairProcessor]],
    train: datasets.Dataset,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: bool = False,
) -> CrossFitted:
    """Scores each pair by the model that has not seen its person, among the pairs of its fold.

    Args:
        folders: see `check_fold_models`.
        load: gives the model of a folder, on its device, and its processor; one at a time is held.
        train: the set that is audited, with its noise.
        batch_size, num_workers, progress: as of `audit_pairs`.
    Returns:
        scores of all pairs; a loss is in units of a guess among the fold, so folds can be put together.
    Raises:
        ValueError: as of `check_folds`, `check_fold_models` and `audit_pairs`.
    """
    folds = check_folds(train, len(folders))
    check_fold_models(folders, train)
    columns: dict[str, NDArray] = {}
    better_image, better_caption = np.zeros(len(train), np.int64), np.zeros(len(train), np.int64)
    for number, folder in enumerate(folders, start=1):
        rows = np.flatnonzero(folds == number)
        model, processor = load(folder)
        found, _, _ = score_pairs(model, processor, train.select(rows), batch_size, num_workers, progress)
        for name, values in found.columns.items():
            columns.setdefault(name, np.zeros(len(train), values.dtype))[rows] = values
        better_image[rows], better_caption[rows] = rows[found.better_image], rows[found.better_caption]
        del model
    return CrossFitted(PairScores(columns, better_image, better_caption), len(folders))


__all__ = ["CrossFitted", "check_fold_models", "check_folds", "cross_fit"]
