"""What one model finds of the pairs of a training set: embedded once and compared with each other."""

from collections.abc import Mapping
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.long_captions import refuse_long
from ..embedding import embed_images, embed_texts
from ..protocols import MaskedEncoder, PairProcessor
from .scoring import compare_pairs

_COLUMNS = ("image", "caption", "person_id", "image_id", "image_path")


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
) -> tuple[PairScores, Tensor, NDArray[np.int64]]:
    """Embeds pairs and compares each with all others; arguments and errors as of `audit_pairs`.

    Returns:
        the scores; L2-normalised embeddings, each image once, float32 [M, D]; the first row of each image, int64 [M].
    """
    if not isinstance(train, datasets.Dataset):
        raise ValueError(
            f"An audit compares each pair with all others and needs a datasets.Dataset; found {type(train).__name__}. "
            "Load a stream with streaming=False."
        )
    if lacking := [name for name in _COLUMNS if name not in train.column_names]:
        raise ValueError(f"The data set lacks {', '.join(lacking)}; it has {', '.join(train.column_names)}.")
    _, first, image_of = np.unique(train["image_id"][:], return_index=True, return_inverse=True)
    persons = torch.tensor(train["person_id"][:])
    captions = train["caption"][:]
    # Before the images, which take longer.
    refuse_long(processor, captions, "Pairs to audit")
    images = embed_images(model, processor, train.select(first), batch_size, num_workers, progress)
    texts = embed_texts(model, processor, captions, batch_size, progress, "Pairs to audit")
    temperature = float(torch.exp(-model.logit_scale.detach().float()))
    # On the accelerator where there is one; there the comparison costs next to nothing.
    there = model.device
    compared = compare_pairs(
        images.to(there), torch.from_numpy(image_of).to(there), texts.to(there), persons.to(there), temperature
    )
    columns: dict[str, NDArray] = {"score": compared.score()}
    columns |= {"text_loss": compared.loss_text, "image_loss": compared.loss_image}
    columns |= {"image_rank": compared.rank_image, "text_rank": compared.rank_caption}
    return PairScores(columns, first[compared.best_image], compared.best_caption), images, first


__all__ = ["PairScores", "score_pairs"]
