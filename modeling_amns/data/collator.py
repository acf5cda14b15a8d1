"""From rows of a benchmark to batches of tensors: decoding, resizing and tokenising on the CPU, images as uint8."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ..protocols import PairProcessor
from .images import decode_image
from .long_captions import CUT, WINDOWS, LongCaptions, read_captions, windows_of
from .sampler import PairKey
from .transforms import Augmentation, flip_and_crop

# Apart from the draws of the augmentation.
_WINDOW = 1


class PairPreparer:
    """Makes one training example from a row (image, caption, person_id).

    Args:
        processor: an `AMNSProcessor`; its images before normalisation and its tokens are used.
        augmentation: `None` leaves images and captions as they are.
        seed: with epoch and row it fixes the augmentation.
        counted: the captions of the whole set were looked at, and those that are too long are spoken of. Else, as of
            a stream, the first one that is read is warned of or refused.

    Where the processor reads long captions in windows, an example has one of them, drawn anew in each epoch: every
    window is true of the image, and its step costs what that of a short caption does.
    """

    def __init__(
        self,
        processor: PairProcessor,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        counted: bool = False,
    ):
        self.processor = processor
        self._told = counted
        self.augmentation = augmentation
        self.seed = seed
        self.height, self.width = processor.image_size
        tokenizer = processor.tokenizer
        self.ordinary = ordinary_ids(tokenizer)
        # CLIP has no mask token; IRRA and RDE use the last ordinary entry of the vocabulary, before the start token.
        self.mask_id = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else self.ordinary.stop - 1

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
        tokens = self._tokens([row["caption"] for row in rows], keys)
        return [self._example(row, key, ids) for row, key, ids in zip(rows, keys, tokens, strict=True)]

    def _tokens(self, captions: list[str], keys: Sequence[PairKey]) -> list[list[int]]:
        choice = self.processor.long_captions
        if self._told and choice != WINDOWS:
            return self.processor.token_ids(captions)
        tokens, whole = read_captions(self.processor, captions)
        for place, ids in whole.items():
            if choice == WINDOWS:
                windows = windows_of(self.processor, ids)
                # A stream of numbers of its own: what else is drawn for a pair does not depend on its length.
                generator = np.random.default_rng([self.seed, *keys[place], _WINDOW])
                tokens[place] = windows[generator.integers(len(windows))]
            elif not self._told:
                found = LongCaptions(1, (keys[place].row,), len(ids), self.processor.max_tokens)
                found.say(choice, "The first long caption of the stream, of which there may be more")
                self._told = choice == CUT
        return tokens

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
            ids = self.augmentation.change_tokens(ids, generator, self.mask_id, self.ordinary)
        example["image"] = np.asarray(image)
        example["input_ids"] = ids
        return example


def ordinary_ids(tokenizer: PreTrainedTokenizerBase) -> range:
    """The ids of ordinary tokens: those before start and end, as CLIP's, or after all special ones, as SigLIP's."""
    ends = [end for end in (tokenizer.bos_token_id, tokenizer.eos_token_id) if end is not None]
    return max(range(min(ends)), range(max(tokenizer.all_special_ids) + 1, len(tokenizer)), key=len)


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


class PairCollator:
    """Stacks prepared pairs and pads their captions.

    Args:
        pad_token_id: of the tokenizer.
        length: that captions are padded to (`PairProcessor.padded_length`); `None` means the longest.

    Returns a dict with `images` uint8 [B, 3, H, W], `input_ids` and `attention_mask` int64 [B, T], `person_ids` and
    `rows` int64 [B], and under augmentation `erase` and, where it is on, `jitter` (see
    `Augmentation.draw`).
    """

    def __init__(self, pad_token_id: int, length: int | None = None):
        self.pad_token_id, self.length = pad_token_id, length

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch of some examples of `PairPreparer`."""
        # A view in channels-last order: transposing the bytes would cost as much as reading them.
        images = torch.from_numpy(np.stack([example["image"] for example in examples])).permute(0, 3, 1, 2)
        batch = {"images": images}
        batch.update(pad_tokens([example["input_ids"] for example in examples], self.pad_token_id, self.length))
        batch["person_ids"] = torch.tensor([example["person_id"] for example in examples])
        batch["rows"] = torch.tensor([example["row"] for example in examples])
        for name in ("erase", "jitter"):
            if name in examples[0]:
                batch[name] = torch.from_numpy(np.stack([example[name] for example in examples]))
        return batch


def pad_tokens(sequences: list[list[int]], pad_token_id: int, length: int | None = None) -> dict[str, Tensor]:
    """Token lists to `input_ids` and `attention_mask`, int64 [B, length], or as long as the longest."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    input_ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=pad_token_id
    )
    if length is not None:
        input_ids = torch.nn.functional.pad(input_ids, (0, length - input_ids.shape[1]), value=pad_token_id)
    attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask}


__all__ = [
    "PairCollator",
    "PairPreparer",
    "TrainingPairs",
    "load_image",
    "ordinary_ids",
    "pad_tokens",
    "undecoded",
]
