"""A checkpoint in other forms: ONNX, int8 and `torch.export` programs, and a `SentenceTransformer`."""

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
