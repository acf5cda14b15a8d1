"""Registers AMNS with transformers' Auto classes, without importing models and processors yet.

What a model or processor of transformers builds on takes two thirds of the time of an import. The Auto classes are
therefore given stand-ins, which import the class when something of it is used, and the slowest of their own modules
are told once somebody imports them.
"""

import importlib
from types import ModuleType
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification
from transformers.configuration_utils import PreTrainedConfig

from . import open_clip_folders
from .configuration_amns import (
    AMNSConfig,
    AMNSSiglipTextConfig,
    AMNSSiglipVisionConfig,
    AMNSTextConfig,
    AMNSVisionConfig,
)
from .configuration_base_amns import ReadsFamilies
from .import_hooks import WhenImported

# Auto class, configuration, our module, our class.
MODELS = (
    (AutoModel, AMNSConfig, "modeling_amns", "AMNSModel"),
    (AutoModel, AMNSVisionConfig, "vision_amns", "AMNSVisionModel"),
    (AutoModel, AMNSTextConfig, "text_amns", "AMNSTextModel"),
    (AutoModel, AMNSSiglipVisionConfig, "siglip_amns", "AMNSSiglipVisionModel"),
    (AutoModel, AMNSSiglipTextConfig, "siglip_amns", "AMNSSiglipTextModel"),
    (AutoModelForZeroShotImageClassification, AMNSConfig, "modeling_amns", "AMNSModel"),
)
# Module of transformers that is slow to import itself, its mapping, our module, our class.
PROCESSORS = (
    ("processing_auto", "PROCESSOR_MAPPING", "processing_amns", "AMNSProcessor"),
    ("image_processing_auto", "IMAGE_PROCESSOR_MAPPING", "processing_amns", "AMNSImageProcessor"),
)


class _StandIn(type):
    """Type of a class that stands for another: calls, instances and whatever it lacks are the other's."""

    _target: tuple[str, str]

    @property
    def _real(cls) -> type:
        module, name = cls._target
        return getattr(importlib.import_module(f".{module}", __package__), name)

    def __getattr__(cls, name: str) -> object:
        return getattr(cls._real, name)

    def __call__(cls, *args: Any, **kwargs: Any) -> object:
        return cls._real(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls._real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls._real)


def _stand_in(config: type[PreTrainedConfig], module: str, name: str) -> type:
    # Auto classes ask for `config_class` when a class is registered, and for `__name__` when it is looked for.
    return _StandIn(name, (), {"_target": (module, name), "config_class": config, "__module__": __package__})


def register() -> None:
    """Called once, when package and transformers are both imported."""
    for config in dict.fromkeys(config for _, config, *_ in MODELS):
        AutoConfig.register(config.model_type, config)
    for auto, config, module, name in MODELS:
        auto.register(config, _stand_in(config, module, name))
    for slow, mapping, module, name in PROCESSORS:
        stand_in: Any = _stand_in(AMNSConfig, module, name)
        if mapping == "IMAGE_PROCESSOR_MAPPING":
            stand_in = {"pil": stand_in, "torchvision": stand_in}

        # Into the mapping itself: `AutoImageProcessor.register` asks for the class's bases.
        def add(loaded: ModuleType, mapping: str = mapping, value: object = stand_in) -> None:
            getattr(loaded, mapping).register(AMNSConfig, value)

        WhenImported(f"transformers.models.auto.{slow}", add)
    # `from_pretrained` of OpenCLIP's folders.
    ReadsFamilies.read_elsewhere = open_clip_folders.read_config
    ReadsFamilies.weights_elsewhere = open_clip_folders.read_weights
    ReadsFamilies.processor_elsewhere = open_clip_folders.read_processor


__all__ = ["register"]
