"""Retrieval figures of a model on a split: embeds gallery and queries once and ranks them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import datasets
import torch
from torch import Tensor

from .data.long_captions import refuse_long
from .embedding import embed_images, embed_texts
from .metrics.ranking import QueryRanks, rank_metrics, rank_queries
from .protocols import Embedder, PairProcessor


@dataclass(frozen=True)
class EmbeddedSplit:
    """A split as a model sees it: figures, pictures and audits of one model share it.

    Args:
        gallery: L2-normalised embeddings of the images, float32 [G, D], on the CPU.
        gallery_ids: person of each image, int64 [G].
        queries: L2-normalised embeddings of the captions, float32 [Q, D], on the CPU.
        query_ids: person of each caption, int64 [Q].
    """

    gallery: Tensor
    gallery_ids: Tensor
    queries: Tensor
    query_ids: Tensor

    @cached_property
    def ranks(self) -> QueryRanks:
        """How each caption fared; ranked once, whoever asks.

        Raises:
            ValueError: a query's person is not in the gallery.
        """
        return rank_queries(self.queries, self.query_ids, self.gallery, self.gallery_ids)

    def metrics(self, image_to_text: bool = False) -> dict[str, float]:
        """`rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent, on request with `i2t_rank1` ...

        Raises:
            ValueError: a query's person is not in the gallery.
        """
        if not image_to_text:
            return self.ranks.metrics()
        return rank_metrics(self.queries, self.query_ids, self.gallery, self.gallery_ids, image_to_text=image_to_text)


def embed_split(
    model: Embedder,
    processor: PairProcessor,
    split: Mapping[str, datasets.Dataset],
    batch_size: int = 128,
    num_workers: int = 0,
    progress: bool = False,
) -> EmbeddedSplit:
    """Embeds all images and captions of a split, shared out over the processes.

    Args:
        model: an `AMNSModel` (not wrapped), on its device.
        processor: its `AMNSProcessor`.
        split: `{"gallery", "queries"}`, as `load_benchmark(name, root, "test")` returns.
        batch_size: images or captions per process and step.
        num_workers: processes that decode images.
        progress: show bars on the main process.
    Returns:
        the embeddings, the same on every process.
    Raises:
        ValueError: the split lacks its two parts, or captions are too long and `processor.long_captions` is `refuse`.
    """
    if not isinstance(split, Mapping) or not {"gallery", "queries"} <= set(split):
        found = sorted(split) if isinstance(split, Mapping) else type(split).__name__
        raise ValueError(
            'A split to evaluate must hold "gallery" and "queries", as load_benchmark(name, root, "val") returns; '
            f"found {found}."
        )
    captions = split["queries"]["caption"][:]
    # Before the images, which take longer.
    refuse_long(processor, captions, "Queries", "query")
    return EmbeddedSplit(
        gallery=embed_images(model, processor, split["gallery"], batch_size, num_workers, progress),
        gallery_ids=torch.tensor(split["gallery"]["person_id"][:]),
        queries=embed_texts(model, processor, captions, batch_size, progress, "Queries"),
        query_ids=torch.tensor(split["queries"]["person_id"][:]),
    )


def evaluate_retrieval(
    model: Embedder,
    processor: PairProcessor,
    split: Mapping[str, datasets.Dataset],
    batch_size: int = 128,
    num_workers: int = 0,
    image_to_text: bool = False,
    progress: bool = False,
) -> dict[str, float]:
    """Ranks all images of a split for each of its captions, the protocol of the field.

    Args:
        model, processor, split, batch_size, num_workers, progress: as `embed_split`.
        image_to_text: add `i2t_rank1` ...
    Returns:
        `rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent, the same on every process.
    Raises:
        ValueError: the split lacks its two parts, or a query's person is not in the gallery.
    """
    return embed_split(model, processor, split, batch_size, num_workers, progress).metrics(image_to_text)


__all__ = ["EmbeddedSplit", "embed_split", "evaluate_retrieval"]
