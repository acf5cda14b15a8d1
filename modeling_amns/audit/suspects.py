"""What an audit says of one pair."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suspect:
    """One pair of a training set, and how likely it is wrong.

    Args:
        row: its place in the annotations.
        path: of its image, as the annotations call it.
        caption: its caption.
        person_id: whom the image shows.
        probability: that caption and image do not belong together, between 0 and 1.
        scores: what that was taken from, by name; higher is more suspicious.
        better_path: the image of another person that fits the caption best; `None` where its own fits best.
        better_caption: the caption of another person that fits the image best; `None` where its own fits best.
        is_clean: whether the pair is right, where that is known: the noise was injected.
    """

    row: int
    path: str
    caption: str
    person_id: str | int
    probability: float
    scores: Mapping[str, float] = field(default_factory=dict)
    better_path: str | None = None
    better_caption: str | None = None
    is_clean: bool | None = None


__all__ = ["Suspect"]
