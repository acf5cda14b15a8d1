"""How implausible a model finds each pair of a training set: losses and ranks among the whole set, and a probability.

Everything is taken from one embedding of the set. Nothing here uses which pairs are known to be wrong but
`against_truth`, which says how well they were found.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..extras import require
from ..pair_mixture import EXTRA, PairMixture, fit_pairs, guess_loss

# Similarities held at a time: 16 MiB, and a few times that for what is made of them.
BLOCK = 2**22
# Two products of the same embeddings may differ by so much, depending on the shape they are computed in.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Comparison:
    """Each pair against all images and captions of other persons.

    Args:
        loss_text: -log of the share that its own image has for its caption, in nats, float32 [pairs].
        loss_image: the same of its own caption for its image, float32 [pairs].
        rank_image: 1 + the images of other persons that fit its caption better than its own, int64 [pairs].
        rank_caption: 1 + the captions of other persons that fit its image better than its own, int64 [pairs].
        best_image: the image of another person that fits its caption best, int64 [pairs].
        best_caption: the row whose caption is of another person and fits its image best, int64 [pairs].
        num_images: images of the set.
    """

    loss_text: NDArray[np.float32]
    loss_image: NDArray[np.float32]
    rank_image: NDArray[np.int64]
    rank_caption: NDArray[np.int64]
    best_image: NDArray[np.int64]
    best_caption: NDArray[np.int64]
    num_images: int

    def score(self) -> NDArray[np.float64]:
        """The mean of both losses, each in units of what a guess among the whole set loses, float64 [pairs]."""
        of_text = self.loss_text / guess_loss(self.num_images)
        return (of_text.astype(np.float64) + self.loss_image / guess_loss(len(self.loss_image))) / 2


@torch.no_grad()
def compare_pairs(
    images: Tensor, image_of: Tensor, captions: Tensor, persons: Tensor, temperature: float, block: int = BLOCK
) -> Comparison:
    """Compares each pair with the whole set, a block of images at a time: memory grows with the block and the set.

    Args:
        images: L2-normalised embeddings, each image once, float32 [M, D].
        image_of: the image of each pair, int64 [N].
        captions: L2-normalised embeddings of the pairs' captions, float32 [N, D].
        persons: person of each pair, int64 [N]; all pairs of an image show the same one.
        temperature: divides similarities in the losses.
        block: similarities held at a time.
    Returns:
        losses and ranks, in the order of the pairs.
    Raises:
        ValueError: embeddings are not finite, or all pairs show one person.
    Example:
        >>> images = captions = torch.eye(2)
        >>> found = compare_pairs(images, torch.tensor([0, 1, 1]), captions[[0, 1, 0]], torch.tensor([4, 7, 7]), 0.1)
        >>> found.rank_image.tolist(), found.best_image.tolist(), found.best_caption.tolist()
        ([1, 1, 2], [1, 0, 0], [2, 0, 0])
    """
    for name, values in (("images", images), ("captions", captions)):
        if broken := int((~values.isfinite().all(-1)).sum()):
            raise ValueError(
                f"The model gives {broken:,} of {len(values):,} {name} embeddings with NaN or infinite values; "
                "nothing can be said of their pairs. Take a checkpoint from before the training diverged."
            )
    if len(persons) == 0 or bool((persons == persons[0]).all()):
        raise ValueError(
            f"All {len(persons):,} pairs show one person; an audit compares pairs with those of others. Pass a set of "
            "two persons or more."
        )
    pairs, count = len(persons), len(images)
    person_of = persons.new_zeros(count).scatter_(0, image_of, persons)
    own = (captions * images[image_of]).sum(-1)
    better_than = own + ROUNDING
    order = image_of.argsort(stable=True)
    ends = torch.bincount(image_of, minlength=count).cumsum(0)
    log_sum = torch.full_like(own, -torch.inf)
    rank_image, rank_caption = torch.ones_like(persons), torch.ones_like(persons)
    best_image, best_caption = torch.zeros_like(persons), torch.zeros_like(persons)
    top, loss_image = torch.full_like(own, -torch.inf), torch.zeros_like(own)
    step = max(1, block // pairs)
    for start in range(0, count, step):
        end = min(start + step, count)
        found = images[start:end] @ captions.T
        found.masked_fill_(person_of[start:end, None] == persons, -torch.inf)
        rank_image += (found > better_than).sum(0)
        highest, place = found.max(0)
        best_image = torch.where(highest > top, start + place, best_image)
        top = torch.maximum(top, highest)
        # The pairs of these images.
        rows = order[ends[start - 1] if start else 0 : ends[end - 1]]
        local = image_of[rows] - start
        # One by one: an image may have any number of captions.
        for part in rows.split(step):
            rank_caption[part] += (found[image_of[part] - start] > better_than[part, None]).sum(1)
        best_caption[rows] = found.argmax(1)[local]
        found /= temperature
        log_sum = torch.logaddexp(log_sum, found.logsumexp(0))
        loss_image[rows] = torch.nn.functional.softplus(found.logsumexp(1)[local] - own[rows] / temperature)
    loss_text = torch.nn.functional.softplus(log_sum - own / temperature)
    return Comparison(
        loss_text.cpu().numpy(),
        loss_image.cpu().numpy(),
        rank_image.cpu().numpy(),
        rank_caption.cpu().numpy(),
        best_image.cpu().numpy(),
        best_caption.cpu().numpy(),
        count,
    )


def judge_pairs(score: NDArray[np.float64], seed: int = 0) -> PairMixture:
    """The mixture of plausible and doubtful pairs; see `fit_pairs`, whose losses are here in units of a guess.

    Args:
        score: of `Comparison.score`.
        seed: of the fit's start.
    Raises:
        ImportError: scikit-learn is not installed.
    """
    return fit_pairs(score, 1.0, seed)


def against_truth(score: NDArray[np.float64], share: float, is_clean: NDArray[np.bool_]) -> Mapping[str, float | None]:
    """How well wrong pairs were found, where it is known which they are.

    Args:
        score: higher is more suspicious, [pairs].
        share: estimated share of wrong pairs, in [0, 1].
        is_clean: which are right, [pairs].
    Returns:
        `true_share`; `auroc` of the score; `precision`, the share of wrong pairs among those of the highest score, as
        many as the estimated share says. `None` where there is nothing to rank or none is called wrong.
    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> found = against_truth(np.array([0.1, 0.9, 0.8, 0.7]), 0.5, np.array([True, False, False, True]))
        >>> {name: float(value) for name, value in found.items()}
        {'true_share': 0.5, 'auroc': 1.0, 'precision': 1.0}
    """
    metrics = require("sklearn.metrics", EXTRA, "The audit")
    wrong = ~np.asarray(is_clean, bool)
    count = round(share * len(score))
    called = np.zeros(len(score), bool)
    called[np.argsort(-score, kind="stable")[:count]] = True
    return {
        "true_share": float(wrong.mean()),
        "auroc": float(metrics.roc_auc_score(wrong, score)) if 0 < wrong.sum() < len(wrong) else None,
        "precision": float(metrics.precision_score(wrong, called)) if count else None,
    }


__all__ = ["BLOCK", "Comparison", "against_truth", "compare_pairs", "judge_pairs"]
