"""What the configurations of all encoder families share: limits, rectangular grids, and how files are read, those of
AMNS and those of a family's own models in transformers."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from huggingface_hub.errors import LocalEntryNotFoundError
from transformers.configuration_utils import PreTrainedConfig
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
    "projection_size": (1, 65_536),
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
    Base = PreTrainedConfig
    Given = TypeVar("Given", contravariant=True)
    Kept = TypeVar("Kept", covariant=True)

    class Field(Generic[Given, Kept]):
        """For type checkers: a field takes more than it holds, as every value is brought into one form when set."""

        def __get__(self, instance: object, owner: type) -> Kept: ...
        def __set__(self, instance: object, value: Given) -> None: ...
else:
    # Mixins of configurations; the fields are their owners'.
    Base = object


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


def check_size(config: PreTrainedConfig, parameters: int) -> None:
    """A ValueError for a model of more weights than any of this kind has."""
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            f"A model of {parameters:,} weights is described, expected at most {MAX_PARAMETERS:,}: look at the sizes "
            f"of {type(config).__name__}."
        )


def _layers(config: PreTrainedConfig) -> int:
    """Weights of an encoder's layers, without the few of norms and biases."""
    encoder: Any = config
    width = encoder.hidden_size
    return encoder.num_hidden_layers * width * (4 * width + 2 * encoder.intermediate_size)


def _as_side(value: object) -> int:
    height, width = _as_pair(value, "patch_size")
    if height != width:
        raise ValueError(
            f"patch_size must be square, found {[height, width]}; use stride or image_size for rectangular grids."
        )
    return height


# What `from_pretrained` needs to find a file, as opposed to what it does with it.
LOCATION_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token", "revision", "subfolder")


def as_config(config: PreTrainedConfig, wanted: type[Config]) -> Config:
    """A configuration as one of ours: itself, or a family's own completed with what that has not.

    Raises:
        TypeError: it is of another kind of model.
    """
    if isinstance(config, wanted):
        return config
    own: Any = wanted
    types = (wanted.model_type, *(kind.model_type for kind in own.reads))
    if isinstance(config, PreTrainedConfig) and config.model_type in types:
        return wanted.from_dict(config.to_dict())
    raise TypeError(
        f"Expected an {wanted.__name__} or a {' or a '.join(kind.__name__ for kind in own.reads)}, found "
        f"{type(config).__name__}. {wanted.__name__}.from_pretrained reads folders of either."
    )


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """Fields of a configuration but for some."""
    return {name: value for name, value in fields.items() if name not in names}


class ReadsFamilies(Base):
    """A configuration that is also read from what models of its family in transformers save.

    Args of a subclass:
        reads: the configurations of transformers that it completes.
        inside: of an encoder, those of the dual encoders that hold it.
    """

    reads: ClassVar[tuple[type[PreTrainedConfig], ...]]
    inside: ClassVar[tuple[type[PreTrainedConfig], ...]] = ()
    # Of a folder or Hub id without a config.json, by arguments that locate it: the fields of a configuration, the
    # weights and the processor, or None if it is no such folder. Set by the package; a copy of this file beside
    # weights reads none.
    read_elsewhere: ClassVar[Callable[[str, dict[str, Any]], dict[str, Any] | None] | None] = None
    weights_elsewhere: ClassVar[Callable[[str, dict[str, Any]], dict[str, Any] | None] | None] = None
    processor_elsewhere: ClassVar[Callable[[str, dict[str, Any]], Any] | None] = None

    def __setattr__(self, name: str, value: object) -> None:
        check_limit(name, value)
        super().__setattr__(name, value)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As `PreTrainedConfig.get_config_dict`, of checkpoints of AMNS and of the family; an encoder's part too.

        Raises:
            ValueError: the checkpoint is of another model type.
            OSError: there is no config.json.
        """
        location = {name: value for name, value in kwargs.items() if name in LOCATION_ARGUMENTS}
        fields: dict[str, Any] = {}
        unused: dict[str, Any] = {}
        failure: OSError | None = None
        try:
            fields, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except OSError as error:
            # Of a repository that is not there, a broken file and the like no other layout is asked for; what has
            # never been in the cache may lie there in another one, which asks the Hub nothing.
            if not isinstance(error.__cause__, LocalEntryNotFoundError):
                raise
            failure, location["local_files_only"] = error, True
        if not fields:
            read = ReadsFamilies.read_elsewhere
            found = read(str(pretrained_model_name_or_path), location) if read is not None else None
            if found is None:
                # transformers takes a folder without one for a configuration of defaults.
                raise failure or OSError(
                    f"{pretrained_model_name_or_path} holds no config.json, so it is no checkpoint of a model."
                )
            private = (*LOCATION_ARGUMENTS, "trust_remote_code", "_from_auto", "_from_pipeline", "_configuration_file")
            fields, unused = found, without(kwargs, *private)
        fields = cls._part_of(fields)
        types = [cls.model_type, *(kind.model_type for kind in cls.reads)]
        if fields.get("model_type") not in types:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a model of type {fields.get('model_type')!r}; {cls.__name__} "
                f"reads {', '.join(map(repr, types[:-1]))} and {types[-1]!r}. See scripts/convert_checkpoint.py for "
                "files of OpenAI CLIP, OpenCLIP, Long-CLIP, TBPS-CLIP, IRRA and RDE."
            )
        return {**cls._completed(fields), "model_type": cls.model_type}, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """As `PreTrainedConfig.from_dict`; a family's own is completed with its defaults, not with ours."""
        return super().from_dict(cls._completed(config_dict), **kwargs)

    @classmethod
    def _completed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """A family saves what differs from its own defaults, which are not ours."""
        kind = next((kind for kind in cls.reads if kind.model_type == fields.get("model_type")), None)
        if kind is None:
            return fields
        return without(kind(**without(fields, "model_type")).to_dict(), "model_type", "architectures")

    @classmethod
    def _part_of(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """An encoder's fields in those of a dual encoder; others as they are."""
        part = fields.get(cls.base_config_key) if cls.base_config_key else None
        if not isinstance(part, dict):
            return fields
        kind = next((kind for kind in cls.inside if kind.model_type == fields.get("model_type")), None)
        if kind is not None:
            return kind(**without(fields, "model_type")).to_dict()[cls.base_config_key]
        # Parts of CLIP's kind did not always say so.
        return {"model_type": part_type(cls.base_config_key), **without(part, "_name_or_path", "auto_map")}


def part_type(key: str, fields: dict[str, Any] | None = None) -> str:
    """Model type of an encoder of AMNS: as its fields say, or CLIP's kind where they say nothing.

    ```python
    >>> part_type("vision_config")
    'amns_vision_model'

    ```
    """
    return (fields or {}).get("model_type") or f"amns_{key.removesuffix('_config')}_model"


class ReadsText(ReadsFamilies):
    """Of a text encoder: the limit of its size."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_size(self, self.num_weights)

    @property
    def num_weights(self) -> int:
        """Weights of the text encoder, but for those of norms and biases."""
        config: Any = self
        return _layers(config) + config.hidden_size * (config.vocab_size + config.max_position_embeddings)


class ReadsGrid(ReadsFamilies):
    """Of an image encoder: a rectangular grid of patches, which may overlap."""

    if TYPE_CHECKING:
        image_size: Field[int | list[int] | tuple[int, int] | None, list[int]] = Field()
        patch_size: Field[int | list[int] | tuple[int, int] | None, int] = Field()
        stride: int | None = None
        position_interpolation: str = "bilinear"
        hidden_size: int = 768
        num_channels: int = 3

    def __setattr__(self, name: str, value: object) -> None:
        if name == "image_size":
            value = _as_pair(value, name)
        elif name == "patch_size":
            value = _as_side(value)
        super().__setattr__(name, value)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        rows, columns = self.grid_size
        if rows * columns > MAX_PATCHES:
            raise ValueError(
                f"image_size {self.image_size} with a patch every {self.stride or self.patch_size} pixels makes "
                f"{rows * columns:,} patches, expected at most {MAX_PATCHES:,}."
            )
        check_size(self, self.num_weights)

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
        """As `PreTrainedConfig.to_dict`; the size of a square is one number, as encoders of transformers read it."""
        fields = super().to_dict()
        height, width = self.image_size
        return {**fields, "image_size": height if height == width else [height, width]}

    def with_fields(self, **fields: Any) -> Self:
        """The same with other fields, built anew, so that the checks see the whole."""
        return type(self)(**{**self.to_dict(), **fields})


__all__ = [
    "LOCATION_ARGUMENTS",
    "ReadsFamilies",
    "ReadsGrid",
    "ReadsText",
    "as_config",
    "check_limit",
    "check_size",
    "part_type",
    "without",
]
