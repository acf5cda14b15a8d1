"""Ranking figures of person retrieval, exact and in blocks: rank1, rank5, rank10, mAP, mINP.

Torch only, no import of ours: `evaluate.load` and a Hugging Face Space copy this file beside the metric.

Two properties that a plain `argsort(queries @ gallery.T)` lacks:

- The figures don't depend on block size, memory layout, thread count or device, to the last bit. A float sum rounds
  differently in another block shape, which turns ties into chance. Here each coordinate of a normalised embedding is
  rounded to a multiple of 2^-26, so every product is a multiple of 2^-52 and every partial sum, hardly above 1 by
  Cauchy-Schwarz, is a float64 without rounding. Rounding the coordinates moves a cosine by about 5e-9, less than
  float32 arithmetic does. Lengths and average precisions are summed as whole numbers, means without rounding.
- No row is sorted unless it has ties or very many positives: a positive's rank is one plus the number of better
  gallery items, and a binary search among the positives of a row counts these for all of them at once.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

RANKS = (1, 5, 10)
BLOCK_SIZE = 2**20
# About where the binary search, which grows with the logarithm of the positives, costs as much as sorting the row.
MANY_POSITIVES = 1000
_GRID = 2.0**26
# Characters of an id, and of another library's error, that an error shows.
_SHOWN, _SHOWN_ERROR = 60, 200

Matrix = Tensor | np.ndarray | Sequence[Tensor | np.ndarray | Sequence[float]]
Ids = Tensor | np.ndarray | Sequence[int | str]


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
        # fsum rounds once: a sum of torch's depends on the number of threads.
        return {name: 100 * math.fsum(values.tolist()) / len(values) for name, values in figures.items()}


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
        query_embeddings: embeddings of the captions, need not be normalised, float [Q, D]: tensor, array or rows.
        query_ids: person of each caption [Q], all integers or all strings. Strings are the same person only if they
            are equal, so "7" is neither "07" nor 7.
        gallery_embeddings: embeddings of the images, float [G, D].
        gallery_ids: person of each image [G], of the same kind.
        image_to_text: add the same figures with images as queries, captions as gallery, named `i2t_rank1` and so on.
        block_size: similarities held at a time, about 25 bytes each; at least one row is held. Never changes a figure.
    Returns:
        `rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent; Rank-k of a gallery smaller than k counts all of it.
    Raises:
        ValueError: empty input, shapes that don't fit, ids that are neither all integers nor all strings, an embedding
            with NaN or infinity, or a query whose person is not in the gallery; each names the row.
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
    similarity = matrix_of(similarity, "similarity")
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
    queries = matrix_of(query_embeddings, "query_embeddings")
    gallery = matrix_of(gallery_embeddings, "gallery_embeddings").to(queries.device)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query_embeddings {list(queries.shape)} and gallery_embeddings {list(gallery.shape)} must have the same "
            "number of columns: embed captions and images with the same model."
        )
    persons = _persons(query_ids, len(queries), gallery_ids, len(gallery), queries.device)
    queries, gallery = _on_grid(queries, "query_embeddings"), _on_grid(gallery, "gallery_embeddings")
    return _rank(lambda rows: queries[rows] @ gallery.T, *persons, block_size)


def rank_similarity(similarity: Matrix, query_ids: Ids, gallery_ids: Ids, block_size: int = BLOCK_SIZE) -> QueryRanks:
    """The figures of each query from a similarity matrix, float [Q, G]; else as `rank_queries`."""
    values = matrix_of(similarity, "similarity")
    persons = _persons(query_ids, values.shape[0], gallery_ids, values.shape[1], values.device)
    _check_finite(values, "similarity")
    return _rank(lambda rows: values[rows].double(), *persons, block_size)


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
        figures = _figures(_positive_ranks(similarity_of(rows), positives), positives.sum(dim=1), len(gallery_ids))
        ranks.first_hit[rows], ranks.average_precision[rows], ranks.inverse_negative_penalty[rows] = figures
    return ranks


def _figures(ranks: Tensor, counts: Tensor, gallery: int) -> tuple[Tensor, Tensor, Tensor]:
    """First hit, average precision and INP from ascending ranks [b, P], of which the first `counts` of a row hold."""
    order = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)
    precision = torch.where(order <= counts[:, None], order / ranks.double(), 0.0)
    last = ranks.gather(1, counts[:, None] - 1)[:, 0]
    # P follows the block, and a float sum over it would follow P; `gallery` terms of at most 1 fit the whole numbers.
    return ranks[:, 0], _exact_sum(precision, gallery) / counts, counts / last.double()


def _exact_sum(values: Tensor, terms: int) -> Tensor:
    """Sums of rows of float64 in [0, 1] that don't depend on the order; `terms`: how many a row may have at most."""
    scale = 2.0 ** (62 - terms.bit_length())
    return values.mul(scale).round_().long().sum(dim=1).double() / scale


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


def matrix_of(values: Matrix, name: str) -> Tensor:
    """A matrix of numbers as a detached tensor; a ValueError that calls it by `name` if it is none."""
    try:
        matrix = _tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:_SHOWN_ERROR]
        raise ValueError(f"{name} must be one float matrix, rows of equal length: {reason}") from None
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be a matrix with at least one row and column, found {list(matrix.shape)}.")
    if matrix.is_complex():
        raise ValueError(f"{name} must be one float matrix, found complex numbers.")
    # Apple's GPU has no float64.
    return matrix.cpu() if matrix.device.type == "mps" else matrix


def _tensor(values: Matrix | Sequence[Any]) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().to_dense()
    if hasattr(values, "__array__"):
        array = np.asarray(values)
        if array.dtype.kind == "O":
            return _tensor(list(array))
    else:
        rows = list(values)
        if any(isinstance(row, Tensor | np.ndarray | Sequence) and not isinstance(row, str) for row in rows):
            return torch.stack([_tensor(row) for row in rows])
        array = np.asarray(rows)
        if array.dtype.kind == "O":
            array = np.asarray([float(value) for value in rows])
    if array.dtype.kind == "V" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        # bfloat16 and the like as numpy sees them, and long doubles.
        array = array.astype(np.float64)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"found values of type {array.dtype}")
    # Torch takes neither negative strides nor foreign byte orders, and warns of memory that it may not write.
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _persons(
    query_ids: Ids, queries: int, gallery_ids: Ids, gallery: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both sides' ids as int64 that are equal where the persons are."""
    names = ids_of(query_ids, queries, "query_ids"), ids_of(gallery_ids, gallery, "gallery_ids")
    kinds = ["strings" if isinstance(side, list) and isinstance(side[0], str) else "integers" for side in names]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"query_ids are {kinds[0]}, gallery_ids are {kinds[1]}: no person would be found, since 7 is not '7'. "
            "Pass both as they stand in the same data."
        )
    if isinstance(names[0], Tensor) and isinstance(names[1], Tensor):
        query, item = names[0].to(device), names[1].to(device)
    else:
        # A dict tells "a" from "a\0" and takes numbers of any size, which numpy's strings and int64 do not.
        numbers: dict[int | str, int] = {}
        lists = [side.tolist() if isinstance(side, Tensor) else side for side in names]
        query, item = (
            torch.tensor([numbers.setdefault(person, len(numbers)) for person in side], device=device)
            for side in lists
        )
    missing = (~torch.isin(query, item)).nonzero()[:, 0]
    if len(missing):
        shown = [(row, names[0][row]) for row in missing[:5].tolist()]
        named = ", ".join(f"query {row} (person {_shown(person)})" for row, person in shown)
        raise ValueError(
            f"{len(missing)} of {queries} queries have no item of their person in the gallery: {named}"
            f"{', ...' if len(missing) > 5 else ''}. Leave these queries out or complete the gallery."
        )
    return query, item


def ids_of(ids: Ids, length: int, name: str) -> Tensor | list[int] | list[str]:
    """Person ids, int64 where they fit it, else as a list; a ValueError that calls them by `name` if they are none."""
    if isinstance(ids, str) or not isinstance(ids, Tensor | Iterable):
        raise ValueError(f"{name} must hold one person id per row, found {type(ids).__name__}.")
    if isinstance(ids, Tensor) or hasattr(ids, "__array__"):
        array = ids if isinstance(ids, Tensor) else np.asarray(ids)
        values, shape = array.tolist(), list(array.shape)
    else:
        # A column of a datasets.Dataset is a lazy sequence, hence list().
        values = list(ids)
        shape = [len(values), *(len(row) for row in values[:1] if isinstance(row, list | tuple))]
    if shape != [length]:
        raise ValueError(f"{name} must hold one person id per row: expected [{length}], found {shape}.")
    values = [value.item() if isinstance(value, Tensor | np.generic) else value for value in values]
    kind = str if isinstance(values[0], str) else int
    for row, value in enumerate(values):
        if not isinstance(value, kind):
            found = f"{_shown(value)} ({type(value).__name__}) in row {row}"
            raise ValueError(f"{name} must be integers, or all of them strings; found {found}.")
    if kind is int and min(values) >= -(2**63) and max(values) < 2**63:
        return torch.tensor(values, dtype=torch.int64)
    return values


def _shown(value: object) -> str:
    text = repr(value.item() if isinstance(value, Tensor) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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
    # In parts: what is made on the way would need as much memory as the embeddings.
    for part in values.split(max(1, BLOCK_SIZE // values.shape[1])):
        # Scaled by the largest coordinate first: squares of very large or small values leave the float range.
        part /= part.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
        part /= _exact_sum(part.square(), part.shape[1]).sqrt()[:, None].clamp_min(tiny)
        part.mul_(_GRID).round_().div_(_GRID)
    return values


__all__ = ["QueryRanks", "rank_metrics", "rank_queries", "rank_similarity", "similarity_metrics"]
