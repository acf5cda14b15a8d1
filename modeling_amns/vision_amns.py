"""The image encoder of AMNS: CLIP's vision transformer on a rectangular grid, with dropped patches and the CLS row of
its own attention."""

from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPAttention,
    CLIPEncoder,
    CLIPEncoderLayer,
    CLIPPreTrainedModel,
    CLIPVisionEmbeddings,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_amns import AMNSConfig, AMNSVisionConfig, as_config
from .configuration_base_amns import ReadsGrid
from .pretrained_amns import LoadsItsGrid, PartOfDualEncoder

logger = logging.get_logger(__name__)


def resize_positions(
    weight: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], mode: str, before: int = 1
) -> Tensor:
    """Resizes the position embeddings of a patch grid; those of tokens before the patches stay.

    Args:
        weight: [before + rows * columns, dim], CLS first where there is one, then the patches row by row.
        old_grid, new_grid: rows and columns.
        mode: "bilinear" or "bicubic", without antialiasing and without aligned corners (as IRRA and transformers).
        before: tokens before the patches: 1 for CLS, 0 for none.
    Returns:
        [before + new_rows * new_columns, dim] in the dtype of `weight`.
    """
    patches = weight[before:].float().T.reshape(1, -1, *old_grid)
    patches = nn.functional.interpolate(patches, size=new_grid, mode=mode, align_corners=False)
    return torch.cat([weight[:before], patches.flatten(2)[0].T.to(weight.dtype)])


class GridEmbeddings(nn.Module):
    """Patch and position embeddings of a rectangular grid, of all patches or of those that are kept.

    Args of a subclass:
        tokens_before: learnt tokens before the patches, with positions of their own.
    """

    tokens_before: ClassVar[int] = 0
    config: Any
    image_size: Any
    patch_size: Any
    position_embedding: nn.Embedding
    patch_embedding: nn.Conv2d

    def build(self, config: ReadsGrid, bias: bool) -> None:
        """The modules that every family has; those of transformers square the image size in their constructors."""
        self.config = config
        self.embed_dim = config.hidden_size
        self.image_size = config.image_size
        self.patch_size = config.patch_size
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            self.embed_dim,
            kernel_size=self.patch_size,
            stride=config.stride or self.patch_size,
            bias=bias,
        )
        self.num_patches = config.grid_size[0] * config.grid_size[1]
        self.num_positions = self.num_patches + self.tokens_before
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions).expand((1, -1)), persistent=False)

    def embed_patches(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool | None = False, keep_indices: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The patches that are kept, each with its own position, and the positions of the tokens before them.

        Returns:
            [B, patches, hidden_size] and [tokens_before, hidden_size].
        """
        height, width = pixel_values.shape[-2:]
        if [height, width] != self.image_size and not interpolate_pos_encoding:
            raise ValueError(
                f"Images are {height}x{width} pixels (height x width), the model expects "
                f"{self.image_size[0]}x{self.image_size[1]}. Resize them with AMNSProcessor, pass "
                "interpolate_pos_encoding=True, or load the model with image_size=[height, width]."
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        grid = (patches.shape[-2], patches.shape[-1])
        patches = patches.flatten(2).transpose(1, 2)
        # Called, not read: accelerate's hooks fetch an offloaded weight when its module is called.
        positions = self.position_embedding(self.position_ids)[0]
        if grid != self.config.grid_size:
            positions = resize_positions(
                positions, self.config.grid_size, grid, self.config.position_interpolation, self.tokens_before
            )
        patches = patches + positions[self.tokens_before :]
        if keep_indices is not None:
            patches = patches.gather(1, self._sorted_indices(keep_indices, patches))
        return patches, positions[: self.tokens_before]

    def resize_grid(self, config: ReadsGrid) -> None:
        """Position embeddings and patch step of another configuration of the same patch size, in place."""
        if config.grid_size != self.config.grid_size:
            positions = self.position_embedding
            if positions.weight.is_meta:
                raise ValueError(
                    f"Positions of a grid of {self.config.grid_size} can't be resized to {config.grid_size} while "
                    "they are offloaded. Load the model without device_map, save it at the new size, and offload that."
                )
            logger.warning(
                f"Position embeddings resized from a grid of {self.config.grid_size} to {config.grid_size} "
                f"({config.position_interpolation})."
            )
            weight = resize_positions(
                positions.weight.data,
                self.config.grid_size,
                config.grid_size,
                config.position_interpolation,
                self.tokens_before,
            )
            # The module stays: hooks of accelerate may hang on it.
            positions.weight = nn.Parameter(weight.contiguous(), requires_grad=positions.weight.requires_grad)
            self.num_positions = positions.num_embeddings = len(weight)
            self.num_patches = len(weight) - self.tokens_before
            position_ids = torch.arange(len(weight), device=weight.device).expand((1, -1))
            self.position_ids = nn.Buffer(position_ids, persistent=False)
        self.image_size = config.image_size
        step = config.stride or config.patch_size
        self.patch_embedding.stride = (step, step)

    def _sorted_indices(self, keep_indices: Tensor, patches: Tensor) -> Tensor:
        if keep_indices.ndim != 2 or len(keep_indices) != len(patches) or keep_indices.shape[1] == 0:
            raise ValueError(
                f"keep_indices must be [batch, kept patches] with batch {len(patches)} and at least one patch, "
                f"found shape {tuple(keep_indices.shape)}."
            )
        # Attention does not see the order; sorting makes the result independent of it to the last bit.
        return keep_indices.sort(dim=1).values.unsqueeze(-1).expand(-1, -1, patches.shape[-1])


class AMNSVisionEmbeddings(GridEmbeddings, CLIPVisionEmbeddings):
    """CLS, patch and position embeddings of CLIP."""

    config: AMNSVisionConfig
    image_size: list[int]
    tokens_before = 1

    def __init__(self, config: AMNSVisionConfig):
        nn.Module.__init__(self)
        self.class_embedding = nn.Parameter(torch.randn(config.hidden_size))
        self.build(config, bias=False)

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool | None = False, keep_indices: Tensor | None = None
    ) -> Tensor:
        """CLS, then the patches that are kept, each with its own position: [B, 1 + patches, hidden_size]."""
        patches, before = self.embed_patches(pixel_values, interpolate_pos_encoding, keep_indices)
        cls = (self.class_embedding + before[0]).expand(patches.shape[0], 1, -1)
        return torch.cat([cls, patches], dim=1)


class AMNSVisionModel(PartOfDualEncoder, LoadsItsGrid, CLIPVisionModel):
    """Image encoder: transformers' CLIP encoder over `AMNSVisionEmbeddings`.

    `from_pretrained` takes a folder of its own, of CLIP's image encoder, or of a dual encoder of AMNS or CLIP.
    """

    config: AMNSVisionConfig
    _no_split_modules = ["CLIPEncoderLayer", "AMNSVisionEmbeddings"]
    part_name = "vision_model"

    def __init__(self, config: AMNSVisionConfig):
        config = as_config(config, AMNSVisionConfig)
        CLIPPreTrainedModel.__init__(self, config)
        self.embeddings = AMNSVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # It takes the configuration of either encoder, whatever its annotation says.
        self.encoder = CLIPEncoder(cast(AMNSConfig, config))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AMNSVisionEmbeddings):
            # CLIP's own start (0.02) makes a position some thirty times weaker than the pixels of its patch, and a
            # small model then takes many epochs to learn where on a body a colour is. Ours starts it twice as strong.
            pixels = module.patch_embedding.weight[0].numel()
            init.normal_(module.position_embedding.weight, std=2 * self.config.initializer_range * pixels**0.5)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool | None = False,
        keep_indices: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: normalised images, float [B, 3, height, width].
            interpolate_pos_encoding: accept another image size by resizing the position embeddings in this call.
            keep_indices: patches that are encoded, without CLS, int64 [B, K], any order, no repeats; `None` means all.
        """
        hidden = self.pre_layrnorm(self.embeddings(pixel_values, interpolate_pos_encoding, keep_indices))
        last_hidden_state = self.encoder(inputs_embeds=hidden, **kwargs).last_hidden_state
        return BaseModelOutputWithPooling(
            last_hidden_state=last_hidden_state,
            pooler_output=self.post_layernorm(last_hidden_state[:, 0]),
        )

    @property
    def attended_layers(self) -> int:
        """Layers whose attention scores patches: all, as CLS passes through each."""
        return self.config.num_hidden_layers

    @torch.no_grad()
    def cls_attention(
        self, pixel_values: Tensor, last_layers: int | None = None, interpolate_pos_encoding: bool = False
    ) -> Tensor:
        """Attention that CLS pays to each patch, averaged over heads and layers.

        Only the CLS row is computed: the query of CLS is carried through the key projection (a key's bias adds the
        same number to every score of a row and drops out of the softmax), so a layer costs heads x patches x
        hidden_size and no N x N map exists, whatever attention backend the encoder runs on. The last layer's output is
        not computed.

        Args:
            pixel_values: normalised images, float [B, 3, height, width].
            last_layers: average over this many last layers; `None` means all.
            interpolate_pos_encoding: as `forward`.
        Returns:
            float32 [B, patches]; each row sums to the share that CLS gives to patches rather than to itself.
        Source: the score of attentive masking in A-CLIP (ICCV 2023), used by AWM.
        """
        layers = self.encoder.layers
        last_layers = len(layers) if last_layers is None else last_layers
        if not 1 <= last_layers <= len(layers):
            raise ValueError(f"last_layers must lie in [1, {len(layers)}], found {last_layers}.")
        hidden = self.pre_layrnorm(self.embeddings(pixel_values, interpolate_pos_encoding))
        rows: list[Tensor] = []
        for number, layer in enumerate(layers):
            if number >= len(layers) - last_layers:
                # Layers may lie on several devices.
                rows.append(_cls_row(cast(CLIPEncoderLayer, layer), hidden).to(pixel_values.device))
            if number < len(layers) - 1:
                hidden = layer(hidden, None)
        return sum(rows, torch.zeros((), device=pixel_values.device)) / last_layers

    def pooled_patches(self, pixel_values: Tensor) -> Tensor:
        """Every patch as CLS is pooled, before the projection: float [B, patches, hidden_size]."""
        return self.post_layernorm(self(pixel_values).last_hidden_state[:, 1:])


class PooledEncoder(Protocol):
    """What an image encoder of any family owes the tower around it."""

    training: bool
    embeddings: Any

    def cls_attention(
        self, pixel_values: Tensor, last_layers: int | None = None, interpolate_pos_encoding: bool = False
    ) -> Tensor:
        """Attention of the pooled representation to each patch, float32 [B, patches]."""

    def pooled_patches(self, pixel_values: Tensor) -> Tensor:
        """Every patch as the image is pooled, before the projection: float [B, patches, hidden_size]."""


class AMNSImageTower(nn.Module):
    """The image side of a dual encoder, encoder and projection: shares the modules, owns nothing.

    An `ImageTower` of `modeling_amns.protocols`: what the teacher of AWM copies, averages and asks.
    """

    def __init__(self, vision_model: PooledEncoder, visual_projection: nn.Module):
        super().__init__()
        self.vision_model = vision_model
        self.visual_projection = visual_projection
        # Of the wrapper alone: the modules are the student's, their modes too.
        self.training = vision_model.training

    @property
    def num_patches(self) -> int:
        """Patches of a whole image."""
        return self.vision_model.embeddings.num_patches

    def cls_attention(
        self, pixel_values: Tensor, last_layers: int | None = None, interpolate_pos_encoding: bool = False
    ) -> Tensor:
        """Attention that pools the patches, float32 [B, patches]; see `cls_attention` of the encoder."""
        return self.vision_model.cls_attention(pixel_values, last_layers, interpolate_pos_encoding)

    def patch_embeds(self, pixel_values: Tensor) -> Tensor:
        """Every patch in the shared embedding space, as the image is: float [B, num_patches, D]."""
        return self.visual_projection(self.vision_model.pooled_patches(pixel_values))


def _cls_row(layer: CLIPEncoderLayer, hidden: Tensor) -> Tensor:
    """CLS row of one encoder layer's attention averaged over heads, without CLS itself: float32 [B, N - 1]."""
    attention: CLIPAttention = layer.self_attn
    heads = (attention.num_heads, attention.head_dim)
    normed = layer.layer_norm1(hidden)
    query = attention.q_proj(normed[:, 0]).unflatten(-1, heads)
    key_weight = _applied_weight(attention.k_proj)
    if key_weight is None:
        keys = attention.k_proj(normed).unflatten(-1, heads)
        scores = torch.einsum("bhd,bnhd->bhn", query, keys)
    else:
        query = torch.einsum("bhd,hdc->bhc", query, key_weight.unflatten(0, heads))
        scores = torch.matmul(query, normed.transpose(1, 2))
    return (scores.float() * attention.scale).softmax(dim=-1).mean(dim=1)[:, 1:]


def _applied_weight(linear: nn.Module) -> Tensor | None:
    """The matrix that a layer applies, None where only a call of the layer has it: offloaded, or quantised.

    A LoRA layer of PEFT keeps what its adapters add apart until it is merged.
    """
    layer: Any = linear
    weight = layer.weight
    if weight.is_meta or not weight.is_floating_point():
        return None
    if not hasattr(layer, "get_delta_weight") or layer.merged or layer.disable_adapters:
        return weight
    return weight + sum(layer.get_delta_weight(name) for name in layer.active_adapters if name in layer.lora_A)


AMNSVisionModel.register_for_auto_class("AutoModel")

__all__ = ["AMNSImageTower", "AMNSVisionEmbeddings", "AMNSVisionModel", "GridEmbeddings", "resize_positions"]
