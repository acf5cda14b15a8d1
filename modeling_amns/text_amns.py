"""The text encoder of AMNS: CLIP's text transformer, whose words start stronger."""

import torch
from torch import nn
from transformers import CLIPTextModel
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

from .configuration_amns import AMNSTextConfig, as_config
from .pretrained_amns import PartOfDualEncoder


class AMNSTextModel(PartOfDualEncoder, CLIPTextModel):
    """Text encoder: transformers' CLIP text transformer.

    `from_pretrained` takes a folder of its own, of CLIP's text encoder, or of a dual encoder of AMNS or CLIP.
    """

    config: AMNSTextConfig
    part_name = "text_model"

    def __init__(self, config: AMNSTextConfig):
        super().__init__(as_config(config, AMNSTextConfig))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CLIPTextEmbeddings):
            # CLIP starts words as weak as positions (0.02), and the first layer's output, some ten times stronger,
            # drowns both: a small model then takes epochs to learn which words stand in a caption.
            init.normal_(module.token_embedding.weight, std=0.2 * self.config.initializer_factor)


AMNSTextModel.register_for_auto_class("AutoModel")

__all__ = ["AMNSTextModel"]
