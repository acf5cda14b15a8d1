"""Which doubtful captions belong to an image whose own captions are doubtful, so that a swap puts both right."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .auditing import Audit
from .scoring import judge_pairs

# Probability of being wrong that a pair which nobody wrote down must stay below.
CLEARLY = 0.1


@dataclass(frozen=True)
class Repair:
    """A doubtful pair, and the caption of another doubtful pair that its image gets.

    Args:
        row: of the pair; image and person stay.
        caption_row: of the pair whose caption it gets.
        probability: that caption and image do not belong together after it, between 0 and 1.
    """

    row: int
    caption_row: int
    probability: float


def find_repairs(audit: Audit, doubtful: Collection[int], limit: float = CLEARLY) -> dict[int, Repair]:
    """Swaps among the doubtful pairs that fit clearly both ways; by one model, also where several have judged.

    A caption may go to the image of another person that fits it best, if a pair of that image is doubtful too. As a
    pair, it is then compared with the whole set as the pairs of the annotations were: no image and no caption of
    another person may fit better, and by the mixture over the scores of the set the probability of a wrong pair must
    lie below the limit. No caption and no pair is used twice; the likeliest come first.

    Args:
        audit: of the set.
        doubtful: rows that would be left out.
        limit: probability of being wrong that a new pair stays below.
    Returns:
        by row of the pair, in their order; none where the scores of the set fall into no two groups.
    """
    score = audit.own.columns["score"]
    fitted = judge_pairs(score)
    image_of = audit.embedded.image_of.cpu().numpy()
    open_rows: dict[int, list[int]] = defaultdict(list)
    for row in sorted(doubtful):
        open_rows[int(image_of[row])].append(row)
    best = image_of[audit.own.better_image]
    rows = np.array([row for row in sorted(doubtful) if int(best[row]) in open_rows], np.int64)
    if fitted.low is None or not len(rows):
        return {}
    compared = audit.embedded.moved(rows, best[rows]).compare()
    fits = (compared.rank_image == 1) & (compared.rank_caption == 1)
    wrong = _wrong_at(compared.score()[rows], score, 1 - fitted.plausible)
    found = {}
    for place in np.argsort(wrong, kind="stable"):
        row, left = int(rows[place]), open_rows[int(best[rows[place]])]
        if wrong[place] < limit and fits[row] and left:
            repaired = left.pop(0)
            found[repaired] = Repair(repaired, row, float(wrong[place]))
    return dict(sorted(found.items()))


def _wrong_at(
    values: NDArray[np.float64], score: NDArray[np.float64], wrong: NDArray[np.floating]
) -> NDArray[np.float64]:
    """The probability of being wrong at other scores than those it was fitted to; it never falls with the score."""
    order = np.argsort(score, kind="stable")
    return np.interp(values, score[order], wrong[order])


__all__ = ["CLEARLY", "Repair", "find_repairs"]
