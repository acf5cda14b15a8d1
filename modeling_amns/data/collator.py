"""From rows of a benchmark to batches of tensors: decoding, resizing and tokenising on the CPU, images as uint8."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..protocols import PairProcessor
from .images import decode_image
from .sampler import PairKey
from .transforms import Augmentation, flip_and_crop


class PairPreparer:
    """Makes one training example from a row (image, caption, person_id).

    Args:
        processor: an `AMNSProcessor`; its images before normalisation and its tokens are used.
        augmentation: `None` leaves images and captions as they are.
        seed: with epoch and row it fixes the augmentation.
    """

    def __init__(self, processor: PairProcessor, augmentation: Augmentation | None = None, seed: int = 0):
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed
        self.height, self.width = processor.image_size
        tokenizer = processor.tokenizer
        # CLIP has no mask token; IRRA and RDE use the last ordinary entry of the vocabulary, before the start token.
        self.num_ordinary = min(tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.mask_id = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else self.num_ordinary - 1

    def image(self, row: Mapping[str, Any]) -> Image.Image:
        """The row's image in RGB and the processor's size, large JPEG files decoded at a part of theirs.

        An unreadable file is an error that names it.
        """
        return load_image(row, self.processor, reduced=True)

    def __call__(self, row: Mapping[str, Any], key: PairKey) -> dict[str, Any]:
        """One example: `image` uint8 [height, width, 3], `input_ids`, `person_id`, `row`, `erase`, `jitter`."""
        return self.batch([row], [key])[0]

    def batch(self, rows: Sequence[Mapping[str, Any]], keys: Sequence[PairKey]) -> list[dict[str, Any]]:
        """Examples of many rows; their captions are tokenised in one call, which costs a tenth of a call for each."""
        tokens = self.processor.token_ids([row["caption"] for row in rows])
        return [self._example(row, key, ids) for row, key, ids in zip(rows, keys, tokens, strict=True)]

    def _example(self, row: Mapping[str, Any], key: PairKey, ids: list[int]) -> dict[str, Any]:
        image = self.image(row)
        example = {"person_id": row["person_id"], "row": key.row}
        if self.augmentation is not None:
            generator = np.random.default_rng([self.seed, *key])
            drawn = self.augmentation.draw(generator, self.height, self.width)
            image = flip_and_crop(image, bool(drawn["flip"]), drawn["shift"].tolist())
            example["erase"] = drawn["erase"]
            if self.augmentation.color_jitter:
                example["jitter"] = drawn["jitter"]
            ids = self.augmentation.change_tokens(ids, generator, self.mask_id, self.num_ordinary)
        example["image"] = np.asarray(image)
        example["input_ids"] = ids
        return example


def load_image(row: Mapping[str, Any], processor: PairProcessor, reduced: bool = False) -> Image.Image:
    """Decodes a row's image and resizes it as the processor does; by default to the same pixels.

    Args:
        row: with `image` (a PIL image, or the undecoded {"path", "bytes"} of `datasets`) and `image_path`.
        processor: an `AMNSProcessor`.
        reduced: let a large JPEG file be decoded at a part of its size, see `decode_image`. For training alone.
    """
    size = processor.image_size if reduced else None
    return processor.resize_image(decode_image(row["image"], where=row.get("image_path"), size=size))


Rows = TypeVar("Rows", datasets.Dataset, datasets.IterableDataset)


def undecoded(dataset: Rows) -> Rows:
    """The data set with its images left as files, so that workers decode them at the size that is needed."""
    return dataset.cast_column("image", datasets.Image(decode=False))


class TrainingPairs(Dataset):
    """Map-style view of a training set, addressed by `PairKey`."""

    def __init__(self, dataset: datasets.Dataset, preparer: PairPreparer):
        self.dataset = undecoded(dataset)
        self.preparer = preparer

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: PairKey) -> dict[str, Any]:
        return self.preparer(self.dataset[key.row], key)

    def __getitems__(self, keys: list[PairKey]) -> list[dict[str, Any]]:
        """A whole batch, as torch's DataLoader asks for it: one read of the table, one call of the tokenizer."""
        columns = self.dataset[[key.row for key in keys]]
        rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
        return self.preparer.batch(rows, keys)


class StreamedPairs(IterableDataset):
    """Iterable view of a streamed training set; rows count from 0 in each epoch, in the stream's own order.

    Of several workers, worker w of n counts w, w + n, w + 2n, ...: each pair has a row, and so a draw, of its own.
    """

    def __init__(self, dataset: datasets.IterableDataset, preparer: PairPreparer):
        self.dataset = undecoded(dataset)
        self.preparer = preparer
        # Shared, as that of `datasets`: workers that are kept from epoch to epoch see it too.
        self._epoch = torch.tensor(0).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Shuffled streams reorder themselves; augmentation draws anew."""
        self._epoch.fill_(epoch)
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker, epoch = get_worker_info(), int(self._epoch)
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number, row in enumerate(self.dataset):
            yield self.preparer(row, PairKey(first + number * step, epoch))


class PairCollator:
    """Stacks prepared pairs and pads their captions to the longest.

    Returns a dict with `images` uint8 [B, 3, H, W], `input_ids` and `attention_mask` int64 [B, T], `person_ids` and
    `rows` int64 [B], and under augmentation `erase` and, where it is on, `jitter` (see `Augmentation.draw`).
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch of some examples of `PairPreparer`."""
        # A view in channels-last order: transposing the bytes would cost as much as reading them.
        images = torch.from_numpy(np.stack([example["image"] for example in examples])).permute(0, 3, 1, 2)
        batch = {"images": images}
        batch.update(pad_tokens([example["input_ids"] for example in examples], self.pad_token_id))
        batch["person_ids"] = torch.tensor([example["person_id"] for example in examples])
        batch["rows"] = torch.tensor([example["row"] for example in examples])
        for name in ("erase", "jitter"):
            if name in examples[0]:
                batch[name] = torch.from_numpy(np.stack([example[name] for example in examples]))
        return batch


def pad_tokens(sequences: list[list[int]], pad_token_id: int) -> dict[str, Tensor]:
    """Token lists to `input_ids` and `attention_mask`, int64 [B, longest]."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    input_ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=pad_token_id
    )
    attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask}


__all__ = [
    "PairCollator",
    "PairPreparer",
    "StreamedPairs",
    "TrainingPairs",
    "load_image",
    "pad_tokens",
    "undecoded",
]
