"""One audit of a training set: scored by a model or by several, judged, and said pair by pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from ..data.records import PersonId
from ..embedding import embed_images
from ..pair_weighting import SCORES_FILE
from ..protocols import MaskedEncoder, PairProcessor
from .cross_fitting import CrossFitted
from .pair_scores import EmbeddedPairs, PairScores, score_pairs
from .scoring import against_truth, judge_pairs
from .suspects import Suspect

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Audit:
    """What was found.

    Args:
        suspects: all pairs, the most suspicious first.
        share: estimated share of wrong pairs, in [0, 1].
        two_groups: whether scores fall into plausible and doubtful pairs at all.
        truth: see `against_truth`; `None` where it is not known which pairs are right.
        own: what the model finds of the pairs, also where others have judged them.
        embedded: what that was taken from.
        first_rows: the first row of each image, int64 [M].
        folds: how many models have judged the pairs that they had not seen; 0 where one has judged all.
        own_truth: with folds, `against_truth` of the one model that has seen all pairs, at the same share.
    """

    suspects: Sequence[Suspect]
    share: float
    two_groups: bool
    truth: Mapping[str, float | None] | None
    own: PairScores
    embedded: EmbeddedPairs
    first_rows: NDArray[np.int64]
    folds: int = 0
    own_truth: Mapping[str, float | None] | None = None

    def as_text(self) -> str:
        """The estimate, beside the truth where it is known."""
        lines = [f"- pairs: {len(self.suspects):,}"]
        if self.folds:
            lines.append(
                f"- probability and order: of {self.folds} models, each for the persons that it has not seen; the "
                "model's own scores stand beside"
            )
        lines += [f"- estimated share of wrong pairs: {self.share:.1%}"]
        if not self.two_groups:
            lines[-1] += ", as their scores do not fall into two groups"
        if self.truth is not None:
            lines[-1] += f" (true share: {self.truth['true_share']:.1%})"
            found = {"AUROC": self.truth["auroc"], "precision at the estimated share": self.truth["precision"]}
            beside = self.own_truth or {}
            own = {"AUROC": beside.get("auroc"), "precision at the estimated share": beside.get("precision")}
            for name, value in found.items():
                if value is not None:
                    lines.append(f"- {name}: {value:.4f}")
                    lines[-1] += "" if own[name] is None else f" (the model's own scores: {own[name]:.4f})"
        return "\n".join(lines)


def audit_pairs(
    model: MaskedEncoder,
    processor: PairProcessor,
    train: datasets.Dataset,
    run_loss: NDArray[np.floating] | None = None,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: bool = False,
    cross: CrossFitted | None = None,
    teacher: MaskedEncoder | None = None,
) -> Audit:
    """Finds out which pairs of a training set are likely wrong.

    Args:
        model: an `AMNSModel` (not wrapped), on its device.
        processor: its `AMNSProcessor`.
        train: as `load_benchmark(name, root, "train")` or `load_pairs` returns it. Its `is_clean`, where
            `inject_noise` left one, is compared with what was found and used for nothing else.
        run_loss: what the run remembers, see `run_losses`; it stands beside the other scores and is not counted in.
        batch_size: images or captions per process and step.
        num_workers: processes that decode images.
        progress: show bars on the main process.
        cross: of `cross_fit`: what models that have not seen them find of the pairs. Probability, order and what fits
            better then come from it, and `model`'s own scores stand beside.
        teacher: of `teacher_of`. Its score of each pair, with the model's captions, stands beside the others as
            `teacher_score` and is not counted in.
    Returns:
        the pairs, the most suspicious first; the same on every process.
    Raises:
        ValueError: it is a stream, lacks a column, is of one person, or the model gives NaN.
        ImportError: scikit-learn is not installed.
    """
    own, embedded, first = score_pairs(model, processor, train, batch_size, num_workers, progress)
    judging = own if cross is None else cross.scores
    score = judging.columns["score"]
    found = judge_pairs(score)
    names, paths, captions = person_names(train), image_names(train), train["caption"][:]
    clean = train["is_clean"][:] if "is_clean" in train.column_names else None
    scores = dict(own.columns)
    scores |= {} if run_loss is None else {"moving_loss": run_loss}
    if teacher is not None:
        images = embed_images(teacher, processor, train.select(first), batch_size, num_workers, progress)
        scores["teacher_score"] = replace(embedded, images=images.to(embedded.images)).compare().score()
    if cross is not None:
        scores |= {f"cross_{name}": values for name, values in judging.columns.items()}
    suspects = [
        Suspect(
            row=row,
            path=paths[row],
            caption=captions[row],
            person_id=names[row],
            probability=float(1 - found.plausible[row]),
            scores={name: float(values[row]) for name, values in scores.items()},
            better_path=paths[judging.better_image[row]] if judging.columns["image_rank"][row] > 1 else None,
            better_caption=captions[judging.better_caption[row]] if judging.columns["text_rank"][row] > 1 else None,
            is_clean=None if clean is None else clean[row],
        )
        for row in range(len(train))
    ]
    suspects.sort(key=lambda suspect: (-suspect.probability, -score[suspect.row]))
    share = found.doubtful_share
    return Audit(
        suspects,
        share,
        found.low is not None,
        None if clean is None else against_truth(score, share, np.array(clean)),
        own,
        embedded,
        first,
        0 if cross is None else cross.folds,
        None if clean is None or cross is None else against_truth(own.columns["score"], share, np.array(clean)),
    )


def image_names(train: datasets.Dataset) -> list[str]:
    """What each row's image is called: its path, or its number where a data set holds it without a name."""
    return [path or f"image {number}" for path, number in zip(train["image_path"][:], train["image_id"][:])]


def person_names(train: datasets.Dataset) -> list[PersonId]:
    """What each row's person is called: the name that own pairs have, or the number."""
    return train["person_name" if "person_name" in train.column_names else "person_id"][:]


def run_losses(checkpoint: str | Path, train: datasets.Dataset) -> NDArray[np.float32] | None:
    """What the run that wrote a checkpoint remembers of each pair: moving averages of its loss.

    Args:
        checkpoint: the run's `output_dir`.
        train: the set that is audited.
    Returns:
        nats, NaN where a pair was not seen, float32 [pairs]; `None`, with a line where there is a file, if the run
        left none or was trained on other pairs.
    """
    file = Path(checkpoint) / SCORES_FILE
    if not file.is_file():
        return None
    try:
        found = cast(datasets.Dataset, datasets.Dataset.from_parquet(str(file)))
        losses, truth = np.array(found["loss"][:], np.float32), found["is_clean"][:]
    # What pyarrow and datasets raise of a broken file.
    except Exception as error:
        raise ValueError(f"{file} can't be read ({type(error).__name__}); remove it to go on without it.") from error
    clean = train["is_clean"][:] if "is_clean" in train.column_names else [None] * len(train)
    if len(losses) != len(train) or truth != clean:
        why = (
            f"{len(losses):,} pairs, here are {len(train):,}" if len(losses) != len(train) else "other wrong captions"
        )
        logger.warning(f"{file} is of a run on another set ({why}); it is left aside.")
        return None
    return losses


__all__ = ["Audit", "audit_pairs", "image_names", "person_names", "run_losses"]
