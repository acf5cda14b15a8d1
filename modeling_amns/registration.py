"""Registers model type `amns` with transformers' Auto classes, without importing models and processors yet.

What a model or processor of transformers builds on takes two thirds of the time of an import. The Auto classes are
therefore given stand-ins, which import the class when something of it is used.
"""

import importlib

import wrapt
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

from .configuration_amns import AMNSConfig


class _StandIn(type):
    """Type of a class that stands for another: calls, instances and whatever it lacks are the other's."""

    @property
    def _real(cls) -> type:
        module, name = cls._target
        return getattr(importlib.import_module(module, __package__), name)

    def __getattr__(cls, name: str):
        return getattr(cls._real, name)

    def __call__(cls, *args, **kwargs):
        return cls._real(*args, **kwargs)

    def __instancecheck__(cls, instance) -> bool:
        return isinstance(instance, cls._real)

    def __subclasscheck__(cls, subclass) -> bool:
        return issubclass(subclass, cls._real)


def _stand_in(module: str, name: str) -> type:
    # Auto classes ask for `config_class` when a class is registered, and for `__name__` when it is looked for.
    return _StandIn(name, (), {"_target": (module, name), "config_class": AMNSConfig, "__module__": __package__})


def register() -> None:
    """Called once, when the package is imported."""
    model = _stand_in(".modeling_amns", "AMNSModel")
    processor = _stand_in(".processing_amns", "AMNSProcessor")
    images = _stand_in(".processing_amns", "AMNSImageProcessor")
    AutoConfig.register("amns", AMNSConfig)
    AutoModel.register(AMNSConfig, model)
    AutoModelForZeroShotImageClassification.register(AMNSConfig, model)
    # The module of AutoProcessor is slow to import itself.
    wrapt.register_post_import_hook(
        lambda module: module.AutoProcessor.register(AMNSConfig, processor), "transformers.models.auto.processing_auto"
    )
    # Into the mapping itself: `AutoImageProcessor.register` asks for the class's bases.
    wrapt.register_post_import_hook(
        lambda module: module.IMAGE_PROCESSOR_MAPPING.register(AMNSConfig, {"pil": images, "torchvision": images}),
        "transformers.models.auto.image_processing_auto",
    )


__all__ = ["register"]
