"""Configurations of the SigLIP family: encoders of SigLIP and of SigLIP 2 at a fixed resolution."""

from typing import TYPE_CHECKING, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import SiglipConfig, SiglipTextConfig, SiglipVisionConfig
from transformers.configuration_utils import PreTrainedConfig

from .configuration_base_amns import ReadsGrid, ReadsText

if TYPE_CHECKING:
    from .configuration_base_amns import Field


def _check_heads(config: SiglipTextConfig | SiglipVisionConfig) -> None:
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size {config.hidden_size} is no multiple of num_attention_heads {config.num_attention_heads}."
        )


@strict
class AMNSSiglipVisionConfig(ReadsGrid, SiglipVisionConfig):
    """Image encoder: a SigLIP vision transformer on a rectangular grid of patches, pooled by attention.

    Args:
        image_size, patch_size, stride, position_interpolation: as in `AMNSVisionConfig`; by default at the size of the
            checkpoints, a square.

    The other fields are those of `SiglipVisionConfig`. `from_pretrained` reads the image encoder's part of a dual
    encoder, of AMNS or SigLIP, as well.
    """

    model_type = "amns_siglip_vision_model"
    base_config_key = "vision_config"
    reads: ClassVar[tuple[type[PreTrainedConfig], ...]] = (SiglipVisionConfig,)
    inside: ClassVar[tuple[type[PreTrainedConfig], ...]] = (SiglipConfig,)

    if TYPE_CHECKING:
        image_size: Field[int | list[int] | tuple[int, int] | None, list[int]] = Field()
        patch_size: Field[int | list[int] | tuple[int, int] | None, int] = Field()
    else:
        image_size: int | list[int] | tuple[int, int] | None = (224, 224)
        patch_size: int | list[int] | tuple[int, int] | None = 16
    stride: int | None = None
    position_interpolation: str = "bilinear"

    def validate_architecture(self) -> None:
        """As `ReadsGrid`; an encoder without its pooling head has no embedding of an image."""
        super().validate_architecture()
        _check_heads(self)
        if not self.vision_use_head:
            raise ValueError("vision_use_head is False: without SigLIP's pooling head an image has no embedding.")


@strict
class AMNSSiglipTextConfig(ReadsText, SiglipTextConfig):
    """Text encoder: SigLIP's, all fields as in `SiglipTextConfig`.

    `from_pretrained` reads the text encoder's part of a dual encoder, of AMNS or SigLIP, as well.
    """

    model_type = "amns_siglip_text_model"
    base_config_key = "text_config"
    reads: ClassVar[tuple[type[PreTrainedConfig], ...]] = (SiglipTextConfig,)
    inside: ClassVar[tuple[type[PreTrainedConfig], ...]] = (SiglipConfig,)

    def validate_architecture(self) -> None:
        """Checks that the parts fit together; called by `@strict`."""
        super().validate_architecture()
        _check_heads(self)

    @property
    def padded_length(self) -> int | None:
        """Tokens of every caption: all positions, as the last one is pooled and all are attended to."""
        return self.max_position_embeddings


AMNSSiglipVisionConfig.register_for_auto_class()
AMNSSiglipTextConfig.register_for_auto_class()

__all__ = ["AMNSSiglipTextConfig", "AMNSSiglipVisionConfig"]
