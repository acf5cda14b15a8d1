"""What `benchmark.py data` compares: this package's training loader and the one that forks of IRRA have.

The latter prepares every pair by itself. Written from IRRA's description (CVPR 2023) over Pillow and torch alone:
decode in full, resize, flip, pad by 10 and crop, scale to [0, 1], normalise, erase with the mean, one call of the
tokenizer for each caption.
"""

import random
from collections.abc import Callable, Iterable, Iterator

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from modeling_amns import AMNSProcessor
from modeling_amns.data.collator import PairCollator, PairPreparer, TrainingPairs, undecoded
from modeling_amns.data.sampler import RandomPairSampler
from modeling_amns.data.transforms import Augmentation, augment_images


class PlainPairs(Dataset):
    """Pairs of (path, caption, person id), each prepared as floats on the CPU.

    Args:
        pairs: the training pairs.
        processor: gives size, filter, mean and deviation, so that both loaders do the same work.
        augmentation: `None` leaves the images as they are.
    """

    def __init__(self, pairs: list[tuple[str, str, int]], processor: AMNSProcessor, augmentation: Augmentation | None):
        self.pairs, self.tokenizer, self.augmentation = pairs, processor.tokenizer, augmentation
        self.height, self.width = processor.image_size
        self.resample = processor.image_processor.resample
        self.mean = torch.tensor(processor.image_processor.image_mean).view(3, 1, 1)
        self.std = torch.tensor(processor.image_processor.image_std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor | int]:
        path, caption, person_id = self.pairs[row]
        image = Image.open(path).convert("RGB").resize((self.width, self.height), self.resample)
        if self.augmentation is not None:
            image = self._flip_and_crop(image)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        values = (values - self.mean) / self.std
        if self.augmentation is not None and random.random() < self.augmentation.erasing:
            self._erase(values)
        tokens = self.tokenizer(caption, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        return {"pixel_values": values, "input_ids": tokens["input_ids"][0], "person_id": person_id}

    def _flip_and_crop(self, image: Image.Image) -> Image.Image:
        if random.random() < self.augmentation.flip:
            image = ImageOps.mirror(image)
        padding = self.augmentation.crop_padding
        image = ImageOps.expand(image, padding, fill=0)
        left, top = random.randint(0, 2 * padding), random.randint(0, 2 * padding)
        return image.crop((left, top, left + self.width, top + self.height))

    def _erase(self, values: torch.Tensor) -> None:
        area = random.uniform(*self.augmentation.erasing_scale) * self.height * self.width
        ratio = np.exp(random.uniform(np.log(0.3), np.log(3.3)))
        height = min(self.height, round(np.sqrt(area * ratio)))
        width = min(self.width, round(np.sqrt(area / ratio)))
        top, left = random.randint(0, self.height - height), random.randint(0, self.width - width)
        values[:, top : top + height, left : left + width] = 0


def loaders(
    train: datasets.Dataset, processor: AMNSProcessor, augmentation: Augmentation, batch_size: int
) -> dict[str, Callable[[], Iterable[object]]]:
    """One epoch of each loader in this process, from files on disk to normalised float images and token ids.

    The third is what the CPU does where a GPU normalises and erases: its batch is uint8.
    """
    ours = DataLoader(
        TrainingPairs(train, PairPreparer(processor, augmentation)),
        batch_size=batch_size,
        sampler=RandomPairSampler(len(train)),
        collate_fn=PairCollator(processor.tokenizer.pad_token_id, processor.padded_length),
    )
    plain = DataLoader(PlainPairs(_pairs(train), processor, augmentation), batch_size=batch_size, shuffle=True)
    mean, std = _statistics(processor)

    def normalised() -> Iterator[torch.Tensor]:
        for batch in ours:
            yield augment_images(batch["images"], mean, std, batch["erase"])

    return {
        "plain loader": lambda: plain,
        "modeling_amns": normalised,
        "modeling_amns, a GPU normalises": lambda: ours,
    }


def largest_difference(train: datasets.Dataset, processor: AMNSProcessor) -> tuple[int, float]:
    """Between the images of the two loaders without augmentation: largest and mean, in levels of 0 to 255."""
    preparer = PairPreparer(processor)
    plain = PlainPairs(_pairs(train), processor, None)
    mean, std = (value.view(3, 1, 1) for value in _statistics(processor))
    largest, total = 0, 0.0
    for row, example in enumerate(undecoded(train)):
        ours = torch.from_numpy(np.array(preparer.image(example))).permute(2, 0, 1).float()
        theirs = ((plain[row]["pixel_values"] * std + mean) * 255).round()
        difference = (ours - theirs).abs()
        largest, total = max(largest, int(difference.max())), total + float(difference.mean())
    return largest, total / len(train)


def _pairs(train: datasets.Dataset) -> list[tuple[str, str, int]]:
    files = undecoded(train)
    return [(row["image"]["path"], row["caption"], row["person_id"]) for row in files]


def _statistics(processor: AMNSProcessor) -> tuple[torch.Tensor, torch.Tensor]:
    image_processor = processor.image_processor
    return torch.tensor(image_processor.image_mean), torch.tensor(image_processor.image_std)


__all__ = ["PlainPairs", "largest_difference", "loaders"]
