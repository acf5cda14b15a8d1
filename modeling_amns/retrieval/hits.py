"""What a search returns."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Args:
        path: of the image in its gallery: relative to the gallery's folder with `/`, or the name that it was given.
        score: cosine of the angle between image and query, in [-1, 1].
        metadata: the image's metadata by column; columns without a value are left out.
    """

    path: str
    score: float
    metadata: dict[str, Any] = field(default_factory=dict)


__all__ = ["Hit"]
