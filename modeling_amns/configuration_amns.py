"""Configurations of the AMNS dual encoder: CLIP's, with rectangular images and overlapping patches."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from transformers.configuration_utils import SubConfigSpec

INTERPOLATION_MODES = ("bilinear", "bicubic")


def _as_pair(value: int | list[int] | tuple[int, ...], name: str) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or any(not isinstance(side, int) or side < 1 for side in pair):
        raise ValueError(f"{name} must be a positive integer or [height, width], found {value!r}.")
    return pair


@strict
class AMNSVisionConfig(CLIPVisionConfig):
    """Image encoder: a CLIP vision transformer on a rectangular grid of patches.

    Args:
        image_size: height and width in pixels, `[height, width]`; an integer means a square.
        patch_size: side of a square patch in pixels.
        stride: step between patches in pixels; `None` means `patch_size`, smaller values give overlapping patches
            (TransReID, IRRA).
        position_interpolation: how position embeddings are resized when a checkpoint of another grid is loaded,
            `"bilinear"` (as IRRA) or `"bicubic"` (as transformers).

    The other fields are those of `CLIPVisionConfig`.
    """

    model_type = "amns_vision_model"
    base_config_key = "vision_config"

    image_size: int | list[int] | tuple[int, int] | None = (384, 128)
    patch_size: int | list[int] | tuple[int, int] | None = 16
    stride: int | None = None
    position_interpolation: str = "bilinear"

    def __post_init__(self, **kwargs):
        self.image_size = _as_pair(self.image_size, "image_size")
        patch = _as_pair(self.patch_size, "patch_size")
        if patch[0] != patch[1]:
            raise ValueError(
                f"patch_size must be square, found {patch}; use stride or image_size for rectangular grids."
            )
        self.patch_size = patch[0]
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        step = self.stride or self.patch_size
        height, width = self.image_size
        return (height - self.patch_size) // step + 1, (width - self.patch_size) // step + 1

    def validate_architecture(self):
        """Checks that the parts fit together; called by `@strict`."""
        super().validate_architecture()
        if self.stride is not None and not 0 < self.stride <= self.patch_size:
            raise ValueError(f"stride must lie in [1, patch_size={self.patch_size}], found {self.stride}.")
        if min(self.image_size) < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is smaller than one patch of {self.patch_size} pixels.")
        if self.position_interpolation not in INTERPOLATION_MODES:
            raise ValueError(
                f"position_interpolation must be one of {INTERPOLATION_MODES}, found {self.position_interpolation!r}."
            )


@strict
class AMNSTextConfig(CLIPTextConfig):
    """Text encoder: CLIP's, all fields as in `CLIPTextConfig`."""

    model_type = "amns_text_model"
    base_config_key = "text_config"


@strict
class AMNSConfig(CLIPConfig):
    """Configuration of `AMNSModel` and `AMNSForPersonRetrieval`.

    Args:
        text_config: an `AMNSTextConfig` or its fields.
        vision_config: an `AMNSVisionConfig` or its fields; default 384x128 pixels, patch 16, grid 24x8.
        projection_dim: size of the shared embedding space.
        num_identities: training identities that the classifier of `AMNSForPersonRetrieval` tells apart; 0 means no
            classifier. `AMNSModel` does not use it.

    A CLIP configuration is accepted as it is, its own defaults filled in. `image_size` and `stride` read and set the
    vision part, so that `AMNSModel.from_pretrained(path, image_size=[384, 128])` works.

    ```python
    >>> from modeling_amns import AMNSConfig
    >>> AMNSConfig().vision_config.grid_size
    (24, 8)

    ```
    """

    model_type = "amns"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(AMNSVisionConfig),
        "text_config": SubConfigSpec(AMNSTextConfig),
    }

    text_config: dict | AMNSTextConfig | None = None
    vision_config: dict | AMNSVisionConfig | None = None
    num_identities: int = 0

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As `PreTrainedConfig.from_dict`; a CLIP configuration is completed with CLIP's defaults, not with ours."""
        if config_dict.get("model_type") == "clip":
            clip = CLIPConfig(**{k: v for k, v in config_dict.items() if k != "model_type"}).to_dict()
            for part in ("vision_config", "text_config"):
                clip[part].pop("model_type", None)
            clip.pop("model_type", None)
            clip.pop("architectures", None)
            config_dict = clip
        for part in ("vision_config", "text_config"):
            if isinstance(config_dict.get(part), dict):
                # Where a part once came from, a path at times, which would be saved and pushed anew.
                fields = {name: value for name, value in config_dict[part].items() if name != "_name_or_path"}
                config_dict = {**config_dict, part: fields}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As `PreTrainedConfig.from_pretrained`, without its warning when a CLIP configuration is read."""
        kwargs.setdefault("return_unused_kwargs", False)
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config_dict:
            # transformers takes a folder without one for a configuration of defaults.
            raise OSError(f"{pretrained_model_name_or_path} holds no config.json, so it is no checkpoint of a model.")
        model_type = config_dict.get("model_type")
        if model_type not in (None, "amns", "clip"):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {model_type!r}; AMNS reads 'amns' and 'clip'. "
                "See scripts/convert_checkpoint.py for OpenAI CLIP, OpenCLIP, IRRA and RDE files."
            )
        return cls.from_dict(config_dict, **kwargs)

    @property
    def image_size(self) -> list[int]:
        """Height and width of the images in pixels."""
        return self.vision_config.image_size

    @image_size.setter
    def image_size(self, value: int | list[int] | tuple[int, int]):
        self._set_vision(image_size=_as_pair(value, "image_size"))

    @property
    def stride(self) -> int | None:
        """Step between patches in pixels; None means the patch size."""
        return self.vision_config.stride

    @stride.setter
    def stride(self, value: int | None):
        self._set_vision(stride=value)

    def _set_vision(self, **fields):
        # Built anew instead of assigned field by field, so that the checks see the whole.
        self.vision_config = AMNSVisionConfig(**{**self.vision_config.to_dict(), **fields})


# `save_pretrained` copies the code beside the weights, for users without the package (`trust_remote_code=True`).
AMNSConfig.register_for_auto_class()

__all__ = ["AMNSConfig", "AMNSTextConfig", "AMNSVisionConfig"]
