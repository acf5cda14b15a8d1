"""The encoders of the SigLIP family: SigLIP, and SigLIP 2 at a fixed resolution, on a rectangular grid, with dropped
patches and the attention of the pooling head's probe.

SigLIP: arXiv 2303.15343; SigLIP 2: arXiv 2502.14786. Parameter names are those of transformers' `SiglipModel`.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import SiglipTextModel, SiglipVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.siglip.modeling_siglip import (
    SiglipEncoder,
    SiglipMultiheadAttentionPoolingHead,
    SiglipPreTrainedModel,
    SiglipVisionEmbeddings,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_amns import as_config
from .configuration_siglip_amns import AMNSSiglipTextConfig, AMNSSiglipVisionConfig
from .pretrained_amns import LoadsItsGrid, PartOfDualEncoder
from .vision_amns import GridEmbeddings


class AMNSSiglipVisionEmbeddings(GridEmbeddings, SiglipVisionEmbeddings):
    """Patch and position embeddings of SigLIP, which has no CLS."""

    config: AMNSSiglipVisionConfig

    def __init__(self, config: AMNSSiglipVisionConfig):
        nn.Module.__init__(self)
        self.build(config, bias=True)

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool | None = False, keep_indices: Tensor | None = None
    ) -> Tensor:
        """The patches that are kept, each with its own position: [B, patches, hidden_size]."""
        return self.embed_patches(pixel_values, interpolate_pos_encoding, keep_indices)[0]


class AMNSSiglipVisionModel(PartOfDualEncoder, LoadsItsGrid, SiglipVisionModel):
    """Image encoder: transformers' SigLIP encoder over `AMNSSiglipVisionEmbeddings`, pooled by its attention head.

    `from_pretrained` takes a folder of its own, of SigLIP's image encoder, or of a dual encoder of AMNS or SigLIP.
    """

    config: AMNSSiglipVisionConfig
    _no_split_modules = ["SiglipEncoderLayer", "AMNSSiglipVisionEmbeddings", "SiglipMultiheadAttentionPoolingHead"]
    part_name = "vision_model"

    def __init__(self, config: AMNSSiglipVisionConfig):
        config = as_config(config, AMNSSiglipVisionConfig)
        SiglipPreTrainedModel.__init__(self, config)
        self.embeddings = AMNSSiglipVisionEmbeddings(config)
        # It takes the configuration of either encoder, whatever its annotation says.
        self.encoder = SiglipEncoder(cast(Any, config))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = SiglipMultiheadAttentionPoolingHead(config)
        self.post_init()

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
            keep_indices: patches that are encoded, int64 [B, K], any order, no repeats; `None` means all.
        """
        hidden = self.embeddings(pixel_values, interpolate_pos_encoding, keep_indices)
        hidden = self.post_layernorm(self.encoder(inputs_embeds=hidden, **kwargs).last_hidden_state)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.head(hidden))

    @property
    def attended_layers(self) -> int:
        """Attentions that score patches: that of the head alone, as no token of the encoder stands for the image."""
        return 1

    @torch.no_grad()
    def cls_attention(
        self, pixel_values: Tensor, last_layers: int | None = None, interpolate_pos_encoding: bool = False
    ) -> Tensor:
        """Attention that the pooling head's probe pays to each patch, averaged over heads.

        The probe is to SigLIP what CLS is to CLIP: what it attends to becomes the embedding.

        Args:
            pixel_values: normalised images, float [B, 3, height, width].
            last_layers: 1 or `None`: there is one such attention.
            interpolate_pos_encoding: as `forward`.
        Returns:
            float32 [B, patches]; each row sums to 1.
        """
        if last_layers not in (None, 1):
            raise ValueError(f"last_layers must be 1: one attention of SigLIP pools patches, found {last_layers}.")
        hidden = self(pixel_values, interpolate_pos_encoding).last_hidden_state
        probe = self.head.probe.expand(len(hidden), -1, -1)
        return self.head.attention(probe, hidden, hidden, need_weights=True)[1][:, 0].float()

    def pooled_patches(self, pixel_values: Tensor) -> Tensor:
        """Every patch as the head would pool an image of that patch alone: float [B, patches, hidden_size]."""
        hidden = self(pixel_values).last_hidden_state
        return self.head(hidden.flatten(0, 1).unsqueeze(1)).unflatten(0, hidden.shape[:2])


class AMNSSiglipTextModel(PartOfDualEncoder, SiglipTextModel):
    """Text encoder: transformers' SigLIP text transformer, for captions padded to all of its positions.

    `from_pretrained` takes a folder of its own, of SigLIP's text encoder, or of a dual encoder of AMNS or SigLIP.
    """

    config: AMNSSiglipTextConfig
    part_name = "text_model"

    def __init__(self, config: AMNSSiglipTextConfig):
        super().__init__(as_config(config, AMNSSiglipTextConfig))

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encodes captions.

        Args:
            input_ids: token ids, int64 [B, max_position_embeddings], padded on the right.
            attention_mask: says what is padding; not used, as SigLIP was trained to attend to padding and to pool the
                last position.
        Raises:
            ValueError: captions are of another length; what they would be padded with only their tokenizer knows.
        """
        length = self.config.padded_length
        if input_ids is None or input_ids.shape[-1] != length:
            found = "no tokens" if input_ids is None else f"captions of {input_ids.shape[-1]} tokens"
            raise ValueError(
                f"SigLIP's text encoder pools the last of its {length} positions, found {found}. Pad with "
                f'AMNSProcessor, or with padding="max_length", max_length={length}.'
            )
        return super().forward(input_ids=input_ids, position_ids=position_ids, **kwargs)


AMNSSiglipVisionModel.register_for_auto_class("AutoModel")
AMNSSiglipTextModel.register_for_auto_class("AutoModel")

__all__ = ["AMNSSiglipTextModel", "AMNSSiglipVisionEmbeddings", "AMNSSiglipVisionModel"]
