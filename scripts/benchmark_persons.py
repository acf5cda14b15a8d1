"""Vectors that look like persons, in any number and block by block, and exact search of them by plain torch."""

from collections.abc import Iterator

import numpy as np
import torch

IMAGES = 4  # of a person
BLOCK = 10_000  # rows that are drawn together
_RANK = 64


def person_blocks(rows: int, dimension: int = 512, seed: int = 0) -> Iterator[np.ndarray]:
    """A gallery as a dual encoder makes it, and not as noise is, on which every index looks bad.

    Four images a person lie around a centre; the centres lie in a space of 64 dimensions.

    Args:
        rows: images; those of a person are neighbours.
        dimension: of the vectors.
        seed: with the same one the first rows of a larger gallery are those of a smaller one.
    Yields:
        L2-normalised, float32 [at most `BLOCK`, dimension].
    """
    for block in range(-(-rows // BLOCK)):
        draw, centres = _centres(block, dimension, seed)
        vectors = np.repeat(centres, IMAGES, 0)
        vectors += 0.4 * draw.standard_normal(vectors.shape, np.float32)
        yield _normalised(vectors[: rows - block * BLOCK])


def person_queries(count: int, rows: int, dimension: int = 512, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Queries near persons of `person_blocks`, all shifted by the gap between captions and images.

    Returns:
        L2-normalised float32 [count, dimension], and the person that each is of: rows 4 p to 4 p + 3.
    """
    draw = np.random.default_rng([seed, 1])
    persons = np.sort(draw.integers(0, -(-rows // IMAGES), count))
    gap = draw.standard_normal(dimension, np.float32)
    queries = 0.5 * gap + 0.5 * draw.standard_normal((count, dimension), np.float32)
    blocks, places = np.divmod(persons, BLOCK // IMAGES)
    for block in np.unique(blocks):
        here = blocks == block
        queries[here] += _centres(block, dimension, seed)[1][places[here]]
    # In no order, as they come.
    order = draw.permutation(count)
    return _normalised(queries[order]), persons[order]


def exact_ranks(
    queries: np.ndarray, rows: int, k: int, seed: int = 0, every: int = 1, offset: int = 0
) -> list[list[int]]:
    """The k best of rows `offset`, `offset + every`, ... for each query, best first; it holds a block at a time."""
    asked = torch.from_numpy(queries)
    scores, places = torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64)
    for number, vectors in enumerate(person_blocks(rows, queries.shape[1], seed)):
        ids = torch.arange(number * BLOCK, number * BLOCK + len(vectors))
        kept = ids % every == offset
        scores = torch.cat([scores, asked @ torch.from_numpy(vectors)[kept].T], 1)
        places = torch.cat([places, ids[kept].expand(len(queries), -1)], 1)
        scores, best = scores.topk(min(k, scores.shape[1]))
        places = places.gather(1, best)
    return places.tolist()


def _centres(block: int, dimension: int, seed: int) -> tuple[np.random.Generator, np.ndarray]:
    directions = np.random.default_rng([seed, 0]).standard_normal((_RANK, dimension), np.float32) / _RANK**0.5
    draw = np.random.default_rng([seed, 2, int(block)])
    return draw, draw.standard_normal((BLOCK // IMAGES, _RANK), np.float32) @ directions


def _normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


__all__ = ["BLOCK", "IMAGES", "exact_ranks", "person_blocks", "person_queries"]
