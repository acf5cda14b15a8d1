"""Augmentation: each pair draws its parameters and moves its pixels, the device changes the colours of the batch.

What a pair draws depends on (seed, epoch, row) alone, hence not on workers, processes, batch size or resumption.
Images travel as uint8. Flip and crop copy bytes, which is cheapest where the image was decoded; jitter, normalisation
and erasing are arithmetic and run on the device, on the whole batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

ERASING_ATTEMPTS = 10


@dataclass
class Augmentation:
    """Strength of the training augmentation; the defaults are IRRA's for images of 384x128, text untouched.

    Args:
        flip: probability of a horizontal flip.
        crop_padding: the image is padded by this many black pixels on each side and cropped back at random.
        erasing: probability that a rectangle is replaced by the mean colour (random erasing, arXiv 1708.04896). It is
            drawn as torchvision draws it: a rectangle as high or as wide as the image is drawn again, up to 10 times.
        erasing_scale: smallest and largest share of the image's area that is erased.
        color_jitter: largest relative change of brightness, contrast and saturation; 0 because captions speak of
            colours.
        text: share of a caption's tokens that is changed; RDE uses 0.2. Of these, 60 % become the mask token,
            20 % a random token, 20 % are removed.
    """

    flip: float = 0.5
    crop_padding: int = 10
    erasing: float = 0.5
    erasing_scale: tuple[float, float] = (0.02, 0.4)
    color_jitter: float = 0.0
    text: float = 0.0

    def __post_init__(self):
        for name in ("flip", "erasing", "color_jitter", "text"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation {name} must lie in [0, 1], found {getattr(self, name)}.")
        if self.crop_padding < 0:
            raise ValueError(f"augmentation crop_padding must not be negative, found {self.crop_padding}.")

    def draw(self, generator: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """Parameters for one image.

        Returns:
            `flip` bool; `shift` int64 [2], rows and columns; `erase` int64 [4], top, left, bottom and right of the
            erased rectangle (empty when equal); `jitter` float32 [3], factors of brightness, contrast, saturation.
        """
        # So many numbers whatever comes of them: what is drawn later does not depend on the options.
        uniform, attempts = generator.random(4), generator.random((ERASING_ATTEMPTS, 4))
        shift = np.floor(uniform[1:3] * (2 * self.crop_padding + 1)).astype(np.int64) - self.crop_padding
        erase = np.zeros(4, dtype=np.int64)
        if uniform[3] < self.erasing:
            erase[:] = self._box(attempts, height, width)
        jitter = 1 + self.color_jitter * (2 * generator.random(3) - 1)
        return {
            "flip": np.asarray(uniform[0] < self.flip),
            "shift": shift,
            "erase": erase,
            "jitter": jitter.astype(np.float32),
        }

    def _box(self, attempts: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
        """The first rectangle that leaves something beside and above it, else an empty one."""
        low, high = self.erasing_scale
        for size, shape, down, right in attempts.tolist():
            area = (low + size * (high - low)) * height * width
            # Height to width, log-uniform in [0.3, 3.3].
            ratio = math.exp(math.log(0.3) + shape * (math.log(3.3) - math.log(0.3)))
            box_height, box_width = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
            if box_height < height and box_width < width:
                top, left = int(down * (height - box_height + 1)), int(right * (width - box_width + 1))
                return top, left, top + box_height, left + box_width
        return 0, 0, 0, 0

    def change_tokens(
        self, ids: list[int], generator: np.random.Generator, mask_id: int, ordinary: range
    ) -> list[int]:
        """Masks, replaces and removes tokens of a caption; the first token (start, or a word
        where there is none) and the last (end) always stay.

        Args:
            ids: token ids with start and end.
            mask_id: id that stands for a masked token.
            ordinary: ids of ordinary tokens, of which those that replace others are drawn.
        """
        if self.text == 0:
            return ids
        changed = [ids[0]]
        for token in ids[1:-1]:
            chance = generator.random() / self.text
            if chance >= 1:
                changed.append(token)
            elif chance < 0.6:
                changed.append(mask_id)
            elif chance < 0.8:
                changed.append(int(generator.integers(ordinary.start, ordinary.stop)))
        # A caption that lost every token would say nothing: keep its first word.
        return [*changed, ids[-1]] if len(changed) > 1 else [*ids[:2], ids[-1]]


def normalize_images(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to normalised float32, on the device of the images."""
    # In place and in the order of rows: on a CPU new memory and strided bytes cost more than the arithmetic.
    values = images.to(torch.float32, memory_format=torch.contiguous_format)
    return values.mul_((1 / (255 * std)).view(3, 1, 1)).sub_((mean / std).view(3, 1, 1))


def flip_and_crop(image: Image.Image, flip: bool | np.ndarray, shift: Sequence[int] | np.ndarray) -> Image.Image:
    """Mirrors an image and moves it within its frame, black where it ends.

    Args:
        image: of any mode.
        flip: mirror left and right, before the move.
        shift: the crop starts this many rows and columns after the image's corner.
    Returns:
        an image of the same size.
    """
    if flip:
        image = ImageOps.mirror(image)
    top, left = (int(step) for step in shift)
    if not top and not left:
        return image
    return image.crop((left, top, left + image.width, top + image.height))


def augment_images(
    images: Tensor, mean: Tensor, std: Tensor, erase: Tensor | None = None, jitter: Tensor | None = None
) -> Tensor:
    """Applies what `Augmentation.draw` drew for the colours of a batch and normalises it, on the batch's device.

    Args:
        images: uint8 [B, 3, H, W], flipped and cropped.
        mean, std: of the normalisation, float [3], in [0, 1].
        erase: int64 [B, 4]; top, left, bottom, right; becomes the mean colour. `None`: nothing is erased.
        jitter: float [B, 3]; factors of brightness, contrast, saturation. `None`: off.
    Returns:
        normalised images, float32 [B, 3, H, W].
    """
    values = images if jitter is None else jitter_colors(images, jitter)
    values = normalize_images(values, mean, std)
    return values if erase is None else erase_boxes(values, erase)


def erase_boxes(values: Tensor, erase: Tensor) -> Tensor:
    """Sets a box of each normalised image, float [B, 3, H, W], to 0, the mean colour, in place.

    Args:
        values: changed and returned.
        erase: int64 [B, 4]; top, left, bottom, right.
    """
    return _erase_boxes(values, erase) if values.device.type == "cpu" else _erase_by_mask(values, erase)


def jitter_colors(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation changed, in this order.

    Args:
        images: uint8 [B, 3, H, W].
        factors: float [B, 3].
    Returns:
        float32 [B, 3, H, W] in [0, 255].
    """
    return _jitter(images.float() / 255, factors) * 255


def _erase_boxes(values: Tensor, erase: Tensor) -> Tensor:
    """One box after the other: touches little memory, but would wait for a GPU at each."""
    for image, (top, left, bottom, right) in zip(values, erase.tolist()):
        image[:, top:bottom, left:right] = 0.0
    return values


def _erase_by_mask(values: Tensor, erase: Tensor) -> Tensor:
    """All boxes at once, without reading them back from the device."""
    rows = torch.arange(values.shape[2], device=values.device)
    columns = torch.arange(values.shape[3], device=values.device)
    erased = (
        _between(rows, erase[:, 0:1], erase[:, 2:3])[:, :, None]
        & (_between(columns, erase[:, 1:2], erase[:, 3:4])[:, None, :])
    )
    return values.masked_fill_(erased[:, None], 0.0)


def _between(values: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    return (values >= low) & (values < high)


def _jitter(values: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation of images in [0, 1], in this order, with torchvision's grey."""
    brightness, contrast, saturation = (factor[:, None, None, None] for factor in factors.unbind(1))
    weights = values.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    values = (values * brightness).clamp(0, 1)
    mean_grey = (values * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    values = (mean_grey + contrast * (values - mean_grey)).clamp(0, 1)
    grey = (values * weights).sum(1, keepdim=True)
    return (grey + saturation * (values - grey)).clamp(0, 1)


__all__ = ["Augmentation", "augment_images", "erase_boxes", "flip_and_crop", "jitter_colors", "normalize_images"]
