"""Retrieval figures of a model on a split: embeds gallery and queries and ranks them."""

from collections.abc import Mapping

import datasets
from torch import nn

from .embedding import embed_images, embed_texts
from .metrics.ranking import rank_metrics


def evaluate_retrieval(
    model: nn.Module,
    processor,
    split: Mapping[str, datasets.Dataset],
    batch_size: int = 128,
    num_workers: int = 0,
    image_to_text: bool = False,
    progress: bool = False,
) -> dict[str, float]:
    """Ranks all images of a split for each of its captions, the protocol of the field.

    Args:
        model: an `AMNSModel` (not wrapped), on its device.
        processor: its `AMNSProcessor`.
        split: `{"gallery", "queries"}`, as `load_benchmark(name, root, "test")` returns.
        batch_size: images or captions per process and step.
        num_workers: processes that decode images.
        image_to_text: add `i2t_rank1` ...
        progress: show bars on the main process.
    Returns:
        `rank1`, `rank5`, `rank10`, `mAP`, `mINP` in percent, the same on every process.
    Raises:
        ValueError: the split lacks its two parts, or a query's person is not in the gallery.
    """
    if not isinstance(split, Mapping) or not {"gallery", "queries"} <= set(split):
        found = sorted(split) if isinstance(split, Mapping) else type(split).__name__
        raise ValueError(
            'A split to evaluate must hold "gallery" and "queries", as load_benchmark(name, root, "val") returns; '
            f"found {found}."
        )
    gallery = embed_images(model, processor, split["gallery"], batch_size, num_workers, progress)
    queries = embed_texts(model, processor, split["queries"]["caption"][:], batch_size, progress)
    return rank_metrics(
        queries,
        split["queries"]["person_id"][:],
        gallery,
        split["gallery"]["person_id"][:],
        image_to_text=image_to_text,
    )


__all__ = ["evaluate_retrieval"]
