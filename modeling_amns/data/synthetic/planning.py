"""What a benchmark of `synthetic-pedes` holds, before anything is drawn."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..records import SPLITS
from .camera import Shot, draw_shot
from .captions import Caption, write_captions
from .people import Person, draw_people


@dataclass(frozen=True)
class PlannedImage:
    """One image before it is drawn: who, how, and what is said of it.

    Attributes:
        identity: number of the person across all splits, from 0, the same in every layout.
        index: number of the image among the person's, from 0.
        split: train, val or test.
        person, shot, captions: what it shows, how it is taken, what is written about it.
    """

    identity: int
    index: int
    split: str
    person: Person
    shot: Shot
    captions: tuple[Caption, ...]


def plan_benchmark(
    seed: int = 0,
    train_identities: int = 2400,
    val_identities: int = 200,
    test_identities: int = 300,
    images_per_identity: int = 4,
    captions_per_image: int = 2,
    wrong_captions: float = 0,
    wrong_attributes: int = 2,
) -> Iterator[PlannedImage]:
    """All that a benchmark holds but the pixels, identity by identity.

    Arguments as of `make_synthetic_benchmark`. Example:

        >>> image = next(plan_benchmark(seed=0, train_identities=1, val_identities=0, test_identities=0))
        >>> image.split, len(image.captions)
        ('train', 2)
    """
    counts = dict(zip(SPLITS, (train_identities, val_identities, test_identities)))
    for identity, (split, person) in enumerate(number_people(seed, counts)):
        for index in range(images_per_identity):
            yield plan_image(
                seed, identity, index, split, person, captions_per_image, wrong_captions, wrong_attributes
            )


def plan_image(
    seed: int,
    identity: int,
    index: int,
    split: str,
    person: Person,
    captions_per_image: int = 2,
    wrong_captions: float = 0,
    wrong_attributes: int = 2,
) -> PlannedImage:
    """Image `index` of person number `identity`: shot and captions depend on the seed and these two numbers alone.

    Which captions of a train image are wrong, and in what, is drawn for each by itself: a larger share adds to them.
    """
    shot = draw_shot(seed, identity, index)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 14, identity, index]))
    own = [np.random.SeedSequence([seed, 16, identity, index, place]) for place in range(captions_per_image)]
    chances = enumerate(map(np.random.default_rng, own if split == "train" and wrong_captions else []))
    errors = {place: chance for place, chance in chances if chance.random() < wrong_captions}
    captions = write_captions(rng, person, shot.view, shot.feet_hidden, captions_per_image, errors, wrong_attributes)
    return PlannedImage(identity, index, split, person, shot, tuple(captions))


def number_people(seed: int, counts: dict[str, int]) -> list[tuple[str, Person]]:
    """Split and attributes of each person, in the order of their numbers."""
    people = draw_people(seed, counts)
    return [(split, person) for split in SPLITS for person in people[split]]


__all__ = ["PlannedImage", "number_people", "plan_benchmark", "plan_image"]
