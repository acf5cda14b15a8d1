"""A checkpoint in other forms: ONNX, int8 and `torch.export` programs, `SentenceTransformer`, CLIP and OpenCLIP.

Imported at first use, so that `amns_onnx`, which needs no torch, is there without it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .clip import export_clip, export_open_clip
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
    "export_clip",
    "export_onnx",
    "export_open_clip",
    "export_programs",
    "export_sentence_transformer",
    "preprocessing",
]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elsewhere = {"export_sentence_transformer": "sentence_transformers"}
    elsewhere |= dict.fromkeys(("export_clip", "export_open_clip"), "clip")
    module = elsewhere.get(name, "onnx")
    return getattr(importlib.import_module(f".{module}", __name__), name)
