"""What one model finds of the pairs of a training set: embedded once and compared with each other."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.long_captions import refuse_long
from ..embedding import embed_images, embed_texts
from ..protocols import MaskedEncoder, PairProcessor
from .scoring import Comparison, compare_pairs

_COLUMNS = ("image", "caption", "person_id", "image_id", "image_path")


@dataclass(frozen=True)
class EmbeddedPairs:
    """A training set as one model sees it, and which caption stands with which image.

    Args:
        images: L2-normalised embeddings, each image once, float32 [M, D].
        image_of: the image of each pair, int64 [pairs].
        captions: L2-normalised embeddings, float32 [pairs, D].
        persons: person of each pair, int64 [pairs].
        temperature: of the model.
    """

    images: Tensor
    image_of: Tensor
    captions: Tensor
    persons: Tensor
    temperature: float

    @property
    def image_persons(self) -> Tensor:
        """Person of each image, int64 [M]."""
        return self.persons.new_zeros(len(self.images)).scatter_(0, self.image_of, self.persons)

    def moved(self, rows: NDArray[np.int64], images: NDArray[np.int64]) -> "EmbeddedPairs":
        """The same with some captions at other images, and so of their persons.

        Args:
            rows: of the captions, int64 [moved].
            images: where each goes, int64 [moved].
        """
        there = torch.from_numpy(images).to(self.image_of)
        image_of, persons = self.image_of.clone(), self.persons.clone()
        image_of[rows], persons[rows] = there, self.image_persons[there]
        return replace(self, image_of=image_of, persons=persons)

    def compare(self) -> Comparison:
        """Each pair against all images and captions of other persons; see `compare_pairs`."""
        return compare_pairs(self.images, self.image_of, self.captions, self.persons, self.temperature)


@dataclass(frozen=True)
class PairScores:
    """Scores of all pairs; rows are those of the training set.

    Args:
        columns: `score`, `text_loss`, `image_loss`, `image_rank`, `text_rank`, each [pairs]; see `Comparison`.
        better_image: a row of the image of another person that fits the caption best, int64 [pairs].
        better_caption: the row of the caption of another person that fits the image best, int64 [pairs].
    """

    columns: Mapping[str, NDArray]
    better_image: NDArray[np.int64]
    better_caption: NDArray[np.int64]


def score_pairs(
    model: MaskedEncoder,
    processor: PairProcessor,
    train: datasets.Dataset,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: bool = False,
) -> tuple[PairScores, EmbeddedPairs, NDArray[np.int64]]:
    """Embeds pairs and compares each with all others; arguments and errors as of `audit_pairs`.

    Returns:
        the scores; what they were taken from; the first row of each image, int64 [M].
    """
    if not isinstance(train, datasets.Dataset):
        raise ValueError(
            f"An audit compares each pair with all others and needs a datasets.Dataset; found {type(train).__name__}. "
            "Load a stream with streaming=False."
        )
    if lacking := [name for name in _COLUMNS if name not in train.column_names]:
        raise ValueError(f"The data set lacks {', '.join(lacking)}; it has {', '.join(train.column_names)}.")
    _, first, image_of = np.unique(train["image_id"][:], return_index=True, return_inverse=True)
    captions = train["caption"][:]
    # Before the images, which take longer.
    refuse_long(processor, captions, "Pairs to audit")
    images = embed_images(model, processor, train.select(first), batch_size, num_workers, progress)
    texts = embed_texts(model, processor, captions, batch_size, progress, "Pairs to audit")
    # On the accelerator where there is one; there the comparison costs next to nothing.
    there = model.device
    pairs = EmbeddedPairs(
        images.to(there),
        torch.from_numpy(image_of).to(there),
        texts.to(there),
        torch.tensor(train["person_id"][:]).to(there),
        float(torch.exp(-model.logit_scale.detach().float())),
    )
    compared = pairs.compare()
    columns: dict[str, NDArray] = {"score": compared.score()}
    columns |= {"text_loss": compared.loss_text, "image_loss": compared.loss_image}
    columns |= {"image_rank": compared.rank_image, "text_rank": compared.rank_caption}
    return PairScores(columns, first[compared.best_image], compared.best_caption), pairs, first


__all__ = ["EmbeddedPairs", "PairScores", "score_pairs"]
