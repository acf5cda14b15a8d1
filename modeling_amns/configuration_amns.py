"""Configurations of the AMNS dual encoder: CLIP's, with rectangular images and overlapping patches."""

import os
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from typing_extensions import Self

INTERPOLATION_MODES = ("bilinear", "bicubic")
# Far beyond any model of this kind. What asks for more is broken, and would be built until memory ends.
MAX_PARAMETERS = 10**10
MAX_PATCHES = 65_536
_MAX_SIDE = 8192
_LIMITS: dict[str, tuple[float, float]] = {
    "hidden_size": (1, 16_384),
    "intermediate_size": (1, 131_072),
    "num_hidden_layers": (1, 256),
    "num_attention_heads": (1, 1024),
    "num_channels": (1, 64),
    "stride": (1, _MAX_SIDE),
    "vocab_size": (1, 2_000_000),
    "max_position_embeddings": (1, 65_536),
    "projection_dim": (1, 65_536),
    "num_identities": (0, 10**8),
    "layer_norm_eps": (0, 1),
    "attention_dropout": (0, 1),
    "initializer_range": (0, 100),
    "initializer_factor": (0, 100),
    # A power of e: beyond it float32 knows only infinity.
    "logit_scale_init_value": (-80, 80),
}

Config = TypeVar("Config", bound=PreTrainedConfig)

if TYPE_CHECKING:
    Given = TypeVar("Given", contravariant=True)
    Kept = TypeVar("Kept", covariant=True)

    class _Field(Generic[Given, Kept]):
        """For type checkers: a field takes more than it holds, as every value is brought into one form when set."""

        def __get__(self, instance: object, owner: type) -> Kept: ...
        def __set__(self, instance: object, value: Given) -> None: ...


def _as_pair(value: object, name: str) -> list[int]:
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    sides = [side for side in pair if isinstance(side, int) and side > 0]
    if len(pair) != 2 or len(sides) != 2:
        raise ValueError(f"{name} must be a positive integer or [height, width], found {value!r:.80}.")
    if max(sides) > _MAX_SIDE:
        raise ValueError(f"{name} must be at most {_MAX_SIDE:,} pixels a side, found {value!r:.80}.")
    return sides


def check_limit(name: str, value: object) -> None:
    """A ValueError for a number of a configuration that no model has: too large, too small, NaN.

    ```python
    >>> check_limit("vocab_size", 49408)

    ```
    """
    low, high = _LIMITS.get(name, (None, None))
    if low is None or high is None or not isinstance(value, int | float) or low <= value <= high:
        return
    raise ValueError(f"{name} must lie in [{low:,}, {high:,}], found {value!r:.40}.")


def _check_size(config: PreTrainedConfig, parameters: int) -> None:
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            f"A model of {parameters:,} weights is described, expected at most {MAX_PARAMETERS:,}: look at the sizes "
            f"of {type(config).__name__}."
        )


def _layers(config: "AMNSVisionConfig | AMNSTextConfig") -> int:
    """Weights of an encoder's layers, without the few of norms and biases."""
    width = config.hidden_size
    return config.num_hidden_layers * width * (4 * width + 2 * config.intermediate_size)


def _as_side(value: object) -> int:
    height, width = _as_pair(value, "patch_size")
    if height != width:
        raise ValueError(
            f"patch_size must be square, found {[height, width]}; use stride or image_size for rectangular grids."
        )
    return height


def as_config(config: PreTrainedConfig, wanted: type[Config]) -> Config:
    """A configuration as one of ours: itself, or CLIP's completed with what CLIP has not.

    Raises:
        TypeError: it is of another kind of model.
    """
    if isinstance(config, wanted):
        return config
    if isinstance(config, PreTrainedConfig) and config.model_type in (wanted.model_type, _CLIP[wanted].model_type):
        return wanted.from_dict(config.to_dict())
    raise TypeError(
        f"Expected an {wanted.__name__} or a {_CLIP[wanted].__name__}, found {type(config).__name__}. "
        f"{wanted.__name__}.from_pretrained reads folders of either."
    )


def _fields_for(wanted: type[PreTrainedConfig], fields: dict[str, Any], source: str) -> dict[str, Any]:
    """The fields of one of our configurations in a file of ours or CLIP's, whole models and encoders alike."""
    clip = _CLIP[wanted]
    if wanted.base_config_key and wanted.base_config_key in fields:
        whole = AMNSConfig.from_dict(_fields_for(AMNSConfig, fields, source))
        return getattr(whole, wanted.base_config_key).to_dict()
    if fields.get("model_type") not in (wanted.model_type, clip.model_type):
        raise ValueError(
            f"{source} holds a model of type {fields.get('model_type')!r}; {wanted.__name__} reads "
            f"{wanted.model_type!r} and {clip.model_type!r}. See scripts/convert_checkpoint.py for OpenAI CLIP, "
            "OpenCLIP, IRRA and RDE files."
        )
    return _completed(wanted, fields)


def _completed(wanted: type[PreTrainedConfig], fields: dict[str, Any]) -> dict[str, Any]:
    """CLIP saves what differs from its own defaults, which are not ours."""
    clip = _CLIP[wanted]
    if fields.get("model_type") != clip.model_type:
        return fields
    fields = clip(**_without(fields, "model_type")).to_dict()
    for part in wanted.sub_configs:
        fields[part] = _without(fields[part], "model_type")
    return _without(fields, "model_type", "architectures")


def _without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _read(
    wanted: type[PreTrainedConfig], found: tuple[dict[str, Any], dict[str, Any]], source: str | os.PathLike
) -> tuple[dict[str, Any], dict[str, Any]]:
    fields, unused = found
    if not fields:
        # transformers takes a folder without one for a configuration of defaults.
        raise OSError(f"{source} holds no config.json, so it is no checkpoint of a model.")
    return {**_fields_for(wanted, fields, str(source)), "model_type": wanted.model_type}, unused


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

    The other fields are those of `CLIPVisionConfig`. `from_pretrained` reads the image encoder's part of a dual
    encoder, of AMNS or CLIP, as well.
    """

    model_type = "amns_vision_model"
    base_config_key = "vision_config"

    if TYPE_CHECKING:
        image_size: _Field[int | list[int] | tuple[int, int] | None, list[int]] = _Field()
        patch_size: _Field[int | list[int] | tuple[int, int] | None, int] = _Field()
    else:
        image_size: int | list[int] | tuple[int, int] | None = (384, 128)
        patch_size: int | list[int] | tuple[int, int] | None = 16
    stride: int | None = None
    position_interpolation: str = "bilinear"

    def __setattr__(self, name: str, value: object) -> None:
        if name == "image_size":
            value = _as_pair(value, name)
        elif name == "patch_size":
            value = _as_side(value)
        check_limit(name, value)
        super().__setattr__(name, value)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        rows, columns = self.grid_size
        if rows * columns > MAX_PATCHES:
            raise ValueError(
                f"image_size {self.image_size} with a patch every {self.stride or self.patch_size} pixels makes "
                f"{rows * columns:,} patches, expected at most {MAX_PATCHES:,}."
            )
        _check_size(self, self.num_weights)

    @property
    def num_weights(self) -> int:
        """Weights of the image encoder, but for those of norms and biases."""
        rows, columns = self.grid_size
        return _layers(self) + self.hidden_size * (rows * columns + self.num_channels * self.patch_size**2)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        step = self.stride or self.patch_size
        height, width = self.image_size
        return (height - self.patch_size) // step + 1, (width - self.patch_size) // step + 1

    def validate_architecture(self) -> None:
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

    def to_dict(self) -> dict[str, Any]:
        """As `PreTrainedConfig.to_dict`; the size of a square is one number, as CLIP's encoders read it."""
        fields = super().to_dict()
        height, width = self.image_size
        return {**fields, "image_size": height if height == width else [height, width]}

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As `PreTrainedConfig.get_config_dict`; of a dual encoder its image encoder's part."""
        found = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return _read(cls, found, pretrained_model_name_or_path)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As `PreTrainedConfig.from_dict`; a CLIP configuration is completed with CLIP's defaults, not with ours."""
        return super().from_dict(_completed(cls, config_dict), **kwargs)


@strict
class AMNSTextConfig(CLIPTextConfig):
    """Text encoder: CLIP's, all fields as in `CLIPTextConfig`.

    `from_pretrained` reads the text encoder's part of a dual encoder, of AMNS or CLIP, as well.
    """

    model_type = "amns_text_model"
    base_config_key = "text_config"

    initializer_factor: float = 1.0

    def __setattr__(self, name: str, value: object) -> None:
        check_limit(name, value)
        super().__setattr__(name, value)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _check_size(self, self.num_weights)

    @property
    def num_weights(self) -> int:
        """Weights of the text encoder, but for those of norms and biases."""
        return _layers(self) + self.hidden_size * (self.vocab_size + self.max_position_embeddings)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As `PreTrainedConfig.get_config_dict`; of a dual encoder its text encoder's part."""
        found = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return _read(cls, found, pretrained_model_name_or_path)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As `PreTrainedConfig.from_dict`; a CLIP configuration is completed with CLIP's defaults."""
        return super().from_dict(_completed(cls, config_dict), **kwargs)


@strict
class AMNSConfig(CLIPConfig):
    """Configuration of `AMNSModel` and `AMNSForPersonRetrieval`.

    Args:
        text_config: an `AMNSTextConfig` or its fields.
        vision_config: an `AMNSVisionConfig` or its fields; default 384x128 pixels, patch 16, grid 24x8.
        projection_dim: size of the shared embedding space.
        num_identities: training identities that the classifier of `AMNSForPersonRetrieval` tells apart; 0 means no
            classifier. `AMNSModel` does not use it.

    A CLIP configuration is accepted as it is, its own defaults filled in. `image_size`, `stride` and
    `position_interpolation` read and set the vision part, so that
    `AMNSModel.from_pretrained(path, image_size=[384, 128])` works.

    ```python
    >>> from modeling_amns import AMNSConfig
    >>> AMNSConfig().vision_config.grid_size
    (24, 8)

    ```
    """

    model_type = "amns"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(AMNSVisionConfig),
        "text_config": SubConfigSpec(AMNSTextConfig),
    }

    if TYPE_CHECKING:
        text_config: _Field[dict[str, Any] | AMNSTextConfig | None, AMNSTextConfig] = _Field()
        vision_config: _Field[dict[str, Any] | AMNSVisionConfig | None, AMNSVisionConfig] = _Field()
    else:
        text_config: dict | AMNSTextConfig | None = None
        vision_config: dict | AMNSVisionConfig | None = None
    projection_dim: int = 512
    num_identities: int = 0

    def __setattr__(self, name: str, value: object) -> None:
        check_limit(name, value)
        super().__setattr__(name, value)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        vision, text = self.vision_config, self.text_config
        width = vision.hidden_size + text.hidden_size + self.num_identities
        _check_size(self, vision.num_weights + text.num_weights + self.projection_dim * width)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As `PreTrainedConfig.get_config_dict`, of checkpoints of AMNS and CLIP.

        Raises:
            ValueError: the checkpoint is of another model type.
            OSError: there is no config.json.
        """
        found = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return _read(cls, found, pretrained_model_name_or_path)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As `PreTrainedConfig.from_dict`; a CLIP configuration is completed with CLIP's defaults, not with ours."""
        config_dict = _completed(cls, config_dict)
        for part in cls.sub_configs:
            if isinstance(config_dict.get(part), dict):
                # Where a part once came from, a path at times, and its code would be saved and pushed anew.
                config_dict = {**config_dict, part: _without(config_dict[part], "_name_or_path", "auto_map")}
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
        # Built anew instead of assigned field by field, so that the checks see the whole.
        self.vision_config = AMNSVisionConfig(**{**self.vision_config.to_dict(), **fields})


_CLIP: dict[type[PreTrainedConfig], type[PreTrainedConfig]] = {
    AMNSConfig: CLIPConfig,
    AMNSVisionConfig: CLIPVisionConfig,
    AMNSTextConfig: CLIPTextConfig,
}

# `save_pretrained` copies the code beside the weights, for users without the package (`trust_remote_code=True`).
AMNSConfig.register_for_auto_class()
AMNSVisionConfig.register_for_auto_class()
AMNSTextConfig.register_for_auto_class()

__all__ = ["AMNSConfig", "AMNSTextConfig", "AMNSVisionConfig", "as_config", "check_limit"]
