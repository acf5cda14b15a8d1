"""Which doubtful captions belong to a person whose own captions are doubtful, so that a swap puts both right."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from .auditing import Audit


@dataclass(frozen=True)
class Repair:
    """A doubtful pair, and the caption of another doubtful pair that its image gets.

    Args:
        row: of the pair; image and person stay.
        caption_row: of the pair whose caption it gets.
        share: that the new pair has among all others of the set, the lower one of both directions, in [0, 1].
    """

    row: int
    caption_row: int
    share: float


def find_repairs(audit: Audit, doubtful: Collection[int], share: float) -> dict[int, Repair]:
    """Swaps among the doubtful pairs that fit clearly both ways; by one model, also where several have judged.

    The image of another person that fits a caption best says who is meant. Of that person's images with a doubtful
    pair, the one that fits best gets the caption, if, of all images of others and it, the model gives it at least
    `share` for the caption, and the caption as much of all captions for the image: exp(-loss) of `compare_pairs`, as
    all such pairs would have it. No caption and no pair is used twice; the clearest come first.

    That a pair fits better than most written ones is not enough: the best of thousands always does (docs/data.md has
    the figures).

    Args:
        audit: of the set.
        doubtful: rows that would be left out.
        share: in (0, 1].
    Returns:
        by row of the pair, in their order.
    """
    pairs = audit.embedded
    image_of, person_of = pairs.image_of.cpu().numpy(), pairs.image_persons.cpu().numpy()
    open_rows: dict[int, list[int]] = defaultdict(list)
    images_of: dict[int, set[int]] = defaultdict(set)
    for row in sorted(doubtful):
        open_rows[int(image_of[row])].append(row)
        images_of[int(person_of[image_of[row]])].add(int(image_of[row]))
    moves: dict[int, int] = {}
    for row in sorted(doubtful):
        meant = int(person_of[image_of[audit.own.better_image[row]]])
        if candidates := sorted(images_of.get(meant, ())):
            fits = pairs.images[candidates] @ pairs.captions[row]
            moves[row] = candidates[int(fits.argmax())]
    if not moves:
        return {}
    rows, images = (np.array(list(part), np.int64) for part in (moves.keys(), moves.values()))
    compared = pairs.moved(rows, images).compare()
    shares = np.exp(-np.maximum(compared.loss_text, compared.loss_image)[rows].astype(np.float64))
    texts = {suspect.row: suspect.caption for suspect in audit.suspects}
    # Captions that stay at an image, and those that come to it: none twice.
    said_of: dict[int, set[str]] = defaultdict(set)
    for row in texts.keys() - set(doubtful):
        said_of[int(image_of[row])].add(texts[row])
    found = {}
    for place in np.argsort(-shares, kind="stable"):
        image, caption_row = int(images[place]), int(rows[place])
        left, said = open_rows[image], said_of[image]
        if shares[place] >= share and left and texts[caption_row] not in said:
            row = left.pop(0)
            said.add(texts[caption_row])
            found[row] = Repair(row, caption_row, float(shares[place]))
    return dict(sorted(found.items()))


__all__ = ["Repair", "find_repairs"]
