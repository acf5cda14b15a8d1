"""One audit of a training set: embedded once, compared with itself, judged, and said pair by pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils import logging

from ..data.records import PersonId
from ..embedding import embed_images, embed_texts
from ..pair_weighting import SCORES_FILE
from ..protocols import MaskedEncoder, PairProcessor
from .scoring import against_truth, compare_pairs, judge_pairs
from .suspects import Suspect

logger = logging.get_logger(__name__)

_COLUMNS = ("image", "caption", "person_id", "image_id", "image_path")


@dataclass(frozen=True)
class Audit:
    """What was found.

    Args:
        suspects: all pairs, the most suspicious first.
        share: estimated share of wrong pairs, in [0, 1].
        two_groups: whether scores fall into plausible and doubtful pairs at all.
        truth: see `against_truth`; `None` where it is not known which pairs are right.
        images: L2-normalised embeddings, each image once, float32 [M, D].
        first_rows: the first row of each image, int64 [M].
        persons: person of each image, int64 [M].
    """

    suspects: Sequence[Suspect]
    share: float
    two_groups: bool
    truth: Mapping[str, float | None] | None
    images: Tensor
    first_rows: NDArray[np.int64]
    persons: Tensor

    def as_text(self) -> str:
        """The estimate, beside the truth where it is known."""
        lines = [f"- pairs: {len(self.suspects):,}", f"- estimated share of wrong pairs: {self.share:.1%}"]
        if not self.two_groups:
            lines[-1] += ", as their scores do not fall into two groups"
        if self.truth is not None:
            lines[-1] += f" (true share: {self.truth['true_share']:.1%})"
            found = {"AUROC": self.truth["auroc"], "precision at the estimated share": self.truth["precision"]}
            lines += [f"- {name}: {value:.4f}" for name, value in found.items() if value is not None]
        return "\n".join(lines)


def audit_pairs(
    model: MaskedEncoder,
    processor: PairProcessor,
    train: datasets.Dataset,
    run_loss: NDArray[np.floating] | None = None,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: bool = False,
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
    Returns:
        the pairs, the most suspicious first; the same on every process.
    Raises:
        ValueError: it is a stream, lacks a column, is of one person, or the model gives NaN.
        ImportError: scikit-learn is not installed.
    """
    if not isinstance(train, datasets.Dataset):
        raise ValueError(
            f"An audit compares each pair with all others and needs a datasets.Dataset; found {type(train).__name__}. "
            "Load a stream with streaming=False."
        )
    if lacking := [name for name in _COLUMNS if name not in train.column_names]:
        raise ValueError(f"The data set lacks {', '.join(lacking)}; it has {', '.join(train.column_names)}.")
    _, first, image_of = np.unique(train["image_id"][:], return_index=True, return_inverse=True)
    persons, captions = torch.tensor(train["person_id"][:]), train["caption"][:]
    images = embed_images(model, processor, train.select(first), batch_size, num_workers, progress)
    texts = embed_texts(model, processor, captions, batch_size, progress)
    temperature = float(torch.exp(-model.logit_scale.detach().float()))
    # On the accelerator where there is one; there the comparison costs next to nothing.
    there = model.device
    compared = compare_pairs(
        images.to(there), torch.from_numpy(image_of).to(there), texts.to(there), persons.to(there), temperature
    )
    score = compared.score()
    found = judge_pairs(score)
    names, paths = person_names(train), image_names(train)
    clean = train["is_clean"][:] if "is_clean" in train.column_names else None
    scores: dict[str, NDArray] = {"score": score, "text_loss": compared.loss_text, "image_loss": compared.loss_image}
    scores |= {"image_rank": compared.rank_image, "text_rank": compared.rank_caption}
    scores |= {} if run_loss is None else {"moving_loss": run_loss}
    suspects = [
        Suspect(
            row=row,
            path=paths[row],
            caption=captions[row],
            person_id=names[row],
            probability=float(1 - found.plausible[row]),
            scores={name: float(values[row]) for name, values in scores.items()},
            better_path=paths[first[compared.best_image[row]]] if compared.rank_image[row] > 1 else None,
            better_caption=captions[compared.best_caption[row]] if compared.rank_caption[row] > 1 else None,
            is_clean=None if clean is None else clean[row],
        )
        for row in range(len(train))
    ]
    suspects.sort(key=lambda suspect: (-suspect.probability, -suspect.scores["score"]))
    return Audit(
        suspects,
        found.doubtful_share,
        found.low is not None,
        None if clean is None else against_truth(score, found.doubtful_share, np.array(clean)),
        images,
        first,
        persons[first],
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
