"""Ranking figures of person retrieval, exact and in blocks: rank1, rank5, rank10, mAP, mINP.

Torch and `inputs` alone: `evaluate.load` and a Hugging Face Space copy both files beside the metric.

Two properties that a plain `argsort(queries @ gallery.T)` lacks:

- The figures don't depend on block size, memory layout, thread count or device, to the last bit. A float sum rounds
  differently in another block shape, which turns ties into chance. Here each coordinate of a normalised embedding is
  rounded to a multiple of 2^-26, so every product is a multiple of 2^-52 and every partial sum, hardly above 1 by
  Cauchy-Schwarz, is a float64 without rounding. Rounding the coordinates moves a cosine by about 5e-9, less than
  float32 arithmetic does. Lengths and average precisions are summed as whole numbers, means without rounding.
- No row is sorted unless it has ties or very many positives: a positive's rank is one plus the number of better
  gallery items, and a binary search among the positives of a row counts these for all of them at once.

On a CPU a float32 product, which takes half the time, tells most items apart; float64 settles the few that it can't.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import Ids, Matrix, check_finite, matrix_of, persons_of

RANKS = (1, 5, 10)
BLOCK_SIZE = 2**21
# About where the binary search, which grows with the logarithm of the positives, costs as much as sorting the row.
MANY_POSITIVES = 1000
_GRID = 2.0**26
# A gallery from this size on is screened in float32, as long as at most one pair in so many has to be settled, which
# takes about 60 times as long as a pair of the float64 product of a block.
SCREENED, SETTLED = 1000, 64
# Products that a float32 sum adds up before it is added to others: its error grows with them.
SUMMED = 256
# Coordinates that are converted at a time: what is made on the way would need more memory than the embeddings.
_PART = 2**18


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
    persons = persons_of(query_ids, len(queries), gallery_ids, len(gallery), queries.device)
    queries, gallery = _on_grid(queries, "query_embeddings"), _on_grid(gallery, "gallery_embeddings")
    return _rank(_Cosines(queries, gallery).ranks, *persons, block_size)


def rank_similarity(similarity: Matrix, query_ids: Ids, gallery_ids: Ids, block_size: int = BLOCK_SIZE) -> QueryRanks:
    """The figures of each query from a similarity matrix, float [Q, G]; else as `rank_queries`."""
    values = matrix_of(similarity, "similarity")
    persons = persons_of(query_ids, values.shape[0], gallery_ids, values.shape[1], values.device)
    check_finite(values, "similarity")
    return _rank(
        lambda rows, positives: _positive_ranks(values[rows].double(), positives.mask()), *persons, block_size
    )


def _image_to_text(rank: Callable[..., QueryRanks], *inputs: Matrix | Ids, block_size: int) -> dict[str, float]:
    try:
        figures = rank(*inputs, block_size).metrics()
    except ValueError as error:
        raise ValueError(f"image to text, where images are the queries: {error}") from None
    return {f"i2t_{name}": value for name, value in figures.items()}


@dataclass(frozen=True)
class _Positives:
    """Where a block of queries has items of its persons: pairs in the order of queries, then of the gallery.

    Args:
        row, item: query of the block and gallery item of each pair, int64 [N].
        counts: pairs of each query, int64 [b], at least 1.
        gallery: its size.
    """

    row: Tensor
    item: Tensor
    counts: Tensor
    gallery: int

    def mask(self) -> Tensor:
        """bool [b, G]."""
        found = torch.zeros(len(self.counts), self.gallery, dtype=torch.bool, device=self.row.device)
        found[self.row, self.item] = True
        return found


def _rank(
    ranks_of: Callable[[slice, _Positives], Tensor], query_ids: Tensor, gallery_ids: Tensor, block_size: int
) -> QueryRanks:
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, found {block_size}.")
    rows_per_block = max(1, min(block_size, 2**31) // len(gallery_ids))
    # Filled in place: small results kept from every block would pin the freed blocks between them in the heap.
    ranks = QueryRanks(
        first_hit=torch.empty(len(query_ids), dtype=torch.int64),
        average_precision=torch.empty(len(query_ids), dtype=torch.float64),
        inverse_negative_penalty=torch.empty(len(query_ids), dtype=torch.float64),
    )
    persons, order = gallery_ids.sort(stable=True)
    first = torch.searchsorted(persons, query_ids)
    numbers = torch.searchsorted(persons, query_ids, right=True) - first
    for start in range(0, len(query_ids), rows_per_block):
        rows = slice(start, start + rows_per_block)
        counts = numbers[rows]
        row = torch.repeat_interleave(counts)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        positives = _Positives(row, order[first[rows][row] + place], counts, len(gallery_ids))
        figures = _figures(ranks_of(rows, positives), counts, len(gallery_ids))
        ranks.first_hit[rows], ranks.average_precision[rows], ranks.inverse_negative_penalty[rows] = figures
    return ranks


class _Cosines:
    """Embeddings on the grid, int32 [Q, D] and [G, D], and ranks by their cosine, the same with or without float32.

    A float32 sum, in whatever order, of products that pass through n roundings is off by at most gamma |x| |y|,
    gamma = n u / (1 - n u) with u = 2^-24: Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, (3.5),
    and Cauchy-Schwarz. Here n is SUMMED in a part, one for each part, and two since both factors are rounded.
    """

    def __init__(self, queries: Tensor, gallery: Tensor):
        width = gallery.shape[1]
        error = (min(width, SUMMED) + math.ceil(width / SUMMED) + 2) * 2.0**-24
        # Rows are hardly longer than 1, and what is 2^-23 more outweighs the rounding of the bounds themselves.
        self.margin = error / (1 - error) * (1 + width**0.5 / _GRID) ** 2 + 2.0**-23
        self.screened = len(gallery) >= SCREENED and self.margin < 1 / SETTLED and _float32_is_whole(gallery.device)
        self.queries, self.gallery = (queries, gallery) if self.screened else (queries.double(), gallery.double())
        self.rough = gallery.float().div_(_GRID) if self.screened else gallery

    def ranks(self, rows: slice, positives: _Positives) -> Tensor:
        """As `_positive_ranks` of the rows' exact cosines."""
        pairs_of_all = len(positives.counts) * positives.gallery
        if not self.screened or len(positives.row) * SETTLED > pairs_of_all:
            return _positive_ranks(self._block(rows), positives.mask())
        scores = self._rough_scores(rows)
        cosine = self._pairs(rows, positives.row, positives.item)
        # Slots hold a row's positives, the least alike first; those that are not in use are above all.
        held = _slots(positives.counts)
        values = _filled(held, cosine, math.inf).sort(dim=1).values
        low, high = (values - self.margin).float(), (values + self.margin).float()
        row, item, better = self._near(scores, low, high, held)
        if len(row) * SETTLED > pairs_of_all:
            return _positive_ranks(self._block(rows), positives.mask())

        # What is left ranks among itself as a small gallery, in gallery order.
        slots = _slots(torch.bincount(row, minlength=len(held)))
        # Both ascend by query and item, and all positives are left: each is near itself.
        pairs, wanted = (of * self.gallery.shape[0] + at for of, at in ((row, item), (positives.row, positives.item)))
        hits = torch.zeros_like(pairs, dtype=torch.bool)
        hits[torch.searchsorted(pairs, wanted)] = True
        exact = cosine.new_empty(len(pairs))
        exact[hits], exact[~hits] = cosine, self._pairs(rows, row[~hits], item[~hits])
        ranks = _positive_ranks(_filled(slots, exact, -math.inf), _filled(slots, hits, False))
        # The better a positive is placed, the fewer are better: both ascend.
        ranks[held] += better.masked_fill(~held, positives.gallery).sort(dim=1).values[held]
        return ranks

    def _rough_scores(self, rows: slice) -> Tensor:
        """float32 [b, G], each within `margin` of the exact cosine."""
        parts = self.queries[rows].float().div_(_GRID).split(SUMMED, dim=1), self.rough.split(SUMMED, dim=1)
        with torch.autocast("cpu", enabled=False):  # it would take half precision
            products = (queries @ gallery.T for queries, gallery in zip(*parts, strict=True))
            scores = next(products)
            for product in products:  # apart: a product that adds to the last would pass on all of its roundings
                scores += product
        return scores

    def _near(self, scores: Tensor, low: Tensor, high: Tensor, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Items that lie within the bounds of any positive of their row, and how many others are better than each.

        Args:
            scores: [b, G], overwritten.
            low, high: bounds of the positives, ascending along a row, infinite where `held` is not, [b, P].
        Returns:
            row and item of what is near, by row and item, int64 [N]; the others that are better, int64 [b, P].
        """
        # Each row's scores fall into cells by operations that keep their order. Cells between the bounds of a positive
        # are open; an item of another cell is surely better than the positives below it, worse than those above.
        # What is worse than all of them lies in cell 0, what is better than all in the last or the one before.
        cells = min(scores.shape[1] // 8, 2**20)
        size = cells * len(scores)
        bottom, top = low[:, :1], high.masked_fill(~held, -math.inf).amax(dim=1, keepdim=True)
        scale = (cells - 3) / (top - bottom)
        scores.sub_(bottom).mul_(scale).add_(1).clamp_(0, cells - 1)
        low, high = ((bound - bottom) * scale + 1 for bound in (low, high))
        start = cells * torch.arange(len(scores), dtype=torch.int32)[:, None]
        first, last = (bound[held].int().add_(start.expand(held.shape)[held]) for bound in (low, high))
        cell = scores.int().add_(start)
        depth, one = torch.zeros(size + 1, dtype=torch.int32), torch.ones_like(first)
        opened = depth.index_add_(0, first, one).index_add_(0, last + 1, -one).cumsum_(0)[:size] > 0
        certain = torch.bincount(cell.flatten(), minlength=size).masked_fill_(opened, 0).view(-1, cells)
        better = torch.zeros(held.shape, dtype=torch.int64)
        better[held] = (certain.sum(dim=1, keepdim=True) - certain.cumsum_(dim=1)).flatten()[last]

        # Cells are wider than the bounds: of an item in an open one the positives below it are counted, and only the
        # next one may have it between its bounds, as both of them ascend.
        row, item = opened.index_select(0, cell.flatten()).view_as(scores).nonzero(as_tuple=True)
        slots = _slots(torch.bincount(row, minlength=len(held)))
        score = _filled(slots, scores[row, item], -math.inf)
        below = torch.searchsorted(high, score)
        within = F.pad(low, (0, 1), value=math.inf).gather(1, below) <= score
        certain = torch.zeros(len(held), held.shape[1] + 1, dtype=torch.int64)
        certain.scatter_add_(1, below, (slots & ~within).long())
        better += certain.sum(dim=1, keepdim=True) - certain.cumsum_(dim=1)[:, :-1]
        left = within[slots]
        return row[left], item[left], better

    def _pairs(self, rows: slice, row: Tensor, item: Tensor) -> Tensor:
        """Exact cosines of pairs, float64 [N]; `row` counts from the start of `rows`."""
        size = max(1, _PART // 4 // self.gallery.shape[1])  # so few that they stay in the cache
        queries = self.queries[rows].double()
        pairs = zip(row.split(size), item.split(size), strict=True)
        return torch.cat([(queries[q] * self.gallery[g]).sum(dim=1) for q, g in pairs]) / _GRID**2

    def _block(self, rows: slice) -> Tensor:
        """Exact cosines of the rows with the whole gallery, times 2^52, float64 [b, G]."""
        queries = self.queries[rows].double()
        parts = self.gallery.split(max(1, 4 * _PART // self.gallery.shape[1]))
        found = queries.new_empty(len(queries), len(self.gallery))
        for part, columns in zip(parts, found.split([len(part) for part in parts], dim=1), strict=True):
            columns.copy_(queries @ part.double().T)
        return found


def _slots(counts: Tensor) -> Tensor:
    """Which places of a row are in use, the first `counts` of each: bool [b, largest count]."""
    return torch.arange(int(counts.max()), device=counts.device) < counts[:, None]


def _filled(slots: Tensor, values: Tensor, empty: float) -> Tensor:
    """Values row by row in their slots, `empty` in the others, of the type of `values`."""
    return values.new_full(slots.shape, empty).masked_scatter_(slots, values)


def _float32_is_whole(device: torch.device) -> bool:
    """Whether a float32 product is computed in float32: torch may be told to take fewer bits."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)  # torch 2.9
    if settings is None:
        return device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return device.type == "cpu" and settings.fp32_precision in ("none", "ieee")


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
    held = _slots(positives.sum(dim=1))
    size = held.shape[1]
    if size > MANY_POSITIVES:
        return _ranks_by_sorting(similarity, positives, held)
    values = _filled(held, similarity[positives], torch.inf).sort(dim=1).values
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


def _on_grid(values: Tensor, name: str) -> Tensor:
    """L2-normalised rows, coordinates rounded to multiples of 2^-26, in these, int32; a zero row stays zero."""
    check_finite(values, name)
    grid = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    tiny = torch.finfo(torch.float64).tiny
    size = max(1, _PART // values.shape[1])
    for rows, rounded in zip(values.split(size), grid.split(size), strict=True):
        part = rows.to(torch.float64, copy=True)
        # Scaled by the largest coordinate first: squares of very large or small values leave the float range.
        part /= part.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
        part /= _exact_sum(part.square(), part.shape[1]).sqrt()[:, None].clamp_min(tiny)
        rounded.copy_(part.mul_(_GRID).round_())
    return grid


__all__ = ["QueryRanks", "rank_metrics", "rank_queries", "rank_similarity", "similarity_metrics"]
