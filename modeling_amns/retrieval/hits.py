"""What a search returns."""

from collections.abc import Callable
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


def best_of_each(ask: Callable[[int], list[Hit]], group_by: str, k: int, total: int) -> list[Hit]:
    """The k best hits, one of each value of a column; hits without one are kept.

    Args:
        ask: returns so many hits, best first.
        group_by: the column.
        k: how many to return.
        total: rows of the gallery.
    """
    # One person may fill any number of places: ask for more until there are enough.
    wanted = 4 * k
    while True:
        hits = ask(min(wanted, total))
        seen: set[Any] = set()
        kept = []
        for hit in hits:
            value = hit.metadata.get(group_by)
            if value is None or value not in seen:
                seen.add(value)
                kept.append(hit)
        if len(kept) >= k or len(hits) < wanted:
            return kept[:k]
        wanted *= 4


__all__ = ["Hit", "best_of_each"]
