"""Configurations of the AMNS dual encoder: CLIP's or SigLIP's, with rectangular images and overlapping patches."""

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, SiglipConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from typing_extensions import Self

from .configuration_base_amns import (
    ReadsFamilies,
    ReadsGrid,
    ReadsText,
    as_config,
    check_limit,
    check_size,
    part_type,
    without,
)
from .configuration_siglip_amns import AMNSSiglipTextConfig, AMNSSiglipVisionConfig

if TYPE_CHECKING:
    from .configuration_base_amns import Field


@strict
class AMNSVisionConfig(ReadsGrid, CLIPVisionConfig):
    """Image encoder: a CLIP vision transformer on a rectangular grid of patches.

    Args:
        image_size: height and width in pixels, `[height, width]`; an integer means a square.
        patch_size: side of a square patch in pixels.
        stride: step between patches in pixels; `None` means `patch_size`, smaller values give overlapping patches
            (TransReID, IRRA).
        position_interpolation: how position embeddings are resized when a checkpoint of another grid is loaded,
            `"bilinear"` (as IRRA) or `"bicubic"` (as transformers).

    The other fields are those of `CLIPVisionConfig`. `from_pretrained` reads the image encoder's part of a dual
    encoder, of AMNS or CLIP, as well.
    """

    model_type = "amns_vision_model"
    base_config_key = "vision_config"
    reads: ClassVar[tuple[type[PreTrainedConfig], ...]] = (CLIPVisionConfig,)
    inside: ClassVar[tuple[type[PreTrainedConfig], ...]] = (CLIPConfig,)

    if TYPE_CHECKING:
        image_size: Field[int | list[int] | tuple[int, int] | None, list[int]] = Field()
        patch_size: Field[int | list[int] | tuple[int, int] | None, int] = Field()
    else:
        image_size: int | list[int] | tuple[int, int] | None = (384, 128)
        patch_size: int | list[int] | tuple[int, int] | None = 16
    stride: int | None = None
    position_interpolation: str = "bilinear"


@strict
class AMNSTextConfig(ReadsText, CLIPTextConfig):
    """Text encoder: CLIP's, all fields as in `CLIPTextConfig`.

    `from_pretrained` reads the text encoder's part of a dual encoder, of AMNS or CLIP, as well.
    """

    model_type = "amns_text_model"
    base_config_key = "text_config"
    reads: ClassVar[tuple[type[PreTrainedConfig], ...]] = (CLIPTextConfig,)
    inside: ClassVar[tuple[type[PreTrainedConfig], ...]] = (CLIPConfig,)

    initializer_factor: float = 1.0

    @property
    def padded_length(self) -> int | None:
        """Tokens of every caption; None where captions are padded to the longest and padding is seen by none."""
        return None


# By the type of the models of transformers whose parts they complete, and by their own.
_PARTS: dict[str, type[PreTrainedConfig]] = {
    model_type: kind
    for kind in (AMNSVisionConfig, AMNSTextConfig, AMNSSiglipVisionConfig, AMNSSiglipTextConfig)
    for model_type in (kind.model_type, kind.reads[0].model_type)
}
# Of one family: its encoders fit together.
_FAMILIES = ((AMNSVisionConfig, AMNSTextConfig), (AMNSSiglipVisionConfig, AMNSSiglipTextConfig))

VisionConfig: TypeAlias = AMNSVisionConfig | AMNSSiglipVisionConfig
TextConfig: TypeAlias = AMNSTextConfig | AMNSSiglipTextConfig


@strict
class AMNSConfig(ReadsFamilies, CLIPConfig):
    """Configuration of `AMNSModel` and `AMNSForPersonRetrieval`.

    Args:
        text_config: an `AMNSTextConfig` or `AMNSSiglipTextConfig`, or fields of one: their `model_type` says which,
            without it they are of CLIP's kind.
        vision_config: an `AMNSVisionConfig` or `AMNSSiglipVisionConfig` of the same family, or its fields; default
            384x128 pixels, patch 16, grid 24x8.
        projection_dim: size of the shared embedding space; `None` means 512, or of SigLIP, whose encoders project by
            themselves, the one size that fits.
        num_identities: training identities that the classifier of `AMNSForPersonRetrieval` tells apart; 0 means no
            classifier. `AMNSModel` does not use it.

    A configuration of CLIP or SigLIP is accepted as it is, its own defaults filled in. `image_size`, `stride` and
    `position_interpolation` read and set the vision part, so that
    `AMNSModel.from_pretrained(path, image_size=[384, 128])` works.

    ```python
    >>> from modeling_amns import AMNSConfig
    >>> AMNSConfig().vision_config.grid_size
    (24, 8)

    ```
    """

    model_type = "amns"
    reads: ClassVar[tuple[type[PreTrainedConfig], ...]] = (CLIPConfig, SiglipConfig)
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(AMNSVisionConfig),
        "text_config": SubConfigSpec(AMNSTextConfig),
    }

    if TYPE_CHECKING:
        # CLIP's configuration knows parts of CLIP alone.
        text_config: Field[dict[str, Any] | TextConfig | None, TextConfig] = Field()  # type: ignore[assignment]
        vision_config: Field[dict[str, Any] | VisionConfig | None, VisionConfig] = Field()  # type: ignore[assignment]
        projection_dim: Field[int | None, int] = Field()
    else:
        text_config: dict | AMNSTextConfig | AMNSSiglipTextConfig | None = None
        vision_config: dict | AMNSVisionConfig | AMNSSiglipVisionConfig | None = None
        projection_dim: int | None = None
    num_identities: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        for part in self.sub_configs:
            fields = getattr(self, part)
            if isinstance(fields, PreTrainedConfig) and fields.model_type in _PARTS:
                setattr(self, part, as_config(fields, _PARTS[fields.model_type]))
            elif isinstance(fields, dict):
                known = part_type(part, fields)
                if known not in _PARTS or _PARTS[known].base_config_key != part:
                    raise ValueError(f"{part} is of model type {known!r}, expected one of {', '.join(_PARTS)}.")
                setattr(self, part, _PARTS[known](**without(fields, "model_type")))
        super().__post_init__(**kwargs)
        vision, text = self.vision_config, self.text_config
        if (type(vision), type(text)) not in _FAMILIES:
            raise ValueError(f"{type(vision).__name__} and {type(text).__name__} are of two families, expected one.")
        self._set_projection(vision, text)
        width = vision.hidden_size + text.hidden_size + self.num_identities
        check_size(self, vision.num_weights + text.num_weights + self.projection_dim * width)

    def _set_projection(self, vision: VisionConfig, text: TextConfig) -> None:
        fits = {vision.hidden_size, text.projection_size} if isinstance(text, AMNSSiglipTextConfig) else None
        if fits is not None and (len(fits) > 1 or self.projection_dim not in (None, *fits)):
            raise ValueError(
                f"SigLIP's images have embeddings of vision_config.hidden_size {vision.hidden_size}; projection_size "
                f"{getattr(text, 'projection_size', None)} of its texts and projection_dim {self.projection_dim} must "
                "equal it."
            )
        if self.projection_dim is None:
            self.projection_dim = 512 if fits is None else fits.pop()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As `PreTrainedConfig.from_dict`; a family's own is completed with its defaults, not with ours."""
        config_dict = cls._completed(config_dict)
        for part in cls.sub_configs:
            if isinstance(config_dict.get(part), dict):
                # Where a part once came from, a path at times, and its code would be saved and pushed anew.
                config_dict = {**config_dict, part: without(config_dict[part], "_name_or_path", "auto_map")}
        return super().from_dict(config_dict, **kwargs)

    @property
    def image_size(self) -> list[int]:
        """Height and width of the images in pixels."""
        return self.vision_config.image_size

    @image_size.setter
    def image_size(self, value: int | list[int] | tuple[int, int]) -> None:
        self._set_vision(image_size=value)

    @property
    def stride(self) -> int | None:
        """Step between patches in pixels; None means the patch size."""
        return self.vision_config.stride

    @stride.setter
    def stride(self, value: int | None) -> None:
        self._set_vision(stride=value)

    @property
    def position_interpolation(self) -> str:
        """How position embeddings are resized when a checkpoint of another grid is loaded."""
        return self.vision_config.position_interpolation

    @position_interpolation.setter
    def position_interpolation(self, value: str) -> None:
        self._set_vision(position_interpolation=value)

    def _set_vision(self, **fields: Any) -> None:
        self.vision_config = self.vision_config.with_fields(**fields)

    @classmethod
    def _completed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """As `ReadsFamilies`; the parts are named as ours."""
        if not any(kind.model_type == fields.get("model_type") for kind in cls.reads):
            return fields
        fields = super()._completed(fields)
        parts = {part: fields[part] for part in cls.sub_configs}
        return {
            **fields,
            **{part: {**of, "model_type": _PARTS[of["model_type"]].model_type} for part, of in parts.items()},
        }


# `save_pretrained` copies the code beside the weights, for users without the package (`trust_remote_code=True`).
AMNSConfig.register_for_auto_class()
AMNSVisionConfig.register_for_auto_class()
AMNSTextConfig.register_for_auto_class()

__all__ = [
    "AMNSConfig",
    "AMNSSiglipTextConfig",
    "AMNSSiglipVisionConfig",
    "AMNSTextConfig",
    "AMNSVisionConfig",
    "TextConfig",
    "VisionConfig",
    "as_config",
    "check_limit",
]
