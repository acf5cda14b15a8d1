"""The teacher of AWM: an exponential moving average of the image encoder, over torch's `AveragedModel`."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from typing_extensions import Self

from .protocols import ImageTower, MaskedEncoder


class _InTypesOf(nn.Module):
    """Parameters of one module in the types of another's, as `AveragedModel` reads them.

    Up to torch 2.10 it refuses to average a bfloat16 student into a float32 mean.
    """

    def __init__(self, module: nn.Module, mean: nn.Module):
        super().__init__()
        self.pair = (module, mean)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        module, mean = (part.parameters(recurse) for part in self.pair)
        return (cast(nn.Parameter, value.to(of.dtype)) for value, of in zip(module, mean, strict=True))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return self.pair[0].buffers(recurse)


class ImageTeacher(AveragedModel):
    """theta' <- m theta' + (1 - m) theta after every optimizer step, float32, without gradient, always in eval mode.

    With `ramp` the decay m rises: at update t = 1, 2, ... it is min(decay, (1 + t) / (10 + t)), beginning with 2/11,
    so that an early teacher is not the random start. A pretrained start is worth keeping: without `ramp` m is `decay`
    from the first update, as A-CLIP's begins at 0.996. When the student is float32 or lower the average stays float32:
    a step of (1 - m) would vanish in bfloat16.

    Args:
        model: the student, an `AMNSModel`, of which it copies the image side (`image_side`).
        decay: final m, in [0, 1).
        ramp: raise m to it, for a student that starts from scratch.
        scale: side of the images that `cls_attention` looks at, as a share of what it is given, in (0, 1].
    """

    def __init__(self, model: MaskedEncoder, decay: float = 0.999, ramp: bool = True, scale: float = 1.0):
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), found {decay}.")
        if not 0 < scale <= 1:
            raise ValueError(f"mask_image_scale must lie in (0, 1], found {scale}.")
        self.decay = decay
        self.grid_size, (patch, step) = model.grid_size, model.patch_and_stride
        self._grid = tuple(math.ceil(scale * patches) for patches in self.grid_size)
        self._size = tuple((patches - 1) * step + patch for patches in self._grid)
        super().__init__(model.image_side(), multi_avg_fn=self._average)
        self.requires_grad_(False)
        if next(self.module.parameters()).dtype in (torch.bfloat16, torch.float16):
            self.float()
        # AveragedModel copies at its first update; ours averages from the start, beginning with the copy made here.
        # Without a ramp the count begins where it ends: so a checkpoint knows how its teacher goes on.
        self.n_averaged.fill_(1 if ramp else max(1, math.ceil((10 * decay - 1) / (1 - decay))))
        self.eval()

    def train(self, mode: bool = True) -> "ImageTeacher":
        """Stays in eval mode: the teacher never drops out."""
        return super().train(False)

    @staticmethod
    def decay_at(update: int, decay: float) -> float:
        """The ramped decay at an update, counted from 1."""
        return min(decay, (1 + update) / (10 + update))

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        # The count of updates stays where it is asked for: on an accelerator each update would wait for it.
        count = self._buffers.pop("n_averaged")
        super()._apply(fn, recurse)
        self._buffers["n_averaged"] = count
        return self

    @torch.no_grad()
    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _: Tensor | int) -> None:
        weight = 1 - self.decay_at(int(self.n_averaged), self.decay)
        torch._foreach_lerp_(list(averaged), list(current), weight)

    def update(self, model: MaskedEncoder) -> None:
        """Averages the student in; call it once after each optimizer step."""
        self.update_parameters(_InTypesOf(model.image_side(), self.module))

    @property
    def _tower(self) -> ImageTower:
        return cast(ImageTower, self.module)

    @property
    def num_patches(self) -> int:
        """Patches of a whole image."""
        return self._tower.num_patches

    def cls_attention(self, pixel_values: Tensor, last_layers: int | None = None) -> Tensor:
        """Attention of CLS to each patch, float32 [B, L]; see `AMNSVisionModel.cls_attention`.

        With a `scale` below 1 of a smaller image, of which a patch covers several of the student's: their scores are
        interpolated, and order patches without summing to a share.
        Source: the efficient variant of A-CLIP (ICCV 2023), whose teacher sees images of half the side.
        """
        if self._grid == self.grid_size:
            return self._tower.cls_attention(pixel_values, last_layers)
        smaller = nn.functional.interpolate(pixel_values, self._size, mode="bilinear", antialias=True)
        scores = self._tower.cls_attention(smaller, last_layers, interpolate_pos_encoding=True)
        coarse = scores.unflatten(1, self._grid).unsqueeze(1)
        return nn.functional.interpolate(coarse, self.grid_size, mode="bilinear").flatten(1)

    @torch.no_grad()
    def patch_embeds(self, pixel_values: Tensor) -> Tensor:
        """Every patch in the shared embedding space, as the CLS token is projected: float [B, L, D]."""
        return self._tower.patch_embeds(pixel_values)


__all__ = ["ImageTeacher"]
