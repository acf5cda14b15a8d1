"""The teacher of AWM: an exponential moving average of the image encoder, over torch's `AveragedModel`."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class _ImageEncoder(nn.Module):
    """The modules of a dual encoder that the teacher copies; shares them with the student, owns nothing."""

    def __init__(self, vision_model: nn.Module, visual_projection: nn.Module):
        super().__init__()
        self.vision_model = vision_model
        self.visual_projection = visual_projection


class _InTypesOf:
    """Parameters of one module in the types of another's, as `AveragedModel` reads them.

    Up to torch 2.10 it refuses to average a bfloat16 student into a float32 mean.
    """

    def __init__(self, module: nn.Module, mean: nn.Module):
        self.module, self.mean = module, mean
        self.buffers = module.buffers

    def parameters(self) -> Iterator[Tensor]:
        pairs = zip(self.module.parameters(), self.mean.parameters(), strict=True)
        return (value.to(mean.dtype) for value, mean in pairs)


class ImageTeacher(AveragedModel):
    """theta' <- m theta' + (1 - m) theta after every optimizer step, float32, without gradient, always in eval mode.

    The decay m ramps up: at update t it is min(decay, (1 + t) / (10 + t)), so that an early teacher is not the random
    start. When the student is float32 or lower the average stays float32: a step of (1 - m) would vanish in bfloat16.

    Args:
        model: the student, an `AMNSModel` (anything with `vision_model` and `visual_projection`).
        decay: final m, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), found {decay}.")
        self.decay = decay
        super().__init__(_ImageEncoder(model.vision_model, model.visual_projection), multi_avg_fn=self._average)
        self.requires_grad_(False)
        if next(self.module.parameters()).dtype in (torch.bfloat16, torch.float16):
            self.float()
        # AveragedModel copies at its first update; ours averages from the start, beginning with the copy made here.
        self.n_averaged.fill_(1)
        self.eval()

    def train(self, mode: bool = True):
        """Stays in eval mode: the teacher never drops out."""
        return super().train(False)

    @staticmethod
    def decay_at(update: int, decay: float) -> float:
        """The ramped decay at an update, counted from 1."""
        return min(decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def _average(self, averaged: list[Tensor], current: list[Tensor], update: Tensor) -> None:
        weight = 1 - self.decay_at(int(update), self.decay)
        torch._foreach_lerp_(averaged, current, weight)

    def update(self, model: nn.Module) -> None:
        """Averages the student in; call it once after each optimizer step."""
        self.update_parameters(_InTypesOf(_ImageEncoder(model.vision_model, model.visual_projection), self.module))

    @property
    def num_patches(self) -> int:
        """Patches of a whole image."""
        return self.module.vision_model.embeddings.num_patches

    def cls_attention(self, pixel_values: Tensor, last_layers: int | None = None) -> Tensor:
        """Attention of CLS to each patch, float32 [B, L]; see `AMNSVisionModel.cls_attention`."""
        return self.module.vision_model.cls_attention(pixel_values, last_layers)

    @torch.no_grad()
    def patch_embeds(self, pixel_values: Tensor) -> Tensor:
        """Every patch in the shared embedding space, as the CLS token is projected: float [B, L, D]."""
        encoder = self.module.vision_model
        hidden = encoder(pixel_values).last_hidden_state[:, 1:]
        return self.module.visual_projection(encoder.post_layernorm(hidden))


__all__ = ["ImageTeacher"]
