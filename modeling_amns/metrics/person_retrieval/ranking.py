"""Ranking figures of person retrieval, exact and in blocks: rank1, rank5, rank10, mAP, mINP.

Torch only, no import of ours: `evaluate.load` and a Hugging Face Space copy this file beside the metric.

Two properties that a plain `argsort(queries @ gallery.T)` lacks:

- The figures don't depend on block size, thread count or device. A float product rounds differently in another block
  shape, which turns ties into chance. Here each coordinate of a normalised embedding is rounded to a multiple of
  2^-26, so every product is a multiple of 2^-52 and every partial sum, at most 1 by Cauchy-Schwarz, is a float64
  without rounding. Rounding the coordinates moves a cosine by about 5e-9, less than float32 arithmetic does.
- No row is sorted unless it has ties or very many positives: a positive's rank is one plus the number of better
  gallery items, and a binary search among the positives of a row counts these for all of them at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RANKS = (1, 5, 10)
BLOCK_SIZE = 2**20
# About where the binary search, which grows with the logarithm of the positives, costs as much as sorting the row.
MANY_POSITIVES = 1000
_GRID = 2.0**26

Matrix = Tensor | np.ndarray | Sequence[Sequence[float]]
Ids = Tensor | np.ndarray | Sequence[int]


@dataclass(frozen=True)
class QueryRanks:
    """How each query fared.

    Args:
        first_hit: rank of the best-placed image of the query's person, from 1, int64 [Q].
        average_precision: mean over the person's gallery items of the precision at their ranks, in (0, 1],
            float64 [Q].
        inverse_negative_penalty: number of the person's gallery items over the rank of the last of them, in (0, 1],
            float64 [Q].
    """

    first_hit: Tensor
    average_precision: Tensor
    inverse_negative_penalty: Tensor

    def metrics(self) -> dict[str, float]:
        """Means over all queries in percent: `rank1`, `rank5`, `rank10`, `mAP`, `mINP`."""
        figures = {f"rank{k}": (self.first_hit <= k).double() for k in RANKS}
        figures |= {"mAP": self.average_precision, "mINP": self.inverse_negative_penalty}
        return {name: (100 * per_query).mean().item() for name, per_query in figures.items()}


def rank_metrics(
    query_embeddings: Matrix,
    query_ids: Ids,
    gallery_embeddings: Matrix,
    gallery_ids: Ids,
    image_to_text: bool = False,
    block_size: int = BLOCK_SIZE,
) -> dict[str, float]:
    """Retrieval figures of caption embeddings (queries) against image embeddings (gallery).

    A hit is a gallery item of the query's person; similarity is the cosine; equal similarities rank in gallery order;
    there is no camera filter.

    Args:
        query_embeddings: embeddings of the captions, need not be normalised, float [Q, D].
        query_ids: person of each caption, int [Q].
        gallery_embeddings: embeddings of the images, float [G, D].
        gallery_ids: person of each image, int [G].
        image_to_text: add the same figures with images as queries, captions as gallery, named `i2t_rank1` and so on.
        block_size: similarities held at a time, about 25 bytes each; at least one row is held. Never changes a figure.
    Returns:
        `rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent; Rank-k of a gallery smaller than k counts all of it.
    Raises:
        ValueError: empty input, shapes that don't fit, ids that are no integers, an embedding with NaN or infinity, or
            a query whose person is not in the gallery; each names the row.
    Source: AP and rank-k as in the protocol of IRRA (CVPR 2023); INP: Ye et al., arXiv 2001.04193, section 3.3.

    ```python
    >>> queries, gallery = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.1], [1.0, 0.2], [0.1, 1.0]]
    >>> rank_metrics(queries, [7, 8], gallery, [8, 7, 8])["rank1"]
    50.0

    ```
    """
    figures = rank_queries(query_embeddings, query_ids, gallery_embeddings, gallery_ids, block_size).metrics()
    if image_to_text:
        figures |= _image_to_text(
            rank_queries, gallery_embeddings, gallery_ids, query_embeddings, query_ids, block_size=block_size
        )
    return figures


def similarity_metrics(
    similarity: Matrix, query_ids: Ids, gallery_ids: Ids, image_to_text: bool = False, block_size: int = BLOCK_SIZE
) -> dict[str, float]:
    """Retrieval figures of a similarity matrix, float [Q, G], larger is more alike; else as `rank_metrics`."""
    similarity = _matrix(similarity, "similarity")
    figures = rank_similarity(similarity, query_ids, gallery_ids, block_size).metrics()
    if image_to_text:
        figures |= _image_to_text(rank_similarity, similarity.T, gallery_ids, query_ids, block_size=block_size)
    return figures


def rank_queries(
    query_embeddings: Matrix,
    query_ids: Ids,
    gallery_embeddings: Matrix,
    gallery_ids: Ids,
    block_size: int = BLOCK_SIZE,
) -> QueryRanks:
    """The figures of each query, for audits and pictures; arguments and errors as `rank_metrics`."""
    queries = _matrix(query_embeddings, "query_embeddings")
    gallery = _matrix(gallery_embeddings, "gallery_embeddings").to(queries.device)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query_embeddings {list(queries.shape)} and gallery_embeddings {list(gallery.shape)} must have the same "
            "number of columns: embed captions and images with the same model."
        )
    query_ids, gallery_ids = _checked_ids(query_ids, len(queries), gallery_ids, len(gallery), queries.device)
    queries, gallery = _on_grid(queries, "query_embeddings"), _on_grid(gallery, "gallery_embeddings")
    return _rank(lambda rows: queries[rows] @ gallery.T, query_ids, gallery_ids, block_size)


def rank_similarity(similarity: Matrix, query_ids: Ids, gallery_ids: Ids, block_size: int = BLOCK_SIZE) -> QueryRanks:
    """The figures of each query from a similarity matrix, float [Q, G]; else as `rank_queries`."""
    similarity = _matrix(similarity, "similarity")
    queries, gallery = similarity.shape
    query_ids, gallery_ids = _checked_ids(query_ids, queries, gallery_ids, gallery, similarity.device)
    _check_finite(similarity, "similarity")
    return _rank(lambda rows: similarity[rows].double(), query_ids, gallery_ids, block_size)


def _image_to_text(rank: Callable[..., QueryRanks], *inputs: Matrix | Ids, block_size: int) -> dict[str, float]:
    try:
        figures = rank(*inputs, block_size).metrics()
    except ValueError as error:
        raise ValueError(f"image to text, where images are the queries: {error}") from None
    return {f"i2t_{name}": value for name, value in figures.items()}


def _rank(
    similarity_of: Callable[[slice], Tensor], query_ids: Tensor, gallery_ids: Tensor, block_size: int
) -> QueryRanks:
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, found {block_size}.")
    rows_per_block = max(1, block_size // len(gallery_ids))
    # Filled in place: small results kept from every block would pin the freed blocks between them in the heap.
    ranks = QueryRanks(
        first_hit=torch.empty(len(query_ids), dtype=torch.int64),
        average_precision=torch.empty(len(query_ids), dtype=torch.float64),
        inverse_negative_penalty=torch.empty(len(query_ids), dtype=torch.float64),
    )
    for start in range(0, len(query_ids), rows_per_block):
        rows = slice(start, start + rows_per_block)
        positives = query_ids[rows, None] == gallery_ids
        figures = _figures(_positive_ranks(similarity_of(rows), positives), positives.sum(dim=1))
        ranks.first_hit[rows], ranks.average_precision[rows], ranks.inverse_negative_penalty[rows] = figures
    return ranks


def _figures(ranks: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First hit, average precision and INP from ascending ranks [b, P], of which the first `counts` of a row hold."""
    order = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision = torch.where(order <= counts[:, None], order / ranks.double(), 0.0)
    last = ranks.gather(1, counts[:, None] - 1)[:, 0]
    return ranks[:, 0], precision.sum(dim=1) / counts, counts / last.double()


def _positive_ranks(similarity: Tensor, positives: Tensor) -> Tensor:
    """Ranks of each row's positives, ascending, padded at the end: similarity, positives [b, G] -> int64 [b, P]."""
    counts = positives.sum(dim=1)
    size = int(counts.max())
    held = torch.arange(size, device=counts.device) < counts[:, None]
    if size > MANY_POSITIVES:
        return _ranks_by_sorting(similarity, positives, held)
    values = similarity.new_full(held.shape, torch.inf)
    values[held] = similarity[positives]
    values = values.sort(dim=1).values
    # Two boundaries for each positive, its value and the next float below it: bucket 2i + 1 holds what equals positive
    # i, the buckets above hold what is better than it.
    bounds = torch.stack([values.nextafter(values.new_tensor(-torch.inf)), values], dim=2).flatten(1).contiguous()
    buckets = torch.searchsorted(bounds, similarity.contiguous(), out_int32=True)
    width = 2 * size + 1
    buckets += width * torch.arange(len(buckets), dtype=torch.int32, device=buckets.device)[:, None]
    histogram = torch.bincount(buckets.flatten(), minlength=width * len(buckets)).view(-1, width)
    at_or_above = histogram.flip(1).cumsum(1).flip(1)
    # Padding is infinite, nothing is above it, so it comes out as rank 1: masked, then moved behind the real ones.
    ranks = (1 + at_or_above[:, 2::2]).masked_fill(values.isinf(), torch.iinfo(torch.int64).max)
    ranks = ranks.sort(dim=1).values

    tied = ((histogram[:, 1::2] != 1) & values.isfinite()).any(dim=1)
    if tied.any():
        ranks[tied] = _ranks_by_sorting(similarity[tied], positives[tied], held[tied])
    return ranks


def _ranks_by_sorting(similarity: Tensor, positives: Tensor, held: Tensor) -> Tensor:
    """As `_positive_ranks`, by a stable sort, which settles ties; `held` [b, P] marks the slots of each row in use."""
    order = similarity.argsort(dim=1, descending=True, stable=True)
    ranks = torch.full(held.shape, torch.iinfo(torch.int64).max, device=held.device)
    ranks[held] = positives.gather(1, order).nonzero()[:, 1] + 1
    return ranks


def _matrix(values: Matrix, name: str) -> Tensor:
    try:
        values = torch.as_tensor(values if isinstance(values, (Tensor, np.ndarray)) else np.asarray(values)).detach()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be one float matrix, rows of equal length: {error}") from None
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must be a matrix with at least one row and column, found {list(values.shape)}.")
    # Apple's GPU has no float64.
    return values.cpu() if values.device.type == "mps" else values


def _checked_ids(
    query_ids: Ids, queries: int, gallery_ids: Ids, gallery: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    query_ids = _ids(query_ids, queries, "query", device)
    gallery_ids = _ids(gallery_ids, gallery, "gallery", device)
    missing = (~torch.isin(query_ids, gallery_ids)).nonzero()[:, 0]
    if len(missing):
        named = ", ".join(f"query {row} (person {query_ids[row].item()})" for row in missing[:5].tolist())
        raise ValueError(
            f"{len(missing)} of {queries} queries have no item of their person in the gallery: {named}"
            f"{', ...' if len(missing) > 5 else ''}. Leave these queries out or complete the gallery."
        )
    return query_ids, gallery_ids


def _ids(ids: Ids, length: int, side: str, device: torch.device) -> Tensor:
    # A column of a datasets.Dataset is a lazy sequence, hence list().
    ids = torch.as_tensor(ids if isinstance(ids, (Tensor, np.ndarray)) else list(ids), device=device)
    if ids.shape != (length,):
        raise ValueError(
            f"{side}_ids must hold one person id per row of the {side}: expected [{length}], found {list(ids.shape)}."
        )
    if ids.is_floating_point():
        raise ValueError(f"{side}_ids must be integers, found {ids.dtype}.")
    return ids.long()


def _check_finite(values: Tensor, name: str) -> None:
    bad = (~values.isfinite().all(dim=1)).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"{name}: NaN or infinity in {len(bad)} of {len(values)} rows, first in row {bad[0].item()}. "
            "Has the training diverged, or half precision overflowed?"
        )


def _on_grid(values: Tensor, name: str) -> Tensor:
    """L2-normalised rows in float64, coordinates rounded to multiples of 2^-26; a zero row stays zero."""
    _check_finite(values, name)
    values = values.to(torch.float64, copy=True)
    tiny = torch.finfo(torch.float64).tiny
    # Scaled by the largest coordinate first: squares of very large or small values leave the float range.
    values /= values.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    values /= values.norm(dim=1, keepdim=True).clamp_min(tiny)
    return values.mul_(_GRID).round_().div_(_GRID)


__all__ = ["QueryRanks", "rank_metrics", "rank_queries", "rank_similarity", "similarity_metrics"]
