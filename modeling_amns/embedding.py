"""Embeds galleries and queries in batches, shared out over the processes."""

from collections.abc import Callable, Mapping, Sequence

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from datasets.utils import tqdm
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from .data.collator import load_image, pad_tokens, undecoded
from .data.transforms import normalize_images


class _Pixels(Dataset):
    """Undecoded images of a gallery as uint8 [3, height, width]."""

    def __init__(self, dataset: datasets.Dataset, size: tuple[int, int], resample: int):
        columns = [name for name in ("image", "image_path") if name in dataset.column_names]
        self.dataset = undecoded(dataset.select_columns(columns))
        self.size, self.resample = size, resample

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(np.array(load_image(self.dataset[row], self.size, self.resample))).permute(2, 0, 1)


def embed_images(
    model: nn.Module,
    processor,
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
    pixels = _Pixels(gallery, processor.image_size, processor.image_processor.resample)
    mean = torch.tensor(processor.image_processor.image_mean, device=model.device)
    std = torch.tensor(processor.image_processor.image_std, device=model.device)

    def embed(images: Tensor) -> Tensor:
        return model.get_image_features(normalize_images(images.to(model.device), mean, std)).pooler_output

    return _embed_all(model, pixels, embed, torch.stack, batch_size, num_workers, "images" if progress else None)


def embed_texts(
    model: nn.Module,
    processor,
    captions: Sequence[str],
    batch_size: int = 256,
    progress: bool = False,
) -> Tensor:
    """Embeddings of captions, in their order, the same on every process: L2-normalised float32 [captions, D], CPU."""
    tokens = processor(text=list(captions), padding=False)["input_ids"] if len(captions) else []

    def collate(rows: list[list[int]]) -> Mapping[str, Tensor]:
        return pad_tokens(rows, processor.tokenizer.pad_token_id)

    def embed(batch: Mapping[str, Tensor]) -> Tensor:
        return model.get_text_features(**{name: value.to(model.device) for name, value in batch.items()}).pooler_output

    return _embed_all(model, tokens, embed, collate, batch_size, 0, "captions" if progress else None)


@torch.no_grad()
def _embed_all(
    model: nn.Module,
    items: Dataset | Sequence,
    embed: Callable,
    collate: Callable,
    batch_size: int,
    num_workers: int,
    label: str | None,
) -> Tensor:
    state = PartialState()
    share = range(state.process_index, len(items), state.num_processes)
    loader = DataLoader(Subset(items, share), batch_size=batch_size, collate_fn=collate, num_workers=num_workers)
    was_training = model.training
    model.eval()
    try:
        bar = tqdm(loader, desc=f"embedding {label}", leave=False, disable=label is None or not state.is_main_process)
        parts = [nn.functional.normalize(embed(batch).float(), dim=-1) for batch in bar]
    finally:
        model.train(was_training)
    dimension = model.config.projection_dim
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
