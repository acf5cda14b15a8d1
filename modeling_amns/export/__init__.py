"""A checkpoint in other forms: ONNX, int8 and `torch.export` programs, and a `SentenceTransformer`.

Imported at first use, so that `amns_onnx`, which needs no torch, is there without it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .onnx import (
        TOLERANCE,
        Encoder,
        ImageEncoder,
        OnnxModel,
        TextEncoder,
        compare,
        encoders,
        export_onnx,
        export_programs,
        preprocessing,
    )
    from .sentence_transformers import export_sentence_transformer

__all__ = [
    "TOLERANCE",
    "Encoder",
    "ImageEncoder",
    "OnnxModel",
    "TextEncoder",
    "compare",
    "encoders",
    "export_onnx",
    "export_programs",
    "export_sentence_transformer",
    "preprocessing",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "sentence_transformers" if name == "export_sentence_transformer" else "onnx"
    return getattr(importlib.import_module(f".{module}", __name__), name)
