"""How the models of AMNS are read and saved: at the checkpoint's own position grid, whole or an encoder alone."""

import copy
import os
import re
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, overload

from transformers.configuration_utils import PreTrainedConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import PrefixChange
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.loading_report import LoadStateDictInfo
from typing_extensions import Self

from .configuration_amns import AMNSConfig, VisionConfig, as_config
from .configuration_base_amns import LOCATION_ARGUMENTS, ReadsFamilies, ReadsGrid

# What a configuration would absorb although it says how weights are loaded; transformers' Auto classes do the same.
_LOADING_ARGUMENTS = ("dtype", "torch_dtype", "quantization_config")

# Of a dual encoder, plain or trained, what an encoder has not; its own part has lost its prefix when this is asked.
_OTHER_PARTS = re.compile(
    r"(amns\.)?((vision|text)_model\.|(visual|text)_projection\.|logit_(scale|bias)$|classifier\.)"
)


class LoadsItsGrid(PreTrainedModel):
    """`from_pretrained` of models with an image encoder: positions are read at the checkpoint's grid, then resized."""

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, dict[str, Any]]: ...

    @overload
    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> Self: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        config: PreTrainedConfig | str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Loads a checkpoint of AMNS, CLIP or SigLIP (folder or Hub id), safetensors first; or OpenCLIP's folder.

        The weights are read at the checkpoint's own position grid; where the configuration asks for another one
        (`image_size=[height, width]`, `stride=...` or a `config`), the position embeddings are then resized once
        (`position_interpolation`). A classifier over another number of identities starts anew.

        Raises:
            ValueError: the checkpoint is of another model type, holds adapters without their model, its patch size
                differs from the configuration's, or positions that are offloaded would have to be resized.
            TypeError: `config` is of another kind of model.
        """
        wanted = cast(type[PreTrainedConfig], cls.config_class)
        if isinstance(config, PreTrainedConfig):
            config = as_config(config, wanted)
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *model_args, config=config, **kwargs)
        folder = Path(pretrained_model_name_or_path)
        if (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors")):
            raise ValueError(
                f"{folder} holds LoRA adapters, no model. Put them onto the model that they were trained on with "
                "modeling_amns.adapters.load_adapter; the output_dir of a run with use_peft holds both, merged."
            )
        location = {key: kwargs[key] for key in LOCATION_ARGUMENTS if key in kwargs}
        if not isinstance(config, PreTrainedConfig):
            loading = {key: kwargs.pop(key) for key in _LOADING_ARGUMENTS if key in kwargs}
            read: Any = wanted.from_pretrained(
                config or pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs
            )
            config, kwargs = read[0], {**read[1], **location, **loading}
        wished = cast(PreTrainedConfig, config)
        stored = wanted.from_pretrained(pretrained_model_name_or_path, **location)
        vision, stored_vision = _vision_part(wished), _vision_part(stored)
        if stored_vision.patch_size != vision.patch_size:
            raise ValueError(
                f"{pretrained_model_name_or_path} has patches of {stored_vision.patch_size} pixels, the configuration "
                f"asks for {vision.patch_size}. Position grids can be resized, patches can't: set "
                f"patch_size={stored_vision.patch_size} and choose image_size or stride."
            )
        as_stored = cls._as_stored(copy.deepcopy(wished), stored)
        read = ReadsFamilies.weights_elsewhere
        name: str | os.PathLike | None = pretrained_model_name_or_path
        found = read(str(name), location) if read is not None else None
        if found is not None:
            name, kwargs["state_dict"] = None, found
        loaded: Any = super().from_pretrained(name, *model_args, config=as_stored, **kwargs)
        model, info = loaded if isinstance(loaded, tuple) else (loaded, {})
        model._become(wished, info)
        return loaded

    @classmethod
    def _as_stored(cls, config: PreTrainedConfig, stored: PreTrainedConfig) -> PreTrainedConfig:
        """`config` in the form in which the checkpoint's weights fit it."""
        vision, stored_vision = _vision_part(config), _vision_part(stored)
        vision.image_size, vision.stride = stored_vision.image_size, stored_vision.stride
        return config

    def _become(self, config: PreTrainedConfig, info: dict[str, Any]) -> None:
        """From the checkpoint's form to the one asked for; `info` is transformers' report of the loading, or empty."""
        vision = _vision_part(config)
        self.resize_grid(vision.image_size, vision.stride)

    def resize_grid(self, image_size: list[int] | tuple[int, int], stride: int | None = None) -> None:
        """Fits the model to images of another size by resizing the position embeddings, in place.

        Args:
            image_size: height and width in pixels.
            stride: step between patches in pixels; `None` means the patch size.
        Raises:
            ValueError: the position embeddings are offloaded to another place.
        """
        # One configuration object is shared by the model, the encoder and its embeddings; all see the new size.
        old = _vision_part(self.config)
        new = old.with_fields(image_size=list(image_size), stride=stride)
        encoder: Any = getattr(self.base_model, "vision_model", self)
        encoder.embeddings.resize_grid(new)
        old.image_size, old.stride = new.image_size, new.stride


def _vision_part(config: PreTrainedConfig) -> VisionConfig:
    return cast(VisionConfig, config) if isinstance(config, ReadsGrid) else cast(AMNSConfig, config).vision_config


class PartOfDualEncoder(PreTrainedModel):
    """An encoder whose `from_pretrained` also takes its part of a dual encoder, plain or trained.

    Args of a subclass:
        part_name: the attribute that it is in a dual encoder.
    """

    part_name: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Over what a copy of the code beside weights, or this file, said of a class of that name.
        register_checkpoint_conversion_mapping(
            cls.__name__,
            [PrefixChange(prefix_to_remove="amns"), PrefixChange(prefix_to_remove=cls.part_name)],
            overwrite=True,
        )

    def _adjust_missing_and_unexpected_keys(self, loading_info: LoadStateDictInfo) -> None:
        # Not by `_keys_to_ignore_on_load_unexpected`, which a dual encoder would take over from its parts.
        super()._adjust_missing_and_unexpected_keys(loading_info)
        loading_info.unexpected_keys = {name for name in loading_info.unexpected_keys if not _OTHER_PARTS.match(name)}

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As `PreTrainedModel`; names are the encoder's own, wherever it was loaded from."""
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)


__all__ = ["LoadsItsGrid", "PartOfDualEncoder"]
