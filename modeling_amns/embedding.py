"""Embeds galleries and queries in batches, shared out over the processes."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from datasets.utils import tqdm
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from .data.collator import load_image, pad_tokens, undecoded
from .data.long_captions import WINDOWS, LongCaptions, read_captions, windows_of
from .protocols import Embedder, PairProcessor


class _Pixels(Dataset):
    """Images of a gallery as uint8 [3, height, width], decoded in full: the pixels that the processor makes."""

    def __init__(self, dataset: datasets.Dataset, processor: PairProcessor):
        columns = [name for name in ("image", "image_path") if name in dataset.column_names]
        self.dataset = undecoded(dataset.select_columns(columns))
        self.processor = processor

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(np.array(load_image(self.dataset[row], self.processor))).permute(2, 0, 1)


def embed_images(
    model: Embedder,
    processor: PairProcessor,
    gallery: datasets.Dataset,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """Embeddings of all images of a gallery, in its order, the same on every process.

    Args:
        model: an `AMNSModel` (not wrapped), on its device; put into eval mode for the call.
        processor: its `AMNSProcessor`.
        gallery: rows with `image` and, for error messages, `image_path`.
        batch_size: images per process and step.
        num_workers: processes that decode images.
        progress: show a bar on the main process.
    Returns:
        L2-normalised float32 [images, D] on the CPU.
    """
    pixels = _Pixels(gallery, processor)

    def embed(images: Tensor) -> Tensor:
        pixels = processor.normalize_images(images.to(model.device))
        return cast(Tensor, model.get_image_features(pixels).pooler_output)

    return _embed_all(model, pixels, embed, torch.stack, batch_size, num_workers, "images" if progress else None)


def embed_texts(
    model: Embedder,
    processor: PairProcessor,
    captions: Sequence[str],
    batch_size: int = 256,
    progress: bool = False,
    what: str | None = "Captions to embed",
) -> Tensor:
    """Embeddings of captions, in their order, the same on every process.

    Captions of more than `processor.max_tokens` tokens are dealt with as `processor.long_captions` says: `cut` at the
    limit, with a warning; `refuse`d; or read in `windows`: each window, with start and end tokens of its own
    (`captions_amns.token_windows`), has an L2-normalised embedding, and the caption's is their mean, normalised again.

    Args:
        model: an `AMNSModel` (not wrapped), on its device; put into eval mode for the call.
        processor: its `AMNSProcessor`.
        captions: at least none.
        batch_size: captions, or windows, per process and step.
        progress: show a bar on the main process.
        what: what a warning calls the captions; `None` leaves the warning to the caller.
    Returns:
        L2-normalised float32 [captions, D] on the CPU.
    Raises:
        ValueError: captions are too long and to be refused.
    """
    tokens, whole = read_captions(processor, captions)
    if what is not None or processor.long_captions != "cut":
        longest = max(map(len, whole.values()), default=0)
        long = LongCaptions(len(captions), tuple(whole), longest, processor.max_tokens)
        long.say(processor.long_captions, what or "Captions to embed", "caption")
    parts = [[ids] for ids in tokens]
    if processor.long_captions == WINDOWS:
        for place, ids in whole.items():
            parts[place] = windows_of(processor, ids)
    windows = [window for part in parts for window in part]

    def collate(rows: list[list[int]]) -> Mapping[str, Tensor]:
        return pad_tokens(rows, processor.tokenizer.pad_token_id, processor.padded_length)

    def embed(batch: Mapping[str, Tensor]) -> Tensor:
        tokens = {name: value.to(model.device) for name, value in batch.items()}
        return cast(Tensor, model.get_text_features(**tokens).pooler_output)

    # Captions of a batch are padded to its longest: sorted, they hardly are.
    order = sorted(range(len(windows)), key=lambda place: len(windows[place]))
    by_length = [windows[place] for place in order]
    found = _embed_all(model, by_length, embed, collate, batch_size, 0, "captions" if progress else None)
    vectors = torch.empty_like(found)
    vectors[order] = found
    if len(windows) == len(parts):
        return vectors
    of_each = vectors.split([len(part) for part in parts])
    means = [part[0] if len(part) == 1 else nn.functional.normalize(part.mean(0), dim=0) for part in of_each]
    return torch.stack(means)


@torch.no_grad()
def _embed_all(
    model: Embedder,
    items: _Pixels | list[list[int]],
    embed: Callable,
    collate: Callable,
    batch_size: int,
    num_workers: int,
    label: str | None,
) -> Tensor:
    state = PartialState()
    share = range(state.process_index, len(items), state.num_processes)
    loader = DataLoader(
        Subset(cast(Dataset, items), share), batch_size=batch_size, collate_fn=collate, num_workers=num_workers
    )
    was_training = model.training
    model.train(False)
    try:
        bar = tqdm(loader, desc=f"embedding {label}", leave=False, disable=label is None or not state.is_main_process)
        parts = [nn.functional.normalize(embed(batch).float(), dim=-1) for batch in bar]
    finally:
        model.train(was_training)
    dimension = model.embedding_dim
    local = torch.cat(parts) if parts else torch.zeros(0, dimension, device=model.device)
    if state.num_processes == 1:
        return local.cpu()
    longest = -(-len(items) // state.num_processes)
    padded = local.new_zeros(longest, dimension)
    padded[: len(local)] = local
    # Item i lies at place i // P of process i % P.
    gathered = gather(padded).view(state.num_processes, longest, dimension)
    return gathered.transpose(0, 1).reshape(-1, dimension)[: len(items)].cpu()


__all__ = ["embed_images", "embed_texts"]
