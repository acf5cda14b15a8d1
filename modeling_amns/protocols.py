"""What an encoder and a processor owe everybody else, as `typing.Protocol`s.

Trainer, teacher, embedding and export know these and no class; another family of encoders is one folder.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling


class Embedder(Protocol):
    """Two encoders into one space: all that embedding and ranking need, exported models included."""

    training: bool

    @property
    def device(self) -> torch.device:
        """Where inputs have to lie."""

    @property
    def embedding_dim(self) -> int:
        """Size of the shared space."""

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Normalised images, float [B, 3, height, width]; embeddings in `pooler_output` [B, D], any length."""

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutputWithPooling:
        """Tokens and their mask, int64 [B, T]; embeddings in `pooler_output` [B, D], any length."""

    def train(self, mode: bool = True) -> object:
        """As `nn.Module.train`."""


class PatchScorer(Protocol):
    """What AWM asks for the scores of patches: the teacher, or an encoder's image side itself."""

    @property
    def num_patches(self) -> int:
        """Patches of a whole image."""

    def cls_attention(self, pixel_values: Tensor, last_layers: int | None = None) -> Tensor:
        """Attention of the pooled representation to each patch over heads and layers, float32 [B, num_patches]."""

    def patch_embeds(self, pixel_values: Tensor) -> Tensor:
        """Every patch in the shared embedding space, float [B, num_patches, D]."""


class ImageTower(PatchScorer, Protocol):
    """The image side of an encoder, which the teacher of AWM averages and asks."""

    def cls_attention(
        self, pixel_values: Tensor, last_layers: int | None = None, interpolate_pos_encoding: bool = False
    ) -> Tensor:
        """As `PatchScorer`; with `interpolate_pos_encoding` of images of any size, float32 [B, their patches]."""


class MaskedEncoder(Embedder, Protocol):
    """An encoder that AWM can train: it drops patches, and its image side can be copied as a teacher."""

    logit_scale: nn.Parameter
    logit_bias: nn.Parameter | None

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the patches."""

    @property
    def patch_and_stride(self) -> tuple[int, int]:
        """Side of a patch, and the step from one to the next, in pixels."""

    @property
    def attended_layers(self) -> int:
        """Layers whose attention scores patches: of `cls_attention` the most `last_layers`."""

    def image_side(self) -> nn.Module:
        """The modules that embed images, shared and not copied; an `ImageTower`."""

    def get_image_features(
        self, pixel_values: Tensor, keep_indices: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """As `Embedder`; of the patches only those of `keep_indices`, int64 [B, K], are computed."""


class PairProcessor(Protocol):
    """The road from images and captions to tensors, in two halves: the CPU's, and the arithmetic on any device."""

    tokenizer: PreTrainedTokenizerBase
    # Of `captions_amns.LONG_CAPTIONS`.
    long_captions: str

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the processed images in pixels."""

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest caption, start and end included."""

    @property
    def padded_length(self) -> int | None:
        """Tokens that every caption is padded to, on the right; `None` pads to the longest of a batch."""

    def resize_image(self, image: Image.Image) -> Image.Image:
        """An image of any mode in RGB, upright, in `image_size`."""

    def normalize_images(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, height, width] as `resize_image` makes them, to float32 on the same device."""

    def token_ids(self, captions: Sequence[str], cut: bool = True) -> list[list[int]]:
        """Token ids of each caption with start and end, cut at `max_tokens` or whole, not padded."""


__all__ = ["Embedder", "ImageTower", "MaskedEncoder", "PairProcessor", "PatchScorer"]
