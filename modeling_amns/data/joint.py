"""Training pairs of several benchmarks as one set, whose persons and images stay apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np

from .records import TRUTH
from .tables import columns, dropped_pairs, note_dropped


def join_pairs(parts: Mapping[str, datasets.Dataset]) -> datasets.Dataset:
    """The pairs of all parts, one part after the other.

    Args:
        parts: training sets by name, as `load_benchmark(name, root, "train")` returns them.
    Returns:
        Rows with the columns of the parts. `person_id` and `image_id` of a part start where those of the part before
        end, so that no person and no image of two parts has one number; `image_path` has the part's name in front.
    Raises:
        ValueError: of some parts only it is known which captions are right.

    Example:

        >>> rows = {"caption": ["a hat", "a coat"], "person_id": [0, 1], "image_id": [0, 1], "image_path": ["1", "2"]}
        >>> one = datasets.Dataset.from_dict(rows)
        >>> both = join_pairs({"here": one, "there": one})
        >>> both["person_id"][:], both["image_path"][2]
        ([0, 1, 2, 3], 'there/1')
    """
    knowing = [name for name, part in parts.items() if TRUTH in part.column_names]
    if knowing and len(knowing) < len(parts):
        raise ValueError(
            f"{', '.join(knowing)} says which captions are right ({TRUTH}), "
            f"{', '.join(name for name in parts if name not in knowing)} does not; join sets that all do or none."
        )
    joined, persons, images = [], 0, 0
    for name, part in parts.items():
        person_ids = np.asarray(part["person_id"][:], np.int64) + persons
        image_ids = np.asarray(part["image_id"][:], np.int64) + images
        changed: dict[str, Any] = {
            "person_id": person_ids,
            "image_id": image_ids,
            "image_path": [f"{name}/{path}" for path in part["image_path"][:]],
        }
        order, moved = part.column_names, part.remove_columns([*changed])
        for column, values in changed.items():
            moved = moved.add_column(column, values, feature=columns([column])[column])
        joined.append(moved.select_columns(order))
        persons, images = int(person_ids.max()) + 1, int(image_ids.max()) + 1
    whole = datasets.concatenate_datasets(joined)
    return note_dropped(whole, sum(dropped_pairs(part) for part in parts.values()))


def persons_of(parts: Mapping[str, datasets.Dataset]) -> dict[str, int]:
    """How many persons each part has: the classes of the first come first, then those of the next."""
    return {name: max(part["person_id"][:]) + 1 for name, part in parts.items()}


def mean_figures(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Figures of several benchmarks, each counting the same, whatever its size.

    Example:

        >>> mean_figures([{"rank1": 50.0}, {"rank1": 70.0}])
        {'rank1': 60.0}
    """
    return {name: sum(one[name] for one in figures) / len(figures) for name in figures[0]}


__all__ = ["join_pairs", "mean_figures", "persons_of"]
